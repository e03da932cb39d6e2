//! Walks a data directory and cuts it into tasks: in order of path and region, each at most a region long.

use holdfast_postgres::datadir::{self, Entry};
use holdfast_repository::backup::{FileFacts, REGION_BYTES};
use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// One thing to put into the backup.
#[derive(Debug, PartialEq, Eq)]
pub enum Task {
    /// A directory.
    Directory {
        /// Relative to the data directory.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// Regions and empty files, together at most [`REGION_BYTES`].
    Frame(Vec<Piece>),
}

/// A region of a file, or an empty file.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    /// The file.
    pub file: Arc<FileFacts>,
    /// For relation data, the number of the file's first block in its fork.
    pub first_block: Option<u32>,
    /// The region.
    pub region: u64,
    /// In bytes.
    pub length: u32,
}

/// A directory that can't be walked.
#[derive(Debug, Error)]
pub enum WalkError {
    /// An operating system error.
    #[error(
        "can't read {path}: {source}; the backup has to run as the user that owns the data directory"
    )]
    Read {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A name that a manifest can't hold.
    #[error(
        "{0:?} has a name that is not UTF-8: rename or remove it, PostgreSQL makes no such files"
    )]
    Name(PathBuf),
    /// A link where Postgres keeps data.
    #[error("{} is a symbolic link, and what it leads to would be missing from the backup: move that directory back; only pg_wal and tablespaces may lie elsewhere", .0.display())]
    Link(PathBuf),
    /// A tablespace's link leads to where nothing is.
    #[error("the tablespace {oid} lies in {}, which can't be seen from here, and would be missing from the backup: put it on a volume that is mounted here, too, at the same path (on Kubernetes a persistent volume of Postgres' container), or drop it", .location.display())]
    Tablespace {
        /// As the link is named.
        oid: String,
        /// Where the link leads.
        location: PathBuf,
    },
    /// The receiver has gone.
    #[error("the backup was given up")]
    Stopped,
}

/// Without these nothing starts, or it starts wrong.
const NEEDED: [&str; 7] = [
    "base",
    "global",
    "pg_commit_ts",
    "pg_logical",
    "pg_multixact",
    "pg_twophase",
    "pg_xact",
];

/// What the walk needs to know of the cluster.
#[derive(Debug, Clone)]
pub struct Walk {
    /// The data directory.
    pub root: PathBuf,
    /// 14 to 18.
    pub major: u32,
    /// Blocks in a relation's file.
    pub relation_segment_blocks: u32,
    /// Tablespaces outside the data directory, whose links are followed.
    pub tablespaces: HashSet<u32>,
}

impl Walk {
    /// Gives each task to `emit`, in order. Files that vanish meanwhile are left out: their removal is in the WAL.
    pub fn run(
        &self,
        emit: &mut dyn FnMut(Task) -> Result<(), WalkError>,
    ) -> Result<(), WalkError> {
        let mut bundle = Bundle {
            emit,
            pieces: Vec::new(),
            bytes: 0,
        };
        self.directory("", &mut bundle)?;
        bundle.flush()
    }

