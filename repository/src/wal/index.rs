//! A segment's index as it is stored.

use super::proto;
use holdfast_postgres::wal::{ParameterChange, RestorePoint, SegmentIndex, Unfinished};
use holdfast_postgres::{Lsn, PgTimestamp, WalLevel};

/// As it is stored.
pub(crate) fn encode(index: &SegmentIndex) -> proto::Index {
    let SegmentIndex {
        first_record,
        last_record,
        end,
        commit_times,
        abort_times,
        latest_time,
        xids,
        restore_points,
        parameter_changes,
        continued,
        continued_length,
        unfinished,
    } = index;
    let range = |range: &Option<(PgTimestamp, PgTimestamp)>| {
        range.map(|(earliest, latest)| proto::Range {
            earliest: earliest.0,
            latest: latest.0,
        })
    };
    proto::Index {
        first_record: first_record.unwrap_or_default().0,
        last_record: last_record.unwrap_or_default().0,
        end: end.0,
        commit_times: range(commit_times),
        abort_times: range(abort_times),
        latest_time: latest_time.map(|t| t.0),
        xids: pack_xids(xids),
        restore_points: restore_points
            .iter()
            .map(|p| proto::RestorePoint {
                lsn: p.lsn.0,
                name: p.name.clone(),
                time: p.time.0,
            })
            .collect(),
        parameter_changes: parameter_changes.iter().map(encode_change).collect(),
        continued: continued.clone(),
        continued_length: *continued_length,
        unfinished: unfinished.as_ref().map(|u| proto::Unfinished {
            lsn: u.lsn.0,
            total_length: u.total_length,
            present: u.present,
            head: u.head.clone(),
        }),
    }
}

/// As it was before; the reason where it can't have been.
pub(crate) fn decode(index: proto::Index) -> Result<SegmentIndex, &'static str> {
    let lsn = |lsn: u64| (lsn != 0).then_some(Lsn(lsn));
    let range = |range: Option<proto::Range>| {
        range.map(|r| (PgTimestamp(r.earliest), PgTimestamp(r.latest)))
    };
    Ok(SegmentIndex {
        first_record: lsn(index.first_record),
        last_record: lsn(index.last_record),
        end: Lsn(index.end),
        commit_times: range(index.commit_times),
        abort_times: range(index.abort_times),
        latest_time: index.latest_time.map(PgTimestamp),
        xids: unpack_xids(&index.xids)?,
        restore_points: index
            .restore_points
            .into_iter()
            .map(|p| RestorePoint {
                lsn: Lsn(p.lsn),
                name: p.name,
                time: PgTimestamp(p.time),
            })
            .collect(),
        parameter_changes: index
            .parameter_changes
            .iter()
            .map(decode_change)
            .collect::<Result<_, _>>()?,
        continued: index.continued,
        continued_length: index.continued_length,
        unfinished: index.unfinished.map(|u| Unfinished {
            lsn: Lsn(u.lsn),
            total_length: u.total_length,
            present: u.present,
            head: u.head,
        }),
    })
}

fn encode_change(change: &ParameterChange) -> proto::ParameterChange {
    proto::ParameterChange {
        lsn: change.lsn.0,
        wal_level: match change.wal_level {
            WalLevel::Minimal => 0,
            WalLevel::Replica => 1,
            WalLevel::Logical => 2,
        },
        max_connections: change.max_connections,
        max_worker_processes: change.max_worker_processes,
        max_wal_senders: change.max_wal_senders,
        max_prepared_xacts: change.max_prepared_xacts,
        max_locks_per_xact: change.max_locks_per_xact,
        wal_log_hints: change.wal_log_hints,
        track_commit_timestamp: change.track_commit_timestamp,
    }
}

