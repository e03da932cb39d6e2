//! Expiry on real archives in a folder: what stays can be restored, whatever happens on the way.
#![allow(clippy::unwrap_used, missing_docs)]

use futures::TryStreamExt;
use holdfast_postgres::{
    Lsn, SegmentName, SegmentNumber, SegmentSize, SystemIdentifier, TimelineId, WalFileName,
};
use holdfast_repository::backup::{self, BackupId, BackupReader, BackupWriter, WriterSettings};
use holdfast_repository::catalogue::{Catalogue, LookedUp, look_up};
use holdfast_repository::expiry::{
    self, ExpiryError, Pass, Progress, Reading, ask_to_delete, kept_for_ever, leave_out, pass,
    set_keep,
};
use holdfast_repository::facts::{BackupFacts, RecoverySettings};
use holdfast_repository::owner::{self, InstallationId};
use holdfast_repository::retention::{Policy, Refusal, Wishes};
use holdfast_repository::store::conformance::Fault;
use holdfast_repository::store::{Store, StoreSettings};
use holdfast_repository::wal::sample::{self, Cluster, Fill};
use holdfast_repository::{Archive, Compression, MasterKeys, WalStore, verify};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const SYSTEM: SystemIdentifier = SystemIdentifier(7_301_234_567_890_123_456);

fn id(text: &str) -> BackupId {
    text.parse().unwrap()
}

fn ours() -> InstallationId {
    "ours".parse().unwrap()
}

/// An archive in a folder, ours.
struct Place {
    dir: tempfile::TempDir,
    store: Store,
    archive: Archive,
    size: SegmentSize,
    masters: Option<MasterKeys>,
}

impl Place {
    async fn new(mib: u32, encrypted: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = StoreSettings::Filesystem {
            path: dir.path().to_owned(),
        }
        .open("shop/orders")
        .unwrap();
        let masters = encrypted.then(|| {
            MasterKeys::new("k1".into(), BTreeMap::from([("k1".into(), [7; 32])])).unwrap()
        });
        let archive = Archive::open_or_create(store.clone(), masters.as_ref())
            .await
            .unwrap();
        let size = SegmentSize::new(mib << 20).unwrap();
        archive.claim(SYSTEM, 17, size, None).await.unwrap();
        owner::claim(&archive, &ours(), "1").await.unwrap();
        Self {
            dir,
            store,
            archive,
            size,
            masters,
        }
    }

    fn object(&self, key: &str) -> PathBuf {
        self.dir.path().join("shop/orders").join(key)
    }

    async fn keys(&self) -> BTreeSet<String> {
        let all: Vec<_> = self.store.list("").try_collect().await.unwrap();
        all.into_iter().map(|object| object.key).collect()
    }

    /// What is stored but for tombstones, and for what passes leave of themselves.
    async fn stored(&self) -> BTreeSet<String> {
        let mut keys = self.keys().await;
        keys.retain(|key| !key.contains("/tombstones/") && !key.contains("/markers/"));
        keys
    }

    async fn with(&self, part: &str) -> Vec<String> {
        let keys = self.keys().await;
        keys.into_iter().filter(|key| key.contains(part)).collect()
    }

    async fn wal(&self, segments: impl IntoIterator<Item = u64>) {
        let cluster = Cluster {
            system: SYSTEM,
            segment_size: self.size,
            major: 17,
        };
        let wal = WalStore::new(self.archive.clone(), SYSTEM, self.size, 17);
        for number in segments {
            let name = SegmentName::new(TimelineId(1), SegmentNumber(number), self.size);
            let mut file = tempfile::tempfile().unwrap();
            // All alike but for what must differ: a chunk of one could be a chunk of another.
            file.write_all(&sample::segment(cluster, name, Fill::SwitchAfter(3), 1))
                .unwrap();
            let name = WalFileName::Segment(name);
            wal.put(&name, Arc::new(file), Compression::Zstd(1))
                .await
                .unwrap();
        }
    }