    fn directory(&self, path: &str, bundle: &mut Bundle<'_>) -> Result<(), WalkError> {
        let on_disk = self.root.join(path);
        let names = match sorted_names(&on_disk) {
            Err(WalkError::Read { source, .. })
                if source.kind() == io::ErrorKind::NotFound && !path.is_empty() =>
            {
                return Ok(());
            }
            other => other?,
        };
        for name in &names {
            let relative = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}/{name}")
            };
            let on_disk = on_disk.join(name);
            let Some(meta) = self.metadata(&relative, &on_disk)? else {
                continue;
            };
            let linked = meta.is_symlink() && fs::metadata(&on_disk).is_ok_and(|m| m.is_dir());
            // Recreated empty; it may be a link to another volume, and nothing in it is copied.
            if relative == "pg_wal" {
                self.empty_wal_directory(meta.mode() & 0o7777, bundle)?;
            } else if meta.is_dir() {
                let entry = datadir::classify(&relative, true, self.major);
                if entry == Entry::Skip {
                    continue;
                }
                bundle.flush()?;
                (bundle.emit)(Task::Directory {
                    path: relative.clone(),
                    mode: meta.mode() & 0o7777,
                })?;
                if entry != Entry::EmptyDirectory {
                    self.directory(&relative, bundle)?;
                }
            } else if meta.is_file() {
                self.file(relative, &meta, &names, bundle)?;
            } else if linked
                && datadir::classify(&relative, true, self.major) == Entry::EmptyDirectory
            {
                bundle.flush()?;
                (bundle.emit)(Task::Directory {
                    path: relative,
                    mode: 0o700,
                })?;
            } else if linked && NEEDED.contains(&relative.as_str()) {
                return Err(WalkError::Link(on_disk));
            } else {
                tracing::warn!(
                    "{} is neither a file nor a directory, and is left out",
                    on_disk.display()
                );
            }
        }
        Ok(())
    }

    fn metadata(&self, relative: &str, on_disk: &Path) -> Result<Option<Metadata>, WalkError> {
        let followed = relative == "pg_wal"
            || relative
                .strip_prefix("pg_tblspc/")
                .and_then(|oid| oid.parse().ok())
                .is_some_and(|oid: u32| self.tablespaces.contains(&oid));
        let meta = if followed {
            fs::metadata(on_disk)
        } else {
            fs::symlink_metadata(on_disk)
        };
        match meta {
            Ok(meta) => Ok(Some(meta)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                match relative.strip_prefix("pg_tblspc/") {
                    Some(oid) if followed => hidden(oid, on_disk),
                    _ => Ok(None),
                }
            }
            Err(source) => Err(WalkError::Read {
                path: on_disk.to_owned(),
                source,
            }),
        }
    }

    fn empty_wal_directory(&self, mode: u32, bundle: &mut Bundle<'_>) -> Result<(), WalkError> {
        bundle.flush()?;
        let below = if self.major >= 17 {
            &["pg_wal", "pg_wal/archive_status", "pg_wal/summaries"][..]
        } else {
            &["pg_wal", "pg_wal/archive_status"][..]
        };
        below.iter().try_for_each(|path| {
            (bundle.emit)(Task::Directory {
                path: (*path).to_owned(),
                mode,
            })
        })
    }

    fn file(
        &self,
        path: String,
        meta: &Metadata,
        siblings: &[String],
        bundle: &mut Bundle<'_>,
    ) -> Result<(), WalkError> {
        let first_block = match datadir::classify(&path, false, self.major) {
            _ if path == "global/pg_control" => return Ok(()),
            Entry::Skip | Entry::EmptyDirectory => return Ok(()),
            Entry::Copy => None,
            Entry::Relation(relation) => {
                let has_init_fork = siblings.binary_search(&relation.init_fork_name()).is_ok();
                if datadir::is_unlogged_skip(&relation, has_init_fork) {
                    return Ok(());
                }
                Some(relation.first_block(self.relation_segment_blocks))
            }
        };
        let size = meta.size();
        let file = Arc::new(FileFacts {
            path,
            mode: meta.mode() & 0o7777,
            size,
            modified: meta.mtime(),
            paged: first_block.is_some(),
        });
        let mut region = 0;
        loop {
            let length = size.saturating_sub(region * REGION_BYTES).min(REGION_BYTES) as u32;
            bundle.add(Piece {
                file: file.clone(),
                first_block,
                region,
                length,
            })?;
            region += 1;
            if region * REGION_BYTES >= size {
                return Ok(());
            }
        }
    }
}

/// A tablespace whose link is still there has not vanished: it lies where only the server sees it.
fn hidden(oid: &str, link: &Path) -> Result<Option<Metadata>, WalkError> {
    match fs::read_link(link) {
        Ok(location) => Err(WalkError::Tablespace {
            oid: oid.to_owned(),
            location,
        }),
        Err(_) => Ok(None),
    }
}

