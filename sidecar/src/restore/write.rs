//! Writes a backup's files. Called by [`scan`](holdfast_repository::backup::scan) from several threads.

use super::clear::Claim;
use super::destination::{Destination, MARKER};
use crate::origin::RESTORE_FILE;
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use holdfast_postgres::backup_manifest;
use holdfast_repository::ObjectError;
use holdfast_repository::backup::{Entry, Leaf, REGION_BYTES, Slice, Visit};
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufWriter};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use thiserror::Error;

/// A restore that failed in the writing.
#[derive(Debug, Error)]
pub enum WriteError {
    /// The operating system.
    #[error("can't write {path}: {source}")]
    Os {
        /// What.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What is in the repository.
    #[error("{file} can't be restored: {why}")]
    Repository {
        /// Relative to the data directory.
        file: String,
        /// What is wrong.
        why: String,
    },
    /// A leaf of the manifest.
    #[error("the manifest can't be read: {0}")]
    Manifest(ObjectError),
}

impl WriteError {
    pub(super) fn os(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Os { path, source }
    }
}

/// More regions than are ever under way at once.
const FAR: usize = 1 << 16;

/// Not restored as files of a backup, whatever it says: they decide whether and how a directory starts.
const NEVER: [&str; 6] = [
    "global/pg_control",
    "backup_label",
    "recovery.signal",
    "standby.signal",
    RESTORE_FILE,
    MARKER,
];

/// Where the `backup_manifest` is being written.
pub type ManifestWriter = backup_manifest::Writer<BufWriter<File>>;

/// Creates directories and files, and fills them.
pub struct Writer {
    root: PathBuf,
    owner: Option<(u32, u32)>,
    /// Counts bytes.
    written: Arc<AtomicU64>,
    /// Files of which regions are missing.
    open: Mutex<HashMap<String, Incomplete>>,
    manifest: Mutex<ManifestWriter>,
    /// What of the backup is written by other hands.
    left_out: &'static [&'static str],
    /// With the last thread that writes it ends.
    claim: Claim,
}

/// A file of which regions are missing.
struct Incomplete {
    /// In bytes.
    size: u64,
    /// Seconds since 1970.
    modified: i64,
    /// The CRC-32C of the regions that are there.
    crcs: Vec<Option<u32>>,
}

