//! The WAL files that a server wants archived: `pg_wal/archive_status/*.ready`, in the order of its archiver.

use holdfast_postgres::WalFileName;
use std::fs;
use std::io;
use std::path::Path;
use std::time::SystemTime;

/// No folder with more entries is looked through to its end: more wait only on a server that was left alone for months.
pub const MOST_ENTRIES: usize = 1_000_000;

/// What waits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Queue {
    /// In the order in which Postgres hands them over; as many as were asked for.
    pub names: Vec<WalFileName>,
    /// Since when the first segment among them waits, by the file system's clock.
    pub since: Option<SystemTime>,
}

impl Queue {
    /// The first segment that waits.
    pub fn first_segment(&self) -> Option<WalFileName> {
        let mut names = self.names.iter();
        names
            .find(|name| matches!(name, WalFileName::Segment(_)))
            .copied()
    }

    /// Whether this file still waits.
    ///
    /// # Errors
    /// If it can't be told.
    pub fn holds(data_directory: &Path, name: &WalFileName) -> io::Result<bool> {
        let status = format!("pg_wal/archive_status/{name}.ready");
        data_directory.join(status).try_exists()
    }

    /// Looks, and counts `most` files at most.
    ///
    /// # Errors
    /// If the folder can't be read.
    pub fn look(data_directory: &Path, most: usize) -> io::Result<Self> {
        let folder = data_directory.join("pg_wal/archive_status");
        let mut names = Vec::new();
        for entry in fs::read_dir(&folder)?.take(MOST_ENTRIES) {
            let entry = entry?.file_name();
            let ready = entry.to_str().and_then(|name| name.strip_suffix(".ready"));
            // A name that is none stays with Postgres, which will complain.
            if let Some(Ok(name)) = ready.map(str::parse) {
                names.push(name);
            }
            if names.len() >= most {
                break;
            }
        }
        names.sort_by_cached_key(rank);
        let mut queue = Self { names, since: None };
        queue.since = queue.first_segment().and_then(|name| {
            let status = folder.join(format!("{name}.ready"));
            fs::metadata(status).ok()?.modified().ok()
        });
        Ok(queue)
    }
}

/// A file's place in Postgres' order.
pub type Rank = (bool, String);

/// As `ready_file_comparator` in pgarch.c has it: timelines' histories first, then by name.
pub fn rank(name: &WalFileName) -> Rank {
    let is_history = matches!(name, WalFileName::History(_));
    (!is_history, name.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_listed_as_postgres_hands_it_over() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Queue::look(folder.path(), 10).is_err());
        let status = folder.path().join("pg_wal/archive_status");
        fs::create_dir_all(&status).unwrap();
        assert_eq!(Queue::look(folder.path(), 10).unwrap(), Queue::default());
        for name in [
            "000000010000000000000004.ready",
            "000000010000000000000003.ready",
            "000000010000000000000003.done",
            "000000010000000000000002.00000028.backup.ready",
            "000000020000000000000003.ready",
            "00000002.history.ready",
            "000000010000000000000005.partial.ready",
            "nonsense.ready",
            "..ready",
        ] {
            fs::write(status.join(name), "").unwrap();
        }
        let queue = Queue::look(folder.path(), 10).unwrap();
        let names: Vec<_> = queue.names.iter().map(ToString::to_string).collect();
        assert_eq!(
            names,
            [
                "00000002.history",
                "000000010000000000000002.00000028.backup",
                "000000010000000000000003",
                "000000010000000000000004",
                "000000010000000000000005.partial",
                "000000020000000000000003",
            ]
        );
        assert_eq!(
            queue.first_segment().unwrap().to_string(),
            "000000010000000000000003"
        );
        assert!(queue.since.unwrap() <= SystemTime::now());
        let holds = |name: &str| Queue::holds(folder.path(), &name.parse().unwrap()).unwrap();
        assert!(holds("000000010000000000000004") && holds("00000002.history"));
        fs::remove_file(status.join("000000010000000000000004.ready")).unwrap();
        assert!(!holds("000000010000000000000004"));
        assert_eq!(Queue::look(folder.path(), 2).unwrap().names.len(), 2);
    }
}
