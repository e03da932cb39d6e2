//! What every store must do before it may hold an archive: one suite, for the filesystem, S3, and whatever joins them.
//!
//! The functions panic where the store does not conform, so that each is a test's body. Each needs a [`Store`] whose
//! archive is empty, and leaves objects in it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod faulty;

pub use faulty::{Fault, Faulty};

use super::{Created, ErrorKind, Store, withhold};
use crate::archive::Archive;
use crate::compression::Compression;
use crate::keys::MasterKeys;
use crate::object::ObjectKind;
use crate::wal::sample::{self, Cluster, Fill};
use crate::wal::{PutError, PutOutcome, WalStore};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use holdfast_postgres::{
    Lineage, SegmentName, SegmentNumber, SegmentSize, SystemIdentifier, TimelineId, WalFileName,
};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

/// Every case, each in a folder of its own under the store's archive.
pub async fn all(store: &Store) {
    creates_only(&store.under("creates-only")).await;
    one_of_many_writers_wins(&store.under("many-writers")).await;
    what_is_withheld_is_not_there(&store.under("withheld")).await;
    reads_are_exact(&store.under("reads")).await;
    listings_are_whole(&store.under("listings")).await;
    deletes_are_idempotent(&store.under("deletes")).await;
    lost_answers_are_safe(&store.under("lost-answers")).await;
    bad_reads_are_damage(&store.under("bad-reads")).await;
    trouble_is_never_absence(&store.under("trouble")).await;
    archives_are_made_once(&store.under("archives")).await;
    wal_survives_all_of_it(&store.under("wal")).await;
}

impl Store {
    /// The same store, further down.
    fn under(&self, folder: &str) -> Self {
        Self {
            root: self.path(folder).unwrap(),
            ..self.clone()
        }
    }

    /// The same store behind faults.
    pub fn faulty(&self) -> (Self, Faulty) {
        let faulty = Faulty::new(self.inner.clone());
        (
            Self {
                inner: Arc::new(faulty.clone()),
                ..self.clone()
            },
            faulty,
        )
    }
}

fn text(text: &'static str) -> Vec<Bytes> {
    vec![Bytes::from_static(text.as_bytes())]
}

/// A key is written once; the same bytes again are success, others are handed back.
pub async fn creates_only(store: &Store) {
    assert!(matches!(
        store.create("a/b", text("first")).await.unwrap(),
        Created::New
    ));
    let pieces = vec![
        Bytes::from_static(b"fi"),
        Bytes::new(),
        Bytes::from_static(b"rst"),
    ];
    assert!(matches!(
        store.create("a/b", pieces).await,
        Ok(Created::New)
    ));
    for other in ["second", "firs", "first!", "fIrst", ""] {
        let Ok(Created::Occupied(stored)) = store.create("a/b", text(other)).await else {
            panic!("{other:?} was taken")
        };
        assert_eq!(stored, "first");
    }
    assert_eq!(store.get("a/b", 100).await.unwrap(), "first");
    assert!(matches!(
        store.create("empty", Vec::new()).await,
        Ok(Created::New)
    ));
    assert!(
        matches!(store.create("empty", text("x")).await, Ok(Created::Occupied(stored)) if stored.is_empty())
    );
    assert_eq!(store.get("empty", 0).await.unwrap(), "");
    for key in ["../a", "a//b", "a/../b", "a/./b"] {
        let refused = store.create(key, text("x")).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{key}: {refused}");
    }
    let large = vec![Bytes::from(vec![7; 9 << 20]), Bytes::from(vec![8; 9 << 20])];
    for _ in 0..2 {
        assert!(matches!(
            store.create("large", large.clone()).await,
            Ok(Created::New)
        ));
    }
    assert!(store.get("large", 18 << 20).await.unwrap() == large.concat());
}

