use super::*;
use crate::archive::Archiver;
use crate::origin::RESTORE_FILE;
use crate::wal_bench::{Bench, IN_RECOVERY, SYSTEM};
use futures::TryStreamExt;
use holdfast_repository::Compression;
use holdfast_repository::wal::sample::Fill;
use std::fs;

#[derive(Debug, PartialEq)]
enum A {
    Found(Vec<u8>),
    Absent,
    Trouble(String),
}

async fn told(answer: RestoreAnswer) -> A {
    match answer {
        RestoreAnswer::Absent => A::Absent,
        RestoreAnswer::Trouble(why) => A::Trouble(why),
        RestoreAnswer::Found { length, body } => match body.try_collect::<Vec<Bytes>>().await {
            Ok(pieces) => {
                let content = pieces.concat();
                assert_eq!(content.len() as u64, length);
                A::Found(content)
            }
            Err(e) => A::Trouble(e.to_string()),
        },
    }
}

/// As a sidecar has it.
fn fresh(settings: impl Into<Live>) -> Restorer {
    let settings: Live = settings.into();
    let budget = Budget::of(settings.get().memory);
    Restorer::new(settings, budget)
}

/// One attempt, so that trouble costs no time.
async fn ask(restorer: &Restorer, name: &str) -> A {
    told(restorer.0.once_as_answer(name.parse().unwrap()).await).await
}

/// Timeline 1 with segments 2 to 5, left for timeline 2 within 3; of that, what `child` says.
async fn archived(child: &[u64]) -> (Bench, Restorer) {
    let bench = Bench::new();
    let archiver = Archiver::new(bench.settings());
    bench.history(2, "1\t0/380000\tx\n");
    let segments = (2..=5)
        .map(|number| (1, number))
        .chain(child.iter().map(|number| (2, *number)));
    for (timeline, number) in segments {
        let (name, path) = bench.segment(timeline, number, Fill::Whole);
        archiver.archive(&name, &path).await.unwrap();
        fs::remove_file(bench.data().join(path)).unwrap();
    }
    archiver
        .archive("00000002.history", "pg_wal/00000002.history")
        .await
        .unwrap();
    bench.control(1, IN_RECOVERY);
    fs::write(bench.data().join("recovery.signal"), "").unwrap();
    let restorer = fresh(bench.settings());
    (bench, restorer)
}

