//! Storing parts in a folder, and reading them back.
#![allow(clippy::unwrap_used)]

use super::super::tests::{Place, SYSTEM, ZSTD, file};
use super::super::{PutError, PutOutcome, WalStore};
use super::name::PartName;
use super::object::{self, Sums};
use super::{PartOutcome, PartWriter, longest_run};
use crate::catalogue::timelines;
use crate::compression::Compression;
use crate::layout;
use crate::object::ObjectError;
use crate::reach::Indexes;
use crate::store::Created;
use crate::wal::sample::{Cluster, Fill, segment};
use futures::TryStreamExt;
use holdfast_postgres::{Lsn, SegmentName, SegmentNumber, SystemIdentifier, WalFileName};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;

const PAGE: usize = 8192;

impl Place {
    async fn put_part(&self, name: SegmentName, content: &[u8]) -> Result<PartOutcome, PutError> {
        self.wal.put_part(name, file(content), ZSTD).await
    }

    fn at(&self, name: SegmentName, offset: usize) -> Lsn {
        let size = self.wal.segment_size();
        Lsn(name.number(size).unwrap().start(size).0 + offset as u64)
    }

    /// What is stored of a segment.
    async fn parts(&self, name: SegmentName) -> Vec<PartName> {
        let folder = layout::parts_of(SYSTEM, name);
        let listing = self.wal.archive().store().list(&folder);
        let objects: Vec<_> = listing.try_collect().await.unwrap();
        let parse = |key: &str| PartName::parse(SYSTEM, self.wal.segment_size(), key).unwrap();
        let mut parts: Vec<_> = objects.iter().map(|object| parse(&object.key)).collect();
        parts.sort_by_key(|part| (part.writer, part.from));
        parts
    }
}

/// All of a segment as it is handed out, and where it ends.
async fn read(wal: &WalStore, name: SegmentName) -> Result<Option<(Vec<u8>, Lsn)>, ObjectError> {
    let Some(mut part) = wal.part(name).await? else {
        return Ok(None);
    };
    let (end, length) = (part.end(), part.length());
    let mut all = Vec::new();
    while let Some(piece) = part.next().await? {
        all.extend_from_slice(&piece);
    }
    assert_eq!(all.len() as u64, length);
    Ok(Some((all, end)))
}

#[tokio::test]
async fn what_there_is_of_a_segment_comes_back_with_zeros_after_it() {
    for (mib, pages, encrypted, compression, count) in [
        (1, 1, false, ZSTD, 1),
        (1, 127, true, Compression::Lz4, 1),
        (16, 2047, false, ZSTD, 1),
        (64, 2048, true, ZSTD, 1),
        (64, 2049, false, Compression::None, 2),
        (64, 6000, true, ZSTD, 3),
    ] {
        let place = Place::new(mib, encrypted).await;
        let name = place.name(1, 3);
        let content = place.sample(1, 3, Fill::Pages(pages));
        assert_eq!(read(&place.wal, name).await.unwrap(), None);
        let end = place.at(name, pages * PAGE);
        let put = place.wal.put_part(name, file(&content), compression).await;
        assert_eq!(put.unwrap(), PartOutcome::Stored { end });
        let stored = place.parts(name).await;
        assert_eq!(stored.len(), count, "{pages}");
        assert_eq!(longest_run(&stored), stored);
        assert!(read(&place.wal, name).await.unwrap() == Some((content.clone(), end)));
        // Again, and as another one would pack it.
        for compression in [compression, Compression::Zstd(3)] {
            let again = place.wal.put_part(name, file(&content), compression).await;
            let again = again.unwrap();
            let same = [
                PartOutcome::Stored { end },
                PartOutcome::AlreadyThere { end },
            ];
            assert!(same.contains(&again), "{again:?}");
            assert!(!encrypted || again == same[1]);
        }
        assert_eq!(place.parts(name).await, stored);
        // It is not the segment.
        let file_name = WalFileName::Segment(name);
        assert!(
            place
                .wal
                .read_file(&file_name)
                .await
                .unwrap_err()
                .is_not_found()
        );
        let index = place.wal.part(name).await.unwrap().unwrap().index().await;
        let index = index.unwrap();
        assert_eq!((index.end, index.unfinished), (end, None));
        assert_eq!(index.first_record, Some(place.at(name, 40)));
    }
}

