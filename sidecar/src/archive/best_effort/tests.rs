use super::*;
use crate::config::Live;
use crate::wal_bench::{Bench, SYSTEM};
use holdfast_repository::wal::sample::{self, Fill};

fn settings(bench: &Bench) -> Arc<Settings> {
    let spare = format!(
        "- name: spare\n  mode: BestEffort\n  filesystem: {{path: {}}}\n",
        bench.path("spare").display()
    );
    bench.settings_with("shop/orders", &spare)
}

fn copied(bench: &Bench, timeline: u32, number: u64) -> bool {
    let name = bench.name(timeline, number);
    let folder = format!(
        "spare/shop/orders/{SYSTEM}/wal/{}/{:08X}/{name}",
        name.timeline.hex(),
        name.log
    );
    bench.path(&folder).exists()
}

async fn archive(archiver: &Archiver, bench: &Bench, timeline: u32, number: u64) {
    let (name, path) = bench.segment(timeline, number, Fill::Whole);
    archiver.archive(&name, &path).await.unwrap();
}

/// Until the spare repository lacks nothing of these; fails after half a minute, which it does not take.
async fn until_copied(archiver: &Archiver, bench: &Bench, names: &[(u32, u64)]) {
    let all = async {
        while !names.iter().all(|(t, n)| copied(bench, *t, *n)) || waiting(archiver) > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let done = async {
        tokio::select! {
            () = all => {}
            () = archiver.run_best_effort() => {}
        }
    };
    let done = timeout(Duration::from_secs(30), done).await;
    assert!(done.is_ok(), "{:?}", archiver.behind.told());
}

fn waiting(archiver: &Archiver) -> u64 {
    archiver.behind.told().iter().map(|told| told.waiting).sum()
}

#[test]
fn what_retention_has_removed_is_not_brought_again() {
    for (held, last, first, expected) in [
        (&[1, 2, 3][..], None, None, &[1, 2, 3][..]),
        (&[1, 2, 3], Some(3), Some(1), &[]),
        (&[1, 2, 3, 4], Some(3), Some(2), &[4]),
        (&[], Some(3), Some(3), &[]),
        // Another timeline.
        (&[4, 5, 6], None, Some(5), &[5, 6]),
    ] {
        let held = held.iter().map(|n| SegmentNumber(*n)).collect();
        let found = lacking_of(&held, last.map(SegmentNumber), first.map(SegmentNumber));
        let found: Vec<u64> = found.iter().map(|number| number.0).collect();
        assert_eq!(found, expected, "{held:?} {last:?}");
    }
}

#[test]
fn each_has_its_turn_and_no_more_are_kept_in_mind_than_fit() {
    let bench = Bench::new();
    let name = |number| WalFileName::Segment(bench.name(1, number));
    let (mut lacks, now) = (Lacks::default(), Instant::now());
    assert_eq!(lacks.next(None), None);
    for number in [5, 3, 4] {
        lacks.add(name(number), now);
    }
    lacks.add(WalFileName::History(TimelineId(2)), now);
    let mut last = None;
    let mut order = Vec::new();
    for _ in 0..5 {
        let (rank, name) = lacks.next(last.as_ref()).unwrap();
        order.push(name);
        last = Some(rank);
    }
    let history = WalFileName::History(TimelineId(2));
    assert_eq!(order, [history, name(3), name(4), name(5), history]);
    // Whatever comes first: the first of them stay.
    for number in (0..MOST as u64 + 10).rev() {
        lacks.add(name(number), now);
    }
    let last = |lacks: &Lacks| lacks.files.last_key_value().map(|(_, (name, _))| *name);
    assert!(lacks.files.len() == MOST && lacks.is_cut);
    let cut = last(&lacks);
    // What came between would not be found again.
    lacks.files.pop_first();
    lacks.add(name(MOST as u64 + 20), now);
    assert_eq!(last(&lacks), cut);
}

#[test]
fn it_is_behind_since_the_oldest_that_it_lacks() {
    let bench = Bench::new();
    let mut lacks = Lacks::default();
    assert_eq!(lacks.since(), None);
    let begin = Instant::now();
    let after = |seconds| begin + Duration::from_secs(seconds);
    for (number, seconds) in [(5, 0), (4, 20), (5, 30)] {
        lacks.add(WalFileName::Segment(bench.name(1, number)), after(seconds));
    }
    // Found again by listings, it is lacking no shorter for that.
    assert_eq!(lacks.since(), Some(after(0)));
    lacks.files.pop_last();
    assert_eq!(lacks.since(), Some(after(20)));
    // There may be more.
    lacks.untold = Some(after(10));
    assert_eq!(lacks.since(), lacks.untold);
    lacks.files.clear();
    assert_eq!(lacks.since(), lacks.untold);
}

#[tokio::test]
async fn what_is_archived_while_it_is_away_is_brought_when_it_is_back() {
    let bench = Bench::new();
    let archiver = Archiver::new(settings(&bench));
    archive(&archiver, &bench, 1, 3).await;
    until_copied(&archiver, &bench, &[(1, 3)]).await;
    fs::rename(bench.path("spare"), bench.path("away")).unwrap();
    bench.history(2, "1\t0/500000\tx\n");
    for (timeline, number) in [(1, 4), (2, 5), (2, 6)] {
        archive(&archiver, &bench, timeline, number).await;
        // Postgres has removed it since.
        let name = bench.name(timeline, number).to_string();
        fs::remove_file(bench.data().join("pg_wal").join(name)).unwrap();
    }
    archiver
        .archive("00000002.history", "pg_wal/00000002.history")
        .await
        .unwrap();
    assert_eq!(waiting(&archiver), 4);
    let told = async {
        while archiver.behind.told()[0].trouble.is_none() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        () = told => {}
        () = archiver.run_best_effort() => {}
    }
    // What was written where nothing was mounted.
    let _ = fs::remove_dir_all(bench.path("spare"));
    fs::rename(bench.path("away"), bench.path("spare")).unwrap();
    until_copied(&archiver, &bench, &[(1, 3), (1, 4), (2, 5), (2, 6)]).await;
    let told = archiver.progress().best_effort.remove(0);
    assert_eq!((told.behind, told.trouble), (None, None));
    let history = bench.path(&format!("spare/shop/orders/{SYSTEM}"));
    let content = |folder: &Path| {
        walk(folder)
            .into_iter()
            .find(|p| p.ends_with("00000002.history"))
    };
    assert!(content(&history).is_some());
}

fn walk(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let each = entries.map(|path| {
        if path.is_dir() {
            walk(&path)
        } else {
            vec![path]
        }
    });
    each.flatten().collect()
}

#[tokio::test]
async fn what_was_missed_before_the_start_is_found_by_listings() {
    let bench = Bench::new();
    let alone = Archiver::new(bench.settings());
    for number in 3..=5 {
        archive(&alone, &bench, 1, number).await;
        fs::remove_file(
            bench
                .data()
                .join("pg_wal")
                .join(bench.name(1, number).to_string()),
        )
        .unwrap();
    }
    let live = Live::from(bench.settings());
    let archiver = Archiver::new(live.clone());
    live.replace(settings(&bench));
    until_copied(&archiver, &bench, &[(1, 3), (1, 4), (1, 5)]).await;
}

#[tokio::test]
async fn only_what_was_accepted_is_brought() {
    let bench = Bench::new();
    let alone = Archiver::new(bench.settings());
    archive(&alone, &bench, 1, 3).await;
    // Set back, the server has written something else.
    let other = sample::segment(bench.cluster, bench.name(1, 3), Fill::Whole, 99);
    let file = bench
        .data()
        .join("pg_wal")
        .join(bench.name(1, 3).to_string());
    fs::write(&file, &other).unwrap();
    let archiver = Archiver::new(settings(&bench));
    until_copied(&archiver, &bench, &[(1, 3)]).await;
    let path = format!("pg_wal/{}", bench.name(1, 3));
    let name = bench.name(1, 3).to_string();
    let ours = alone.archive(&name, &path).await;
    assert!(matches!(ours, Err(NotArchived::Put(_))), "{ours:?}");
    let settings = archiver.settings.get();
    let control = Directory::look(&settings).await.unwrap().control;
    let spare = settings.repository("spare").unwrap();
    let there = archiver.opened(&settings, spare, &control).await.unwrap();
    let stored = there.wal.segment(bench.name(1, 3)).await.unwrap();
    assert_eq!(stored, bench.content(1, 3, Fill::Whole));
}

#[tokio::test]
async fn a_copy_brings_nothing_into_the_repositories_of_its_source() {
    let bench = Bench::new();
    let alone = Archiver::new(bench.settings());
    archive(&alone, &bench, 1, 3).await;
    let settings = settings(&bench);
    let archiver = Archiver::new(settings.clone());
    let archive = open::first(&settings, Create::Never).await.unwrap().1;
    bench.is_copy_of(archive.id());
    let spare = settings.repository("spare").unwrap();
    let name = WalFileName::Segment(bench.name(1, 3));
    for refused in [
        archiver.compare(&settings, spare).await,
        archiver.bring_one(&settings, spare, name).await,
    ] {
        assert!(
            matches!(refused, Err(NotArchived::Copy { .. })),
            "{refused:?}"
        );
    }
    assert!(!copied(&bench, 1, 3));
}

#[tokio::test]
async fn whoever_needs_the_memory_has_it() {
    let bench = Bench::new();
    let archiver = Archiver::new(settings(&bench));
    archive(&archiver, &bench, 1, 3).await;
    let settings = archiver.settings.get();
    let spare = settings.repository("spare").unwrap();
    let name = WalFileName::Segment(bench.name(1, 3));
    let mut rooms = Vec::new();
    while let Some(room) = archiver.budget.borrow(WalStore::PUT_MEMORY) {
        rooms.push(room);
    }
    let waits = archiver.bring_one(&settings, spare, name).await;
    assert!(matches!(waits, Err(NotArchived::InTheWay(_))), "{waits:?}");
    rooms.pop();
    archiver.bring_one(&settings, spare, name).await.unwrap();
    assert!(copied(&bench, 1, 3));
}

#[tokio::test]
async fn a_standby_leaves_it_to_its_primary_and_nothing_is_made_where_nothing_is_archived() {
    let bench = Bench::new();
    let settings = settings(&bench);
    let archiver = Archiver::new(settings.clone());
    let spare = settings.repository("spare").unwrap();
    archiver.compare(&settings, spare).await.unwrap();
    assert_eq!(fs::read_dir(bench.path("spare")).unwrap().count(), 0);
    assert!(archiver.is_primary(&settings).await);
    fs::write(bench.data().join("standby.signal"), "").unwrap();
    assert!(!archiver.is_primary(&settings).await);
    fs::remove_file(bench.data().join("standby.signal")).unwrap();
    fs::remove_file(bench.data().join("global/pg_control")).unwrap();
    assert!(!archiver.is_primary(&settings).await);
}
