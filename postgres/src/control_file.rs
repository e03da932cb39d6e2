//! `global/pg_control`: whose cluster it is, and in what state (`catalog/pg_control.h`).

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::bytes;
use crate::crc::crc32c;
use crate::lsn::Lsn;
use crate::page;
use crate::segment::{SegmentSize, SegmentSizeError};
use crate::timeline::{SystemIdentifier, TimelineId};
use crate::version;

/// The size of the file; what it says stands in the first few hundred bytes.
pub const FILE_SIZE: usize = 8192;

/// What `pg_controldata` shows, as far as backups and recovery depend on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlFile {
    /// Whose cluster it is.
    pub system_identifier: SystemIdentifier,
    /// The layout of this file.
    pub pg_control_version: u32,
    /// The layout of the system catalogs; it names the tablespaces' directories.
    pub catalog_version: u32,
    /// Postgres' major, 14 to 18.
    pub major: u32,
    /// What the server was doing when it wrote this.
    pub state: ClusterState,
    /// When it wrote this, seconds since 1970.
    pub time: i64,
    /// The last checkpoint's record.
    pub checkpoint: Lsn,
    /// Where replay from that checkpoint begins.
    pub redo: Lsn,
    /// The timeline of that checkpoint.
    pub timeline: TimelineId,
    /// The timeline before it, if that checkpoint began a timeline; else the same.
    pub prev_timeline: TimelineId,
    /// The next transaction id, epoch in the upper half.
    pub next_xid: u64,
    /// When that checkpoint was made, seconds since 1970.
    pub checkpoint_time: i64,
    /// Recovery must replay at least to here before the cluster is consistent.
    pub min_recovery_point: Lsn,
    /// The timeline of that position.
    pub min_recovery_timeline: TimelineId,
    /// Where the backup began that this directory was restored from, until its end has been replayed.
    pub backup_start: Lsn,
    /// Where that backup ended, if it was taken from a standby.
    pub backup_end: Lsn,
    /// Whether a record of the backup's end must be seen.
    pub backup_end_required: bool,
    /// `wal_level`.
    pub wal_level: WalLevel,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// `max_connections`.
    pub max_connections: i32,
    /// `max_worker_processes`.
    pub max_worker_processes: i32,
    /// `max_wal_senders`.
    pub max_wal_senders: i32,
    /// `max_prepared_transactions`.
    pub max_prepared_xacts: i32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_xact: i32,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
    /// Size of a data page in bytes; always [`page::SIZE`].
    pub block_size: u32,
    /// Pages in a full file of a relation's fork (131072: 1 GiB).
    pub relation_segment_blocks: u32,
    /// Size of a WAL page in bytes.
    pub wal_block_size: u32,
    /// Size of a WAL segment.
    pub segment_size: SegmentSize,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
}

/// What the server was doing (`DBState`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs, reason = "Postgres' own names")]
pub enum ClusterState {
    Startup,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

impl ClusterState {
    fn parse(value: u32) -> Option<Self> {
        Some(match value {
            0 => Self::Startup,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::InCrashRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            _ => return None,
        })
    }

    /// Whether the server stopped in order, so that nothing but its checkpoint needs replay.
    #[must_use]
    pub fn is_shut_down(self) -> bool {
        matches!(self, Self::ShutDown | Self::ShutDownInRecovery)
    }
}

impl fmt::Display for ClusterState {
    /// As pg_controldata says it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Startup => "starting up",
            Self::ShutDown => "shut down",
            Self::ShutDownInRecovery => "shut down in recovery",
            Self::ShuttingDown => "shutting down",
            Self::InCrashRecovery => "in crash recovery",
            Self::InArchiveRecovery => "in archive recovery",
            Self::InProduction => "in production",
        })
    }
}

/// How much the WAL tells (`WalLevel` in xlog.h). Backups need at least `Replica`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "Postgres' own names")]
pub enum WalLevel {
    Minimal,
    Replica,
    Logical,
}

impl WalLevel {
    pub(crate) fn parse(value: i32) -> Option<Self> {
        Some(match value {
            0 => Self::Minimal,
            1 => Self::Replica,
            2 => Self::Logical,
            _ => return None,
        })
    }
}

impl fmt::Display for WalLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Minimal => "minimal",
            Self::Replica => "replica",
            Self::Logical => "logical",
        })
    }
}

/// A pg_control that cannot be believed or is not known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Not the size that every version writes.
    #[error(
        "pg_control has {0} bytes instead of {FILE_SIZE}: is this a PostgreSQL data directory?"
    )]
    WrongSize(usize),
    /// A version of the file that Holdfast does not read.
    #[error(
        "pg_control has version {control} with catalog version {catalog}, which no PostgreSQL from 14 to 18 writes: \
         Holdfast supports released versions of these"
    )]
    UnknownVersion {
        /// `pg_control_version`.
        control: u32,
        /// `catalog_version_no`.
        catalog: u32,
    },
    /// Damaged, or read while it was being written.
    #[error(
        "pg_control's checksum is {computed:08X}, not {stored:08X} as it says: it is damaged, or was read while the \
         server wrote it; read it again"
    )]
    BadChecksum {
        /// What the file says.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// Its checksum holds, but a value makes no sense.
    #[error(
        "pg_control says {value} for {field}, which is impossible: the file is damaged or from a patched server"
    )]
    Impossible {
        /// The field, in pg_controldata's words.
        field: &'static str,
        /// What it says.
        value: i64,
    },
    /// The segment size.
    #[error("pg_control: {0}")]
    SegmentSize(#[from] SegmentSizeError),
    /// Built with another page size.
    #[error("this cluster has pages of {0} bytes: only servers built with {page} are supported", page = page::SIZE)]
    PageSize(u32),
}

