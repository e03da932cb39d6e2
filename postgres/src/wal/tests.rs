use proptest::prelude::*;

use super::build::{Build, GIANT, at, commit_prepared};
use super::*;
use crate::control_file::WalLevel;
use crate::lsn::Lsn;
use crate::timeline::TimelineId;
use crate::wal_file_name::SegmentName;

fn scan_in(pieces: usize, name: SegmentName, bytes: &[u8], build: &Build) -> SegmentScan {
    let mut scanner = SegmentScanner::new(name, build.size, build.major);
    bytes.chunks(pieces).for_each(|piece| scanner.feed(piece));
    scanner.finish()
}

fn scans(build: &Build) -> Vec<SegmentScan> {
    build
        .segments()
        .iter()
        .map(|(name, bytes)| scan_in(1 << 20, *name, bytes, build))
        .collect()
}

fn read(build: &Build, pieces: usize) -> (Vec<Record>, RecordReader, Result<(), WalError>) {
    let start = build.segments()[0]
        .0
        .number(build.size)
        .expect("number")
        .start(build.size);
    let mut reader = RecordReader::new(start, build.size, build.major);
    let mut records = Vec::new();
    let result = build.segments().iter().try_for_each(|(_, bytes)| {
        bytes
            .chunks(pieces)
            .try_for_each(|piece| reader.feed(piece, &mut |record| records.push(record)))
    });
    (records, reader, result)
}

fn positions(records: &[Record]) -> Vec<(Lsn, Lsn)> {
    records
        .iter()
        .map(|record| (record.lsn, record.end))
        .collect()
}

fn why(scan: &SegmentScan) -> (Lsn, &str) {
    match &scan.end {
        SegmentEnd::Incomplete { valid_through, why } => (*valid_through, why),
        whole => panic!("{whole:?} instead of incomplete"),
    }
}

#[test]
fn every_kind_of_record_is_told() {
    for major in 14..=18 {
        let mut build = Build::new(major, 3);
        let commit = build.commit(700, 50);
        build.record(1, 0x20, 701, &40i64.to_le_bytes());
        build.record(1, 0xB0, 0, &commit_prepared(major, 60, 702, 2));
        // Aborts have no invalidations: what stands in their place is the id.
        build.record(
            1,
            0xC0,
            0,
            &[
                &30i64.to_le_bytes()[..],
                &(1u32 << 4 | 1 << 3).to_le_bytes(),
                &703u32.to_le_bytes(),
            ]
            .concat(),
        );
        let point = build.restore_point("before the accident", 70);
        let mut settings = Vec::new();
        [100i32, 8, 10, 20, 64, 2]
            .iter()
            .for_each(|value| settings.extend(value.to_le_bytes()));
        settings.extend([1, 0, 0, 0]);
        let change = build.record(0, 0x60, 0, &settings);
        let mut checkpoint = vec![0; 88];
        checkpoint[..8].copy_from_slice(&0x30_0028u64.to_le_bytes());
        checkpoint[8..16].copy_from_slice(&[2, 0, 0, 0, 1, 0, 0, 0]);
        checkpoint[64..72].copy_from_slice(&946_684_800i64.to_le_bytes());
        build.record(0, 0x10, 0, &checkpoint);
        build.record(
            0,
            0x90,
            0,
            &[&80i64.to_le_bytes()[..], &[2, 0, 0, 0, 1, 0, 0, 0]].concat(),
        );
        build.filler(300);
        let switch = build.switch();

        let (records, _, result) = read(&build, 999);
        result.expect("valid WAL");
        let kinds: Vec<RecordKind> = records.iter().map(|record| record.kind.clone()).collect();
        let expected_change = ParameterChange {
            lsn: change,
            wal_level: WalLevel::Logical,
            max_connections: 100,
            max_worker_processes: 8,
            max_wal_senders: 10,
            max_prepared_xacts: 20,
            max_locks_per_xact: 64,
            wal_log_hints: true,
            track_commit_timestamp: false,
        };
        assert_eq!(
            kinds,
            [
                RecordKind::Commit {
                    xid: 700,
                    time: at(50)
                },
                RecordKind::Abort {
                    xid: 701,
                    time: at(40)
                },
                RecordKind::Commit {
                    xid: 702,
                    time: at(60)
                },
                RecordKind::Abort {
                    xid: 703,
                    time: at(30)
                },
                RecordKind::RestorePoint {
                    name: "before the accident".into(),
                    time: at(70)
                },
                RecordKind::ParameterChange(expected_change),
                RecordKind::Checkpoint {
                    redo: Lsn(0x30_0028),
                    time_unix: 946_684_800,
                    online: true,
                    timeline: TimelineId(2),
                    prev_timeline: TimelineId(1),
                },
                RecordKind::EndOfRecovery {
                    timeline: TimelineId(2),
                    prev_timeline: TimelineId(1),
                    time: at(80)
                },
                RecordKind::Other,
                RecordKind::Switch,
            ],
            "{major}"
        );
        assert_eq!(
            records.last().map(|record| record.end),
            Some(Lsn(0x40_0000))
        );

        let scan = scans(&build).remove(0);
        assert_eq!(scan.end, SegmentEnd::Switch { at: switch });
        assert_eq!(scan.index.first_record, Some(commit));
        assert_eq!(scan.index.last_record, Some(switch));
        assert_eq!(scan.index.end, Lsn(0x40_0000));
        assert_eq!(scan.index.commit_times, Some((at(50), at(60))));
        assert_eq!(scan.index.abort_times, Some((at(30), at(40))));
        assert_eq!(scan.index.latest_time, Some(at(80)));
        assert_eq!(scan.index.xids, [700, 701, 702, 703]);
        assert_eq!(
            scan.index.restore_points,
            [RestorePoint {
                lsn: point,
                name: "before the accident".into(),
                time: at(70)
            }]
        );
        assert_eq!(scan.index.parameter_changes, [expected_change]);
        let header = scan.header.expect("a header");
        assert_eq!(
            (
                header.major,
                header.system_identifier.0,
                header.page_address
            ),
            (major, 77, Lsn(0x30_0000))
        );
    }
}