    fn facts(&self, start: u64, stop: u64, hours_ago: i64) -> BackupFacts {
        let time = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours_ago);
        let size = u64::from(self.size.bytes());
        BackupFacts {
            id: String::new(),
            system: SYSTEM,
            timeline: TimelineId(1),
            start: Lsn(start * size + 40),
            stop: Lsn(stop * size + 100),
            start_time: time,
            stop_time: time,
            postgres_major: 17,
            segment_size: self.size,
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

    /// A small backup: several packs.
    async fn begin(&self, name: &str) -> BackupWriter {
        let settings = WriterSettings {
            compression: Compression::Zstd(1),
            pack_bytes: 16 << 10,
            uploads: 2,
        };
        let mut writer =
            BackupWriter::begin(self.archive.clone(), SYSTEM, id(name), settings, None)
                .await
                .unwrap();
        for file in 0..4u8 {
            let seed = name.bytes().fold(file, u8::wrapping_add);
            let bytes: Vec<u8> = (0..24_576u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed)
                .collect();
            let path = format!("base/5/{file}");
            for frame in backup::sample::file(&self.archive, &path, &bytes, true, Compression::None)
            {
                writer.frame(frame).await.unwrap();
            }
        }
        writer
    }

    async fn backup(&self, name: &str, start: u64, stop: u64, hours_ago: i64) {
        let facts = self.facts(start, stop, hours_ago);
        let cluster = Cluster {
            system: SYSTEM,
            segment_size: self.size,
            major: 17,
        };
        let control = sample::control_file(cluster, TimelineId(1), 6);
        let label = b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\nCHECKPOINT LOCATION: 0/2000060\nBACKUP METHOD: streamed\nBACKUP FROM: primary\nSTART TIME: 2026-11-20 10:00:00 UTC\nLABEL: holdfast\nSTART TIMELINE: 1\n";
        let writer = self.begin(name).await;
        writer
            .finish(facts, Vec::new(), control, label.to_vec(), 0o700)
            .await
            .unwrap();
        self.age(&format!("/{name}"), hours_ago * 60);
    }

    /// Sets the time of every object with this in its key.
    fn age(&self, part: &str, minutes: i64) {
        age(&self.dir.path().join("shop/orders"), part, minutes);
    }

    /// Five backups, each an hour after the other, the newest an hour old; ten segments each.
    async fn five(mib: u32, encrypted: bool) -> Self {
        let place = Self::new(mib, encrypted).await;
        let per = if mib == 1 { 10 } else { 2 };
        place.wal(1..=per * 5).await;
        for n in 0..5u64 {
            let segment = n * per + per / 2;
            let ago = 5 - n as i64;
            place
                .backup(&format!("b{n}"), segment, segment + 1, ago)
                .await;
        }
        place.age("/wal/", 60);
        place
    }

    async fn pass(&self, hours: u64, grace: Duration) -> Result<Progress, ExpiryError> {
        run(&self.archive, hours, 1, grace).await
    }

    /// Every backup that is listed can be restored: each byte is there, and its WAL.
    async fn all_verify(&self) -> Vec<String> {
        let catalogue = Catalogue::load(&self.archive, SYSTEM).await.unwrap();
        assert!(
            catalogue.unreadable.is_empty(),
            "{:?}",
            catalogue.unreadable
        );
        let mut good = Vec::new();
        for backup in &catalogue.backups {
            let reader = BackupReader::open(self.archive.clone(), SYSTEM, &id(&backup.facts.id))
                .await
                .unwrap();
            let found = verify::verify(Arc::new(reader), 2, Arc::default()).await;
            assert!(
                found.damage.is_empty() && found.unknown.is_empty(),
                "{found:?}"
            );
            assert!(backup.is_complete(), "{backup:?}");
            good.push(backup.facts.id.clone());
        }
        good
    }
}

async fn run(
    archive: &Archive,
    hours: u64,
    minimum: u32,
    grace: Duration,
) -> Result<Progress, ExpiryError> {
    let settings = Pass {
        installation: &ours(),
        version: "1",
        policy: Policy {
            recovery_window: Some(Duration::from_secs(hours * 3600 + 1800)),
            minimum_backups: minimum,
        },
        wishes: Wishes::default(),
        grace,
    };
    pass(archive, &settings).await
}

fn age(folder: &Path, part: &str, minutes: i64) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            age(&path, part, minutes);
        } else if path.to_string_lossy().contains(part) {
            let seconds = u64::try_from(minutes * 60).unwrap();
            let then = SystemTime::now() - Duration::from_secs(seconds);
            let file = std::fs::File::options().append(true).open(&path).unwrap();
            file.set_modified(then).unwrap();
        }
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn what_goes_is_announced_waits_and_goes() {
    for encrypted in [false, true] {
        let place = Place::five(1, encrypted).await;
        let before = place.stored().await;
        // Two and a half hours: b2, of three hours ago, begins the window.
        let progress = place.pass(2, HOUR).await.unwrap();
        assert_eq!(progress.announced, ["b0", "b1"]);
        assert_eq!((progress.deleted.len(), progress.objects), (0, 0));
        assert_eq!(place.stored().await, before);
        assert_eq!(place.with("/tombstones/").await.len(), 1);
        // It is announced once.
        assert!(place.pass(2, HOUR).await.unwrap().deleted.is_empty());
        assert_eq!(place.with("/tombstones/").await.len(), 1);
        place.age("/tombstones/", 59);
        assert!(place.pass(2, HOUR).await.unwrap().deleted.is_empty());
        assert_eq!(place.stored().await, before);
        place.age("/tombstones/", 61);
        let progress = place.pass(2, HOUR).await.unwrap();
        assert_eq!(progress.deleted, ["b0", "b1"]);
        assert!(progress.objects > 0);
        assert_eq!(place.all_verify().await, ["b2", "b3", "b4"]);
        let listing = backup::list(&place.archive, SYSTEM).await.unwrap();
        assert!(listing.unfinished.is_empty(), "{listing:?}");
        let after = place.stored().await;
        for gone in [
            "/b0",
            "/b1",
            "00000001000000000000000F",
            "/000000010000000000000018",
        ] {
            assert!(
                !after.iter().any(|key| key.contains(gone)),
                "{gone}: {after:?}"
            );
        }
        // b2 begins in segment 25, which is 0x19.
        let wal = after.iter().filter(|key| key.contains("/wal/")).count();
        assert_eq!(wal, 26);
        // Done: the tombstone goes, and nothing else happens any more.
        let progress = place.pass(2, HOUR).await.unwrap();
        assert!(progress.announced.is_empty());
        assert_eq!(progress.objects, 1);
        assert_eq!(place.pass(2, HOUR).await.unwrap().objects, 0);
        assert_eq!(place.stored().await, after);
        assert!(place.with("/tombstones/").await.is_empty());
        assert!(place.with("/markers/").await.is_empty());
    }
}

