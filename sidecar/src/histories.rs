//! Timelines' history files that are known: the floor for a new timeline while the store does not answer.
//!
//! What is created once in an archive never changes, so a file that was seen there is right for ever. Two places hold
//! them: a folder of this program's own, and the one that the settings name, which others fill.

use holdfast_postgres::{SystemIdentifier, TimelineHistory, TimelineId, WalFileName};
use holdfast_protocol::control::HistoryFile;
use holdfast_protocol::settings::HISTORIES_OF;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// No known history file is larger, in bytes: what others fill lies in one Kubernetes Secret.
const LARGEST: u64 = 1 << 20;
/// How many a report carries at most, the newest,
const REPORTED: usize = 32;
/// and of how many bytes together.
const REPORTED_BYTES: usize = 128 << 10;
/// No folder with more is looked through to its end.
const MOST_ENTRIES: usize = 10_000;

/// The newest timeline whose history file lies in the folder that others fill, if those are this system's.
pub fn newest_configured(folder: &Path, system: SystemIdentifier) -> Option<TimelineId> {
    let of = read(&folder.join(HISTORIES_OF)).ok()?;
    if String::from_utf8(of).ok()?.trim() != system.to_string() {
        return None;
    }
    let entries = fs::read_dir(folder).ok()?.take(MOST_ENTRIES);
    let timelines = entries.filter_map(|entry| match entry.ok()?.file_name().to_str()?.parse() {
        Ok(WalFileName::History(timeline)) => Some(timeline),
        _ => None,
    });
    timelines.max()
}

/// A folder by system identifier, with the files under their names.
#[derive(Debug, Clone)]
pub struct Histories {
    folder: Option<PathBuf>,
}

impl Histories {
    /// In the folder `history`, beside the socket.
    pub fn beside(socket: &Path) -> Self {
        Self {
            folder: Some(socket.with_file_name("history")),
        }
    }

    /// Nothing is kept.
    pub fn none() -> Self {
        Self { folder: None }
    }

    fn path(&self, system: SystemIdentifier, name: WalFileName) -> Option<PathBuf> {
        matches!(name, WalFileName::History(_)).then_some(())?;
        let folder = self.folder.as_ref()?.join(system.to_string());
        Some(folder.join(name.to_string()))
    }

    /// As it was seen.
    pub fn get(&self, system: SystemIdentifier, name: WalFileName) -> Option<Vec<u8>> {
        read(&self.path(system, name)?).ok()
    }

    /// Keeps it. That this fails is told and costs nothing else.
    pub fn put(&self, system: SystemIdentifier, name: WalFileName, content: &[u8]) {
        let Some(path) = self.path(system, name) else {
            return;
        };
        if path.exists() {
            return;
        }
        let kept = || {
            let folder = path.parent().unwrap_or(&path);
            fs::create_dir_all(folder)?;
            let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
            File::create(&temporary)?.write_all(content)?;
            fs::rename(&temporary, &path)
        };
        if let Err(error) = kept() {
            tracing::warn!(%error, path = %path.display(), "the history file is not kept");
        }
    }

    /// Those that were seen, oldest first: the newest of them, where they are more than a report carries.
    pub fn seen(&self, system: SystemIdentifier) -> Vec<HistoryFile> {
        let Some(folder) = &self.folder else {
            return Vec::new();
        };
        let Ok(entries) = fs::read_dir(folder.join(system.to_string())) else {
            return Vec::new();
        };
        let mut timelines: Vec<TimelineId> = entries
            .take(MOST_ENTRIES)
            .filter_map(|entry| match entry.ok()?.file_name().to_str()?.parse() {
                Ok(WalFileName::History(timeline)) => Some(timeline),
                _ => None,
            })
            .collect();
        timelines.sort_unstable();
        let mut room = REPORTED_BYTES;
        let mut newest: Vec<HistoryFile> = timelines
            .into_iter()
            .rev()
            .take(REPORTED)
            .filter_map(|timeline| {
                let name = WalFileName::History(timeline);
                let content = String::from_utf8(self.get(system, name)?).ok()?;
                room = room.checked_sub(content.len())?;
                Some(HistoryFile {
                    name: name.to_string(),
                    content,
                })
            })
            .collect();
        newest.reverse();
        newest
    }
}