/// Of writers at the same time, one wins and all others see what it wrote.
pub async fn one_of_many_writers_wins(store: &Store) {
    let contents: Vec<Bytes> = (0..8).map(|i| Bytes::from(vec![i; 100_000])).collect();
    let results = futures::future::join_all(
        contents
            .iter()
            .map(|content| store.create("contended", vec![content.clone()])),
    )
    .await;
    let winner = store.get("contended", 1 << 20).await.unwrap();
    let mut won = 0;
    for (content, result) in contents.iter().zip(results) {
        match result.unwrap() {
            Created::New => {
                won += 1;
                assert!(*content == winner);
            }
            Created::Occupied(stored) => assert!(stored == winner && *content != winner),
        }
    }
    assert_eq!(won, 1);
}

/// What is withheld is not there before it is released, and never if it is not.
pub async fn what_is_withheld_is_not_there(store: &Store) {
    let content = Bytes::from(vec![7; 3 << 20]);
    // MinIO answers a HEAD only when the upload is over.
    let there = async |key: &str| {
        let listed: Vec<_> = store
            .list(key.trim_end_matches("/a"))
            .try_collect()
            .await
            .unwrap();
        let sizes: Vec<u64> = listed.iter().map(|object| object.size).collect();
        assert!(
            sizes.is_empty() || sizes == [content.len() as u64],
            "{sizes:?}"
        );
        !sizes.is_empty()
    };
    // Split where the last byte is a piece of its own, and where it is not.
    for (key, pieces) in [
        ("one/a", vec![content.clone()]),
        (
            "two/a",
            vec![content.slice(1..), content.slice(..1), Bytes::new()],
        ),
    ] {
        let (release, withheld) = withhold();
        let released = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!there(key).await, "{key} is there before its time");
            release.go();
        };
        let (created, ()) = futures::join!(
            store.create_withheld(key, pieces.clone(), &withheld),
            released
        );
        assert!(matches!(created, Ok(Created::New)), "{created:?}");
        assert!(there(key).await);
        // The same, again; and something else.
        let again = store.create_withheld(key, pieces, &withheld).await;
        assert!(matches!(again, Ok(Created::New)), "{again:?}");
        let other = store.create_withheld(key, text("other"), &withheld).await;
        assert!(
            matches!(&other, Ok(Created::Occupied(stored)) if *stored == content),
            "{other:?}"
        );
    }
    // Never released; and nobody waits any more.
    let (release, withheld) = withhold();
    let never = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(release);
    };
    let (created, ()) = futures::join!(
        store.create_withheld("never/a", vec![content.clone()], &withheld),
        never
    );
    assert_eq!(created.unwrap_err().kind(), ErrorKind::Trouble);
    let (_release, withheld) = withhold();
    let dropped = store.create_withheld("dropped/a", vec![content.clone()], &withheld);
    let waited = tokio::time::timeout(Duration::from_millis(500), dropped).await;
    assert!(waited.is_err());
    for key in ["never/a", "dropped/a"] {
        assert!(!there(key).await, "{key}");
        assert!(matches!(
            store.create(key, vec![content.clone()]).await,
            Ok(Created::New)
        ));
    }
}

/// What is read is what is there, or an error that says which.
pub async fn reads_are_exact(store: &Store) {
    let content: Vec<u8> = (0..200_000u32).map(|i| (i % 251) as u8).collect();
    let size = content.len() as u64;
    let _ = store
        .create("o", vec![Bytes::from(content.clone())])
        .await
        .unwrap();
    assert!(store.get("o", size).await.unwrap() == content);
    assert_eq!(
        store.get("o", size - 1).await.unwrap_err().kind(),
        ErrorKind::Damaged
    );
    for (from, to) in [(0, 1), (0, size), (77, 100_000), (size - 1, size)] {
        assert!(
            store.get_range("o", from..to).await.unwrap() == content[from as usize..to as usize]
        );
    }
    assert_eq!(
        store
            .get_range("o", size - 1..size + 1)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::Damaged
    );
    assert!(store.get_range("o", size + 5..size + 9).await.is_err());
    assert!(store.get_head("o", 0..size + 50).await.unwrap() == content);
    let listed = store.head("o").await.unwrap();
    assert_eq!((listed.key.as_str(), listed.size), ("o", size));
    for error in [
        store.get("none", 9).await.unwrap_err(),
        store.get_range("none", 0..1).await.unwrap_err(),
        store.head("none").await.unwrap_err(),
    ] {
        assert!(error.is_not_found() && error.is_permanent(), "{error}");
        assert!(error.to_string().contains("none"), "{error}");
    }
    // A folder is no object.
    let _ = store.create("folder/o", text("x")).await.unwrap();
    assert!(store.get("folder", 9).await.is_err());
}