#[test]
fn records_run_over_pages_and_segments() {
    let mut build = Build::new(16, 1);
    build.filler(20_000);
    build.fill_segment_to(8);
    // Eight bytes stand here, the rest of its header in the next segment.
    let split = build.commit(800, 90);
    build.filler(GIANT);
    build.restore_point("end", 91);
    build.switch();
    let scans = scans(&build);
    assert_eq!(scans.len(), 5);
    assert!(scans[..4].iter().all(|scan| scan.end == SegmentEnd::Full));
    assert!(matches!(scans[4].end, SegmentEnd::Switch { .. }));

    let unfinished = scans[0]
        .index
        .unfinished
        .as_ref()
        .expect("a record that runs over");
    assert_eq!(
        (unfinished.lsn, unfinished.present, unfinished.head.len()),
        (split, 8, 8)
    );
    assert_eq!(
        (scans[0].index.end, scans[0].index.last_record),
        (split, Some(split))
    );
    assert_eq!(scans[1].index.continued_length, unfinished.total_length - 8);
    // Nothing starts or ends in a segment that is the middle of a record.
    assert_eq!(
        (
            scans[2].index.first_record,
            scans[2].index.unfinished.as_ref()
        ),
        (None, None)
    );
    assert_eq!(scans[2].index.end, Lsn(0x30_0000));
    assert_eq!(scans[2].index.continued.len(), HEAD_LIMIT);
    assert_eq!(
        scans[4].index.first_record,
        build.records.iter().rev().nth(1).map(|(lsn, _)| *lsn)
    );

    let mut index = scans[0].index.clone();
    assert!(index.xids.is_empty());
    join(&mut index, &scans[1].index, 16);
    assert_eq!(
        (index.xids, index.commit_times, index.unfinished),
        (vec![800], Some((at(90), at(90))), None)
    );

    let (records, reader, result) = read(&build, 4096);
    result.expect("valid WAL");
    let mut expected = build.records.clone();
    expected.last_mut().expect("the switch").1 = Lsn(0x60_0000);
    assert_eq!(positions(&records), expected);
    assert_eq!(reader.valid_through(), Lsn(0x60_0000));
}

#[test]
fn the_id_of_a_prepared_transaction_stands_behind_what_it_did() {
    for (invalidations, xid) in [(10, 900), (8_000, 900), (300_000, 0)] {
        let mut build = Build::new(18, 1);
        build.record(1, 0xB0, 0, &commit_prepared(18, 1, 900, invalidations));
        build.switch();
        let (records, ..) = read(&build, 100_000);
        assert_eq!(
            records[0].kind,
            RecordKind::Commit { xid, time: at(1) },
            "{invalidations}"
        );
    }
}

