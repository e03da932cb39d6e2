//! Where each object lies, relative to its archive.

use holdfast_postgres::{SegmentName, SystemIdentifier, TimelineId, WalFileName};

/// The archive's own description, plain JSON.
pub const ARCHIVE: &str = "archive.json";

/// The folder of the wrapped data keys.
pub const KEYS: &str = "keys";

/// A data key, wrapped by one master key.
pub fn wrapped_key(number: u32, master_key: &str) -> String {
    format!("{KEYS}/{number}/{master_key}.json")
}

/// What is true of one incarnation, plain JSON.
pub fn identity(system: SystemIdentifier) -> String {
    format!("{system}/identity.json")
}

/// The folder of all segments, in folders by timeline and log.
pub fn wal(system: SystemIdentifier) -> String {
    format!("{system}/wal")
}

/// The folder of one timeline's segments.
pub fn wal_timeline(system: SystemIdentifier, timeline: TimelineId) -> String {
    format!("{system}/wal/{}", timeline.hex())
}

/// The folder of the history files.
pub fn histories(system: SystemIdentifier) -> String {
    format!("{system}/wal/history")
}

/// A whole segment.
pub fn segment(system: SystemIdentifier, name: SegmentName) -> String {
    format!(
        "{system}/wal/{}/{:08X}/{name}",
        name.timeline.hex(),
        name.log
    )
}

/// Where a WAL file is kept that is served under its exact name: segments, history and backup history files.
/// `None` for a `.partial`, which is only ever kept [`aside`].
pub fn wal_file(system: SystemIdentifier, name: &WalFileName) -> Option<String> {
    match name {
        WalFileName::Segment(name) => Some(segment(system, *name)),
        WalFileName::History(_) => Some(format!("{}/{name}", histories(system))),
        WalFileName::BackupHistory { segment, .. } => Some(format!(
            "{system}/wal/{}/{:08X}/{name}",
            segment.timeline.hex(),
            segment.log
        )),
        WalFileName::Partial(_) => None,
    }
}

/// What is not a whole segment, under its name and digest.
pub fn aside(system: SystemIdentifier, name: &WalFileName, digest: &[u8]) -> String {
    format!("{system}/aside/{name}-{}", hex::encode(digest))
}

/// Data of a WAL object over 16 MiB, named by digest.
pub fn chunk(system: SystemIdentifier, digest: &[u8]) -> String {
    format!("{system}/chunks/{}", hex::encode(digest))
}

/// An object of many layers.
pub fn pack(system: SystemIdentifier, backup: &str, number: u32) -> String {
    format!("{system}/packs/{backup}-{number}")
}

/// The folder of all packs.
pub fn packs(system: SystemIdentifier) -> String {
    format!("{system}/packs")
}

/// The folder of all backups.
pub fn backups(system: SystemIdentifier) -> String {
    format!("{system}/backups")
}

/// The commit point of a backup.
pub fn manifest(system: SystemIdentifier, backup: &str) -> String {
    format!("{system}/backups/{backup}/manifest")
}

/// Says that a backup began.
pub fn started(system: SystemIdentifier, backup: &str) -> String {
    format!("{system}/backups/{backup}/started")
}

/// A sign of life of a running backup.
pub fn alive(system: SystemIdentifier, backup: &str, n: u32) -> String {
    format!("{system}/backups/{backup}/alive/{n}")
}
