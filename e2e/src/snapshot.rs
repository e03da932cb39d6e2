//! What a folder holds, to prove that something has changed nothing in it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Every path under a folder, with what tells a changed file from an unchanged one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    root: PathBuf,
    entries: BTreeMap<PathBuf, Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    inode: u64,
    mode: u32,
    /// In bytes; 0 for a folder, whose length is the file system's own affair.
    length: u64,
    /// Of the last modification, in nanoseconds; 0 for a folder.
    modified: i128,
    target: Option<PathBuf>,
}

impl Snapshot {
    /// Looks at a folder; one that is not there has no entries.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn of(root: &Path) -> Result<Self> {
        let mut entries = BTreeMap::new();
        if root.exists() {
            walk(root, &mut entries).with_context(|| format!("looking at {}", root.display()))?;
        }
        Ok(Self {
            root: root.to_owned(),
            entries,
        })
    }

    /// Paths under the folder, relative to it.
    ///
    /// # Errors
    /// Never in practice: all entries lie under the root.
    pub fn paths(&self) -> Result<Vec<String>> {
        self.entries
            .keys()
            .map(|path| {
                Ok(path
                    .strip_prefix(&self.root)?
                    .to_string_lossy()
                    .into_owned())
            })
            .collect()
    }

    /// Looks again.
    ///
    /// # Errors
    /// If anything was added, removed or changed; with all of it.
    pub fn ensure_unchanged(&self) -> Result<()> {
        let now = Self::of(&self.root)?;
        let mut differences = Vec::new();
        for (path, entry) in &self.entries {
            match now.entries.get(path) {
                None => differences.push(format!("{} is gone", path.display())),
                Some(after) if after != entry => {
                    differences.push(format!("{} was {entry:?} and is {after:?}", path.display()));
                }
                Some(_) => {}
            }
        }
        for path in now.entries.keys() {
            if !self.entries.contains_key(path) {
                differences.push(format!("{} is new", path.display()));
            }
        }
        ensure!(
            differences.is_empty(),
            "changed: {}",
            differences.join("; ")
        );
        Ok(())
    }
}

fn walk(path: &Path, entries: &mut BTreeMap<PathBuf, Entry>) -> Result<()> {
    let meta = std::fs::symlink_metadata(path)?;
    let folder = meta.is_dir();
    entries.insert(
        path.to_owned(),
        Entry {
            inode: meta.ino(),
            mode: meta.mode(),
            length: if folder { 0 } else { meta.size() },
            modified: if folder {
                0
            } else {
                i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec())
            },
            target: std::fs::read_link(path).ok(),
        },
    );
    if folder {
        for entry in std::fs::read_dir(path)? {
            walk(&entry?.path(), entries)?;
        }
    }
    Ok(())
}

/// Bytes of all files under a folder, as far as they can be read at this moment.
pub fn folder_bytes(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => folder_bytes(&entry.path()),
            // What is allocated: a file of its final length may still be a hole.
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}
