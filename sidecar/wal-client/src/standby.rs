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

#[cfg(test)]
mod tests {
    use super::*;

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
