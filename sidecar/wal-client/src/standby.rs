//! Whether the data directory is a standby's: there, exit code 200 would bring the server down.

use std::path::{Path, PathBuf};

/// The data directories that a path given by PostgreSQL can mean: the working directory, since PostgreSQL runs
/// restore_command there, and for an absolute path the parent of `pg_wal`.
fn data_directories(path: &Path) -> Vec<PathBuf> {
    let mut directories = vec![PathBuf::from(".")];
    if path.is_absolute() {
        let pg_wal = path
            .ancestors()
            .find(|a| a.file_name().is_some_and(|n| n == "pg_wal"));
        directories.extend(pg_wal.and_then(Path::parent).map(Path::to_owned));
    }
    directories
}

/// True only if the signal file is seen. Where it can't be told, the directory counts as one in archive recovery:
/// stopping is safe there, and ending a recovery early is not.
pub(crate) fn is_standby(path: &Path) -> bool {
    data_directories(path)
        .iter()
        .any(|directory| directory.join("standby.signal").exists())
}

/// Whether PostgreSQL needs no archive for this history file. Timeline 1 has none, ever; and once its signal files are
/// gone, at the end of recovery, it takes its own copy in pg_wal where it hears "absent", and gives up where it hears of
/// trouble.
pub(crate) fn is_absent_without_asking(name: &str, path: &Path) -> bool {
    if name == "00000001.history" {
        return true;
    }
    let hexadecimal = |c: u8| c.is_ascii_digit() || (b'A'..=b'F').contains(&c);
    let is_history = name
        .strip_suffix(".history")
        .is_some_and(|timeline| timeline.len() == 8 && timeline.bytes().all(hexadecimal));
    is_history && has_own_copy(name, &data_directories(path))
}

/// What can't be looked at counts as in recovery, and as not there.
fn has_own_copy(name: &str, directories: &[PathBuf]) -> bool {
    let ended = |directory: &PathBuf| {
        ["standby.signal", "recovery.signal"]
            .iter()
            .all(|signal| matches!(directory.join(signal).try_exists(), Ok(false)))
    };
    let has =
        |directory: &PathBuf| matches!(directory.join("pg_wal").join(name).try_exists(), Ok(true));
    directories.iter().all(ended) && directories.iter().any(has)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_file_is_its_own_once_recovery_has_ended() {
        let path = Path::new("/nowhere/pg_wal/RECOVERYHISTORY");
        assert!(is_absent_without_asking("00000001.history", path));
        for name in [
            "00000002.history",
            "../../x.history",
            "0000000a.history",
            "000000010000000000000001",
        ] {
            assert!(!is_absent_without_asking(name, path), "{name}");
        }
        let folder = tempfile::tempdir().unwrap();
        let directories = [folder.path().to_owned()];
        std::fs::create_dir(folder.path().join("pg_wal")).unwrap();
        let name = "00000002.history";
        assert!(!has_own_copy(name, &directories));
        std::fs::write(folder.path().join("pg_wal").join(name), "").unwrap();
        assert!(has_own_copy(name, &directories));
        for signal in ["standby.signal", "recovery.signal"] {
            std::fs::write(folder.path().join(signal), "").unwrap();
            assert!(!has_own_copy(name, &directories), "{signal}");
            std::fs::remove_file(folder.path().join(signal)).unwrap();
        }
    }

    #[test]
    fn the_data_directory_follows_from_the_path() {
        for (path, expected) in [
            ("pg_wal/RECOVERYXLOG", [".", ""]),
            ("/data/pg_wal/RECOVERYXLOG", [".", "/data"]),
            ("/data/17/pg_wal/summaries/x", [".", "/data/17"]),
            ("/tmp/x", [".", ""]),
        ] {
            let expected: Vec<PathBuf> = expected
                .iter()
                .filter(|p| !p.is_empty())
                .map(PathBuf::from)
                .collect();
            assert_eq!(data_directories(Path::new(path)), expected, "{path}");
        }
    }
}