/// One of the folder that the settings name, if what lies there is of this database cluster. A file that is none is not
/// believed.
pub fn configured(folder: &Path, system: SystemIdentifier, name: WalFileName) -> Option<Vec<u8>> {
    let WalFileName::History(timeline) = name else {
        return None;
    };
    // Looked at first: the folder's files may be replaced by another cluster's meanwhile, and ours never come back.
    let of = String::from_utf8(read(&folder.join(HISTORIES_OF)).ok()?).ok()?;
    if of.trim().parse::<SystemIdentifier>().ok() != Some(system) {
        return None;
    }
    let path = folder.join(name.to_string());
    let content = read(&path).ok()?;
    match TimelineHistory::parse(timeline, &content) {
        Ok(_) => Some(content),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "no history file");
            None
        }
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?
        .take(LARGEST + 1)
        .read_to_end(&mut content)?;
    if content.len() as u64 > LARGEST {
        return Err(io::Error::other("it is too large"));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYSTEM: SystemIdentifier = SystemIdentifier(7);

    fn name(timeline: u32) -> WalFileName {
        WalFileName::History(TimelineId(timeline))
    }

    #[test]
    fn the_newest_are_reported_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let histories = Histories::beside(&folder.path().join("wal.sock"));
        assert_eq!(histories.seen(SYSTEM), []);
        for timeline in 2..=40 {
            histories.put(SYSTEM, name(timeline), format!("{timeline}").as_bytes());
        }
        histories.put(SYSTEM, name(20), b"is there already");
        let own = folder.path().join("history/7");
        fs::write(own.join("00000099.history.5.tmp"), "half").unwrap();
        fs::write(own.join("0000001E.history"), b"\xff").unwrap();
        let seen = histories.seen(SYSTEM);
        let timelines: Vec<_> = seen.iter().map(|file| file.content.as_str()).collect();
        let expected: Vec<_> = (9..=40u32)
            .filter(|timeline| *timeline != 0x1E)
            .map(|timeline| timeline.to_string())
            .collect();
        assert_eq!(timelines, expected);
        assert_eq!(seen.last().unwrap().name, "00000028.history");
        assert_eq!(histories.seen(SystemIdentifier(8)), []);
        histories.put(SYSTEM, name(41), &vec![b'x'; REPORTED_BYTES]);
        let seen = histories.seen(SYSTEM);
        assert_eq!(seen.len(), 1, "the newest has filled it");
        histories.put(SYSTEM, name(42), &vec![b'x'; LARGEST as usize + 1]);
        assert_eq!(histories.get(SYSTEM, name(42)), None);
    }

    #[test]
    fn a_configured_file_is_believed_if_it_is_one() {
        let folder = tempfile::tempdir().unwrap();
        let write = |timeline: u32, content: &str| {
            fs::write(folder.path().join(name(timeline).to_string()), content).unwrap();
        };
        write(2, "1\t0/380000\tx\n");
        write(3, "config.yaml by mistake");
        let of = |timeline| configured(folder.path(), SYSTEM, name(timeline));
        assert_eq!(of(2), None, "nobody says whose it is");
        let whose = |system: &str| fs::write(folder.path().join(HISTORIES_OF), system).unwrap();
        whose("7\n");
        assert_eq!(of(2).unwrap(), b"1\t0/380000\tx\n");
        assert_eq!((of(3), of(4)), (None, None));
        // What the database was before pg_upgrade or initdb.
        whose("8");
        assert_eq!(of(2), None);
    }
}