#[tokio::test]
async fn what_no_record_vouches_for_is_not_stored() {
    let place = Place::new(1, false).await;
    let name = place.name(1, 3);
    let sample = |fill| place.sample(1, 3, fill);
    for (content, expected) in [
        (sample(Fill::Whole), PartOutcome::Whole),
        (sample(Fill::SwitchAfter(3)), PartOutcome::Whole),
        (vec![0; 1 << 20], PartOutcome::Empty),
        (sample(Fill::Pages(0)), PartOutcome::Empty),
        // A page with a header, and no whole record.
        (
            {
                let mut torn = sample(Fill::Pages(1));
                torn[4096..].fill(0);
                torn
            },
            PartOutcome::Empty,
        ),
    ] {
        assert_eq!(place.put_part(name, &content).await.unwrap(), expected);
        assert_eq!(place.parts(name).await, []);
    }
    // A record that is half there, one that was changed, and what an older use of the file left.
    let good = sample(Fill::Pages(5));
    for (from, byte) in [(5 * PAGE + 100, 1), (5 * PAGE, 0xFF)] {
        let mut more = sample(Fill::Pages(6));
        more[from] ^= byte;
        let end = place.at(name, 5 * PAGE);
        let put = place.put_part(name, &more).await.unwrap();
        assert_eq!(put, PartOutcome::Stored { end });
        let (stored, until) = read(&place.wal, name).await.unwrap().unwrap();
        assert!(stored == good && until == end);
    }
    assert_eq!(place.parts(name).await.len(), 1);
}

#[tokio::test]
async fn whose_it_is_is_checked_as_for_a_segment() {
    let place = Place::new(1, false).await;
    let name = place.name(1, 3);
    let other = Cluster {
        system: SystemIdentifier(5),
        ..place.cluster()
    };
    for content in [
        segment(other, name, Fill::Pages(5), 3),
        place.sample(1, 4, Fill::Pages(5)),
        place.sample(2, 3, Fill::Pages(5)),
    ] {
        let error = place.put_part(name, &content).await.unwrap_err();
        assert!(matches!(error, PutError::Foreign { .. }), "{error}");
    }
    let short = place.put_part(name, &[0; 8192]).await.unwrap_err();
    assert!(matches!(short, PutError::Length { .. }), "{short}");
    assert_eq!(place.parts(name).await, []);
}

#[tokio::test]
async fn a_stored_segment_is_enough_and_another_one_is_an_error() {
    for mib in [1, 32] {
        let place = Place::new(mib, true).await;
        let name = place.name(1, 3);
        let whole = place.sample(1, 3, Fill::Whole);
        let stored = place.put(WalFileName::Segment(name), &whole).await.unwrap();
        assert_eq!(stored, PutOutcome::Stored);
        let begun = place.sample(1, 3, Fill::Pages(7));
        let end = place.at(name, 7 * PAGE);
        let put = place.put_part(name, &begun).await.unwrap();
        assert_eq!(put, PartOutcome::AlreadyThere { end });
        let other = segment(place.cluster(), name, Fill::Pages(7), 9);
        let error = place.put_part(name, &other).await.unwrap_err();
        assert!(matches!(error, PutError::Differs { .. }), "{error}");
        assert_eq!(place.parts(name).await, []);
    }
}

#[tokio::test]
async fn the_longest_run_is_read_and_each_writer_stands_alone() {
    let place = Place::new(1, false).await;
    let name = place.name(1, 3);
    let short = place.sample(1, 3, Fill::Pages(3));
    let other = segment(place.cluster(), name, Fill::Pages(5), 9);
    let long = place.sample(1, 3, Fill::Pages(9));
    for (content, longest) in [(&short, &short), (&other, &other), (&long, &long)] {
        place.put_part(name, content).await.unwrap();
        let (stored, _) = read(&place.wal, name).await.unwrap().unwrap();
        assert!(stored == *longest);
    }
    place.put_part(name, &short).await.unwrap();
    assert_eq!(place.parts(name).await.len(), 3);
    assert!(read(&place.wal, name).await.unwrap().unwrap().0 == long);
}

/// 20 MiB of a 32 MiB segment, in two parts.
async fn two_parts(encrypted: bool) -> (Place, SegmentName, Vec<PartName>) {
    let place = Place::new(32, encrypted).await;
    let name = place.name(1, 3);
    let content = place.sample(1, 3, Fill::Pages(2560));
    place.put_part(name, &content).await.unwrap();
    let parts = place.parts(name).await;
    assert_eq!(parts.len(), 2);
    (place, name, parts)
}