#[tokio::test]
async fn files_come_back_along_the_line() {
    let (bench, restorer) = archived(&[3, 4]).await;
    for (timeline, number) in [(1, 2), (2, 3), (2, 4)] {
        let name = bench.name(timeline, number).to_string();
        assert_eq!(
            ask(&restorer, &name).await,
            A::Found(bench.content(timeline, number, Fill::Whole))
        );
    }
    assert_eq!(
        ask(&restorer, "00000002.history").await,
        A::Found(b"1\t0/380000\tx\n".to_vec())
    );
    assert_eq!(ask(&restorer, "00000003.history").await, A::Absent);
    assert_eq!(
        ask(&restorer, &bench.name(2, 5).to_string()).await,
        A::Absent
    );
    // The parent's segment with the switch point: nothing after it.
    let A::Found(cut) = ask(&restorer, &bench.name(1, 3).to_string()).await else {
        panic!()
    };
    let whole = bench.content(1, 3, Fill::Whole);
    assert!(
        cut[..0x80000] == whole[..0x80000]
            && cut[0x80000..].iter().all(|b| *b == 0)
            && cut.len() == whole.len()
    );
    for past in [4, 5] {
        let answer = ask(&restorer, &bench.name(1, past).to_string()).await;
        let expected = past == 4;
        assert_eq!(
            matches!(answer, A::Trouble(_)),
            expected,
            "{past}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_hole_is_a_gap_and_the_end_is_the_end() {
    let (bench, restorer) = archived(&[4]).await;
    let answer = ask(&restorer, &bench.name(2, 3).to_string()).await;
    assert!(
        matches!(&answer, A::Trouble(why) if why.contains("gap")),
        "{answer:?}"
    );
    let (bench, restorer) = archived(&[]).await;
    assert_eq!(
        ask(&restorer, &bench.name(2, 3).to_string()).await,
        A::Absent
    );
    fs::remove_file(bench.segment_object(1, 2)).unwrap();
    assert!(matches!(
        ask(&restorer, &bench.name(1, 2).to_string()).await,
        A::Trouble(_)
    ));
    for (name, expected) in [
        ("000000010000000000000003.partial", A::Absent),
        ("000000010000000000000003.00000028.backup", A::Absent),
    ] {
        assert_eq!(ask(&restorer, name).await, expected);
    }
    assert!(matches!(
        told(restorer.restore("../pg_control").await).await,
        A::Trouble(_)
    ));
}

#[tokio::test]
async fn what_cannot_be_proven_is_not_absent() {
    let (bench, restorer) = archived(&[3]).await;
    let missing = bench.name(2, 9).to_string();
    assert_eq!(ask(&restorer, &missing).await, A::Absent);
    // An empty place in the archive's stead, before and after it was opened.
    let shop = bench.path("store/shop");
    fs::rename(&shop, bench.path("away")).unwrap();
    for restorer in [restorer.clone(), fresh(bench.settings())] {
        assert!(matches!(ask(&restorer, &missing).await, A::Trouble(_)));
    }
    fs::rename(bench.path("away"), &shop).unwrap();
    assert_eq!(ask(&restorer, &missing).await, A::Absent);
    let other = fresh(bench.settings_with("shop/other", ""));
    assert!(matches!(ask(&other, &missing).await, A::Trouble(_)));
    // Another database in this directory.
    let cluster = holdfast_repository::wal::sample::Cluster {
        system: holdfast_postgres::SystemIdentifier(5),
        ..bench.cluster
    };
    let control =
        holdfast_repository::wal::sample::control_file(cluster, TimelineId(1), IN_RECOVERY);
    fs::write(bench.data().join("global/pg_control"), control).unwrap();
    let answer = ask(&restorer, &missing).await;
    assert!(
        matches!(&answer, A::Trouble(why) if why.contains("another database")),
        "{answer:?}"
    );
    fs::remove_file(bench.data().join("global/pg_control")).unwrap();
    assert!(matches!(ask(&restorer, &missing).await, A::Trouble(_)));
}

#[tokio::test]
async fn every_required_repository_must_say_that_it_is_absent() {
    for (mode, required) in [("Required", true), ("BestEffort", false)] {
        let (bench, _) = archived(&[3]).await;
        let with = |mode: &str| {
            let path = bench.path("spare").display().to_string();
            let spare = format!("- name: spare\n  mode: {mode}\n  filesystem: {{path: {path}}}\n");
            bench.settings_with("shop/orders", &spare)
        };
        let settings = with(mode);
        let archiver = Archiver::new(with("Required"));
        let (name, path) = bench.segment(1, 2, Fill::Whole);
        archiver.archive(&name, &path).await.unwrap();
        let restorer = fresh(settings.clone());
        let missing = bench.name(2, 9).to_string();
        assert_eq!(ask(&restorer, &missing).await, A::Absent);
        fs::rename(bench.path("spare/shop"), bench.path("away")).unwrap();
        // One that was opened has to be given up first.
        let opened = required.then_some(restorer);
        for restorer in opened.into_iter().chain([fresh(settings)]) {
            let answer = ask(&restorer, &missing).await;
            let told = matches!(answer, A::Trouble(_));
            assert_eq!(told, required, "{mode}: {answer:?}");
            // What another one has is served all the same.
            let there = ask(&restorer, &bench.name(2, 3).to_string()).await;
            assert!(matches!(there, A::Found(_)), "{there:?}");
        }
    }
}

#[tokio::test]
async fn damage_is_never_served() {
    let (bench, restorer) = archived(&[]).await;
    let object = bench.segment_object(1, 2);
    let mut bytes = fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&object, bytes).unwrap();
    let answer = ask(&restorer, &bench.name(1, 2).to_string()).await;
    assert!(
        matches!(&answer, A::Trouble(why) if why.contains("damaged")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn an_order_says_where_and_how_far() {
    let (bench, restorer) = archived(&[3, 4, 5]).await;
    let source = open::first(&bench.settings(), Create::Never)
        .await
        .unwrap()
        .1;
    let history = TimelineHistory::parse(TimelineId(2), b"1\t0/380000\tx\n").unwrap();
    let order = |end: u64| {
        RestoreOrder::new(
            "main".into(),
            "shop/orders".into(),
            source.id(),
            SYSTEM,
            &Lineage::from(&history),
            Lsn(end),
        )
    };
    let file = bench.data().join(RESTORE_FILE);
    fs::write(&file, order(0x450000).to_json()).unwrap();
    // The pod's label names another archive, which does not exist yet.
    let copy = fresh(bench.settings_with("shop/copy", ""));
    for (number, served) in [(3, true), (4, true), (5, false)] {
        let answer = ask(&copy, &bench.name(2, number).to_string()).await;
        assert_eq!(matches!(answer, A::Found(_)), served, "{number}");
        assert!(served || answer == A::Absent);
    }
    fs::write(&file, order(0x700000).to_json()).unwrap();
    let promised = ask(&copy, &bench.name(2, 6).to_string()).await;
    assert!(
        matches!(&promised, A::Trouble(why) if why.contains("when the restore began")),
        "{promised:?}"
    );
    // Along timeline 1 alone, its segments past the switch to 2 are right.
    let single = Lineage::single(TimelineId(1));
    let root = RestoreOrder::new(
        "main".into(),
        "shop/orders".into(),
        source.id(),
        SYSTEM,
        &single,
        Lsn(0x600000),
    );
    fs::write(&file, root.to_json()).unwrap();
    assert_eq!(
        ask(&copy, &bench.name(1, 5).to_string()).await,
        A::Found(bench.content(1, 5, Fill::Whole))
    );
    assert_eq!(
        ask(&copy, "00000002.history").await,
        A::Found(b"1\t0/380000\tx\n".to_vec())
    );
    for wrong in [
        RestoreOrder::new(
            "gone".into(),
            "shop/orders".into(),
            source.id(),
            SYSTEM,
            &single,
            Lsn(0),
        ),
        RestoreOrder::new(
            "main".into(),
            "shop/orders".into(),
            ArchiveId([1; 16]),
            SYSTEM,
            &single,
            Lsn(0),
        ),
    ] {
        fs::write(&file, wrong.to_json()).unwrap();
        assert!(matches!(
            ask(&copy, &bench.name(1, 9).to_string()).await,
            A::Trouble(_)
        ));
    }
    fs::write(&file, "{").unwrap();
    assert!(matches!(
        ask(&copy, &bench.name(1, 9).to_string()).await,
        A::Trouble(_)
    ));
    // Without recovery.signal it does not count.
    fs::remove_file(bench.data().join("recovery.signal")).unwrap();
    assert_eq!(
        ask(&restorer, &bench.name(2, 5).to_string()).await,
        A::Found(bench.content(2, 5, Fill::Whole))
    );
    // And pg_rewind may read on along a branch that was left.
    for past in [3, 5] {
        assert_eq!(
            ask(&restorer, &bench.name(1, past).to_string()).await,
            A::Found(bench.content(1, past, Fill::Whole))
        );
    }
}

/// Stores what there is of an unfinished segment, as a part.
async fn store_part(bench: &Bench, timeline: u32, number: u64, pages: usize) {
    let (_, archive) = open::first(&bench.settings(), Create::Never).await.unwrap();
    let wal = WalStore::new(archive, SYSTEM, bench.cluster.segment_size, 17);
    let (_, path) = bench.segment(timeline, number, Fill::Pages(pages));
    let path = bench.data().join(path);
    let file = Arc::new(fs::File::open(&path).unwrap());
    let name = bench.name(timeline, number);
    wal.put_part(name, file, Compression::Zstd(1))
        .await
        .unwrap();
    fs::remove_file(path).unwrap();
}

/// What begins so and is zeros from there on.
fn until(mut content: Vec<u8>, end: usize) -> A {
    content[end..].fill(0);
    A::Found(content)
}

#[tokio::test]
async fn a_part_is_for_the_recovery_that_ends_within_it() {
    let (bench, restorer) = archived(&[3]).await;
    store_part(&bench, 2, 4, 5).await;
    let (_, source) = open::first(&bench.settings(), Create::Never).await.unwrap();
    let history = TimelineHistory::parse(TimelineId(2), b"1\t0/380000\tx\n").unwrap();
    let file = bench.data().join(RESTORE_FILE);
    let order = |end: u64| {
        let lineage = Lineage::from(&history);
        let (repository, archive) = ("main".into(), "shop/orders".into());
        let order = RestoreOrder::new(repository, archive, source.id(), SYSTEM, &lineage, Lsn(end));
        fs::write(&file, order.to_json()).unwrap();
    };
    let name = bench.name(2, 4).to_string();
    let stored = || bench.content(2, 4, Fill::Pages(5));
    // Without an order it is what the WAL ends with, but for a standby, which goes on.
    assert!(ask(&restorer, &name).await == until(stored(), 5 * 8192));
    let standby = bench.data().join("standby.signal");
    fs::write(&standby, "").unwrap();
    assert_eq!(ask(&restorer, &name).await, A::Absent);
    fs::remove_file(&standby).unwrap();
    let next = bench.name(2, 5).to_string();
    assert_eq!(ask(&restorer, &next).await, A::Absent);
    for (end, pages) in [(0x40_A000, 5), (0x40_4000, 2), (0x40_0001, 0)] {
        order(end);
        let expected = until(stored(), if pages == 0 { 1 } else { pages * 8192 });
        assert!(ask(&restorer, &name).await == expected, "{end:X}");
    }
    order(0x40_0000);
    assert_eq!(ask(&restorer, &name).await, A::Absent);
    // One that reaches farther than the part, and one that ends in a later segment.
    for end in [0x40_A001, 0x50_0000, 0x50_0001] {
        order(end);
        let answer = ask(&restorer, &name).await;
        assert!(
            matches!(&answer, A::Trouble(why) if why.contains("when the restore began")),
            "{end:X}: {answer:?}"
        );
    }
    order(0x40_A000);
    // A standby goes on after the end of a part, and whoever recovers nothing takes it for the segment.
    fs::write(&standby, "").unwrap();
    assert!(matches!(ask(&restorer, &name).await, A::Trouble(_)));
    fs::remove_file(bench.data().join("recovery.signal")).unwrap();
    assert_eq!(ask(&restorer, &name).await, A::Absent);
    fs::remove_file(standby).unwrap();
    assert_eq!(ask(&restorer, &name).await, A::Absent);
    fs::write(bench.data().join("recovery.signal"), "").unwrap();
    assert!(ask(&restorer, &name).await == until(stored(), 5 * 8192));
    // Damage is trouble, and a whole segment makes up for it.
    let folder = bench.object(&format!("parts/00000002/{name}"));
    let part = fs::read_dir(folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let mut bytes = fs::read(&part).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&part, bytes).unwrap();
    let answer = ask(&restorer, &name).await;
    assert!(
        matches!(&answer, A::Trouble(why) if why.contains("damaged")),
        "{answer:?}"
    );
    let archiver = Archiver::new(bench.settings());
    bench.control(2, IN_RECOVERY);
    let (name, path) = bench.segment(2, 4, Fill::Whole);
    archiver.archive(&name, &path).await.unwrap();
    assert!(ask(&restorer, &name).await == A::Found(bench.content(2, 4, Fill::Whole)));
}

#[tokio::test]
async fn of_a_parents_part_nothing_past_the_switch_point_is_served() {
    let (bench, restorer) = archived(&[]).await;
    fs::remove_file(bench.segment_object(1, 3)).unwrap();
    // The switch point lies at 0x80000 in segment 3: after 64 pages.
    store_part(&bench, 1, 3, 70).await;
    let (_, source) = open::first(&bench.settings(), Create::Never).await.unwrap();
    let history = TimelineHistory::parse(TimelineId(2), b"1\t0/380000\tx\n").unwrap();
    let lineage = Lineage::from(&history);
    let order = RestoreOrder::new(
        "main".into(),
        "shop/orders".into(),
        source.id(),
        SYSTEM,
        &lineage,
        Lsn(0x38_0000),
    );
    fs::write(bench.data().join(RESTORE_FILE), order.to_json()).unwrap();
    let answer = ask(&restorer, &bench.name(1, 3).to_string()).await;
    assert!(answer == until(bench.content(1, 3, Fill::Whole), 0x80000));
    // Nothing of the child is needed.
    let child = bench.name(2, 3).to_string();
    assert_eq!(ask(&restorer, &child).await, A::Absent);
}

#[tokio::test]
async fn a_standby_hears_at_once_and_knows_the_histories() {
    let (bench, restorer) = archived(&[3]).await;
    fs::write(bench.data().join("standby.signal"), "").unwrap();
    let history = A::Found(b"1\t0/380000\tx\n".to_vec());
    assert_eq!(
        told(restorer.restore("00000002.history").await).await,
        history
    );
    fs::rename(bench.path("store"), bench.path("away")).unwrap();
    let restorer = fresh(bench.settings());
    assert_eq!(
        told(restorer.restore("00000002.history").await).await,
        history
    );
    for name in ["00000003.history", &bench.name(2, 3).to_string()] {
        assert!(matches!(
            told(restorer.restore(name).await).await,
            A::Trouble(_)
        ));
    }
    // What others know comes with the settings.
    fs::remove_dir_all(bench.path("run/history")).unwrap();
    assert!(matches!(
        told(restorer.restore("00000002.history").await).await,
        A::Trouble(_)
    ));
    let secret = bench.path("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("00000002.history"), "1\t0/380000\tx\n").unwrap();
    fs::write(secret.join("00000003.history"), "nonsense").unwrap();
    fs::write(secret.join("histories-of"), SYSTEM.to_string()).unwrap();
    let line = format!("historyDirectory: {}\n", secret.display());
    let informed = fresh(bench.settings_with("shop/orders", &line));
    assert_eq!(
        told(informed.restore("00000002.history").await).await,
        history
    );
    assert!(matches!(
        told(informed.restore("00000003.history").await).await,
        A::Trouble(_)
    ));
    fs::rename(bench.path("away"), bench.path("store")).unwrap();
    assert_eq!(
        told(restorer.restore(&bench.name(2, 3).to_string()).await).await,
        A::Found(bench.content(2, 3, Fill::Whole))
    );
}

/// Asked as the socket asks.
async fn asked(restorer: &Restorer, name: &str) -> A {
    told(restorer.restore(name).await).await
}

#[tokio::test]
async fn the_end_of_recovery_needs_no_archive() {
    let (bench, restorer) = archived(&[3]).await;
    let source = open::first(&bench.settings(), Create::Never)
        .await
        .unwrap()
        .1;
    // The copy's own archive is not there, and neither is its source any more.
    let copy = fresh(bench.settings_with("shop/copy", ""));
    assert_eq!(asked(&copy, "00000001.history").await, A::Absent);
    let history = TimelineHistory::parse(TimelineId(2), b"1\t0/380000\tx\n").unwrap();
    let order = RestoreOrder::new(
        "main".into(),
        "shop/orders".into(),
        source.id(),
        SYSTEM,
        &Lineage::from(&history),
        Lsn(0x400000),
    );
    fs::write(bench.data().join(RESTORE_FILE), order.to_json()).unwrap();
    fs::remove_file(bench.data().join("recovery.signal")).unwrap();
    let own = bench.data().join("pg_wal/00000002.history");
    fs::rename(&own, bench.path("own")).unwrap();
    assert_eq!(
        asked(&copy, "00000002.history").await,
        A::Found(b"1\t0/380000\tx\n".to_vec())
    );
    // Of what came later the source knows nothing.
    assert!(matches!(
        ask(&copy, "00000003.history").await,
        A::Trouble(_)
    ));
    fs::rename(bench.path("own"), &own).unwrap();
    fs::rename(bench.path("store"), bench.path("away")).unwrap();
    for restorer in [&copy, &restorer] {
        assert_eq!(asked(restorer, "00000002.history").await, A::Absent);
    }
    // While it recovers, trouble is trouble; and this copy has seen nothing yet.
    fs::remove_dir_all(bench.path("run/history")).unwrap();
    fs::write(bench.data().join("standby.signal"), "").unwrap();
    assert!(matches!(
        asked(&copy, "00000002.history").await,
        A::Trouble(_)
    ));
}

#[tokio::test]
async fn a_signal_file_that_cannot_be_looked_at_is_trouble() {
    let (bench, _) = archived(&[]).await;
    let restorer = fresh(bench.settings());
    fs::remove_file(bench.data().join("recovery.signal")).unwrap();
    std::os::unix::fs::symlink("recovery.signal", bench.data().join("recovery.signal")).unwrap();
    let answer = ask(&restorer, &bench.name(1, 2).to_string()).await;
    assert!(
        matches!(&answer, A::Trouble(why) if why.contains("recovery.signal")),
        "{answer:?}"
    );
}

#[tokio::test]
async fn what_a_standby_left_behind_holds_up_nobody() {
    let (bench, restorer) = archived(&[3]).await;
    let parked = || {
        let budget = restorer.0.budget.clone();
        let work = tokio::spawn(async move {
            let mut held = Vec::new();
            while budget.left() > 0 {
                held.push(budget.take(budget.left()).await);
            }
            std::future::pending().await
        });
        restorer.park(WalFileName::Segment(bench.name(2, 4)), work);
        restorer.0.pending().as_ref().unwrap().since
    };
    let held = async || {
        while restorer.0.budget.left() > 0 {
            tokio::task::yield_now().await;
        }
    };
    let name = bench.name(2, 3).to_string();
    let content = A::Found(bench.content(2, 3, Fill::Whole));
    parked();
    held().await;
    assert_eq!(asked(&restorer, &name).await, content);
    // Only what was parked then expires.
    let since = parked();
    held().await;
    restorer.0.expire(since + Duration::from_secs(1));
    assert!(restorer.0.pending().is_some());
    restorer.0.expire(since);
    assert!(restorer.0.pending().is_none());
    assert_eq!(ask(&restorer, &name).await, content);
}

#[tokio::test]
async fn a_damaged_history_of_another_branch_is_nobodys_trouble() {
    let (bench, _) = archived(&[3]).await;
    let history = bench.object("wal/history/00000002.history");
    let damage = |path: &std::path::Path| {
        let mut bytes = fs::read(path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(path, bytes).unwrap();
    };
    damage(&history);
    let other = || Restorer::of_directory(bench.settings(), bench.data(), Histories::none());
    let ours = bench.name(1, 2).to_string();
    assert_eq!(
        ask(&other(), &ours).await,
        A::Found(bench.content(1, 2, Fill::Whole))
    );
    for name in ["00000002.history", &bench.name(2, 3).to_string()] {
        let answer = ask(&other(), name).await;
        assert!(matches!(answer, A::Trouble(_)), "{name}: {answer:?}");
    }
}

#[tokio::test]
async fn one_file_is_restored_without_a_sidecar() {
    let (bench, _) = archived(&[3]).await;
    let settings = bench.path("holdfast.yaml");
    let text = format!(
        "archive: shop/orders\nsocket: {0}/run/wal.sock\npostgres: {{dataDirectory: {0}/data}}\nrepositories:\n- name: main\n  filesystem: {{path: {0}/store}}\n",
        bench.folder.path().display()
    );
    fs::write(&settings, text).unwrap();
    let target = bench.data().join("pg_wal/RECOVERYXLOG");
    let name = bench.name(2, 3).to_string();
    assert_eq!(
        restore_one(
            &settings,
            &name,
            std::path::Path::new("pg_wal/RECOVERYXLOG")
        )
        .await,
        0
    );
    assert!(fs::read(&target).unwrap() == bench.content(2, 3, Fill::Whole));
    fs::remove_file(&target).unwrap();
    assert_eq!(
        restore_one(&settings, &bench.name(2, 9).to_string(), &target).await,
        1
    );
    assert_eq!(restore_one(&settings, "nonsense", &target).await, 200);
    fs::write(&settings, "archive: x\n").unwrap();
    assert_eq!(restore_one(&settings, &name, &target).await, 200);
    assert_eq!(restore_one(&settings, "00000001.history", &target).await, 1);
    assert_eq!(
        fs::read_dir(bench.data().join("pg_wal")).unwrap().count(),
        1
    );
}

#[tokio::test]
async fn what_comes_next_is_fetched_while_one_is_replayed() {
    let (bench, restorer) = archived(&[3, 4]).await;
    let (ahead, budget) = (restorer.0.ahead.clone().unwrap(), &restorer.0.budget);
    let all = budget.left();
    let name = |number| bench.name(2, number);
    let fetched = async |mib: u64| {
        while budget.left() < all - (mib << 20) {
            sleep(Duration::from_millis(1)).await;
        }
    };
    let found = |timeline, number| A::Found(bench.content(timeline, number, Fill::Whole));
    assert_eq!(
        ask(&restorer, &bench.name(1, 2).to_string()).await,
        found(1, 2)
    );
    // As many as the memory allows.
    assert_eq!(ahead.names(), [name(3)]);
    fetched(1).await;
    fs::remove_file(bench.segment_object(2, 3)).unwrap();
    assert_eq!(ask(&restorer, &name(3).to_string()).await, found(2, 3));
    // Once: what is asked for again is fetched again.
    let gone = ask(&restorer, &name(3).to_string()).await;
    assert!(
        matches!(&gone, A::Trouble(why) if why.contains("gap")),
        "{gone:?}"
    );
    assert_eq!(ask(&restorer, &name(4).to_string()).await, found(2, 4));
    // That it was not there is not kept.
    assert_eq!(ask(&restorer, &name(5).to_string()).await, A::Absent);
    let archiver = Archiver::new(bench.settings());
    let (segment, path) = bench.segment(2, 6, Fill::Whole);
    archiver.archive(&segment, &path).await.unwrap();
    assert_eq!(ask(&restorer, &name(6).to_string()).await, found(2, 6));

    // Of another archive.
    let (segment, path) = bench.segment(2, 3, Fill::Whole);
    archiver.archive(&segment, &path).await.unwrap();
    let first = bench.name(1, 2).to_string();
    assert_eq!(ask(&restorer, &first).await, found(1, 2));
    fetched(1).await;
    assert_eq!(ahead.names(), [name(3)]);
    let segment = WalFileName::Segment(name(3));
    assert!(ahead.take(segment, &[]).await.is_none());
    assert_eq!((ahead.names(), budget.left()), (vec![], all));
    assert_eq!(ask(&restorer, &first).await, found(1, 2));
    // Nobody asks any more.
    fetched(1).await;
    ahead.expire(Instant::now());
    assert!(!ahead.names().is_empty());
    let since = ahead.since().unwrap();
    ahead.expire(since);
    assert_eq!((ahead.names(), budget.left()), (vec![], all));
    // pg_rewind reads what it wants.
    fs::remove_file(bench.data().join("recovery.signal")).unwrap();
    assert_eq!(ask(&restorer, &first).await, found(1, 2));
    assert_eq!(ahead.names(), []);
}