/// Everything under a prefix, each once, and nothing beside it; more than a store gives in one answer.
pub async fn listings_are_whole(store: &Store) {
    let keys: BTreeSet<String> = (0..1100)
        .map(|i| format!("many/{:02}/{i}", i % 7))
        .chain(["many-not".to_owned(), "man/y".to_owned()])
        .collect();
    let created = futures::stream::iter(keys.clone()).map(|key| async move {
        store
            .create(&key, vec![Bytes::from(key.clone())])
            .await
            .map(|_| ())
    });
    created
        .buffer_unordered(16)
        .try_collect::<Vec<()>>()
        .await
        .unwrap();
    let list = async |prefix: &str| {
        store
            .list(prefix)
            .map_ok(|listed| (listed.key, listed.size))
            .try_collect::<Vec<_>>()
            .await
            .unwrap()
    };
    let many = list("many").await;
    let expected: BTreeSet<(String, u64)> = keys
        .iter()
        .filter(|k| k.starts_with("many/"))
        .map(|k| (k.clone(), k.len() as u64))
        .collect();
    assert_eq!(many.len(), expected.len());
    assert!(BTreeSet::from_iter(many) == expected);
    assert_eq!(list("many/03").await.len(), 157);
    assert!(list("nothing").await.is_empty());
    assert_eq!(
        store.list_folders("many").await.unwrap(),
        ["00", "01", "02", "03", "04", "05", "06"]
    );
    assert_eq!(store.list_folders("").await.unwrap(), ["man", "many"]);
    assert!(store.list_folders("nothing").await.unwrap().is_empty());
}

/// What is gone is gone, however often it is deleted.
pub async fn deletes_are_idempotent(store: &Store) {
    let _ = store.create("d/o", text("x")).await.unwrap();
    for _ in 0..2 {
        store.delete("d/o").await.unwrap();
        assert!(store.get("d/o", 9).await.unwrap_err().is_not_found());
    }
    assert!(matches!(
        store.create("d/o", text("y")).await,
        Ok(Created::New)
    ));
}

/// A write whose answer is lost is repeated, and another's is still noticed.
pub async fn lost_answers_are_safe(store: &Store) {
    let (through, fault) = store.faulty();
    fault.set(Fault::LoseAnswers(1));
    let lost = through.create("o", text("mine")).await.unwrap_err();
    assert!(
        lost.kind() == ErrorKind::Trouble && !lost.is_permanent(),
        "{lost}"
    );
    assert!(matches!(
        through.create("o", text("mine")).await,
        Ok(Created::New)
    ));
    assert!(
        matches!(through.create("o", text("other")).await, Ok(Created::Occupied(stored)) if stored == "mine")
    );
    fault.set(Fault::FailWrites(1));
    assert!(through.create("p", text("mine")).await.is_err());
    assert!(store.get("p", 9).await.unwrap_err().is_not_found());
    assert!(matches!(
        store.create("p", text("other")).await,
        Ok(Created::New)
    ));
    assert!(
        matches!(through.create("p", text("mine")).await, Ok(Created::Occupied(stored)) if stored == "other")
    );
}

