//! One WAL record: its header, and what it says about transactions, times and settings.

use crate::bytes;
use crate::control_file::WalLevel;
use crate::crc::crc32c_seeded;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use crate::timestamp::PgTimestamp;

use super::index::ParameterChange;

/// How much of a record is kept to be interpreted. A record may have a gigabyte; what is asked of it stands near
/// its begin.
pub const HEAD_LIMIT: usize = 64 << 10;
/// The same for the end of a prepared transaction: its id stands behind lists of what it did.
pub(super) const PREPARED_HEAD_LIMIT: usize = 4 << 20;
/// Bytes of a record's header (`SizeOfXLogRecord`).
pub(super) const HEADER: usize = 24;
/// Bytes of it before its checksum.
const BEFORE_CRC: usize = 20;

/// A complete record whose checksum holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// Its first byte.
    pub lsn: Lsn,
    /// Where the next record may begin (`EndRecPtr`): aligned; after a switch, the next segment.
    pub end: Lsn,
    /// The record before it (`xl_prev`).
    pub prev: Lsn,
    /// The resource manager.
    pub rmid: u8,
    /// Its flags (`xl_info`).
    pub info: u8,
    /// The transaction that wrote it, or 0.
    pub xid: u32,
    /// Its length in bytes, without padding and page headers.
    pub total_length: u32,
    /// What it says.
    pub kind: RecordKind,
}

/// What a record says, as far as recovery targets and backups depend on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RecordKind {
    /// A transaction was committed.
    Commit {
        /// The top-level transaction that `recovery_target_xid` matches; of COMMIT PREPARED, the prepared one. 0 if
        /// that stands beyond the record's first bytes, behind a megabyte of what the transaction did.
        xid: u32,
        /// When.
        time: PgTimestamp,
    },
    /// A transaction was rolled back.
    Abort {
        /// As with commits.
        xid: u32,
        /// When.
        time: PgTimestamp,
    },
    /// `pg_create_restore_point`.
    RestorePoint {
        /// The name; bytes that are not UTF-8 are replaced.
        name: String,
        /// When.
        time: PgTimestamp,
    },
    /// The rest of the segment is empty.
    Switch,
    /// A checkpoint.
    Checkpoint {
        /// Where replay from it begins.
        redo: Lsn,
        /// When it began, seconds since 1970.
        time_unix: i64,
        /// Whether the server went on writing meanwhile; else it was shut down.
        online: bool,
        /// The timeline.
        timeline: TimelineId,
        /// The timeline before it, if this checkpoint begins one; else the same.
        prev_timeline: TimelineId,
    },
    /// Recovery ended here and a timeline begins.
    EndOfRecovery {
        /// The new timeline.
        timeline: TimelineId,
        /// The one it left.
        prev_timeline: TimelineId,
        /// When.
        time: PgTimestamp,
    },
    /// The server was started with other settings.
    ParameterChange(ParameterChange),
    /// Anything else.
    Other,
}

/// `XLogRecord`.
#[derive(Clone, Copy, Debug)]
pub(super) struct RecordHeader {
    pub(super) total: u32,
    pub(super) xid: u32,
    pub(super) prev: Lsn,
    pub(super) info: u8,
    pub(super) rmid: u8,
    pub(super) crc: u32,
}

const RM_XLOG: u8 = 0;
const RM_XACT: u8 = 1;

impl RecordHeader {
    pub(super) fn parse(record: &[u8]) -> Option<Self> {
        Some(Self {
            total: bytes::u32_at(record, 0)?,
            xid: bytes::u32_at(record, 4)?,
            prev: Lsn(bytes::u64_at(record, 8)?),
            info: *record.get(16)?,
            rmid: *record.get(17)?,
            crc: bytes::u32_at(record, BEFORE_CRC)?,
        })
    }

    /// The record's checksum, given that of what follows its header: the header counts last.
    pub(super) fn crc_of(self, record: &[u8], of_data: u32) -> u32 {
        crc32c_seeded(of_data, record.get(..BEFORE_CRC).unwrap_or_default())
    }