#[tokio::test]
async fn a_longer_window_takes_back_what_was_announced() {
    let place = Place::five(1, false).await;
    place.pass(2, HOUR).await.unwrap();
    place.age("/tombstones/", 120);
    let before = place.stored().await;
    // b1 is needed after all. What is announced still is announced anew.
    let progress = place.pass(3, HOUR).await.unwrap();
    assert_eq!((progress.announced.len(), progress.deleted.len()), (1, 0));
    assert_eq!(place.stored().await, before);
    assert_eq!(place.with("/tombstones/").await.len(), 1);
    // Shortened again, b1 waits again.
    place.age("/tombstones/", 120);
    let progress = place.pass(2, HOUR).await.unwrap();
    assert_eq!(progress.deleted, ["b0"]);
    assert_eq!(place.all_verify().await, ["b1", "b2", "b3", "b4"]);
}

/// Wherever it is broken off, all that is a backup can be restored, and the next pass comes to the same end.
#[tokio::test]
async fn a_crash_anywhere_leaves_what_the_next_pass_completes() {
    let expected = {
        let place = Place::five(1, false).await;
        for _ in 0..3 {
            place.pass(2, Duration::ZERO).await.unwrap();
        }
        place.stored().await.len()
    };
    let (mut crashes, mut between) = (0, 0);
    for step in 0.. {
        let place = Place::five(1, false).await;
        place.pass(2, Duration::ZERO).await.unwrap();
        let (through, fault) = place.store.faulty();
        let archive = Archive::open(through, place.masters.as_ref())
            .await
            .unwrap();
        // Fine in the beginning, where only reading happens, as well.
        fault.set(Fault::FailAfter(step * 3));
        let broken_off = run(&archive, 2, 1, Duration::ZERO).await;
        let kept = place.all_verify().await;
        assert!(
            kept.ends_with(&["b2".into(), "b3".into(), "b4".into()]),
            "{step}: {kept:?}"
        );
        if broken_off.is_ok() {
            assert_eq!(place.stored().await.len(), expected);
            break;
        }
        let manifest = place.with("/backups/b0/manifest").await;
        let packs = place.with("/packs/b0-").await;
        between += usize::from(manifest.is_empty() && !packs.is_empty());
        crashes += 1;
        for _ in 0..3 {
            place.pass(2, Duration::ZERO).await.unwrap();
        }
        assert_eq!(place.all_verify().await, ["b2", "b3", "b4"], "{step}");
        assert_eq!(place.stored().await.len(), expected, "{step}");
    }
    // Some of them in the middle of a deletion.
    assert!(crashes > 10 && between > 0, "{crashes} {between}");
}