fn decode_change(change: &proto::ParameterChange) -> Result<ParameterChange, &'static str> {
    Ok(ParameterChange {
        lsn: Lsn(change.lsn),
        wal_level: match change.wal_level {
            0 => WalLevel::Minimal,
            1 => WalLevel::Replica,
            2 => WalLevel::Logical,
            _ => return Err("its index names an unknown wal_level"),
        },
        max_connections: change.max_connections,
        max_worker_processes: change.max_worker_processes,
        max_wal_senders: change.max_wal_senders,
        max_prepared_xacts: change.max_prepared_xacts,
        max_locks_per_xact: change.max_locks_per_xact,
        wal_log_hints: change.wal_log_hints,
        track_commit_timestamp: change.track_commit_timestamp,
    })
}

/// Transactions commit roughly in the order in which they began: most differences fit a byte.
fn pack_xids(xids: &[u32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(xids.len() + xids.len() / 4);
    let mut last = 0u32;
    for &xid in xids {
        let difference = xid.wrapping_sub(last) as i32;
        last = xid;
        let mut rest = ((difference << 1) ^ (difference >> 31)) as u32;
        while rest >= 0x80 {
            out.push(rest as u8 | 0x80);
            rest >>= 7;
        }
        out.push(rest as u8);
    }
    out
}

fn unpack_xids(packed: &[u8]) -> Result<Vec<u32>, &'static str> {
    const BROKEN: &str = "the transactions in its index can't be read";
    let mut xids = Vec::with_capacity(packed.iter().filter(|b| **b < 0x80).count());
    let (mut last, mut rest, mut shift) = (0u32, 0u32, 0u32);
    for &byte in packed {
        let bits = u32::from(byte & 0x7F);
        if shift > 28 || (shift == 28 && bits > 0xF) {
            return Err(BROKEN);
        }
        rest |= bits << shift;
        if byte & 0x80 != 0 {
            shift += 7;
            continue;
        }
        let difference = (rest >> 1) ^ (rest & 1).wrapping_neg();
        last = last.wrapping_add(difference);
        xids.push(last);
        (rest, shift) = (0, 0);
    }
    if shift == 0 { Ok(xids) } else { Err(BROKEN) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use prost::Message;

    #[test]
    fn everything_in_an_index_comes_back() {
        let index = SegmentIndex {
            first_record: Some(Lsn(0x100_0028)),
            last_record: Some(Lsn(0x1FF_0000)),
            end: Lsn(0x1FF_0100),
            commit_times: Some((PgTimestamp(-5), PgTimestamp(1 << 50))),
            abort_times: None,
            latest_time: Some(PgTimestamp(0)),
            xids: vec![700, 701, 699, u32::MAX, 3, 0],
            restore_points: vec![RestorePoint {
                lsn: Lsn(7),
                name: "before".into(),
                time: PgTimestamp(9),
            }],
            parameter_changes: vec![ParameterChange {
                lsn: Lsn(8),
                wal_level: WalLevel::Logical,
                max_connections: 100,
                max_worker_processes: 8,
                max_wal_senders: 10,
                max_prepared_xacts: 0,
                max_locks_per_xact: 64,
                wal_log_hints: true,
                track_commit_timestamp: false,
            }],
            continued: vec![1, 2, 3],
            continued_length: 30,
            unfinished: Some(Unfinished {
                lsn: Lsn(0x1FF_0100),
                total_length: 500,
                present: 100,
                head: vec![7; 100],
            }),
        };
        let bytes = encode(&index).encode_to_vec();
        assert_eq!(
            decode(proto::Index::decode(&*bytes).unwrap()).unwrap(),
            index
        );
        assert_eq!(
            decode(encode(&SegmentIndex::default())).unwrap(),
            SegmentIndex::default()
        );
    }

    #[test]
    fn transactions_in_order_take_a_byte_each() {
        let xids: Vec<u32> = (1_000_000..1_010_000).collect();
        assert!(pack_xids(&xids).len() < 10_010);
    }

    proptest! {
        #[test]
        fn any_transactions_come_back(xids in proptest::collection::vec(any::<u32>(), 0..200)) {
            prop_assert_eq!(unpack_xids(&pack_xids(&xids)).unwrap(), xids);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpack_xids(&bytes);
        }
    }
}
