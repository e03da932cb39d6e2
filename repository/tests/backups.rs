//! Backups through a real store: what is written comes back, and what is damaged is named.
#![allow(clippy::unwrap_used, missing_docs)]

mod collect;

use collect::Collect;
use holdfast_postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use holdfast_repository::backup::{
    self, Again, BackupId, BackupReader, BackupWriter, Item, PackedLayer, PackedRegion, Pages,
    Region, ScanSettings, WriterSettings,
};
use holdfast_repository::facts::{BackupFacts, RecoverySettings};
use holdfast_repository::store::StoreSettings;
use holdfast_repository::{Archive, Compression, MasterKeys, ObjectError, layout, verify};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const SYSTEM: SystemIdentifier = SystemIdentifier(7_301_234_567_890_123_456);

fn keys() -> MasterKeys {
    MasterKeys::new("k1".into(), BTreeMap::from([("k1".into(), [7; 32])])).unwrap()
}

async fn archive(path: &Path, keys: Option<&MasterKeys>) -> Archive {
    let store = StoreSettings::Filesystem {
        path: path.to_owned(),
    }
    .open("shop/orders")
    .unwrap();
    let archive = Archive::open_or_create(store, keys).await.unwrap();
    archive
        .claim(SYSTEM, 17, SegmentSize::new(16 << 20).unwrap(), None)
        .await
        .unwrap();
    archive
}