#[tokio::test]
async fn only_the_owner_deletes() {
    let place = Place::five(1, false).await;
    place.pass(2, Duration::ZERO).await.unwrap();
    let before = place.stored().await;
    let other: InstallationId = "other".parse().unwrap();
    owner::take_over(&place.archive, &other, "1", "ours.1")
        .await
        .unwrap();
    let refused = place.pass(2, Duration::ZERO).await.unwrap_err();
    assert!(matches!(refused, ExpiryError::NotOurs { .. }), "{refused}");
    assert!(
        refused.to_string().contains("takeOver: \"other.2\""),
        "{refused}"
    );
    let now = place.stored().await;
    assert_eq!(now.difference(&before).collect::<Vec<_>>(), ["owner/2"]);
    // An archive of nobody.
    std::fs::remove_dir_all(place.object("owner")).unwrap();
    let refused = place.pass(2, Duration::ZERO).await.unwrap_err();
    assert!(matches!(refused, ExpiryError::NoOwner(_)), "{refused}");
}

#[tokio::test]
async fn what_can_not_be_read_keeps_everything() {
    let place = Place::five(1, false).await;
    place.pass(2, Duration::ZERO).await.unwrap();
    let before = place.stored().await;
    let flip = |key: &str| {
        let path = place.object(key);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    };
    let tombstone = format!("{SYSTEM}/tombstones/1");
    let manifest = format!("{SYSTEM}/backups/b4/manifest");
    let identity = format!("{SYSTEM}/identity.json");
    for key in [tombstone, manifest.clone(), identity, "owner/1".into()] {
        flip(&key);
        let refused = place.pass(2, Duration::ZERO).await.unwrap_err();
        assert!(refused.is_permanent(), "{key}: {refused}");
        if key == manifest {
            assert!(
                matches!(&refused, ExpiryError::Refused(Refusal::Manifest { id, .. }) if id == "b4"),
                "{refused}"
            );
        }
        assert_eq!(place.stored().await, before, "{key}");
        flip(&key);
    }
    let (through, fault) = place.store.faulty();
    let archive = Archive::open(through, None).await.unwrap();
    fault.set(Fault::FailListings);
    assert!(run(&archive, 2, 1, Duration::ZERO).await.is_err());
    assert_eq!(place.stored().await, before);
    place.pass(2, Duration::ZERO).await.unwrap();
    assert_eq!(place.all_verify().await, ["b2", "b3", "b4"]);
}

