//! Made-up WAL and control files that read like PostgreSQL's, for tests.

use holdfast_postgres::control_file::FILE_SIZE;
use holdfast_postgres::crc::crc32c;
use holdfast_postgres::version::{catalog_version, wal_magic};
use holdfast_postgres::{Lsn, SegmentName, SegmentSize, SystemIdentifier, TimelineId};

const PAGE: usize = 8192;
const LONG: usize = 40;
const SHORT: usize = 24;
const RECORD_HEADER: usize = 24;
const XLOG_NOOP: u8 = 0x20;
const XLOG_SWITCH: u8 = 0x40;

/// Whose WAL is made.
#[derive(Debug, Clone, Copy)]
pub struct Cluster {
    /// Its identifier.
    pub system: SystemIdentifier,
    /// Its segment size.
    pub segment_size: SegmentSize,
    /// Its major, 14 to 18.
    pub major: u32,
}

/// How a segment is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Records to its last byte.
    Whole,
    /// Records on the first so many pages, then zeros.
    Pages(usize),
    /// Records on the first so many pages, then a switch.
    SwitchAfter(usize),
}

/// A segment whose records are no-ops with content that depends on `seed`: each fills what its page has left, so that
/// none runs over. Equal arguments give equal bytes, and fills of the same seed begin alike.
pub fn segment(cluster: Cluster, name: SegmentName, fill: Fill, seed: u8) -> Vec<u8> {
    let size = cluster.segment_size.bytes() as usize;
    let start = name
        .number(cluster.segment_size)
        .map(|n| n.start(cluster.segment_size))
        .unwrap_or_default();
    let mut out = vec![0; size];
    let mut previous = Lsn(start.0.saturating_sub(8168));
    for (number, page) in out.chunks_mut(PAGE).enumerate() {
        let stop = match fill {
            Fill::Whole => false,
            Fill::Pages(pages) | Fill::SwitchAfter(pages) => number >= pages,
        };
        if stop
            && (matches!(fill, Fill::Pages(_))
                || matches!(fill, Fill::SwitchAfter(pages) if number > pages))
        {
            break;
        }
        let address = Lsn(start.0 + (number * PAGE) as u64);
        let header = if number == 0 { LONG } else { SHORT };
        page[..2].copy_from_slice(&wal_magic(cluster.major).unwrap_or(0).to_le_bytes());
        page[2..4].copy_from_slice(&(if number == 0 { 2u16 } else { 0 }).to_le_bytes());
        page[4..8].copy_from_slice(&name.timeline.0.to_le_bytes());
        page[8..16].copy_from_slice(&address.0.to_le_bytes());
        if number == 0 {
            page[24..32].copy_from_slice(&cluster.system.0.to_le_bytes());
            page[32..36].copy_from_slice(&cluster.segment_size.bytes().to_le_bytes());
            page[36..40].copy_from_slice(&(PAGE as u32).to_le_bytes());
        }
        let at = Lsn(address.0 + header as u64);
        if stop {
            record(
                &mut page[header..header + RECORD_HEADER],
                XLOG_SWITCH,
                previous,
                seed,
            );
        } else {
            record(
                &mut page[header..],
                XLOG_NOOP,
                previous,
                seed.wrapping_add(number as u8),
            );
        }
        previous = at;
    }
    out
}

/// Fills `room` with one record.
fn record(room: &mut [u8], info: u8, previous: Lsn, seed: u8) {
    let total = room.len();
    room[..4].copy_from_slice(&(total as u32).to_le_bytes());
    room[8..16].copy_from_slice(&previous.0.to_le_bytes());
    room[16] = info;
    room[17] = 0;
    if let Some(data) = room.get_mut(RECORD_HEADER..).filter(|d| !d.is_empty()) {
        // XLR_BLOCK_ID_DATA_LONG and the length of the main data.
        let length = data.len() - 5;
        data[0] = 254;
        data[1..5].copy_from_slice(&(length as u32).to_le_bytes());
        for (i, byte) in data[5..].iter_mut().enumerate() {
            *byte = seed.wrapping_mul(31).wrapping_add((i / 7) as u8);
        }
    }
    let crc = crc32c(&[&room[RECORD_HEADER..], &room[..20]].concat());
    room[20..24].copy_from_slice(&crc.to_le_bytes());
}

/// A pg_control of that cluster: on this timeline, in this state (`DBState` in pg_control.h; 6 is in production).
pub fn control_file(cluster: Cluster, timeline: TimelineId, state: u32) -> Vec<u8> {
    let mut out = vec![0; FILE_SIZE];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    let version: u32 = match cluster.major {
        17 => 1700,
        18 => 1800,
        _ => 1300,
    };
    put(0, &cluster.system.0.to_le_bytes());
    put(8, &version.to_le_bytes());
    put(
        12,
        &catalog_version(cluster.major).unwrap_or(0).to_le_bytes(),
    );
    put(16, &state.to_le_bytes());
    put(48, &timeline.0.to_le_bytes());
    put(52, &timeline.0.to_le_bytes());
    put(172, &1u32.to_le_bytes());
    put(216, &(PAGE as u32).to_le_bytes());
    put(220, &131_072u32.to_le_bytes());
    put(224, &(PAGE as u32).to_le_bytes());
    put(228, &cluster.segment_size.bytes().to_le_bytes());
    let end = if cluster.major >= 18 { 292 } else { 288 };
    let crc = crc32c(&out[..end]);
    out[end..end + 4].copy_from_slice(&crc.to_le_bytes());
    out
}