/// Three files: a large one over several leaves' worth of packs, a small one and an empty one.
fn content() -> BTreeMap<String, Vec<u8>> {
    let large = (0..3 * (1 << 20) + 8192u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    BTreeMap::from([
        ("base/5/1".into(), large),
        ("base/5/2".into(), vec![3; 8192]),
        ("empty".into(), Vec::new()),
    ])
}

fn facts() -> BackupFacts {
    BackupFacts {
        id: String::new(),
        system: SYSTEM,
        timeline: TimelineId(1),
        start: Lsn(0x2000028),
        stop: Lsn(0x2000100),
        start_time: jiff::Timestamp::UNIX_EPOCH,
        stop_time: jiff::Timestamp::UNIX_EPOCH,
        postgres_major: 17,
        segment_size: SegmentSize::new(16 << 20).unwrap(),
        from_standby: false,
        database_bytes: 0,
        stored_bytes: 0,
        files: 0,
        data_checksums: true,
        page_errors: 0,
        tablespaces: Vec::new(),
        settings: RecoverySettings::default(),
        outside: Vec::new(),
        reference: None,
        changed_bytes: 0,
    }
}

async fn write(archive: &Archive, id: &BackupId) {
    let digest = |region: &[u8]| backup::digest(archive, region);
    write_with(archive, id, digest).await.unwrap();
}

/// With a digest of each region that need not be its own.
async fn write_with(
    archive: &Archive,
    id: &BackupId,
    digest: impl Fn(&[u8]) -> backup::Digest,
) -> Result<(), ObjectError> {
    let settings = WriterSettings {
        compression: Compression::Zstd(1),
        pack_bytes: 1 << 20,
        uploads: 2,
    };
    let mut writer =
        BackupWriter::begin(archive.clone(), SYSTEM, id.clone(), settings, None).await?;
    for path in ["base", "base/5"] {
        writer.frame(backup::sample::directory(path)).await?;
    }
    for (path, bytes) in content() {
        let mut frames = backup::sample::file(archive, &path, &bytes, true, Compression::Lz4);
        for (frame, region) in frames.iter_mut().zip(bytes.chunks(1 << 20)) {
            if let [Item::Region(PackedRegion { new: Some(new), .. })] = &mut frame.items[..] {
                new.digest = digest(region);
            }
        }
        for frame in frames {
            writer.frame(frame).await?;
        }
    }
    writer
        .finish(facts(), Vec::new(), vec![1; 8192], b"label".to_vec(), 0o700)
        .await
        .map(drop)
}

const SCAN: ScanSettings = ScanSettings {
    parallelism: 2,
    patience: Duration::ZERO,
};

#[tokio::test]
async fn what_was_written_comes_back() {
    for keys in [None, Some(keys())] {
        let dir = tempfile::tempdir().unwrap();
        let archive = archive(dir.path(), keys.as_ref()).await;
        let id: BackupId = "b1".parse().unwrap();
        write(&archive, &id).await;
        let reader = Arc::new(
            BackupReader::open(archive.clone(), SYSTEM, &id)
                .await
                .unwrap(),
        );
        let collected = Arc::new(Collect::default());
        backup::scan(reader.clone(), collected.clone(), SCAN)
            .await
            .unwrap();
        assert_eq!(*collected.files.lock().unwrap(), content());
        assert_eq!(reader.root().facts.files, 4);
        let listing = backup::list(&archive, SYSTEM).await.unwrap();
        assert_eq!(
            listing
                .backups
                .iter()
                .map(|b| b.id.as_str())
                .collect::<Vec<_>>(),
            ["b1"]
        );
    }
}

#[tokio::test]
async fn a_second_backup_of_one_name_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path(), None).await;
    let id: BackupId = "b1".parse().unwrap();
    write(&archive, &id).await;
    let settings = WriterSettings {
        compression: Compression::None,
        pack_bytes: 1 << 20,
        uploads: 1,
    };
    assert!(
        BackupWriter::begin(archive, SYSTEM, id, settings, None)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_a_pack_is_named_or_harmless() {
    for keys in [None, Some(keys())] {
        let dir = tempfile::tempdir().unwrap();
        let archive = archive(dir.path(), keys.as_ref()).await;
        let id: BackupId = "b1".parse().unwrap();
        write(&archive, &id).await;
        let packs = dir.path().join(format!("shop/orders/{SYSTEM}/packs"));
        for pack in std::fs::read_dir(&packs).unwrap() {
            let pack = pack.unwrap().path();
            let whole = std::fs::read(&pack).unwrap();
            for place in [0, 9, 20, 50, whole.len() / 2, whole.len() - 400] {
                let mut bad = whole.clone();
                bad[place] ^= 4;
                std::fs::write(&pack, &bad).unwrap();
                let reader = Arc::new(
                    BackupReader::open(archive.clone(), SYSTEM, &id)
                        .await
                        .unwrap(),
                );
                let found = verify::verify(reader.clone(), 2, Arc::default()).await;
                let collected = Arc::new(Collect::default());
                let restored = backup::scan(reader, collected.clone(), SCAN).await;
                let name = pack.file_name().unwrap().to_str().unwrap();
                let named = found.damage.iter().any(|d| d.object.ends_with(name));
                // The pack's own index, at its end, is not needed by a restore; nor are sums.
                assert!(
                    named || (restored.is_ok() && *collected.files.lock().unwrap() == content()),
                    "{name} at {place}: {found:?}"
                );
                assert!(
                    restored.is_err() || *collected.files.lock().unwrap() == content(),
                    "{name} at {place}"
                );
            }
            std::fs::write(&pack, &whole).unwrap();
            std::fs::remove_file(&pack).unwrap();
            let reader = Arc::new(
                BackupReader::open(archive.clone(), SYSTEM, &id)
                    .await
                    .unwrap(),
            );
            assert!(
                !verify::verify(reader, 2, Arc::default())
                    .await
                    .damage
                    .is_empty(),
                "{pack:?}"
            );
            std::fs::write(&pack, &whole).unwrap();
        }
    }
}

/// Also where its frame is as it was written.
#[tokio::test]
async fn content_that_the_manifest_does_not_name_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path(), None).await;
    let id: BackupId = "b1".parse().unwrap();
    let other = |region: &[u8]| match region {
        [3, 3, ..] => backup::digest(&archive, b"other"),
        _ => backup::digest(&archive, region),
    };
    write_with(&archive, &id, other).await.unwrap();
    let reader = BackupReader::open(archive.clone(), SYSTEM, &id).await;
    let reader = Arc::new(reader.unwrap());
    let found = verify::verify(reader.clone(), 2, Arc::default()).await;
    let in_packs = found.damage.iter().filter(|d| d.object.contains("/packs/"));
    let files: Vec<_> = in_packs.map(|d| d.file.as_deref()).collect();
    assert_eq!(files, [Some("base/5/2 (from byte 0)")], "{found:?}");
    let restored = backup::scan(reader, Arc::new(Collect::default()), SCAN).await;
    let why = restored.unwrap_err();
    assert!(why.contains("not hold what the manifest says"), "{why}");
}