#[tokio::test]
async fn an_interrupted_backup_is_given_up_and_a_late_commit_fails() {
    let place = Place::five(1, false).await;
    let writer = place.begin("late").await;
    // Its packs are on their way for as long as it lives.
    tokio::time::sleep(Duration::from_millis(300)).await;
    place.age("/late", 14);
    assert!(place.pass(9, HOUR).await.unwrap().given_up.is_empty());
    let started = format!("{SYSTEM}/backups/late/started");
    let last_sign = place.store.head(&started).await.unwrap().modified;
    assert_eq!(
        look_up(&place.archive, &id("late")).await.unwrap(),
        LookedUp::Begun { last_sign }
    );
    place.age("/late", 16);
    assert_eq!(place.pass(9, HOUR).await.unwrap().given_up, ["late"]);
    assert_eq!(
        look_up(&place.archive, &id("late")).await.unwrap(),
        LookedUp::GivenUp
    );
    let facts = place.facts(45, 46, 0);
    let late = writer
        .finish(facts, Vec::new(), vec![1; 8192], Vec::new(), 0o700)
        .await
        .unwrap_err();
    assert!(late.to_string().contains("given up meanwhile"), "{late}");
    // It is no backup, in no list.
    let catalogue = Catalogue::load(&place.archive, SYSTEM).await.unwrap();
    assert_eq!(catalogue.backups.len(), 5);
    assert!(catalogue.unfinished.is_empty() && catalogue.unreadable.is_empty());
    // Its packs go after a day, and the word that it was given up after a month.
    let packs = format!("{SYSTEM}/packs/late");
    for (hours, left, manifest) in [(23, true, true), (25, false, true), (24 * 31, false, false)] {
        place.age("/late", hours * 60);
        for _ in 0..3 {
            place.pass(9, Duration::ZERO).await.unwrap();
        }
        assert_eq!(!place.with(&packs).await.is_empty(), left, "{hours}");
        let manifests = place.with("/backups/late/manifest").await;
        assert_eq!(!manifests.is_empty(), manifest, "{hours}");
    }
    assert!(place.with("/late").await.is_empty());
    assert_eq!(place.all_verify().await.len(), 5);
    assert_eq!(
        look_up(&place.archive, &id("late")).await.unwrap(),
        LookedUp::Nothing
    );
}

#[tokio::test]
async fn who_reads_and_who_deletes_see_each_other() {
    let place = Place::five(1, false).await;
    // The reader came first.
    let reading = Reading::begin(&place.archive, SYSTEM, "a restore")
        .await
        .unwrap();
    reading.only(&[id("b0")]).await;
    for _ in 0..2 {
        place.pass(2, Duration::ZERO).await.unwrap();
    }
    assert_eq!(place.all_verify().await, ["b0", "b2", "b3", "b4"]);
    // One that may read anything.
    let everything = Reading::begin(&place.archive, SYSTEM, "a verify")
        .await
        .unwrap();
    let before = place.stored().await;
    for _ in 0..2 {
        let progress = place.pass(1, Duration::ZERO).await.unwrap();
        assert!(progress.announced.is_empty());
        assert!(progress.plan.to_string().contains("a verify reads"));
    }
    assert_eq!(place.stored().await, before);
    everything.end().await;
    // Killed: its last sign of life counts for a while.
    drop(reading);
    place.age("/markers/", 14);
    place.pass(2, Duration::ZERO).await.unwrap();
    place.pass(2, Duration::ZERO).await.unwrap();
    assert_eq!(place.all_verify().await, ["b0", "b2", "b3", "b4"]);
    place.age("/markers/", 16);
    place.pass(2, Duration::ZERO).await.unwrap();
    // Now it is announced, and a reader comes too late for it.
    let late = Reading::begin(&place.archive, SYSTEM, "a restore")
        .await
        .unwrap();
    let announced = expiry::announced(&place.archive, SYSTEM).await.unwrap();
    let catalogue = Catalogue::load(&place.archive, SYSTEM).await.unwrap();
    let left = leave_out(catalogue, &announced);
    let ids: Vec<_> = left.backups.iter().map(|b| b.facts.id.as_str()).collect();
    assert_eq!(ids, ["b2", "b3", "b4"]);
    late.end().await;
    place.pass(2, Duration::ZERO).await.unwrap();
    assert_eq!(place.all_verify().await, ["b2", "b3", "b4"]);
    // What the dead one left goes after a day.
    place.age("/markers/", 25 * 60);
    place.pass(2, Duration::ZERO).await.unwrap();
    assert!(place.with("/markers/").await.is_empty());
}

