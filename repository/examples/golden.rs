//! Writes the golden archives that `tests/golden.rs` reads: one object of each kind at least, plain and sealed.
//!
//! `cargo run -p holdfast-repository --features conformance --example golden` writes them anew; only a change of the format is a reason to.
#![allow(clippy::unwrap_used, reason = "a generator that can't go on fails")]

use futures::TryStreamExt;
use holdfast_postgres::{
    Lsn, SegmentName, SegmentNumber, SegmentSize, SystemIdentifier, TimelineId, WalFileName,
};
use holdfast_repository::backup::{self, Aborted, BackupId, BackupWriter, WriterSettings};
use holdfast_repository::expiry::{Pass, Reading, ask_to_delete, pass, set_keep};
use holdfast_repository::facts::{BackupFacts, RecoverySettings};
use holdfast_repository::owner::{self, InstallationId};
use holdfast_repository::retention::{Policy, Wishes};
use holdfast_repository::store::StoreSettings;
use holdfast_repository::wal::PartOutcome;
use holdfast_repository::wal::sample::{self, Cluster, Fill};
use holdfast_repository::{Archive, Compression, MasterKeys, ObjectKind, WalStore, layout};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const SYSTEM: SystemIdentifier = SystemIdentifier(7_301_234_567_890_123_456);
/// The database that came after it in the same archive, with segments whose data lies in chunks.
const LATER: SystemIdentifier = SystemIdentifier(7_301_234_567_890_123_457);

#[tokio::main]
async fn main() {
    // Of the checkout that cargo runs this in: a program that was built for another one must not write there.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap();
    let folder = Path::new(&package).join("tests/golden");
    for (name, key) in [("plain", None), ("sealed", Some([7; 32]))] {
        let to = folder.join(name);
        let _ = std::fs::remove_dir_all(&to);
        std::fs::create_dir_all(&to).unwrap();
        let masters = key
            .map(|key| MasterKeys::new("k1".into(), BTreeMap::from([("k1".into(), key)])).unwrap());
        write(&to, masters.as_ref()).await;
    }
}

fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

fn cluster() -> Cluster {
    Cluster {
        system: SYSTEM,
        segment_size: size(),
        major: 17,
    }
}

fn name(number: u64) -> SegmentName {
    SegmentName::new(TimelineId(1), SegmentNumber(number), size())
}

fn file(content: &[u8]) -> Arc<std::fs::File> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    Arc::new(file)
}

async fn write(to: &Path, masters: Option<&MasterKeys>) {
    let store = StoreSettings::Filesystem {
        path: to.to_owned(),
    };
    let store = store.open("shop/orders").unwrap();
    let archive = Archive::open_or_create(store.clone(), masters)
        .await
        .unwrap();
    archive.claim(SYSTEM, 17, size(), None).await.unwrap();
    let installation: InstallationId = "ours".parse().unwrap();
    owner::claim(&archive, &installation, "1").await.unwrap();

    let mut expected = serde_json::Map::new();
    let parts = parts(&archive).await;
    expected.insert("parts".into(), serde_json::to_value(parts).unwrap());
    let wal = wal(&archive).await;
    expected.insert("wal".into(), serde_json::to_value(wal).unwrap());
    let id = |text: &str| text.parse::<BackupId>().unwrap();
    let files = backup(&archive, &id("kept")).await;
    expected.insert("files".into(), serde_json::to_value(files).unwrap());
    backup(&archive, &id("wished")).await;
    set_keep(&archive, SYSTEM, &id("kept"), true).await.unwrap();
    let wished = id("wished");
    let wish = ask_to_delete(&archive, SYSTEM, &wished, &installation, "1", "wished");
    wish.await.unwrap();
    announce(&archive, &installation).await;
    begin(&archive, &id("given-up")).await;
    let aborted = Aborted {
        time: "2026-11-20T11:00:00Z".parse().unwrap(),
        installation: installation.to_string(),
    };
    let given_up = id("given-up");
    let aborted = backup::abort(&archive, SYSTEM, &given_up, &aborted);
    assert!(aborted.await.unwrap());
    // Neither ends.
    begin(&archive, &id("unfinished")).await;
    let sign = layout::alive(SYSTEM, "unfinished", 1);
    let sign = archive.create_single(ObjectKind::Alive, &sign, &[]);
    sign.await.unwrap();
    let reading = Reading::begin(&archive, SYSTEM, "a golden restore").await;
    std::mem::forget(reading.unwrap());
    let chunked = chunked(&archive).await;
    expected.insert("chunked".into(), serde_json::to_value(chunked).unwrap());

    let objects: Vec<_> = store.list("").try_collect().await.unwrap();
    let keys: Vec<String> = objects.into_iter().map(|object| object.key).collect();
    println!("{}: {keys:#?}", to.display());
    let text = serde_json::to_string_pretty(&expected).unwrap();
    std::fs::write(to.join("expected.json"), text + "\n").unwrap();
}

