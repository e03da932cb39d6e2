//! Storing and reading WAL files over a folder.
#![allow(clippy::unwrap_used)]

use super::sample::{Cluster, Fill, segment};
use super::{PutError, PutOutcome, WalStore};
use crate::archive::Archive;
use crate::compression::Compression;
use crate::keys::MasterKeys;
use crate::layout;
use crate::object::ObjectError;
use crate::store::StoreSettings;
use holdfast_postgres::{
    Lineage, Lsn, SegmentName, SegmentNumber, SegmentSize, SystemIdentifier, TimelineHistory,
    TimelineId, WalFileName,
};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

pub(super) const SYSTEM: SystemIdentifier = SystemIdentifier(7_000_000_000_000_000_001);
pub(super) const ZSTD: Compression = Compression::Zstd(1);

pub(super) struct Place {
    folder: tempfile::TempDir,
    pub(super) wal: WalStore,
}

impl Place {
    pub(super) async fn new(mib: u32, encrypted: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let masters = encrypted.then(|| {
            MasterKeys::new("k1".into(), BTreeMap::from([("k1".into(), [7; 32])])).unwrap()
        });
        let store = StoreSettings::Filesystem {
            path: folder.path().to_owned(),
        }
        .open("shop/orders")
        .unwrap();
        let archive = Archive::open_or_create(store, masters.as_ref())
            .await
            .unwrap();
        let wal = WalStore::new(archive, SYSTEM, SegmentSize::new(mib << 20).unwrap(), 17);
        Self { folder, wal }
    }

    pub(super) fn cluster(&self) -> Cluster {
        Cluster {
            system: SYSTEM,
            segment_size: self.wal.segment_size(),
            major: 17,
        }
    }

    pub(super) fn name(&self, timeline: u32, number: u64) -> SegmentName {
        SegmentName::new(
            TimelineId(timeline),
            SegmentNumber(number),
            self.wal.segment_size(),
        )
    }

    pub(super) fn sample(&self, timeline: u32, number: u64, fill: Fill) -> Vec<u8> {
        segment(
            self.cluster(),
            self.name(timeline, number),
            fill,
            number as u8,
        )
    }

    pub(super) async fn put(
        &self,
        name: WalFileName,
        content: &[u8],
    ) -> Result<PutOutcome, PutError> {
        self.wal.put(&name, file(content), ZSTD).await
    }

    async fn put_segment(&self, timeline: u32, number: u64) -> PutOutcome {
        self.put(
            WalFileName::Segment(self.name(timeline, number)),
            &self.sample(timeline, number, Fill::Whole),
        )
        .await
        .unwrap()
    }

    pub(super) fn object(&self, key: &str) -> PathBuf {
        self.folder.path().join("shop/orders").join(key)
    }

    /// Everything under a folder of the incarnation.
    fn names(&self, folder: &str) -> Vec<String> {
        fs::read_dir(self.object(&format!("{SYSTEM}/{folder}")))
            .map(|d| {
                d.map(|e| e.unwrap().file_name().into_string().unwrap())
                    .collect()
            })
            .unwrap_or_default()
    }
}

pub(super) fn file(content: &[u8]) -> Arc<File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Arc::new(file)
}

