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

/// The folder of all parts of unfinished segments, in folders by timeline and segment.
pub fn parts(system: SystemIdentifier) -> String {
    format!("{system}/parts")
}

/// The folder of the parts of one timeline's segments.
pub fn parts_of_timeline(system: SystemIdentifier, timeline: TimelineId) -> String {
    format!("{system}/parts/{}", timeline.hex())
}

/// The folder of one segment's parts.
pub fn parts_of(system: SystemIdentifier, segment: SegmentName) -> String {
    format!("{}/{segment}", parts_of_timeline(system, segment.timeline))
}

/// A stretch of an unfinished segment: whose, and its first byte and the one after its last, as offsets in the segment.
pub fn part(
    system: SystemIdentifier,
    segment: SegmentName,
    writer: u64,
    from: u32,
    to: u32,
) -> String {
    let folder = parts_of(system, segment);
    format!("{folder}/{writer:016x}-{from:08X}-{to:08X}")
}

/// What is not a whole segment, under its name and digest.
pub fn aside(system: SystemIdentifier, name: &WalFileName, digest: &[u8]) -> String {
    format!("{system}/aside/{name}-{}", hex::encode(digest))
}

/// The folder of the data of one WAL object over 16 MiB, `key`. No two objects share a chunk: so whoever deletes one
/// needs to know nothing of the others, and can't harm one that is just being written.
pub fn chunks(system: SystemIdentifier, key: &str) -> String {
    let name = key.rsplit_once('/').map_or(key, |(_, name)| name);
    format!("{system}/chunks/{name}")
}

/// Part of that data, named by digest.
pub fn chunk(system: SystemIdentifier, key: &str, digest: &[u8]) -> String {
    format!("{}/{}", chunks(system, key), hex::encode(digest))
}

/// An object of many layers.
pub fn pack(system: SystemIdentifier, backup: &str, number: u32) -> String {
    format!("{system}/packs/{backup}-{number}")
}

/// Whose pack it is, and which of theirs, if `key` is a pack's.
pub fn pack_of(system: SystemIdentifier, key: &str) -> Option<(&str, u32)> {
    let name = key.strip_prefix(&packs(system))?.strip_prefix('/')?;
    let (backup, number) = name.rsplit_once('-')?;
    let number = number.parse().ok()?;
    (pack(system, backup, number) == key).then_some((backup, number))
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

/// Says, in numbered objects of which the last counts, whether retention may delete a backup.
pub fn keeps(system: SystemIdentifier, backup: &str) -> String {
    format!("{system}/backups/{backup}/keep")
}

/// One of them.
pub fn keep(system: SystemIdentifier, backup: &str, n: u32) -> String {
    format!("{}/{n}", keeps(system, backup))
}

/// The folder of the signs of life of those who read.
pub fn markers(system: SystemIdentifier) -> String {
    format!("{system}/markers")
}

/// A sign of life of one who reads.
pub fn marker(system: SystemIdentifier, reader: &str, n: u32) -> String {
    format!("{system}/markers/{reader}/{n}")
}

/// The folder of what says what is about to be deleted.
pub fn tombstones(system: SystemIdentifier) -> String {
    format!("{system}/tombstones")
}

/// What is about to be deleted.
pub fn tombstone(system: SystemIdentifier, n: u32) -> String {
    format!("{system}/tombstones/{n}")
}

/// The folder of the owners, the highest number last.
pub const OWNERS: &str = "owner";

/// Which installation may expire, from this epoch on. Plain JSON.
pub fn owner(epoch: u32) -> String {
    format!("{OWNERS}/{epoch}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_tell_whose_they_are() {
        let system = SystemIdentifier(7);
        for (key, expected) in [
            ("7/packs/b-1-0", Some(("b-1", 0))),
            ("7/packs/b-12", Some(("b", 12))),
            ("7/packs/b-01", None),
            ("7/packs/b", None),
            ("7/packs/x/b-1", Some(("x/b", 1))),
            ("8/packs/b-1", None),
            ("7/packsb-1", None),
        ] {
            assert_eq!(pack_of(system, key), expected, "{key}");
        }
    }
}