#[test]
fn a_record_that_a_crash_cut_off_is_dropped() {
    // Within a segment.
    let mut build = Build::new(15, 1);
    build.fill_page_to(64);
    build.abandon(100);
    build.record(0, 0xD0, 0, &[0; 16]);
    build.switch();
    assert!(matches!(scans(&build)[0].end, SegmentEnd::Switch { .. }));
    let (records, _, result) = read(&build, 8192);
    assert_eq!((result, records.len()), (Ok(()), build.records.len()));

    // At a segment's end.
    let mut build = Build::new(15, 1);
    build.fill_segment_to(64);
    let abandoned = build.abandon(100);
    build.record(0, 0xD0, 0, &[0; 16]);
    build.commit(5, 5);
    build.switch();
    let scans = scans(&build);
    assert_eq!(scans[0].end, SegmentEnd::Full);
    assert_eq!(
        scans[0].index.unfinished.as_ref().map(|record| record.lsn),
        Some(abandoned)
    );
    assert!(matches!(scans[1].end, SegmentEnd::Switch { .. }));
    let mut index = scans[0].index.clone();
    join(&mut index, &scans[1].index, 15);
    assert!(index.unfinished.is_none() && index.xids.is_empty());
    let (records, _, result) = read(&build, 8192);
    assert_eq!((result, records.len()), (Ok(()), build.records.len()));
}

#[test]
fn a_record_that_a_crash_cut_off_on_a_later_page_is_dropped() {
    let mut build = Build::new(15, 1);
    build.fill_segment_to(64);
    // A restore point's first bytes, as long as several pages.
    let mut main = vec![0; 30_000];
    main[8] = b'x';
    let record = build.encode(0, 0x70, 0, &main);
    let abandoned = build.abandon_after(2, record);
    build.commit(5, 5);
    build.switch();
    let scans = scans(&build);
    let mut index = scans[0].index.clone();
    assert_eq!(
        index.unfinished.as_ref().map(|record| record.lsn),
        Some(abandoned)
    );
    assert!(matches!(scans[1].end, SegmentEnd::Switch { .. }));
    assert_eq!(scans[1].index.continued_length, 0);
    assert!(scans[1].index.continued.is_empty());
    join(&mut index, &scans[1].index, 15);
    assert!(index.restore_points.is_empty());
    assert_eq!(scans[1].index.xids, [5]);
}

#[test]
fn the_first_segment_of_a_timeline_begins_with_its_parents_pages() {
    let mut build = Build::new(17, 1);
    build.fill_page_to(1024);
    let parent = build.bytes.len() / 8192;
    build.timeline = TimelineId(2);
    build.fill_segment_to(8);
    build.filler(1);
    let (name, bytes) = build.segments().remove(0);
    assert_eq!(name.timeline, TimelineId(2));
    assert_eq!(bytes[parent * 8192 + 4], 1);
    let scan = scan_in(5000, name, &bytes, &build);
    assert_eq!(scan.end, SegmentEnd::Full);
    assert_eq!(
        scan.header.map(|header| header.timeline),
        Some(TimelineId(1))
    );

    // The same bytes as the parent's segment would hold pages of a later timeline.
    let name = SegmentName {
        timeline: TimelineId(1),
        ..name
    };
    assert!(
        why(&scan_in(5000, name, &bytes, &build))
            .1
            .contains("timeline 2 in a segment of timeline 1")
    );
}

#[test]
fn what_is_not_a_whole_segment() {
    let mut build = Build::new(17, 1);
    build.fill_page_to(512);
    build.commit(1, 1);
    let (name, half) = build.segments().remove(0);
    let end = build.records.last().expect("a record").1;
    let scan = scan_in(8192, name, &half, &build);
    assert_eq!(
        why(&scan),
        (
            end,
            format!("at {end}: no record follows: the rest was never written").as_str()
        )
    );
    assert_eq!(scan.index.end, end);
    assert_eq!(scan.index.xids, [1]);

    // A recycled file: an older segment's pages follow.
    let mut whole = Build::new(17, 1);
    whole.fill_segment_to(8);
    whole.filler(1);
    let (_, old) = whole.segments().remove(0);
    let mut build = Build::new(17, 9);
    build.fill_page_to(32);
    build.filler(6);
    let end = Lsn(0x90_2000);
    let mut recycled = build.bytes.clone();
    recycled.extend(&old[recycled.len()..]);
    let name = SegmentName { segment: 9, ..name };
    let scan = scan_in(8192, name, &recycled, &build);
    assert_eq!(why(&scan).0, end);
    assert!(
        why(&scan)
            .1
            .contains("0/102000: it is left from an older use"),
        "{}",
        why(&scan).1
    );

    // Exactly at a page's end, never written.
    let (name, zeros) = build.segments().remove(0);
    assert_eq!(
        why(&scan_in(8192, name, &zeros, &build)),
        (end, "at 0/902000: the page was never written")
    );
}

