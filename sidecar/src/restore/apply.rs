//! Carries a restore out. pg_control is removed first and put back last: whatever ends this in between leaves a
//! directory that can't be started, and that doing it again completes.

use super::clear::{clear, sync_directory};
use super::destination::{Destination, MARKER, owner};
use super::recovery::{self, AFTERWARDS, Recovery};
use super::write::{ManifestWriter, WriteError, Writer};
use crate::origin::{ORIGIN_FILE, Origin, OriginError, RESTORE_FILE, RestoreOrder, Source};
use crate::progress::Counters;
use crc_fast::CrcAlgorithm::Crc32Iscsi;
use holdfast_postgres::backup_manifest;
use holdfast_repository::backup::{BackupReader, ScanSettings, scan};
use holdfast_repository::blocking;
use std::fs::{self, File, Permissions};
use std::io::{BufWriter, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// How long a fetch is tried again while the store is in trouble.
const PATIENCE: Duration = Duration::from_secs(300);
/// Written anew, whatever the backup holds under these names.
const REWRITTEN: [&str; 3] = ["postgresql.auto.conf", AFTERWARDS, ORIGIN_FILE];

/// What to write.
pub struct Work {
    /// The backup.
    pub reader: Arc<BackupReader>,
    /// Where to.
    pub destination: Destination,
    /// How Postgres recovers.
    pub recovery: Recovery,
    /// Where recovery finds its WAL.
    pub order: RestoreOrder,
    /// What the directory becomes a copy of; none: it goes on with the archive.
    pub copy_of: Option<Source>,
    /// The order that this carries out; none: whatever the backup says was the last one.
    pub carried_out: Option<String>,
    /// Threads.
    pub parallelism: usize,
}

/// Writes everything, and counts the bytes. After an error the directory can't be started.
pub async fn apply(work: Work, counters: &Counters) -> Result<(), WriteError> {
    let work = Arc::new(work);
    let writer = {
        let (work, written) = (work.clone(), counters.bytes());
        blocking(move || begin(&work, written)).await?
    };
    let writer = Arc::new(writer);
    let settings = ScanSettings {
        parallelism: work.parallelism,
        patience: PATIENCE,
    };
    scan(work.reader.clone(), writer.clone(), settings).await?;
    let Some(writer) = Arc::into_inner(writer) else {
        return Err(WriteError::Repository {
            file: "backup_manifest".into(),
            why: "a worker of the restore is still running".into(),
        });
    };
    blocking(move || finish(&work, writer)).await
}

fn begin(work: &Work, written: Arc<AtomicU64>) -> Result<Writer, WriteError> {
    let root = &work.destination.root;
    let owner = owner(root);
    let claim = clear(&work.destination).map_err(WriteError::os(root))?;
    let mode = work.reader.root().directory_mode;
    // Postgres takes these two and no others.
    let mode = if mode == 0o750 { 0o750 } else { 0o700 };
    fs::set_permissions(root, Permissions::from_mode(mode)).map_err(WriteError::os(root))?;
    let path = root.join("backup_manifest");
    let file = File::create_new(&path).map_err(WriteError::os(&path))?;
    let facts = &work.reader.root().facts;
    let (version, system) = if facts.postgres_major >= 17 {
        (2, Some(facts.system))
    } else {
        (1, None)
    };
    let manifest = ManifestWriter::new(BufWriter::new(file), version, system)
        .map_err(WriteError::os(&path))?;
    Writer::begin(
        &work.destination,
        claim,
        owner,
        manifest,
        &REWRITTEN,
        written,
    )
}

fn finish(work: &Work, writer: Writer) -> Result<(), WriteError> {
    let root = &work.destination.root;
    let owner = owner(root);
    let stored = work.reader.root();
    let facts = &stored.facts;
    let (_claim, mut manifest) = writer.finish()?;
    let auto_conf = root.join("postgresql.auto.conf");
    // A backup of a recovery that was not over has the user's own settings beside those of that recovery.
    let kept = root.join(AFTERWARDS);
    let source = if kept.exists() { &kept } else { &auto_conf };
    let existing = match fs::read(source) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        other => latin(&other.map_err(WriteError::os(source))?),
    };
    let word = |text: &String| latin(text.as_bytes());
    let mut during = work.recovery.clone();
    during.restore_command = word(&during.restore_command);
    during.target = during
        .target
        .iter()
        .map(|(name, value)| (name.clone(), word(value)))
        .collect();
    let mode = root
        .join("PG_VERSION")
        .metadata()
        .map_or(0o600, |m| m.permissions().mode() & 0o777);
    let put = |path: &Path, content: &[u8]| put(path, content, mode, owner);
    put(&auto_conf, &unlatin(&recovery::during(&existing, &during)))?;
    put(&root.join("recovery.signal"), b"")?;
    let mut listed = vec![
        ("backup_label", stored.backup_label.clone()),
        (RESTORE_FILE, work.order.to_json()),
        (AFTERWARDS, unlatin(&recovery::afterwards(&existing))),
    ];
    if let Some(origin) = origin(root, work).map_err(|e| WriteError::Repository {
        file: ORIGIN_FILE.into(),
        why: e.to_string(),
    })? {
        listed.push((ORIGIN_FILE, origin.to_json()));
    }
    for (name, content) in listed {
        put(&root.join(name), &content)?;
        list(&mut manifest, name, &content).map_err(WriteError::os(root))?;
    }
    list(&mut manifest, "global/pg_control", &stored.pg_control).map_err(WriteError::os(root))?;
    let path = root.join("backup_manifest");
    let mut file = manifest
        .finish(facts.timeline, facts.start, facts.stop)
        .map_err(WriteError::os(&path))?;
    file.flush().map_err(WriteError::os(&path))?;
    own(&path, mode, owner)?;
    // Everything is durable before pg_control makes it startable.
    for directory in std::iter::once(root.clone())
        .chain(work.destination.tablespaces.values().cloned())
        .chain([root.join("pg_wal")])
    {
        let file = File::open(&directory).map_err(WriteError::os(&directory))?;
        rustix::fs::syncfs(file).map_err(|e| WriteError::os(&directory)(e.into()))?;
    }
    let (control, new) = (
        root.join("global/pg_control"),
        root.join("global/pg_control.holdfast"),
    );
    put(&new, &stored.pg_control)?;
    File::open(&new)
        .and_then(|f| f.sync_all())
        .map_err(WriteError::os(&new))?;
    fs::rename(&new, &control).map_err(WriteError::os(&control))?;
    let global = root.join("global");
    sync_directory(&global).map_err(WriteError::os(&global))?;
    let marker = root.join(MARKER);
    fs::remove_file(&marker).map_err(WriteError::os(&marker))?;
    sync_directory(root).map_err(WriteError::os(root))
}