#[tokio::test]
async fn what_a_person_wants_to_go_waits_for_the_window() {
    let place = Place::five(1, true).await;
    for name in ["b2", "b3"] {
        for _ in 0..2 {
            let reason = "its object was deleted";
            ask_to_delete(&place.archive, SYSTEM, &id(name), &ours(), "1", reason)
                .await
                .unwrap();
        }
    }
    assert_eq!(place.with("/tombstones/").await.len(), 2);
    // b2 begins the window, and b1 can do it as well. That somebody asked announces nothing: they may be read still.
    let announced = expiry::announced(&place.archive, SYSTEM).await.unwrap();
    assert!(announced.is_empty(), "{announced:?}");
    let progress = place.pass(2, Duration::ZERO).await.unwrap();
    assert_eq!((progress.announced.len(), progress.objects), (3, 0));
    place.pass(2, Duration::ZERO).await.unwrap();
    assert_eq!(place.all_verify().await, ["b1", "b4"]);
    // The only one that is left of the window's beginning stays, however much it shall go.
    let reason = "its object was deleted";
    ask_to_delete(&place.archive, SYSTEM, &id("b1"), &ours(), "1", reason)
        .await
        .unwrap();
    for _ in 0..2 {
        let progress = place.pass(2, Duration::ZERO).await.unwrap();
        assert!(
            progress
                .plan
                .to_string()
                .contains("it shall be deleted, and is still needed")
        );
    }
    assert_eq!(place.all_verify().await, ["b1", "b4"]);
    let asked = expiry::doomed(&place.archive, SYSTEM).await.unwrap();
    assert!(asked.backups["b1"].by_person);
    // The window has moved on: now it is announced, and goes.
    place.pass(0, Duration::ZERO).await.unwrap();
    assert_eq!(place.all_verify().await, ["b1", "b4"]);
    place.pass(0, Duration::ZERO).await.unwrap();
    assert_eq!(place.all_verify().await, ["b4"]);
    place.pass(0, Duration::ZERO).await.unwrap();
    assert!(place.with("/tombstones/").await.is_empty());
}

#[tokio::test]
async fn for_ever_is_said_in_the_repository() {
    let place = Place::five(1, true).await;
    let said = async |forever| {
        set_keep(&place.archive, SYSTEM, &id("b0"), forever)
            .await
            .unwrap();
        let kept = kept_for_ever(&place.archive, SYSTEM, &id("b0"))
            .await
            .unwrap();
        assert_eq!(kept, forever);
        place.with("/b0/keep/").await.len()
    };
    // What is said already is not said again.
    for (forever, objects) in [(false, 0), (true, 1), (true, 1), (false, 2), (true, 3)] {
        assert_eq!(said(forever).await, objects);
    }
    place.pass(2, Duration::ZERO).await.unwrap();
    place.pass(2, Duration::ZERO).await.unwrap();
    assert_eq!(place.all_verify().await, ["b0", "b2", "b3", "b4"]);
    // From start to stop, and what the others need.
    assert_eq!(place.with("/wal/").await.len(), 2 + 26);
    said(false).await;
    place.pass(2, Duration::ZERO).await.unwrap();
    place.pass(2, Duration::ZERO).await.unwrap();
    assert_eq!(place.all_verify().await, ["b2", "b3", "b4"]);
    assert!(place.with("/b0").await.is_empty());
}

