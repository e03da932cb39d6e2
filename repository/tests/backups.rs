//! Backups through a real store: what is written comes back, and what is damaged is named.
#![allow(clippy::unwrap_used, missing_docs)]

mod collect;

use collect::Collect;
use holdfast_postgres::{Lsn, SegmentSize, SystemIdentifier, TimelineId};
use holdfast_repository::backup::{
    self, BackupId, BackupReader, BackupWriter, FileFacts, PackedFrame, PackedSlice, ScanSettings,
    WriterSettings,
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
    let mut writer = BackupWriter::begin(archive.clone(), SYSTEM, id.clone(), settings).await?;
    writer.directory("base".into(), 0o700).await?;
    writer.directory("base/5".into(), 0o700).await?;
    for (path, bytes) in content() {
        let file = Arc::new(FileFacts {
            path,
            mode: 0o600,
            size: bytes.len() as u64,
            modified: 1,
            paged: true,
        });
        let mut regions: Vec<&[u8]> = bytes.chunks(1 << 20).collect();
        if regions.is_empty() {
            regions.push(&[]);
        }
        for (number, region) in regions.into_iter().enumerate() {
            let slice = PackedSlice {
                file: file.clone(),
                region: number as u64,
                offset: 0,
                length: region.len() as u32,
                digest: digest(region),
                sums: backup::page_sums(region),
            };
            let packed = if region.is_empty() {
                Vec::new()
            } else {
                Compression::Lz4.pack(region)
            };
            writer
                .frame(PackedFrame {
                    packed,
                    slices: vec![slice],
                })
                .await?;
        }
    }
    let facts = BackupFacts {
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
    };
    writer
        .finish(facts, Vec::new(), vec![1; 8192], b"label".to_vec(), 0o700)
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
        BackupWriter::begin(archive, SYSTEM, id, settings)
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