impl Writer {
    /// Makes the links of tablespaces and WAL; the directories behind them must be there.
    pub fn begin(
        destination: &Destination,
        claim: Claim,
        owner: Option<(u32, u32)>,
        manifest: ManifestWriter,
        left_out: &'static [&'static str],
        written: Arc<AtomicU64>,
    ) -> Result<Self, WriteError> {
        let this = Self {
            root: destination.root.clone(),
            owner,
            written,
            open: Mutex::default(),
            manifest: Mutex::new(manifest),
            left_out,
            claim,
        };
        this.own(&destination.root)?;
        let links = destination.root.join("pg_tblspc");
        fs::create_dir(&links).map_err(WriteError::os(&links))?;
        for (oid, location) in &destination.tablespaces {
            this.own(location)?;
            let link = links.join(oid.to_string());
            symlink(location, &link).map_err(WriteError::os(&link))?;
        }
        if let Some(location) = &destination.wal {
            this.own(location)?;
            let link = destination.root.join("pg_wal");
            symlink(location, &link).map_err(WriteError::os(&link))?;
        }
        Ok(this)
    }

    /// Gives the claim and the `backup_manifest` back, once every file is whole.
    pub fn finish(self) -> Result<(Claim, ManifestWriter), WriteError> {
        let open = self
            .open
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        match open.into_keys().next() {
            Some(file) => Err(WriteError::Repository {
                file,
                why: "the manifest does not name all of its regions".into(),
            }),
            None => {
                let manifest = self.manifest.into_inner();
                let manifest = manifest.unwrap_or_else(PoisonError::into_inner);
                Ok((self.claim, manifest))
            }
        }
    }

    fn own(&self, path: &Path) -> Result<(), WriteError> {
        match self.owner {
            Some((uid, gid)) => chown(path, Some(uid), Some(gid)).map_err(WriteError::os(path)),
            None => Ok(()),
        }
    }

    fn directory(&self, entry: &Entry) -> Result<(), WriteError> {
        let path = self.root.join(&entry.path);
        match fs::create_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            other => other.map_err(WriteError::os(&path))?,
        }
        match fs::set_permissions(&path, Permissions::from_mode(entry.mode)) {
            // The root of a volume may be somebody else's, and be written all the same.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && path.is_symlink() => {}
            other => other.map_err(WriteError::os(&path))?,
        }
        self.own(&path)
    }

    fn create(&self, entry: &Entry) -> Result<(), WriteError> {
        let path = self.root.join(&entry.path);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(entry.mode)
            .open(&path)
            .map_err(WriteError::os(&path))?;
        file.set_permissions(Permissions::from_mode(entry.mode))
            .map_err(WriteError::os(&path))?;
        file.set_len(entry.size).map_err(WriteError::os(&path))?;
        self.own(&path)?;
        let (size, modified) = (entry.size, entry.modified);
        if size == 0 {
            let crc = crc_fast::checksum(Crc32Iscsi, &[]) as u32;
            return self.list(&entry.path, size, modified, crc);
        }
        let regions = usize::try_from(entry.region_count()).unwrap_or(usize::MAX);
        let incomplete = Incomplete {
            size,
            modified,
            // Grows with the regions that come, not with what a manifest claims.
            crcs: Vec::with_capacity(regions.min(1024)),
        };
        self.open().insert(entry.path.clone(), incomplete);
        Ok(())
    }

    /// Tells the `backup_manifest` of a whole file.
    fn list(&self, path: &str, size: u64, modified: i64, crc: u32) -> Result<(), WriteError> {
        if self.left_out.contains(&path) {
            return Ok(());
        }
        let modified =
            jiff::Timestamp::from_second(modified).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        let mut manifest = self.manifest.lock().unwrap_or_else(PoisonError::into_inner);
        manifest
            .file(path, size, modified, Some(crc))
            .map_err(WriteError::os(&self.root.join("backup_manifest")))
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashMap<String, Incomplete>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a region's CRC; gives the whole file's, with its size and time, with the last.
    fn arrived(&self, path: &str, region: u64, crc: u32) -> Option<(u64, i64, u32)> {
        let place = usize::try_from(region).ok()?;
        let mut open = self.open();
        let Incomplete {
            size,
            modified,
            crcs,
        } = open.get_mut(path)?;
        let (size, modified) = (*size, *modified);
        // Regions arrive nearly in order; a manifest that claims a far one is not worth its memory.
        if place > crcs.len() + FAR {
            return None;
        }
        if crcs.len() <= place {
            crcs.resize(place + 1, None);
        }
        *crcs.get_mut(place)? = Some(crc);
        if crcs.len() as u64 != size.div_ceil(REGION_BYTES) || crcs.iter().any(Option::is_none) {
            return None;
        }
        let crcs = open.remove(path)?.crcs;
        let lengths = (0..).map(|n: u64| (size - n * REGION_BYTES).min(REGION_BYTES));
        crcs.into_iter()
            .flatten()
            .zip(lengths)
            .map(|(crc, length)| (u64::from(crc), length))
            .reduce(|(a, length_a), (b, length_b)| {
                (
                    crc_fast::checksum_combine(Crc32Iscsi, a, b, length_b),
                    length_a + length_b,
                )
            })
            .map(|(crc, _)| (size, modified, crc as u32))
    }
}

impl Visit for Writer {
    type Error = WriteError;

    fn leaf(&self, _: usize, leaf: &Leaf) -> Result<(), WriteError> {
        leaf.entries
            .iter()
            .filter(|entry| !NEVER.contains(&entry.path.as_str()))
            .try_for_each(|entry| match (entry.directory, entry.first_region) {
                (true, _) => self.directory(entry),
                (false, 0) => self.create(entry),
                // Goes on from the leaf before.
                (false, _) => Ok(()),
            })
    }

    fn region(
        &self,
        leaf: &Leaf,
        slice: &Slice,
        content: Result<&[u8], &ObjectError>,
    ) -> Result<(), WriteError> {
        let Some(entry) = leaf.entries.get(slice.entry) else {
            return Ok(());
        };
        if NEVER.contains(&entry.path.as_str()) {
            return Ok(());
        }
        let content = content.map_err(|e| WriteError::Repository {
            file: entry.path.clone(),
            why: e.to_string(),
        })?;
        let path = self.root.join(&entry.path);
        let file = OpenOptions::new()
            .write(true)
            .open(&path)
            .map_err(WriteError::os(&path))?;
        file.write_all_at(content, slice.region * REGION_BYTES)
            .map_err(WriteError::os(&path))?;
        self.written
            .fetch_add(content.len() as u64, Ordering::Relaxed);
        let crc = crc_fast::checksum(Crc32Iscsi, content) as u32;
        match self.arrived(&entry.path, slice.region, crc) {
            Some((size, modified, crc)) => self.list(&entry.path, size, modified, crc),
            None => Ok(()),
        }
    }

    fn leaf_lost(&self, _: usize, error: ObjectError) -> Result<(), WriteError> {
        Err(WriteError::Manifest(error))
    }
}