/// Large segments lie in chunks, and many of them end in the same zeros.
#[tokio::test]
async fn parts_go_with_their_segment_or_once_it_is_whole() {
    for encrypted in [false, true] {
        let place = Place::five(1, encrypted).await;
        let names = |number| SegmentName::new(TimelineId(1), SegmentNumber(number), place.size);
        let wal = WalStore::new(place.archive.clone(), SYSTEM, place.size, 17);
        let begun = async |number| {
            let cluster = Cluster {
                system: SYSTEM,
                segment_size: place.size,
                major: 17,
            };
            let content = sample::segment(cluster, names(number), Fill::Pages(2), 1);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&content).unwrap();
            let put = wal.put_part(names(number), Arc::new(file), Compression::Zstd(1));
            put.await.unwrap()
        };
        // No backup replays the first, the second becomes a whole segment, and the last is the newest WAL there is.
        for number in [0, 60, 61] {
            begun(number).await;
        }
        place.wal([60]).await;
        let before = place.stored().await;
        place.pass(2, HOUR).await.unwrap();
        assert_eq!(place.stored().await, before);
        place.age("/tombstones/", 61);
        place.pass(2, HOUR).await.unwrap();
        let left = place.with("/parts/").await;
        let expected = format!("/parts/00000001/{}/", names(61));
        assert_eq!(left.len(), 1, "{left:?}");
        assert!(left[0].contains(&expected), "{left:?}");
        assert!(wal.segment(names(60)).await.is_ok());
        assert!(place.pass(2, HOUR).await.unwrap().objects == 1);
        assert_eq!(place.pass(2, HOUR).await.unwrap().objects, 0);
    }
}

#[tokio::test]
async fn chunks_go_with_their_segment_and_no_other() {
    let place = Place::five(32, false).await;
    assert_eq!(place.with("/chunks/").await.len(), 20);
    place.pass(2, Duration::ZERO).await.unwrap();
    place.pass(2, Duration::ZERO).await.unwrap();
    // b2 begins in segment 5.
    assert_eq!(place.with("/wal/").await.len(), 6);
    assert_eq!(place.with("/chunks/").await.len(), 12);
    let wal = WalStore::new(place.archive.clone(), SYSTEM, place.size, 17);
    for number in 5..=10 {
        let name = SegmentName::new(TimelineId(1), SegmentNumber(number), place.size);
        wal.segment(name).await.unwrap();
    }
    assert_eq!(place.all_verify().await, ["b2", "b3", "b4"]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_rules_what_stays_can_be_restored(
        rules in proptest::collection::vec((0u64..6, 1u32..5), 1..4),
        lost in proptest::option::of(1u64..50),
        asked in proptest::option::of(0u8..5),
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let place = Place::five(1, false).await;
            if let Some(lost) = lost {
                let name = SegmentName::new(TimelineId(1), SegmentNumber(lost), place.size);
                let key = holdfast_repository::layout::segment(SYSTEM, name);
                std::fs::remove_file(place.object(&key)).unwrap();
            }
            if let Some(asked) = asked {
                let asked = id(&format!("b{asked}"));
                ask_to_delete(&place.archive, SYSTEM, &asked, &ours(), "1", "").await.unwrap();
            }
            let complete = async || {
                let catalogue = Catalogue::load(&place.archive, SYSTEM).await.unwrap();
                let complete = catalogue.backups.iter().filter(|b| b.is_complete());
                complete.map(|b| b.facts.id.clone()).collect::<BTreeSet<_>>()
            };
            for (hours, minimum) in rules {
                let before = complete().await;
                for _ in 0..3 {
                    run(&place.archive, hours, minimum, Duration::ZERO).await.unwrap();
                }
                let after = complete().await;
                assert!(after.is_subset(&before));
                assert!(after.len() >= before.len().min(minimum as usize), "{before:?} {after:?}");
                for name in &after {
                    let reader = BackupReader::open(place.archive.clone(), SYSTEM, &id(name)).await.unwrap();
                    let found = verify::verify(Arc::new(reader), 2, Arc::default()).await;
                    assert!(found.damage.is_empty() && found.unknown.is_empty(), "{found:?}");
                }
                // Nothing is left of what went.
                for name in before.difference(&after) {
                    assert!(place.with(&format!("/{name}")).await.is_empty());
                }
            }
        });
    }
}