impl ControlFile {
    /// Reads the whole file and checks its size, version, checksum and values.
    pub fn parse(file: &[u8]) -> Result<Self, ControlError> {
        if file.len() != FILE_SIZE {
            return Err(ControlError::WrongSize(file.len()));
        }
        let control = Fields { file };
        let (version_no, catalog) = (control.u32(8), control.u32(12));
        let major = version::major_of_control_file(version_no, catalog).ok_or(
            ControlError::UnknownVersion {
                control: version_no,
                catalog,
            },
        )?;
        // 18 added default_char_signedness, a byte between the checksum version and the nonce of 32.
        let crc_offset = if major >= 18 { 292 } else { 288 };
        let (stored, computed) = (
            control.u32(crc_offset),
            crc32c(file.get(..crc_offset).unwrap_or_default()),
        );
        if stored != computed {
            return Err(ControlError::BadChecksum { stored, computed });
        }
        let impossible = |field, value: i64| ControlError::Impossible { field, value };
        let block_size = control.u32(216);
        if block_size as usize != page::SIZE {
            return Err(ControlError::PageSize(block_size));
        }
        let relation_segment_blocks = control.u32(220);
        if relation_segment_blocks == 0 {
            return Err(impossible("blocks per segment of large relation", 0));
        }
        let wal_block_size = control.u32(224);
        if !wal_block_size.is_power_of_two() || !(1024..=65536).contains(&wal_block_size) {
            return Err(impossible("WAL block size", wal_block_size.into()));
        }
        Ok(Self {
            system_identifier: SystemIdentifier(control.u64(0)),
            pg_control_version: version_no,
            catalog_version: catalog,
            major,
            state: ClusterState::parse(control.u32(16))
                .ok_or_else(|| impossible("database cluster state", control.u32(16).into()))?,
            time: control.i64(24),
            checkpoint: control.lsn(32),
            redo: control.lsn(40),
            timeline: TimelineId(control.u32(48)),
            prev_timeline: TimelineId(control.u32(52)),
            next_xid: control.u64(64),
            checkpoint_time: control.i64(104),
            min_recovery_point: control.lsn(136),
            min_recovery_timeline: TimelineId(control.u32(144)),
            backup_start: control.lsn(152),
            backup_end: control.lsn(160),
            backup_end_required: control.bool(168),
            wal_level: WalLevel::parse(control.i32(172))
                .ok_or_else(|| impossible("wal_level", control.i32(172).into()))?,
            wal_log_hints: control.bool(176),
            max_connections: control.i32(180),
            max_worker_processes: control.i32(184),
            max_wal_senders: control.i32(188),
            max_prepared_xacts: control.i32(192),
            max_locks_per_xact: control.i32(196),
            track_commit_timestamp: control.bool(200),
            block_size,
            relation_segment_blocks,
            wal_block_size,
            segment_size: SegmentSize::new(control.u32(228))?,
            data_checksums: control.u32(252) != 0,
        })
    }
}

/// Reads at fixed offsets, all below [`FILE_SIZE`], which the caller has checked: nothing is ever out of range.
struct Fields<'a> {
    file: &'a [u8],
}