#[tokio::test]
async fn after_a_hole_nothing_counts() {
    let (place, name, parts) = two_parts(false).await;
    fs::remove_file(place.object(&parts[1].key(SYSTEM))).unwrap();
    let (stored, end) = read(&place.wal, name).await.unwrap().unwrap();
    assert_eq!(end, place.at(name, 16 << 20));
    assert!(stored[16 << 20..].iter().all(|byte| *byte == 0));
    // The rest is added to what is there.
    let content = place.sample(1, 3, Fill::Pages(2560));
    place.put_part(name, &content).await.unwrap();
    assert!(read(&place.wal, name).await.unwrap().unwrap().0 == content);
    fs::remove_file(place.object(&parts[0].key(SYSTEM))).unwrap();
    assert_eq!(read(&place.wal, name).await.unwrap(), None);
}

#[tokio::test]
async fn damage_is_an_error_and_never_a_shorter_answer() {
    for encrypted in [false, true] {
        for damaged in [0, 1] {
            let (place, name, parts) = two_parts(encrypted).await;
            // A shorter one that is good.
            let short = place.sample(1, 3, Fill::Pages(3));
            place.put_part(name, &short).await.unwrap();
            let path = place.object(&parts[damaged].key(SYSTEM));
            let good = fs::read(&path).unwrap();
            let content = place.sample(1, 3, Fill::Pages(2560));
            for (what, bytes) in [
                ("empty", Vec::new()),
                ("cut", good[..good.len() - 1].to_vec()),
                ("longer", [&good[..], &[0; 20]].concat()),
                ("flipped", {
                    let mut flipped = good.clone();
                    let middle = flipped.len() / 2;
                    flipped[middle] ^= 1;
                    flipped
                }),
                (
                    "the other one",
                    fs::read(place.object(&parts[1 - damaged].key(SYSTEM))).unwrap(),
                ),
            ] {
                fs::write(&path, bytes).unwrap();
                let error = read(&place.wal, name).await.unwrap_err();
                assert!(error.is_damage(), "{what}: {error}");
                // Nor is it taken for what is stored there.
                let again = place.put_part(name, &content).await;
                assert!(again.is_err(), "{what}");
            }
        }
    }
}

#[tokio::test]
async fn a_part_that_was_made_up_is_told_by_its_digests() {
    let (place, name, parts) = two_parts(false).await;
    let (archive, first) = (place.wal.archive(), parts[0]);
    let raw = vec![1; 8192];
    let digest = archive.digest(&raw);
    let (none, wrong) = (archive.digest(b""), archive.digest(b"other"));
    let begins = PartName {
        writer: 1,
        from: 0,
        to: 8192,
        ..first
    };
    let follows = PartName {
        from: parts[1].to,
        to: parts[1].to + 8192,
        ..first
    };
    for (name_, before, sum, why) in [
        (follows, wrong, digest, "does not follow"),
        (begins, wrong, digest, "does not follow"),
        (begins, none, wrong, "does not match its digest"),
    ] {
        let key = name_.key(SYSTEM);
        let sums = Sums {
            digest: sum,
            before,
        };
        let object = object::build(archive, &key, &name_, &sums, &raw, ZSTD).unwrap();
        let created = archive.store().create(&key, vec![object]).await.unwrap();
        assert!(matches!(created, Created::New));
        if name_.writer == 1 {
            // It is read only where nothing longer is there.
            for part in &parts {
                let _ = fs::remove_file(place.object(&part.key(SYSTEM)));
            }
        }
        let error = read(&place.wal, name).await.unwrap_err();
        assert!(error.to_string().contains(why), "{why}: {error}");
        fs::remove_file(place.object(&key)).unwrap();
    }
    // One that says that it is another.
    let key = begins.key(SYSTEM);
    let lies = PartName {
        to: begins.to + 1,
        ..begins
    };
    let sums = Sums {
        digest,
        before: none,
    };
    let object = object::build(archive, &key, &lies, &sums, &raw, ZSTD).unwrap();
    let _ = archive.store().create(&key, vec![object]).await.unwrap();
    let error = read(&place.wal, name).await.unwrap_err();
    assert!(error.to_string().contains("it says that it is"), "{error}");
}

#[tokio::test]
async fn names_that_are_none_are_passed_over() {
    let place = Place::new(1, false).await;
    let name = place.name(1, 3);
    let folder = place.object(&layout::parts_of(SYSTEM, name));
    fs::create_dir_all(folder.join("deeper")).unwrap();
    for stray in [
        "x",
        "00000000000000ab-00000000",
        "00000000000000ab-00000000-00100001",
        "00000000000000ab-00001000-00000FFF",
        "00000000000000AB-00000000-00001000",
        "deeper/00000000000000ab-00000000-00001000",
    ] {
        fs::write(folder.join(stray), "nonsense").unwrap();
    }
    assert_eq!(read(&place.wal, name).await.unwrap(), None);
    let content = place.sample(1, 3, Fill::Pages(3));
    place.put_part(name, &content).await.unwrap();
    assert!(read(&place.wal, name).await.unwrap().unwrap().0 == content);
}