/// Reads that are too short, too long, broken off or altered are errors, in the clear and encrypted.
pub async fn bad_reads_are_damage(store: &Store) {
    let content = vec![Bytes::from(vec![5; 50_000])];
    let _ = store.create("o", content.clone()).await.unwrap();
    let (through, fault) = store.faulty();
    for bad in [
        Fault::Truncate(1),
        Fault::Truncate(40_000),
        Fault::Truncate(50_000),
        Fault::Extend(1),
    ] {
        fault.set(bad);
        assert_eq!(
            through.get("o", 1 << 20).await.unwrap_err().kind(),
            ErrorKind::Damaged,
            "{bad:?}"
        );
        assert_eq!(
            through
                .get_range("o", 100..40_000)
                .await
                .unwrap_err()
                .kind(),
            ErrorKind::Damaged,
            "{bad:?}"
        );
        // What stands there can't be compared, so nothing is claimed about it.
        assert!(
            through.create("o", content.clone()).await.is_err(),
            "{bad:?}"
        );
    }
    fault.set(Fault::BreakOff);
    assert_eq!(
        through.get("o", 1 << 20).await.unwrap_err().kind(),
        ErrorKind::Trouble
    );
    assert!(through.get_range("o", 100..40_000).await.is_err());
    for (encrypted, folder) in [(false, "clear"), (true, "sealed")] {
        let archive = Archive::open_or_create(store.under(folder), masters(encrypted).as_ref())
            .await
            .unwrap();
        let _ = archive
            .create_single(ObjectKind::Started, "s", &[9; 1000])
            .await
            .unwrap();
        let (through, fault) = store.under(folder).faulty();
        let read = async || through.get("s", 1 << 20).await.unwrap();
        assert_eq!(
            archive
                .open_single(ObjectKind::Started, "s", &read().await)
                .unwrap(),
            [9; 1000]
        );
        fault.set(Fault::Flip);
        assert!(
            archive
                .open_single(ObjectKind::Started, "s", &read().await)
                .unwrap_err()
                .is_damage()
        );
    }
}

/// A store that fails or is slow is not an empty one.
pub async fn trouble_is_never_absence(store: &Store) {
    let _ = store.create("f/o", text("x")).await.unwrap();
    let (through, fault) = store.faulty();
    fault.set(Fault::FailAll);
    for key in ["f/o", "f/none"] {
        for error in [
            through.get(key, 9).await.unwrap_err(),
            through.get_range(key, 0..1).await.unwrap_err(),
            through.head(key).await.unwrap_err(),
            through
                .create(key, text("x"))
                .await
                .map(|_| ())
                .unwrap_err(),
            through.delete(key).await.unwrap_err(),
        ] {
            assert!(
                error.kind() == ErrorKind::Trouble && !error.is_permanent(),
                "{error}"
            );
        }
    }
    fault.set(Fault::FailListings);
    assert!(through.list("f").try_collect::<Vec<_>>().await.is_err());
    assert!(through.list_folders("f").await.is_err());
    fault.set(Fault::Delay(Duration::from_millis(100)));
    assert_eq!(through.get("f/o", 9).await.unwrap(), "x");
    assert!(through.get("f/none", 9).await.unwrap_err().is_not_found());
    assert!(matches!(
        through.create("f/p", text("y")).await,
        Ok(Created::New)
    ));
}

fn masters(encrypted: bool) -> Option<MasterKeys> {
    encrypted
        .then(|| MasterKeys::new("k1".into(), BTreeMap::from([("k1".into(), [3; 32])])).unwrap())
}