#[test]
fn what_is_not_this_segment() {
    let mut build = Build::new(17, 2);
    build.fill_segment_to(8);
    build.filler(1);
    let (name, bytes) = build.segments().remove(0);
    let start = Lsn(0x20_0000);
    let change = |offset: usize, new: &[u8]| {
        let mut changed = bytes.clone();
        changed[offset..offset + new.len()].copy_from_slice(new);
        changed
    };
    for (bytes, expected) in [
        (vec![], "the file has 0 bytes instead of 1048576"),
        (bytes[..20].to_vec(), "the file has 20 bytes"),
        (bytes[..500_000].to_vec(), "the file has 500000 bytes"),
        ([&bytes[..], &[0]].concat(), "the file has 1048577 bytes"),
        (vec![0; 1 << 20], "begins with zeros"),
        (vec![0x55; 1 << 20], "magic 5555"),
        (
            change(0, &0xD118u16.to_le_bytes()),
            "written by PostgreSQL 18, not 17",
        ),
        (change(2, &[0]), "flags are 0000"),
        (change(4, &[2]), "timeline 2 in a segment of timeline 1"),
        (change(10, &[0x30]), "says it stands at 0/300000"),
        (
            change(34, &[0x20]),
            "the segment has 2 MiB instead of 1 MiB",
        ),
        (change(34, &[0x21]), "is not a WAL segment size"),
        (change(36, &[1]), "pages of 8193 bytes"),
        (change(41, &[0xFF, 0xFF, 0xFF]), "there is no record of"),
        (change(57, &[99]), "resource manager 99"),
        (change(60, &[1, 2, 3, 4]), "as it says"),
        (change(48, &[1]), "as it says"),
    ] {
        let scan = scan_in(8192, name, &bytes, &build);
        let (valid_through, text) = why(&scan);
        assert!(text.contains(expected), "{text} instead of {expected}");
        if bytes.len() != 500_000 && bytes.len() <= 1 << 20 {
            assert_eq!(valid_through, start);
        }
    }
    let misnamed = SegmentName {
        segment: 5000,
        ..name
    };
    assert!(
        why(&scan_in(8192, misnamed, &bytes, &build))
            .1
            .contains("no segment of 1 MiB")
    );
}

#[test]
fn the_end_of_the_wal_is_no_error_but_damage_is() {
    let mut build = Build::new(17, 1);
    build.filler(10_000);
    build.commit(1, 1);
    let end = build.records.last().expect("a record").1;
    let (records, reader, result) = read(&build, 8192);
    assert_eq!(
        (
            records.len(),
            result,
            reader.ended(),
            reader.valid_through()
        ),
        (2, Ok(()), true, end)
    );

    build.bytes[9_000] ^= 1;
    let (records, mut reader, result) = read(&build, 8192);
    let error = result.expect_err("damage");
    assert_eq!(
        (records.len(), error.at, error.valid_through),
        (0, Lsn(0x10_0028), Lsn(0x10_0000))
    );
    assert!(!reader.ended());
    assert_eq!(reader.feed(&[0; 10], &mut |_| {}), Err(error));
}

