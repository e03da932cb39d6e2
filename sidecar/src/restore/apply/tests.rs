use super::*;
use crate::progress::Counters;
use crate::restore::destination::{State, observe_root, seen};
use crate::wal_bench::{Bench, IN_PRODUCTION, SYSTEM};
use holdfast_postgres::{Lineage, Lsn, TimelineId};
use holdfast_repository::backup::{self, BackupId, BackupWriter, WriterSettings};
use holdfast_repository::facts::{BackupFacts, RecoverySettings};
use holdfast_repository::store::StoreSettings;
use holdfast_repository::wal::sample;
use holdfast_repository::{Archive, Compression};
use std::collections::BTreeMap;

/// A backup of one table, and where it goes.
struct Place {
    bench: Bench,
    work: Work,
}

impl Place {
    async fn new() -> Self {
        let bench = Bench::new();
        let path = bench.path("store");
        let store = StoreSettings::Filesystem { path }.open("shop/orders");
        let archive = Archive::open_or_create(store.unwrap(), None).await.unwrap();
        let size = bench.cluster.segment_size;
        archive.claim(SYSTEM, 17, size, None).await.unwrap();
        let id: BackupId = "b1".parse().unwrap();
        let settings = WriterSettings {
            compression: Compression::None,
            pack_bytes: 1 << 20,
            uploads: 1,
        };
        let mut writer = BackupWriter::begin(archive.clone(), SYSTEM, id.clone(), settings, None)
            .await
            .unwrap();
        for directory in ["base", "base/5", "global", "pg_wal"] {
            writer
                .frame(backup::sample::directory(directory))
                .await
                .unwrap();
        }
        for (path, fill) in [("base/5/1", 1), ("global/1262", 2), ("PG_VERSION", 3)] {
            let content = vec![fill; 8192];
            for frame in backup::sample::file(&archive, path, &content, true, Compression::None) {
                writer.frame(frame).await.unwrap();
            }
        }
        let facts = BackupFacts {
            id: String::new(),
            system: SYSTEM,
            timeline: TimelineId(1),
            start: Lsn(0x200028),
            stop: Lsn(0x200100),
            start_time: jiff::Timestamp::UNIX_EPOCH,
            stop_time: jiff::Timestamp::UNIX_EPOCH,
            postgres_major: 17,
            segment_size: size,
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
        let control = sample::control_file(bench.cluster, TimelineId(1), IN_PRODUCTION);
        writer
            .finish(facts, Vec::new(), control, b"label".to_vec(), 0o700)
            .await
            .unwrap();
        let reader = BackupReader::open(archive.clone(), SYSTEM, &id).await;
        let order = RestoreOrder::new(
            "main".into(),
            "shop/orders".into(),
            archive.id(),
            SYSTEM,
            &Lineage::single(TimelineId(1)),
            Lsn(0x300000),
        );
        let work = Work {
            reader: Arc::new(reader.unwrap()),
            destination: Destination {
                root: bench.data(),
                tablespaces: BTreeMap::new(),
                wal: None,
                seen: None,
            },
            recovery: Recovery {
                target: Vec::new(),
                timeline: 1,
                action: recovery::Action::Promote,
                restore_command: "restore".into(),
                minimum: RecoverySettings::default(),
            },
            order,
            copy_of: None,
            carried_out: Some("a1".into()),
            parallelism: 1,
        };
        Self { bench, work }
    }

    fn work(&self) -> Work {
        let Work {
            reader,
            destination,
            recovery,
            order,
            ..
        } = &self.work;
        Work {
            reader: reader.clone(),
            destination: Destination {
                seen: seen(&destination.root),
                ..destination.clone()
            },
            recovery: recovery.clone(),
            order: order.clone(),
            copy_of: None,
            carried_out: Some("a1".into()),
            parallelism: 1,
        }
    }

    fn ensure_unfinished(&self) {
        let root = &self.work.destination.root;
        assert!(!root.join("global/pg_control").exists());
        assert_eq!(observe_root(root).unwrap(), State::Unfinished);
    }
}

/// The data directory holds another database before, and every step may be the last one.
#[tokio::test]
async fn whatever_ends_it_pg_control_is_not_there_and_a_repeat_completes() {
    let mut place = Place::new().await;
    let root = place.work.destination.root.clone();
    assert_eq!(observe_root(&root).unwrap(), State::Postgres);
    // While the old one is taken away.
    let in_the_way = place.bench.path("a file");
    fs::write(&in_the_way, "x").unwrap();
    place.work.destination.tablespaces = BTreeMap::from([(9, in_the_way)]);
    assert!(begin(&place.work(), Arc::default()).is_err());
    place.ensure_unfinished();
    place.work.destination.tablespaces.clear();
    // While the files are written.
    let pack = place.bench.object("packs/b1-0");
    let whole = fs::read(&pack).unwrap();
    let mut damaged = whole.clone();
    damaged[100] ^= 4;
    fs::write(&pack, damaged).unwrap();
    assert!(apply(place.work(), &Counters::default()).await.is_err());
    place.ensure_unfinished();
    fs::write(&pack, whole).unwrap();
    // Once they are there, at what makes them a database that recovers.
    for last in ["recovery.signal", AFTERWARDS, RESTORE_FILE] {
        let writer = Arc::new(begin(&place.work(), Arc::default()).unwrap());
        place.ensure_unfinished();
        let settings = ScanSettings {
            parallelism: 1,
            patience: Duration::ZERO,
        };
        let reader = place.work.reader.clone();
        scan(reader, writer.clone(), settings).await.unwrap();
        fs::create_dir(root.join(last)).unwrap();
        let writer = Arc::into_inner(writer).unwrap();
        assert!(finish(&place.work, writer).is_err(), "{last}");
        place.ensure_unfinished();
    }
    let counters = Counters::default();
    apply(place.work(), &counters).await.unwrap();
    assert_eq!(observe_root(&root).unwrap(), State::Postgres);
    let stored = place.work.reader.root();
    let control = fs::read(root.join("global/pg_control")).unwrap();
    assert_eq!(control, stored.pg_control);
    assert_eq!(fs::read(root.join("base/5/1")).unwrap(), [1; 8192]);
    assert_eq!(counters.figures().bytes_done, 3 * 8192);
    let origin = Origin::read(&root).unwrap().unwrap();
    assert_eq!(origin.last_order.as_deref(), Some("a1"));
    assert!(origin.copy_of.is_empty());
}