    /// COMMIT PREPARED or ROLLBACK PREPARED.
    pub(super) fn is_prepared_end(self) -> bool {
        self.rmid == RM_XACT
            && matches!(
                self.info & xact::OPMASK,
                xact::COMMIT_PREPARED | xact::ABORT_PREPARED
            )
    }

    /// What the record says. `head` is the record from its first byte, perhaps not all of it.
    pub(super) fn interpret(self, lsn: Lsn, head: &[u8], major: u32) -> RecordKind {
        let interpreted =
            match self.rmid {
                RM_XLOG if self.info & 0xF0 == xlog::SWITCH => Some(RecordKind::Switch),
                RM_XLOG => main_data(head, self.total, major)
                    .and_then(|data| self.interpret_xlog(lsn, data)),
                RM_XACT => main_data(head, self.total, major)
                    .and_then(|data| self.interpret_xact(data, major)),
                _ => None,
            };
        interpreted.unwrap_or(RecordKind::Other)
    }

    fn interpret_xlog(self, lsn: Lsn, data: &[u8]) -> Option<RecordKind> {
        Some(match self.info & 0xF0 {
            info @ (xlog::CHECKPOINT_SHUTDOWN | xlog::CHECKPOINT_ONLINE) => {
                RecordKind::Checkpoint {
                    redo: Lsn(bytes::u64_at(data, 0)?),
                    time_unix: bytes::i64_at(data, 64)?,
                    online: info == xlog::CHECKPOINT_ONLINE,
                    timeline: TimelineId(bytes::u32_at(data, 8)?),
                    prev_timeline: TimelineId(bytes::u32_at(data, 12)?),
                }
            }
            xlog::PARAMETER_CHANGE => RecordKind::ParameterChange(ParameterChange {
                lsn,
                wal_level: WalLevel::parse(bytes::i32_at(data, 20)?)?,
                max_connections: bytes::i32_at(data, 0)?,
                max_worker_processes: bytes::i32_at(data, 4)?,
                max_wal_senders: bytes::i32_at(data, 8)?,
                max_prepared_xacts: bytes::i32_at(data, 12)?,
                max_locks_per_xact: bytes::i32_at(data, 16)?,
                wal_log_hints: *data.get(24)? != 0,
                track_commit_timestamp: *data.get(25)? != 0,
            }),
            xlog::RESTORE_POINT => {
                let name = data.get(8..)?;
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                RecordKind::RestorePoint {
                    name: String::from_utf8_lossy(name).into_owned(),
                    time: PgTimestamp(bytes::i64_at(data, 0)?),
                }
            }
            // 17 added wal_level behind these.
            xlog::END_OF_RECOVERY => RecordKind::EndOfRecovery {
                timeline: TimelineId(bytes::u32_at(data, 8)?),
                prev_timeline: TimelineId(bytes::u32_at(data, 12)?),
                time: PgTimestamp(bytes::i64_at(data, 0)?),
            },
            _ => return None,
        })
    }

    fn interpret_xact(self, data: &[u8], major: u32) -> Option<RecordKind> {
        let operation = self.info & xact::OPMASK;
        let commit = matches!(operation, xact::COMMIT | xact::COMMIT_PREPARED);
        if !commit && !matches!(operation, xact::ABORT | xact::ABORT_PREPARED) {
            return None;
        }
        let time = PgTimestamp(bytes::i64_at(data, 0)?);
        let xid = if self.is_prepared_end() {
            prepared_xid(self.info, data, commit, major).unwrap_or(0)
        } else {
            self.xid
        };
        Some(if commit {
            RecordKind::Commit { xid, time }
        } else {
            RecordKind::Abort { xid, time }
        })
    }
}