/// What the backup's own says, and what is new: a copy of a copy may archive into neither.
fn origin(root: &Path, work: &Work) -> Result<Option<Origin>, OriginError> {
    let kept = Origin::read(root)?;
    if work.copy_of.is_none() && work.carried_out.is_none() {
        return Ok(kept);
    }
    let (mut sources, last_order) =
        kept.map_or_else(Default::default, |kept| (kept.copy_of, kept.last_order));
    if let Some(source) = &work.copy_of
        && !sources.contains(source)
    {
        sources.push(source.clone());
    }
    let last_order = match &work.copy_of {
        // Orders are its source's.
        Some(_) => None,
        None => work.carried_out.clone().or(last_order),
    };
    Ok(Some(Origin::new(sources, last_order)))
}

/// A settings file may be in any encoding; its syntax is ASCII. So each byte is taken for a character, and back.
fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn unlatin(text: &str) -> Vec<u8> {
    text.chars()
        .filter_map(|c| u8::try_from(u32::from(c)).ok())
        .collect()
}

fn put(
    path: &Path,
    content: &[u8],
    mode: u32,
    owner: Option<(u32, u32)>,
) -> Result<(), WriteError> {
    fs::write(path, content).map_err(WriteError::os(path))?;
    own(path, mode, owner)
}

fn own(path: &Path, mode: u32, owner: Option<(u32, u32)>) -> Result<(), WriteError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(WriteError::os(path))?;
    match owner {
        Some((uid, gid)) => chown(path, Some(uid), Some(gid)).map_err(WriteError::os(path)),
        None => Ok(()),
    }
}

fn list<W: Write>(
    manifest: &mut backup_manifest::Writer<W>,
    name: &str,
    content: &[u8],
) -> std::io::Result<()> {
    let crc = crc_fast::checksum(Crc32Iscsi, content) as u32;
    manifest.file(
        name,
        content.len() as u64,
        jiff::Timestamp::now(),
        Some(crc),
    )
}

#[cfg(test)]
mod tests;