#[tokio::test]
async fn listings_and_pre_flight_see_what_is_stored() {
    let place = Place::new(1, true).await;
    let whole = WalFileName::Segment(place.name(1, 3));
    let content = place.sample(1, 3, Fill::Whole);
    place.put(whole, &content).await.unwrap();
    for (number, pages) in [(3, 9), (4, 5), (4, 7), (6, 1)] {
        let content = place.sample(1, number, Fill::Pages(pages));
        place
            .put_part(place.name(1, number), &content)
            .await
            .unwrap();
    }
    // Before its whole segment came.
    let before = PartName {
        segment: place.name(1, 3),
        writer: 1,
        from: 0,
        to: 8192,
    };
    fs::create_dir_all(place.object(&layout::parts_of(SYSTEM, before.segment))).unwrap();
    fs::write(place.object(&before.key(SYSTEM)), "x").unwrap();
    let [timeline] = timelines(&place.wal).await.unwrap().try_into().unwrap();
    let number = SegmentNumber;
    assert_eq!(
        timeline.parts,
        BTreeMap::from([(number(4), 7 * 8192), (number(6), 8192)])
    );
    assert_eq!(
        timeline.with_parts,
        [3, 4, 6].into_iter().map(number).collect()
    );
    let listed = place.wal.parts(timeline.id).await.unwrap();
    assert_eq!(
        listed.into_keys().collect::<Vec<_>>(),
        [3, 4, 6].map(number)
    );

    for (first, following, count) in [(4, vec![], 7), (3, vec![4], 128), (6, vec![], 1)] {
        let mut records = Vec::new();
        let following: Vec<_> = following.into_iter().map(|n| place.name(1, n)).collect();
        let each = |record| {
            records.push(record);
            ControlFlow::Continue(())
        };
        let name = place.name(1, first);
        let read = Indexes::records(&place.wal, name, &following, each);
        read.await.unwrap();
        assert_eq!(records.len(), count, "{first}");
        let index = Indexes::index(&place.wal, name).await.unwrap();
        assert_eq!(index.end, records.last().unwrap().end);
    }
    let absent = Indexes::index(&place.wal, place.name(1, 5)).await;
    assert!(absent.unwrap_err().is_not_found());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever a crash left after so many pages, what comes back is what was valid.
    #[test]
    fn whatever_comes_after_the_last_record_is_left_out(pages in 1usize..127, junk in proptest::collection::vec(any::<u8>(), 0..20_000)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let place = Place::new(1, false).await;
            let name = place.name(1, 3);
            let valid = place.sample(1, 3, Fill::Pages(pages));
            let mut left = valid.clone();
            let room = left.len() - pages * PAGE;
            let junk = &junk[..junk.len().min(room)];
            left[pages * PAGE..pages * PAGE + junk.len()].copy_from_slice(junk);
            place.put_part(name, &left).await.unwrap();
            let (stored, end) = read(&place.wal, name).await.unwrap().unwrap();
            assert_eq!(end, place.at(name, pages * PAGE));
            assert!(stored == valid);
        });
    }
}

impl Place {
    fn part_writer(&self, name: SegmentName) -> PartWriter {
        PartWriter::new(self.wal.clone(), name, ZSTD).unwrap()
    }
}

#[tokio::test]
async fn what_is_written_is_stored_stretch_by_stretch() {
    for (mib, encrypted, stretches) in [
        (1, false, &[40, PAGE, PAGE + 1, 3 * PAGE - 7, 1 << 20][..]),
        (16, true, &[40, 9 * PAGE + 100, 16 << 20]),
        // Past what one part holds, and past it at once.
        (64, true, &[100, (16 << 20) + 5, (33 << 20) + 1]),
    ] {
        let place = Place::new(mib, encrypted).await;
        let name = place.name(1, 3);
        let content = place.sample(1, 3, Fill::Whole);
        let mut writer = place.part_writer(name);
        // As of a file that is being written, what comes later is not there yet.
        for to in stretches {
            let mut written = content[..*to].to_vec();
            written.resize(content.len(), 0);
            let source = file(&written);
            writer.append(&source, *to as u32).await.unwrap();
            let end = place.at(name, *to);
            assert!(
                read(&place.wal, name).await.unwrap() == Some((written, end)),
                "{to}"
            );
            let records = *to / PAGE * PAGE;
            assert_eq!(writer.valid_through(), place.at(name, records), "{to}");
            // Nothing new.
            let stored = place.parts(name).await;
            writer.append(&source, *to as u32).await.unwrap();
            assert_eq!(place.parts(name).await, stored);
        }
    }
}