async fn read(wal: &WalStore, name: WalFileName) -> Result<Vec<u8>, ObjectError> {
    let mut pieces = wal.read_file(&name).await?.into_pieces();
    let mut all = Vec::new();
    while let Some(piece) = pieces.next().await? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

#[tokio::test]
async fn segments_of_every_kind_come_back() {
    for (mib, encrypted, compression) in [
        (1, true, ZSTD),
        (16, false, ZSTD),
        (16, true, Compression::Lz4),
        (32, true, Compression::None),
        (64, false, Compression::Lz4),
    ] {
        let place = Place::new(mib, encrypted).await;
        for (number, fill) in [(3, Fill::Whole), (4, Fill::SwitchAfter(5))] {
            let (name, content) = (place.name(1, number), place.sample(1, number, fill));
            let file_name = WalFileName::Segment(name);
            assert_eq!(
                place
                    .wal
                    .put(&file_name, file(&content), compression)
                    .await
                    .unwrap(),
                PutOutcome::Stored
            );
            let again = place
                .wal
                .put(&file_name, file(&content), ZSTD)
                .await
                .unwrap();
            assert!(
                matches!(again, PutOutcome::AlreadyThere | PutOutcome::Stored),
                "{again:?}"
            );
            assert!(read(&place.wal, file_name).await.unwrap() == content);
            assert!(place.wal.segment(name).await.unwrap() == content);
            let index = place.wal.index(name).await.unwrap();
            assert_eq!(
                index.first_record,
                Some(Lsn(
                    SegmentNumber(number).start(place.wal.segment_size()).0 + 40
                ))
            );
        }
        assert_eq!(
            place.wal.segments(TimelineId(1)).await.unwrap(),
            [SegmentNumber(3), SegmentNumber(4)]
        );
    }
}

#[tokio::test]
async fn small_files_are_kept_as_they_are() {
    let place = Place::new(1, true).await;
    let content = b"1\t0/3000158\tno recovery target specified\n";
    let name = WalFileName::History(TimelineId(2));
    assert_eq!(place.put(name, content).await.unwrap(), PutOutcome::Stored);
    assert_eq!(
        place.put(name, content).await.unwrap(),
        PutOutcome::AlreadyThere
    );
    assert_eq!(place.wal.small_file(&name).await.unwrap(), &content[..]);
    assert_eq!(
        place.wal.histories().await.unwrap(),
        [TimelineHistory::parse(TimelineId(2), content).unwrap()]
    );
    let differs = place
        .put(name, b"1\t0/3000160\tno recovery target specified\n")
        .await
        .unwrap_err();
    assert!(
        matches!(&differs, PutError::Differs { stored, ours, .. } if stored != ours),
        "{differs}"
    );
    assert!(matches!(
        place
            .put(WalFileName::History(TimelineId(3)), b"nonsense\n")
            .await,
        Err(PutError::History(_))
    ));
    assert!(matches!(
        place.put(WalFileName::History(TimelineId(3)), b"").await,
        Err(PutError::Empty(_))
    ));
    let backup = WalFileName::BackupHistory {
        segment: place.name(1, 3),
        offset: 0x28,
    };
    assert_eq!(
        place
            .put(backup, b"START WAL LOCATION: 0/300028\n")
            .await
            .unwrap(),
        PutOutcome::Stored
    );
    assert_eq!(
        place.wal.small_file(&backup).await.unwrap(),
        "START WAL LOCATION: 0/300028\n"
    );
    assert!(place.wal.segments(TimelineId(1)).await.unwrap().is_empty());
}

#[tokio::test]
async fn what_is_no_whole_segment_lies_aside() {
    let place = Place::new(1, true).await;
    let name = WalFileName::Segment(place.name(1, 3));
    let half = place.sample(1, 3, Fill::Pages(60));
    for _ in 0..2 {
        assert!(matches!(
            place.put(name, &half).await.unwrap(),
            PutOutcome::Aside { .. }
        ));
    }
    assert_eq!(place.names("aside").len(), 1);
    assert!(read(&place.wal, name).await.unwrap_err().is_not_found());
    // The whole one is not held up by it, and the half one is then known to be its beginning.
    assert_eq!(place.put_segment(1, 3).await, PutOutcome::Stored);
    assert_eq!(
        place.put(name, &half).await.unwrap(),
        PutOutcome::PrefixOfStored
    );
    let other = segment(place.cluster(), place.name(1, 3), Fill::Pages(60), 99);
    assert!(matches!(
        place.put(name, &other).await,
        Err(PutError::Differs { .. })
    ));
    // A flipped bit makes a segment one that is not whole.
    let mut flipped = place.sample(1, 4, Fill::Whole);
    flipped[700_000] ^= 1;
    assert!(matches!(
        place
            .put(WalFileName::Segment(place.name(1, 4)), &flipped)
            .await
            .unwrap(),
        PutOutcome::Aside { .. }
    ));
    let partial = WalFileName::Partial(place.name(1, 5));
    assert!(matches!(
        place
            .put(partial, &place.sample(1, 5, Fill::Whole))
            .await
            .unwrap(),
        PutOutcome::Aside { .. }
    ));
    assert!(place.wal.read_file(&partial).await.is_err());
    assert_eq!(place.names("aside").len(), 3);
    assert_eq!(
        place.wal.segments(TimelineId(1)).await.unwrap(),
        [SegmentNumber(3)]
    );
}

#[tokio::test]
async fn other_content_is_never_overwritten() {
    for mib in [1, 32] {
        let place = Place::new(mib, true).await;
        let name = WalFileName::Segment(place.name(1, 3));
        assert_eq!(place.put_segment(1, 3).await, PutOutcome::Stored);
        let other = segment(place.cluster(), place.name(1, 3), Fill::Whole, 99);
        let error = place.put(name, &other).await.unwrap_err();
        assert!(
            matches!(&error, PutError::Differs { key, .. } if key.ends_with(&name.to_string())),
            "{error}"
        );
        assert!(error.is_permanent());
        assert!(read(&place.wal, name).await.unwrap() == place.sample(1, 3, Fill::Whole));
    }
}

#[tokio::test]
async fn another_clusters_wal_and_wrong_sizes_are_refused() {
    let place = Place::new(1, false).await;
    let right = place.cluster();
    let name = place.name(1, 3);
    let cases = [
        (
            "system identifier",
            segment(
                Cluster {
                    system: SystemIdentifier(5),
                    ..right
                },
                name,
                Fill::Whole,
                0,
            ),
        ),
        (
            "major",
            segment(Cluster { major: 16, ..right }, name, Fill::Whole, 0),
        ),
        ("address", segment(right, place.name(1, 4), Fill::Whole, 0)),
        ("timeline", segment(right, place.name(2, 3), Fill::Whole, 0)),
        ("zeros", vec![0; 1 << 20]),
    ];
    for (what, content) in cases {
        let error = place
            .put(WalFileName::Segment(name), &content)
            .await
            .unwrap_err();
        assert!(
            matches!(error, PutError::Foreign { .. }) && error.to_string().contains(what),
            "{what}: {error}"
        );
    }
    let content = place.sample(1, 3, Fill::Whole);
    for content in [&content[..4096], &[&content[..], &[0; 8192]].concat()] {
        assert!(matches!(
            place.put(WalFileName::Segment(name), content).await,
            Err(PutError::Length { .. })
        ));
    }
    assert!(matches!(
        place.put(WalFileName::Segment(name), b"").await,
        Err(PutError::Empty(_))
    ));
    assert!(place.wal.timelines().await.unwrap().is_empty());
}

#[tokio::test]
async fn any_flipped_byte_is_damage() {
    for (mib, encrypted) in [(1, false), (1, true), (32, true)] {
        let place = Place::new(mib, encrypted).await;
        let (name, file_name) = (place.name(1, 3), WalFileName::Segment(place.name(1, 3)));
        place.put_segment(1, 3).await;
        let mut paths = vec![place.object(&layout::segment(SYSTEM, name))];
        let chunks = format!("chunks/{name}");
        paths.extend(
            place
                .names(&chunks)
                .iter()
                .map(|c| place.object(&format!("{SYSTEM}/{chunks}/{c}"))),
        );
        assert_eq!(paths.len(), if mib > 16 { 3 } else { 1 });
        for path in paths {
            let good = fs::read(&path).unwrap();
            for at in [0, 9, 20, 49, 60, good.len() / 2, good.len() - 1] {
                let mut bad = good.clone();
                bad[at] ^= 4;
                fs::write(&path, &bad).unwrap();
                let error = read(&place.wal, file_name).await.unwrap_err();
                assert!(error.is_damage(), "{at}: {error}");
                // Whoever comes again is told, whether the object itself or one of its chunks is bad.
                let again = place.put(file_name, &place.sample(1, 3, Fill::Whole)).await;
                assert!(
                    matches!(&again, Err(PutError::Object(e)) if e.is_damage()),
                    "{at}: {again:?}"
                );
            }
            for length in [0, 30, 50, good.len() / 2, good.len() - 1] {
                fs::write(&path, &good[..length]).unwrap();
                assert!(
                    read(&place.wal, file_name).await.unwrap_err().is_damage(),
                    "{length}"
                );
                if path.to_string_lossy().contains("/wal/") && length < 60 {
                    assert!(
                        place.wal.index(name).await.unwrap_err().is_damage(),
                        "{length}"
                    );
                }
            }
            fs::remove_file(&path).unwrap();
            let gone = read(&place.wal, file_name).await.unwrap_err();
            assert_eq!(
                gone.is_not_found(),
                path.to_string_lossy().contains("/wal/"),
                "{gone}"
            );
            fs::write(&path, &good).unwrap();
        }
        assert!(read(&place.wal, file_name).await.unwrap() == place.sample(1, 3, Fill::Whole));
    }
}

#[tokio::test]
async fn a_large_index_is_cut_into_frames() {
    use super::descriptor::{Descriptor, Head};
    use crate::object::ObjectKind;
    use holdfast_postgres::wal::SegmentIndex;
    let place = Place::new(1, true).await;
    let archive = place.wal.archive();
    let (name, key) = (place.name(1, 3), layout::segment(SYSTEM, place.name(1, 3)));
    let xids = (0..2_000_000u32)
        .map(|i| i.wrapping_mul(2_654_435_761))
        .collect();
    let index = SegmentIndex {
        xids,
        ..SegmentIndex::default()
    };
    let data = vec![5; 1 << 20];
    let descriptor = Descriptor::new(
        WalFileName::Segment(name),
        1 << 20,
        archive.digest(&data),
        Vec::new(),
        None,
    );
    let object = descriptor
        .build(
            archive,
            ObjectKind::Wal,
            &key,
            Some(&index),
            vec![ZSTD.pack(&data)],
        )
        .unwrap();
    let head = Head::open(
        archive,
        ObjectKind::Wal,
        &key,
        &WalFileName::Segment(name),
        &object,
    )
    .unwrap()
    .ok()
    .unwrap();
    assert_eq!(head.open_all(archive, &object).unwrap().concat(), data);
    archive.store().create(&key, vec![object]).await.unwrap();
    assert!(place.wal.index(name).await.unwrap() == index);
}

#[tokio::test]
async fn the_lineage_says_what_comes_later() {
    let place = Place::new(1, false).await;
    for (timeline, numbers) in [
        (1, vec![1, 2, 3, 4, 9, 5000]),
        (2, vec![3, 6]),
        (3, vec![3]),
    ] {
        for number in numbers {
            place.put_segment(timeline, number).await;
        }
    }
    // Timeline 2 left 1 in the middle of segment 3.
    let history = TimelineHistory::parse(TimelineId(2), b"1\t0/380000\tx\n").unwrap();
    let (child, root) = (Lineage::from(&history), Lineage::single(TimelineId(1)));
    let wal = &place.wal;
    for (lineage, from, expected) in [
        (&root, 0, Some((1, 1))),
        (&root, 5, Some((1, 9))),
        (&root, 10, Some((1, 5000))),
        (&root, 5001, None),
        (&child, 3, Some((1, 3))),
        (&child, 4, Some((2, 6))),
        (&child, 7, None),
    ] {
        let found = wal.first_from(lineage, SegmentNumber(from)).await.unwrap();
        assert_eq!(
            found,
            expected.map(|(timeline, number)| place.name(timeline, number)),
            "{from}"
        );
    }
    assert!(wal.later_than(&child, SegmentNumber(5)).await.unwrap());
    assert!(!wal.later_than(&child, SegmentNumber(6)).await.unwrap());
}

#[tokio::test]
async fn leftovers_in_listings_are_no_segments() {
    let place = Place::new(1, false).await;
    place.put_segment(1, 3).await;
    let folder = place.object(&format!("{SYSTEM}/wal/00000001/00000000"));
    for leftover in [
        "000000010000000000000004#1",
        "000000010000000000000004.tmp",
        "0000000100000000000000zz",
        "000000020000000000000004",
        "000000010000000100000004",
    ] {
        fs::write(folder.join(leftover), b"x").unwrap();
    }
    fs::create_dir_all(place.object(&format!("{SYSTEM}/wal/00000001/0000000x"))).unwrap();
    assert_eq!(
        place.wal.segments(TimelineId(1)).await.unwrap(),
        [SegmentNumber(3)]
    );
    assert_eq!(
        place
            .wal
            .first_from(&Lineage::single(TimelineId(1)), SegmentNumber(4))
            .await
            .unwrap(),
        None
    );
}