/// A segment or more of records of all lengths, and perhaps a switch.
fn any_wal() -> impl Strategy<Value = Build> {
    let lengths = prop_oneof![4 => 0usize..300, 2 => 300usize..20_000, 1 => 60_000usize..1_200_000];
    (
        14u32..=18,
        proptest::collection::vec(lengths, 1..60),
        any::<bool>(),
    )
        .prop_map(|(major, lengths, switch)| {
            let mut build = Build::new(major, 0x1234);
            for (index, length) in lengths.into_iter().enumerate() {
                match length % 5 {
                    0 => build.commit(index as u32 + 3, index as i64),
                    _ => build.filler(length),
                };
            }
            if switch {
                build.switch();
            }
            build
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn all_records_are_seen_in_pieces_of_any_size(build in any_wal(), pieces in 1usize..40_000) {
        let (records, reader, result) = read(&build, pieces);
        prop_assert_eq!(result, Ok(()));
        let starts: Vec<Lsn> = records.iter().map(|record| record.lsn).collect();
        let expected: Vec<Lsn> = build.records.iter().map(|(lsn, _)| *lsn).collect();
        prop_assert_eq!(starts, expected);
        prop_assert_eq!(reader.valid_through(), records.last().map_or(Lsn(0), |record| record.end));
        for (name, bytes) in build.segments() {
            prop_assert_eq!(scan_in(pieces, name, &bytes, &build), scan_in(1 << 20, name, &bytes, &build));
        }
    }

    #[test]
    fn the_joined_indexes_know_every_commit(build in any_wal()) {
        let mut xids: Vec<u32> = Vec::new();
        let mut indexes: Vec<SegmentIndex> = scans(&build).into_iter().map(|scan| scan.index).collect();
        for number in 0..indexes.len() {
            let (before, after) = indexes.split_at_mut(number + 1);
            if let Some(next) = after.first() {
                join(&mut before[number], next, build.major);
            }
            xids.extend(&indexes[number].xids);
        }
        let (records, ..) = read(&build, 8192);
        let expected: Vec<u32> = records.iter().filter_map(|record| match record.kind {
            RecordKind::Commit { xid, .. } => Some(xid),
            _ => None,
        }).collect();
        prop_assert_eq!(xids, expected);
    }

    #[test]
    fn a_changed_byte_in_any_record_is_found(build in any_wal(), which: prop::sample::Index, offset: prop::sample::Index, flip in 1u8..) {
        let (records, ..) = read(&build, 1 << 20);
        let record = &records[which.index(records.len())];
        let start = build.segments()[0].0.number(build.size).expect("number").start(build.size);
        // Of what stands on the record's first page.
        let begin = (record.lsn.0 - start.0) as usize;
        let here = (record.total_length as usize).min(8192 - begin % 8192);
        let mut damaged = build;
        damaged.bytes[begin + offset.index(here)] ^= flip;
        let (seen, reader, _) = read(&damaged, 1 << 20);
        prop_assert!(seen.iter().all(|other| other.lsn < record.lsn));
        prop_assert!(reader.valid_through() <= record.lsn);
        let name = damaged.segments()[(begin >> 20).min(damaged.segments().len() - 1)].clone();
        let whole = scan_in(1 << 20, name.0, &name.1, &damaged).end.is_whole();
        // Only the next segment can tell of a record that runs over.
        prop_assert!(!whole || record.end.segment(damaged.size) != record.lsn.segment(damaged.size));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..60_000), pieces in 1usize..9000) {
        let mut valid = Build::new(17, 1);
        valid.filler(20);
        let name: SegmentName = "000000010000000000000001".parse().expect("name");
        scan_in(pieces, name, &bytes, &valid);
        // Behind a good header.
        let _ = SegmentHeader::parse(&bytes);
        let mut longer = valid.bytes[..40].to_vec();
        longer.extend(&bytes);
        scan_in(pieces, name, &longer, &valid);
    }

    #[test]
    fn any_change_is_read_or_refused(
        build in any_wal(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..40),
        resum: bool,
    ) {
        let mut changed = build;
        for (place, value) in changes {
            let at = place.index(changed.bytes.len());
            changed.bytes[at] = value;
            if resum {
                // Past the checksums: the record that begins the segment says nonsense and is believed.
                let total = u32::from_le_bytes(changed.bytes[40..44].try_into().expect("4")) as usize;
                if let Some(record) = changed.bytes.get(40..40 + total).filter(|r| r.len() > 24 && total < 8000) {
                    let crc = crate::crc::crc32c_seeded(crate::crc::crc32c(&record[24..]), &record[..20]);
                    changed.bytes[60..64].copy_from_slice(&crc.to_le_bytes());
                }
            }
        }
        let _ = read(&changed, 10_000);
        let mut scans: Vec<SegmentIndex> = scans(&changed).into_iter().map(|scan| scan.index).collect();
        for number in 1..scans.len() {
            let (before, after) = scans.split_at_mut(number);
            join(&mut before[number - 1], &after[0], changed.major);
        }
    }

    #[test]
    fn any_record_that_claims_to_end_a_transaction_is_read_or_refused(
        major in 13u32..20, info: u8, rmid in 0u8..3, data in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut build = Build::new(17, 1);
        build.record(rmid, info, 9, &data);
        let head = &build.bytes[40..];
        if let Some(header) = record::RecordHeader::parse(head) {
            let _ = header.interpret(Lsn(1), head, major);
            let _ = header.interpret(Lsn(1), &data, major);
        }
    }
}