#[tokio::test]
async fn many_parts_are_merged() {
    let place = Place::new(64, false).await;
    let name = place.name(1, 3);
    let content = place.sample(1, 3, Fill::Whole);
    let source = file(&content);
    let mut writer = place.part_writer(name);
    writer.merge = 3;
    let mut to = 0;
    for step in 1..=30u32 {
        to += (1 << 20) + step;
        writer.append(&source, to).await.unwrap();
    }
    let stored = place.parts(name).await;
    let run = longest_run(&stored);
    assert!(run.len() < 10 && stored.len() > 30, "{run:?}");
    let (all, end) = read(&place.wal, name).await.unwrap().unwrap();
    assert_eq!(end, place.at(name, to as usize));
    assert!(all[..to as usize] == content[..to as usize]);
}

/// A server that was set back writes a segment again of which more, or something else, is stored.
#[tokio::test]
async fn a_segment_that_another_history_has_is_not_begun() {
    let place = Place::new(1, false).await;
    let name = place.name(1, 3);
    let begin = async |content: &[u8], to: usize| {
        PartWriter::begin(place.wal.clone(), name, ZSTD, &file(content), to as u32).await
    };
    let ours = place.sample(1, 3, Fill::Whole);
    let other = segment(place.cluster(), name, Fill::Whole, 99);
    let mut first = begin(&ours, 5 * PAGE).await.unwrap().unwrap();
    first.append(&file(&ours), 5 * PAGE as u32).await.unwrap();
    // A session later, with more of the same.
    for to in [5 * PAGE, 9 * PAGE] {
        begin(&ours, to).await.unwrap().unwrap();
    }
    for (content, to) in [(&ours, 5 * PAGE - 1), (&other, 9 * PAGE)] {
        let error = begin(content, to).await.unwrap_err();
        assert!(matches!(error, PutError::OtherHistory { .. }), "{error}");
    }
    let whole = place
        .wal
        .put(&WalFileName::Segment(name), file(&ours), ZSTD)
        .await;
    assert_eq!(whole.unwrap(), PutOutcome::Stored);
    // It was closed between two looks.
    assert!(begin(&ours, 9 * PAGE).await.unwrap().is_none());
    let error = begin(&other, 9 * PAGE).await.unwrap_err();
    assert!(matches!(error, PutError::Differs { .. }), "{error}");
}

#[tokio::test]
async fn what_could_not_be_replayed_is_not_stored_and_what_failed_is_tried_again() {
    let place = Place::new(1, false).await;
    let name = place.name(1, 3);
    let content = place.sample(1, 3, Fill::Whole);
    let good = file(&content);
    let mut damaged = content.clone();
    damaged[5 * PAGE + 100] ^= 1;
    let mut short = content.clone();
    short[5 * PAGE..].fill(0);
    let mut writer = place.part_writer(name);
    writer.append(&good, 3 * PAGE as u32).await.unwrap();
    for bad in [damaged, short] {
        let error = writer
            .append(&file(&bad), 9 * PAGE as u32)
            .await
            .unwrap_err();
        assert!(matches!(error, PutError::Invalid { .. }), "{error}");
        assert_eq!(
            read(&place.wal, name).await.unwrap().unwrap().1,
            place.at(name, 3 * PAGE)
        );
    }
    // Another server's.
    let other = place.sample(1, 4, Fill::Whole);
    let error = place
        .part_writer(name)
        .append(&file(&other), 100)
        .await
        .unwrap_err();
    assert!(matches!(error, PutError::Foreign { .. }), "{error}");
    // Something is in the way where the part is to be stored.
    let folder = place.object(&layout::parts_of(SYSTEM, name));
    let aside = folder.with_extension("aside");
    fs::rename(&folder, &aside).unwrap();
    fs::write(&folder, "in the way").unwrap();
    writer.append(&good, 9 * PAGE as u32).await.unwrap_err();
    fs::remove_file(&folder).unwrap();
    fs::rename(&aside, &folder).unwrap();
    writer.append(&good, 11 * PAGE as u32).await.unwrap();
    let (all, end) = read(&place.wal, name).await.unwrap().unwrap();
    assert_eq!(end, place.at(name, 11 * PAGE));
    assert!(all[..11 * PAGE] == content[..11 * PAGE]);
}
