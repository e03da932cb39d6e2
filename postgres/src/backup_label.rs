//! The `backup_label` file: where recovery of a backup begins (`build_backup_content`, xlogbackup.c).

use crate::lsn::Lsn;
use crate::timeline::TimelineId;

/// What it says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupLabel {
    /// Where replay begins.
    pub start: Lsn,
    /// The checkpoint that the backup began with.
    pub checkpoint: Lsn,
    /// The timeline of the start.
    pub timeline: TimelineId,
    /// What was backed up.
    pub from: BackupFrom,
    /// When, in the server's words and log time zone.
    pub start_time: String,
    /// The label that was given: its first line.
    pub label: String,
}

/// What was backed up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "Postgres' own names")]
pub enum BackupFrom {
    Primary,
    Standby,
}

/// A backup_label that is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupLabelError {
    /// A line is missing or has another form.
    #[error("backup_label has no good '{0}' line: the backup it belongs to cannot be used")]
    Field(&'static str),
}

/// Reads the file as `read_backup_label` (xlogrecovery.c) does, and more strictly: what the supported majors always
/// write must be there.
pub fn parse(file: &[u8]) -> Result<BackupLabel, BackupLabelError> {
    let text = String::from_utf8_lossy(file);
    let first = |name: &'static str| {
        text.lines()
            .find_map(|line| field(line, name))
            .ok_or(BackupLabelError::Field(name))
    };
    const START: &str = "START WAL LOCATION";
    const CHECKPOINT: &str = "CHECKPOINT LOCATION";
    const FROM: &str = "BACKUP FROM";
    const TIMELINE: &str = "START TIMELINE";
    let start = first(START)?
        .split(' ')
        .next()
        .and_then(|lsn| lsn.parse().ok());
    // The label may have lines of its own, and they may look like anything; the timeline comes after it.
    let timeline = text
        .lines()
        .rev()
        .find_map(|line| field(line, TIMELINE))
        .and_then(|text| text.parse().ok());
    Ok(BackupLabel {
        start: start.ok_or(BackupLabelError::Field(START))?,
        checkpoint: first(CHECKPOINT)?
            .parse()
            .map_err(|_| BackupLabelError::Field(CHECKPOINT))?,
        timeline: timeline.ok_or(BackupLabelError::Field(TIMELINE))?,
        from: match first(FROM)? {
            "primary" => BackupFrom::Primary,
            "standby" => BackupFrom::Standby,
            _ => return Err(BackupLabelError::Field(FROM)),
        },
        start_time: first("START TIME")?.to_owned(),
        label: first("LABEL")?.to_owned(),
    })
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    line.strip_prefix(name)?.strip_prefix(": ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "START WAL LOCATION: 0/9000028 (file 000000020000000000000009)\n\
        CHECKPOINT LOCATION: 0/9000060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: standby\n\
        START TIME: 2026-11-21 10:00:00 UTC\n\
        LABEL: nightly: the one\n\
        START TIMELINE: 2\n";

    #[test]
    fn a_file_as_postgres_writes_it() {
        let label = parse(FILE.as_bytes()).expect("a good file");
        assert_eq!(
            label,
            BackupLabel {
                start: Lsn(0x900_0028),
                checkpoint: Lsn(0x900_0060),
                timeline: TimelineId(2),
                from: BackupFrom::Standby,
                start_time: "2026-11-21 10:00:00 UTC".into(),
                label: "nightly: the one".into(),
            }
        );
    }

    #[test]
    fn a_label_can_not_pose_as_another_line() {
        let file = FILE.replace(
            "the one",
            "x\nSTART TIMELINE: 7\nBACKUP FROM: primary\nCHECKPOINT LOCATION: 0/1",
        );
        let label = parse(file.as_bytes()).expect("a good file");
        assert_eq!(
            (label.timeline, label.from, label.checkpoint),
            (TimelineId(2), BackupFrom::Standby, Lsn(0x900_0060))
        );
    }

    #[test]
    fn a_missing_or_broken_line_is_named() {
        for line in FILE
            .lines()
            .filter(|line| !line.starts_with("BACKUP METHOD"))
        {
            let (name, _) = line.split_once(": ").expect("a field");
            let without: String = FILE
                .lines()
                .filter(|other| *other != line)
                .map(|l| format!("{l}\n"))
                .collect();
            assert!(
                matches!(parse(without.as_bytes()), Err(BackupLabelError::Field(missing)) if missing == name)
            );
        }
        for (good, bad) in [
            ("0/9000028 ", "x "),
            ("0/9000060", "0"),
            ("standby", "master"),
            ("LINE: 2", "LINE: two"),
        ] {
            assert!(parse(FILE.replace(good, bad).as_bytes()).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