#[tokio::test]
async fn a_pack_that_is_not_stored_leaves_no_manifest() {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path(), None).await;
    let id: BackupId = "b1".parse().unwrap();
    write(&archive, &id).await;
    let packs = dir.path().join(format!("shop/orders/{SYSTEM}/packs"));
    let packs = std::fs::read_dir(packs).unwrap().count();
    for number in 0..packs as u32 {
        let id: BackupId = format!("x{number}").parse().unwrap();
        // Somebody else's stands there.
        let pack = layout::pack(SYSTEM, id.as_str(), number);
        let taken = vec![bytes::Bytes::from_static(b"x")];
        let _ = archive.store().create(&pack, taken).await.unwrap();
        let digest = |region: &[u8]| backup::digest(&archive, region);
        let failed = write_with(&archive, &id, digest).await.unwrap_err();
        assert!(failed.to_string().contains(&pack), "{failed}");
        let manifest = layout::manifest(SYSTEM, id.as_str());
        let manifest = archive.store().head(&manifest).await;
        assert!(manifest.unwrap_err().is_not_found(), "{number}");
    }
    let listing = backup::list(&archive, SYSTEM).await.unwrap();
    assert_eq!(listing.backups.len(), 1);
}

/// Files as they are now, stored as what differs from an earlier backup.
async fn store(
    archive: &Archive,
    id: &BackupId,
    files: &BTreeMap<String, Vec<u8>>,
    reference: Option<&BackupReader>,
) {
    let settings = WriterSettings {
        compression: Compression::Zstd(1),
        pack_bytes: 64 << 10,
        uploads: 2,
    };
    let mut before: BTreeMap<(String, u64), Region> = BTreeMap::new();
    for number in 0..reference.map_or(0, BackupReader::leaf_count) {
        for entry in reference.unwrap().leaf(number).await.unwrap().entries {
            for (region, number) in entry.regions.into_iter().zip(entry.first_region..) {
                before.insert((entry.path.clone(), number), region);
            }
        }
    }
    let root = reference.map(BackupReader::root);
    let begun = BackupWriter::begin(archive.clone(), SYSTEM, id.clone(), settings, root);
    let mut writer = begun.await.unwrap();
    for (path, content) in files {
        let chunks: Vec<&[u8]> = content.chunks(1 << 20).collect();
        let frames = backup::sample::file(archive, path, content, true, Compression::Zstd(1));
        for (number, mut frame) in frames.into_iter().enumerate() {
            let now = chunks.get(number).copied().unwrap_or_default();
            let region = before.get(&(path.clone(), number as u64));
            if let (Some(region), [Item::Region(packed)]) = (region, &mut frame.items[..]) {
                let sums = reference.unwrap().sums(region).await.unwrap();
                let mut changed = Pages::default();
                for (page, sum) in (0..).zip(backup::page_sums(now)) {
                    if sums.get(page as usize) != Some(&sum) {
                        changed.insert(page);
                    }
                }
                let (kept, pages) = match region.again(changed, now.len() as u32) {
                    Again::Whole => {
                        writer.frame(frame).await.unwrap();
                        continue;
                    }
                    Again::Kept => (region.layers.len(), Pages::default()),
                    Again::Above(kept, pages) => (kept, pages),
                };
                let page = |page: u32| now.chunks(8192).nth(page as usize).unwrap();
                let above = pages.iter().flat_map(page).copied().collect::<Vec<u8>>();
                packed.kept = region.layers[..kept].to_vec();
                packed.new = (!above.is_empty()).then(|| PackedLayer {
                    pages,
                    ..backup::sample::layer(archive, &above, true)
                });
                frame.packed = match above.is_empty() {
                    true => Vec::new(),
                    false => Compression::Zstd(1).pack(&above),
                };
            }
            writer.frame(frame).await.unwrap();
        }
    }
    let done = writer.finish(facts(), Vec::new(), sample_control(), label(), 0o700);
    done.await.unwrap();
}