/// The record's main data, as far as `head` holds it (`DecodeXLogRecord`). It stands at the record's end; the
/// headers of blocks, images and data in front of it say how long it is.
fn main_data(head: &[u8], total: u32, major: u32) -> Option<&[u8]> {
    /// Ids of what is no block (`XLR_BLOCK_ID_…`); blocks have 0 to 32.
    const DATA_SHORT: u8 = 255;
    const DATA_LONG: u8 = 254;
    const ORIGIN: u8 = 253;
    const TOP_LEVEL_XID: u8 = 252;
    /// `BKPBLOCK_…` and `BKPIMAGE_…`.
    const HAS_IMAGE: u8 = 0x10;
    const SAME_RELATION: u8 = 0x80;
    const HAS_HOLE: u8 = 0x01;

    let compressed = if major >= 15 {
        0x04 | 0x08 | 0x10
    } else {
        0x02
    };
    let mut at = HEADER;
    loop {
        match *head.get(at)? {
            DATA_SHORT | DATA_LONG if at + 2 > total as usize => return None,
            id @ (DATA_SHORT | DATA_LONG) => {
                let (length, size) = if id == DATA_SHORT {
                    (u32::from(*head.get(at + 1)?), 2)
                } else {
                    (bytes::u32_at(head, at + 1)?, 5)
                };
                let begin = total.checked_sub(length)? as usize;
                return (begin >= at + size).then(|| head.get(begin..)).flatten();
            }
            ORIGIN => at += 3,
            TOP_LEVEL_XID => at += 5,
            0..=32 => {
                let flags = *head.get(at + 1)?;
                at += 4;
                if flags & HAS_IMAGE != 0 {
                    let image = *head.get(at + 4)?;
                    at += 5;
                    if image & compressed != 0 && image & HAS_HOLE != 0 {
                        at += 2;
                    }
                }
                if flags & SAME_RELATION == 0 {
                    at += 12;
                }
                at += 4;
            }
            _ => return None,
        }
    }
}

/// The transaction that a COMMIT PREPARED or ROLLBACK PREPARED ends (`ParseCommitRecord`, `ParseAbortRecord`).
fn prepared_xid(info: u8, data: &[u8], commit: bool, major: u32) -> Option<u32> {
    if info & xact::HAS_INFO == 0 {
        return None;
    }
    let xinfo = bytes::u32_at(data, 8)?;
    let mut at = 12usize;
    if xinfo & xact::HAS_DBINFO != 0 {
        at += 8;
    }
    // 15 added statistics that are dropped; 18 made their ids 64 bits wide.
    let stats_item = if major >= 18 { 16 } else { 12 };
    let lists = [
        (xact::HAS_SUBXACTS, 4, true),
        (xact::HAS_RELFILENODES, 12, true),
        (xact::HAS_DROPPED_STATS, stats_item, major >= 15),
        (xact::HAS_INVALS, 16, commit),
    ];
    for (flag, item, exists) in lists {
        if exists && xinfo & flag != 0 {
            let count = usize::try_from(bytes::i32_at(data, at)?).ok()?;
            at = at.checked_add(4)?.checked_add(count.checked_mul(item)?)?;
        }
    }
    if xinfo & xact::HAS_TWOPHASE == 0 {
        None
    } else {
        bytes::u32_at(data, at)
    }
}

/// `XLOG_…` of `catalog/pg_control.h`.
mod xlog {
    pub(super) const CHECKPOINT_SHUTDOWN: u8 = 0x00;
    pub(super) const CHECKPOINT_ONLINE: u8 = 0x10;
    pub(super) const SWITCH: u8 = 0x40;
    pub(super) const PARAMETER_CHANGE: u8 = 0x60;
    pub(super) const RESTORE_POINT: u8 = 0x70;
    pub(super) const END_OF_RECOVERY: u8 = 0x90;
}

/// `XLOG_XACT_…` and `XACT_XINFO_…` of `access/xact.h`.
mod xact {
    pub(super) const OPMASK: u8 = 0x70;
    pub(super) const HAS_INFO: u8 = 0x80;
    pub(super) const COMMIT: u8 = 0x00;
    pub(super) const ABORT: u8 = 0x20;
    pub(super) const COMMIT_PREPARED: u8 = 0x30;
    pub(super) const ABORT_PREPARED: u8 = 0x40;
    pub(super) const HAS_DBINFO: u32 = 1 << 0;
    pub(super) const HAS_SUBXACTS: u32 = 1 << 1;
    pub(super) const HAS_RELFILENODES: u32 = 1 << 2;
    pub(super) const HAS_INVALS: u32 = 1 << 3;
    pub(super) const HAS_TWOPHASE: u32 = 1 << 4;
    pub(super) const HAS_DROPPED_STATS: u32 = 1 << 8;
}