/// Whoever comes first makes the archive and its key; lost answers and other keys change nothing.
pub async fn archives_are_made_once(store: &Store) {
    for (encrypted, folder) in [(false, "clear"), (true, "sealed")] {
        let store = store.under(folder);
        let (through, fault) = store.faulty();
        fault.set(Fault::LoseAnswers(1));
        let masters = masters(encrypted);
        assert!(
            Archive::open_or_create(through, masters.as_ref())
                .await
                .is_err()
        );
        let opened = futures::future::join_all(
            (0..4).map(|_| Archive::open_or_create(store.clone(), masters.as_ref())),
        )
        .await;
        let opened: Vec<Archive> = opened.into_iter().map(Result::unwrap).collect();
        let digest = opened[0].digest(b"x");
        assert!(
            opened
                .iter()
                .all(|archive| archive.id() == opened[0].id() && archive.digest(b"x") == digest)
        );
        let wrong = MasterKeys::new("k1".into(), BTreeMap::from([("k1".into(), [4; 32])])).unwrap();
        assert!(
            Archive::open_or_create(store, Some(&wrong))
                .await
                .unwrap_err()
                .is_permanent()
        );
    }
}

/// Segments over a store that loses answers, fails and delivers nonsense: what is acknowledged is there and right.
pub async fn wal_survives_all_of_it(store: &Store) {
    for (encrypted, mib, folder) in [
        (false, 1, "clear"),
        (true, 1, "sealed"),
        (true, 32, "chunks"),
    ] {
        let (store, fault) = store.under(folder).faulty();
        let archive = Archive::open_or_create(store, masters(encrypted).as_ref())
            .await
            .unwrap();
        let cluster = Cluster {
            system: SystemIdentifier(77),
            segment_size: SegmentSize::new(mib << 20).unwrap(),
            major: 17,
        };
        let wal = WalStore::new(archive, cluster.system, cluster.segment_size, cluster.major);
        let name =
            |number| SegmentName::new(TimelineId(1), SegmentNumber(number), cluster.segment_size);
        let put = async |number, seed| {
            let name = name(number);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&sample::segment(cluster, name, Fill::Whole, seed))
                .unwrap();
            wal.put(
                &WalFileName::Segment(name),
                Arc::new(file),
                Compression::Zstd(1),
            )
            .await
        };
        let stored = |outcome: &Result<PutOutcome, PutError>| {
            matches!(outcome, Ok(PutOutcome::Stored | PutOutcome::AlreadyThere))
        };
        fault.set(Fault::LoseAnswers(1));
        let lost = put(1, 1).await.unwrap_err();
        assert!(!lost.is_permanent(), "{lost}");
        assert!(stored(&put(1, 1).await));
        fault.set(Fault::FailAll);
        assert!(!put(2, 2).await.unwrap_err().is_permanent());
        assert!(
            !wal.read_file(&WalFileName::Segment(name(2)))
                .await
                .unwrap_err()
                .is_not_found()
        );
        fault.set(Fault::FailListings);
        assert!(wal.segments(TimelineId(1)).await.is_err());
        assert!(
            wal.later_than(&Lineage::single(TimelineId(1)), SegmentNumber(0))
                .await
                .is_err()
        );
        for bad in [
            Fault::Truncate(1),
            Fault::Extend(1),
            Fault::Flip,
            Fault::BreakOff,
        ] {
            fault.set(bad);
            let read = wal.segment(name(1)).await.unwrap_err();
            assert!(!read.is_not_found(), "{bad:?}: {read}");
            // Its own name is taken; that what stands there is the same can't be seen.
            let again = put(1, 1).await;
            assert!(again.is_err(), "{bad:?}: {again:?}");
        }
        fault.set(Fault::None);
        let (one, two) = futures::join!(put(2, 2), put(2, 2));
        assert!(stored(&one) && stored(&two), "{one:?} {two:?}");
        let (one, two) = futures::join!(put(3, 3), put(3, 33));
        let differs = |outcome: &Result<PutOutcome, PutError>| {
            matches!(outcome, Err(PutError::Differs { .. }))
        };
        assert!(
            (stored(&one) && differs(&two)) || (differs(&one) && stored(&two)),
            "{one:?} {two:?}"
        );
        let expected = sample::segment(cluster, name(2), Fill::Whole, 2);
        assert!(wal.segment(name(2)).await.unwrap() == expected);
        assert_eq!(
            wal.segments(TimelineId(1)).await.unwrap(),
            [1, 2, 3].map(SegmentNumber)
        );
    }
}