/// Puts consecutive small pieces together.
struct Bundle<'a> {
    emit: &'a mut dyn FnMut(Task) -> Result<(), WalkError>,
    pieces: Vec<Piece>,
    bytes: u64,
}

/// So that a directory of empty files does not make one endless task.
const MOST_PIECES: usize = 256;

impl Bundle<'_> {
    fn add(&mut self, piece: Piece) -> Result<(), WalkError> {
        if self.bytes + u64::from(piece.length) > REGION_BYTES || self.pieces.len() >= MOST_PIECES {
            self.flush()?;
        }
        self.bytes += u64::from(piece.length);
        self.pieces.push(piece);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), WalkError> {
        if self.pieces.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        (self.emit)(Task::Frame(std::mem::take(&mut self.pieces)))
    }
}

fn sorted_names(directory: &Path) -> Result<Vec<String>, WalkError> {
    let fail = |source| WalkError::Read {
        path: directory.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(fail)? {
        let name = entry.map_err(fail)?.file_name();
        names.push(
            name.into_string()
                .map_err(|name| WalkError::Name(directory.join(name)))?,
        );
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn walk(root: &Path) -> Vec<Task> {
        let mut tasks = Vec::new();
        let walk = Walk {
            root: root.to_owned(),
            major: 17,
            relation_segment_blocks: 131_072,
            tablespaces: HashSet::new(),
        };
        walk.run(&mut |task| {
            tasks.push(task);
            Ok(())
        })
        .unwrap();
        tasks
    }

    #[test]
    fn a_tablespace_that_only_the_server_sees_is_no_vanished_one() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("pg_tblspc")).unwrap();
        for oid in ["7", "8"] {
            std::os::unix::fs::symlink("/nowhere/at/all", dir.path().join("pg_tblspc").join(oid))
                .unwrap();
        }
        let walk = |tablespaces: &[u32]| {
            let walk = Walk {
                root: dir.path().to_owned(),
                major: 17,
                relation_segment_blocks: 131_072,
                tablespaces: tablespaces.iter().copied().collect(),
            };
            walk.run(&mut |_| Ok(()))
        };
        // Begun after the backup: its WAL makes it.
        walk(&[]).unwrap();
        // Dropped since it was listed.
        walk(&[9]).unwrap();
        let error = walk(&[8]).unwrap_err().to_string();
        assert!(
            error.contains("tablespace 8 lies in /nowhere/at/all"),
            "{error}"
        );
    }

    #[test]
    fn small_files_share_a_frame_and_large_ones_are_cut() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("base/5")).unwrap();
        fs::create_dir_all(dir.path().join("pg_wal")).unwrap();
        fs::write(dir.path().join("pg_wal/000000010000000000000001"), [1; 100]).unwrap();
        for (name, size) in [("1", 8192), ("2", 0), ("3", (2 << 20) + 8192), ("4", 8192)] {
            fs::write(dir.path().join("base/5").join(name), vec![0; size]).unwrap();
        }
        let shape: Vec<Vec<(String, u64, u32)>> = walk(dir.path())
            .into_iter()
            .map(|task| match task {
                Task::Directory { path, .. } => vec![(path, 0, 0)],
                Task::Frame(pieces) => pieces
                    .iter()
                    .map(|p| (p.file.path.clone(), p.region, p.length))
                    .collect(),
            })
            .collect();
        let file = |name: &str, region, length| (format!("base/5/{name}"), region, length);
        let directory = |path: &str| vec![(path.to_owned(), 0, 0)];
        assert_eq!(
            shape,
            vec![
                directory("base"),
                directory("base/5"),
                vec![file("1", 0, 8192), file("2", 0, 0)],
                vec![file("3", 0, 1 << 20)],
                vec![file("3", 1, 1 << 20)],
                vec![file("3", 2, 8192), file("4", 0, 8192)],
                directory("pg_wal"),
                directory("pg_wal/archive_status"),
                directory("pg_wal/summaries"),
            ]
        );
    }
}