impl Fields<'_> {
    fn u32(&self, offset: usize) -> u32 {
        bytes::u32_at(self.file, offset).unwrap_or_default()
    }

    fn i32(&self, offset: usize) -> i32 {
        bytes::i32_at(self.file, offset).unwrap_or_default()
    }

    fn u64(&self, offset: usize) -> u64 {
        bytes::u64_at(self.file, offset).unwrap_or_default()
    }

    fn i64(&self, offset: usize) -> i64 {
        bytes::i64_at(self.file, offset).unwrap_or_default()
    }

    fn lsn(&self, offset: usize) -> Lsn {
        Lsn(self.u64(offset))
    }

    fn bool(&self, offset: usize) -> bool {
        self.file.get(offset).is_some_and(|byte| *byte != 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A control file with a value of its own in every field.
    fn file(control: u32, catalog: u32, crc_offset: usize) -> Vec<u8> {
        let mut file = vec![0; FILE_SIZE];
        let mut put =
            |offset: usize, bytes: &[u8]| file[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &7_568_172_923_453_462_918u64.to_le_bytes());
        put(8, &control.to_le_bytes());
        put(12, &catalog.to_le_bytes());
        for (offset, value) in [
            (16, 5u32),
            (48, 3),
            (52, 2),
            (144, 4),
            (172, 1),
            (180, 100),
            (184, 8),
            (188, 10),
            (192, 20),
            (196, 64),
            (216, 8192),
            (220, 131_072),
            (224, 8192),
            (228, 16 << 20),
            (252, 1),
        ] {
            put(offset, &value.to_le_bytes());
        }
        for (offset, value) in [
            (24, 1_700_000_000u64),
            (32, 0x200_0060),
            (40, 0x200_0028),
            (64, 5 << 32 | 731),
            (104, 1_700_000_001),
            (136, 0x300_0000),
            (152, 0x200_0029),
            (160, 0x200_0100),
        ] {
            put(offset, &value.to_le_bytes());
        }
        for offset in [168, 176, 200] {
            put(offset, &[1]);
        }
        seal(&mut file, crc_offset);
        file
    }

    fn seal(file: &mut [u8], crc_offset: usize) {
        let crc = crc32c(&file[..crc_offset]);
        file[crc_offset..crc_offset + 4].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn every_major() {
        for (major, control, catalog, crc_offset) in [
            (14, 1300, 202_107_181, 288),
            (15, 1300, 202_209_061, 288),
            (16, 1300, 202_307_071, 288),
            (17, 1700, 202_406_281, 288),
            (18, 1800, 202_506_291, 292),
        ] {
            assert_eq!(
                ControlFile::parse(&file(control, catalog, crc_offset)),
                Ok(ControlFile {
                    system_identifier: SystemIdentifier(7_568_172_923_453_462_918),
                    pg_control_version: control,
                    catalog_version: catalog,
                    major,
                    state: ClusterState::InArchiveRecovery,
                    time: 1_700_000_000,
                    checkpoint: Lsn(0x200_0060),
                    redo: Lsn(0x200_0028),
                    timeline: TimelineId(3),
                    prev_timeline: TimelineId(2),
                    next_xid: 5 << 32 | 731,
                    checkpoint_time: 1_700_000_001,
                    min_recovery_point: Lsn(0x300_0000),
                    min_recovery_timeline: TimelineId(4),
                    backup_start: Lsn(0x200_0029),
                    backup_end: Lsn(0x200_0100),
                    backup_end_required: true,
                    wal_level: WalLevel::Replica,
                    wal_log_hints: true,
                    max_connections: 100,
                    max_worker_processes: 8,
                    max_wal_senders: 10,
                    max_prepared_xacts: 20,
                    max_locks_per_xact: 64,
                    track_commit_timestamp: true,
                    block_size: 8192,
                    relation_segment_blocks: 131_072,
                    wal_block_size: 8192,
                    segment_size: SegmentSize::DEFAULT,
                    data_checksums: true,
                })
            );
        }
    }

    #[test]
    fn what_cannot_be_believed() {
        let good = file(1700, 202_406_281, 288);
        assert_eq!(
            ControlFile::parse(&good[..8191]),
            Err(ControlError::WrongSize(8191))
        );
        for (control, catalog) in [
            (1700, 202_406_282),
            (1300, 202_406_281),
            (1201, 201_909_212),
            (0, 0),
        ] {
            let parsed = ControlFile::parse(&file(control, catalog, 288));
            assert_eq!(
                parsed,
                Err(ControlError::UnknownVersion { control, catalog })
            );
        }
        for offset in [0, 16, 100, 255, 287, 288] {
            let mut torn = good.clone();
            torn[offset] ^= 0x10;
            assert!(
                matches!(
                    ControlFile::parse(&torn),
                    Err(ControlError::BadChecksum { .. })
                ),
                "{offset}"
            );
        }
        for (offset, value, expected) in [
            (
                16,
                7u32,
                ControlError::Impossible {
                    field: "database cluster state",
                    value: 7,
                },
            ),
            (
                172,
                3,
                ControlError::Impossible {
                    field: "wal_level",
                    value: 3,
                },
            ),
            (216, 16_384, ControlError::PageSize(16_384)),
            (
                220,
                0,
                ControlError::Impossible {
                    field: "blocks per segment of large relation",
                    value: 0,
                },
            ),
            (
                224,
                5000,
                ControlError::Impossible {
                    field: "WAL block size",
                    value: 5000,
                },
            ),
        ] {
            let mut odd = good.clone();
            odd[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
            seal(&mut odd, 288);
            assert_eq!(ControlFile::parse(&odd), Err(expected));
        }
        let mut odd = good;
        odd[228] = 1;
        seal(&mut odd, 288);
        assert!(matches!(
            ControlFile::parse(&odd),
            Err(ControlError::SegmentSize(_))
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(
            mut bytes in proptest::collection::vec(any::<u8>(), FILE_SIZE),
            major in 14u32..=18,
            sealed: bool,
        ) {
            let _ = ControlFile::parse(&bytes);
            let control: u32 = match major { 17 => 1700, 18 => 1800, _ => 1300 };
            bytes[8..12].copy_from_slice(&control.to_le_bytes());
            bytes[12..16].copy_from_slice(&version::catalog_version(major).expect("known").to_le_bytes());
            if sealed {
                seal(&mut bytes, if major == 18 { 292 } else { 288 });
            }
            let _ = ControlFile::parse(&bytes);
        }
    }
}