/// Whole segments, a history file, a half segment: their names, and digests of what they hold.
async fn wal(archive: &Archive) -> BTreeMap<String, String> {
    let wal = WalStore::new(archive.clone(), SYSTEM, size(), 17);
    let mut stored = BTreeMap::new();
    let mut put = async |name: WalFileName, content: Vec<u8>| {
        let file = file(&content);
        wal.put(&name, file, Compression::Zstd(1)).await.unwrap();
        stored.insert(
            name.to_string(),
            blake3::hash(&content).to_hex().to_string(),
        );
    };
    for number in 1..=4 {
        let name = name(number);
        let content = sample::segment(cluster(), name, Fill::SwitchAfter(3), 1);
        put(WalFileName::Segment(name), content).await;
    }
    let history = b"1\t0/480000\tno recovery target specified\n";
    put(WalFileName::History(TimelineId(2)), history.to_vec()).await;
    let half = WalFileName::Segment(name(5));
    let content = sample::segment(cluster(), name(5), Fill::Pages(2), 1);
    let put_aside = wal.put(&half, file(&content), Compression::Zstd(1));
    put_aside.await.unwrap();
    stored
}

/// The parts of two segments, of which one is stored whole later: of the other, the name and a digest of what it holds.
async fn parts(archive: &Archive) -> BTreeMap<String, String> {
    let wal = WalStore::new(archive.clone(), SYSTEM, size(), 17);
    for (number, pages) in [(2, 2), (5, 3)] {
        let content = sample::segment(cluster(), name(number), Fill::Pages(pages), 1);
        let put = wal.put_part(name(number), file(&content), Compression::Zstd(1));
        let put = put.await.unwrap();
        assert!(matches!(put, PartOutcome::Stored { .. }), "{put:?}");
    }
    let content = sample::segment(cluster(), name(5), Fill::Pages(3), 1);
    let digest = blake3::hash(&content).to_hex().to_string();
    BTreeMap::from([(name(5).to_string(), digest)])
}

/// What no backup needs is announced to go: WAL from before the first, and the parts of what is stored whole.
async fn announce(archive: &Archive, installation: &InstallationId) {
    let settings = Pass {
        installation,
        version: "1",
        policy: Policy {
            recovery_window: Some(Duration::from_secs(3600)),
            minimum_backups: 1,
        },
        // What a person wants to go is not announced yet: it is restored from.
        wishes: Wishes {
            needed: BTreeMap::from([("wished".into(), "a golden restore".into())]),
            ..Wishes::default()
        },
        grace: Duration::from_secs(3600),
    };
    let progress = pass(archive, &settings).await.unwrap();
    assert!(progress.deleted.is_empty() && progress.given_up.is_empty());
}

/// A segment of 32 MiB of another database: its name, and a digest of what it holds.
async fn chunked(archive: &Archive) -> BTreeMap<String, String> {
    let size = SegmentSize::new(32 << 20).unwrap();
    let claim = archive.claim(LATER, 17, size, Some(LATER));
    claim.await.unwrap();
    let cluster = Cluster {
        system: LATER,
        segment_size: size,
        major: 17,
    };
    let name = SegmentName::new(TimelineId(1), SegmentNumber(1), size);
    let content = sample::segment(cluster, name, Fill::SwitchAfter(3), 1);
    let wal = WalStore::new(archive.clone(), LATER, size, 17);
    let put = WalFileName::Segment(name);
    let put = wal.put(&put, file(&content), Compression::Zstd(1));
    put.await.unwrap();
    let digest = blake3::hash(&content).to_hex().to_string();
    BTreeMap::from([(name.to_string(), digest)])
}

/// What a backup holds: several leaves of a relation, a small file, an empty one.
fn content() -> BTreeMap<String, Vec<u8>> {
    let large = (0..5 * 8192u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    BTreeMap::from([
        ("PG_VERSION".into(), b"17\n".to_vec()),
        ("base/5/1".into(), large),
        ("empty".into(), Vec::new()),
    ])
}

async fn begin(archive: &Archive, id: &BackupId) -> BackupWriter {
    let settings = WriterSettings {
        compression: Compression::Zstd(1),
        pack_bytes: 16 << 10,
        uploads: 1,
    };
    let begun = BackupWriter::begin(archive.clone(), SYSTEM, id.clone(), settings, None);
    begun.await.unwrap()
}

async fn backup(archive: &Archive, id: &BackupId) -> BTreeMap<String, String> {
    let mut writer = begin(archive, id).await;
    for path in ["base", "base/5"] {
        writer.frame(backup::sample::directory(path)).await.unwrap();
    }
    let mut files = BTreeMap::new();
    for (path, bytes) in content() {
        files.insert(path.clone(), blake3::hash(&bytes).to_hex().to_string());
        let paged = path.starts_with("base");
        for frame in backup::sample::file(archive, &path, &bytes, paged, Compression::Zstd(1)) {
            writer.frame(frame).await.unwrap();
        }
    }
    let time = "2026-11-20T10:00:00Z".parse().unwrap();
    let segment = u64::from(size().bytes());
    let facts = BackupFacts {
        id: String::new(),
        system: SYSTEM,
        timeline: TimelineId(1),
        start: Lsn(2 * segment + 40),
        stop: Lsn(3 * segment + 100),
        start_time: time,
        stop_time: time,
        postgres_major: 17,
        segment_size: size(),
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
    };
    let control = sample::control_file(cluster(), TimelineId(1), 6);
    let label = b"START WAL LOCATION: 0/200028 (file 000000010000000000000002)
CHECKPOINT LOCATION: 0/200060
BACKUP METHOD: streamed
BACKUP FROM: primary
START TIME: 2026-11-20 10:00:00 UTC
LABEL: holdfast
START TIMELINE: 1
";
    let finished = writer.finish(facts, Vec::new(), control, label.to_vec(), 0o700);
    finished.await.unwrap();
    files
}