fn sample_control() -> Vec<u8> {
    let cluster = holdfast_repository::wal::sample::Cluster {
        system: SYSTEM,
        segment_size: SegmentSize::new(16 << 20).unwrap(),
        major: 17,
    };
    holdfast_repository::wal::sample::control_file(cluster, TimelineId(1), 6)
}

fn label() -> Vec<u8> {
    b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-20 10:00:00 UTC\nLABEL: holdfast\nSTART TIMELINE: 1\n".to_vec()
}

/// Random changes of pages, lengths and files; every backup of a long line comes back as its files were, and needs no other's
/// manifest. What no later one uses of a pack is said, or expiry would take what is needed.
#[tokio::test]
async fn each_of_a_long_line_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let archive = archive(dir.path(), Some(&keys())).await;
    let mut seed = 7_u64;
    let mut below = |bound: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) % bound
    };
    let mut files: BTreeMap<String, Vec<u8>> = (0..4)
        .map(|n| {
            (
                format!("base/5/{n}"),
                vec![n; (n as usize) * 700_000 / 8192 * 8192],
            )
        })
        .collect();
    let mut kept = Vec::new();
    let mut reference: Option<BackupReader> = None;
    for number in 0..24 {
        for _ in 0..1 + below(40) {
            let name = format!("base/5/{}", below(6));
            let file = files.entry(name.clone()).or_default();
            let pages = file.len() as u64 / 8192;
            match below(30) {
                0 => drop(files.remove(&name)),
                1 => file.truncate(below(pages + 1) as usize * 8192),
                2 => file.resize((pages + below(60)) as usize * 8192, 0),
                // In the middle of being extended.
                3 => file.resize((pages * 8192 + below(8192)) as usize, 9),
                _ if pages > 0 => {
                    let at = below(pages) as usize * 8192 + below(8192) as usize;
                    file[at] = below(256) as u8;
                }
                _ => {}
            }
        }
        let id: BackupId = format!("b{number}").parse().unwrap();
        store(&archive, &id, &files, reference.as_ref()).await;
        let opened = BackupReader::open(archive.clone(), SYSTEM, &id).await;
        reference = Some(opened.unwrap());
        kept.push((id, files.clone()));
    }
    for (number, (id, files)) in kept.iter().enumerate() {
        let opened = BackupReader::open(archive.clone(), SYSTEM, id).await;
        let reader = Arc::new(opened.unwrap());
        reader.preflight().await.unwrap();
        let found = verify::verify(reader.clone(), 2, Arc::default()).await;
        assert!(
            found.damage.is_empty() && found.unknown.is_empty(),
            "{id}: {found:?}"
        );
        let collected = Arc::new(Collect::default());
        backup::scan(reader, collected.clone(), SCAN).await.unwrap();
        assert!(*collected.files.lock().unwrap() == *files, "{id}");
        // Those that were looked at are deleted: nobody needs them.
        if number % 2 == 0 {
            let manifest = layout::manifest(SYSTEM, id.as_str());
            archive.store().delete(&manifest).await.unwrap();
        }
    }
}
