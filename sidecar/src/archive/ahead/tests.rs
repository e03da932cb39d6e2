use super::*;
use crate::wal_bench::Bench;
use holdfast_repository::wal::sample::Fill;
use std::fs;

/// Marks a file of pg_wal as Postgres does.
fn mark(bench: &Bench, name: &str) {
    let folder = bench.data().join("pg_wal/archive_status");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{name}.ready")), "").unwrap();
}

/// As Postgres does once it is answered.
fn done(bench: &Bench, name: &str) {
    let folder = bench.data().join("pg_wal/archive_status");
    let [ready, done] = ["ready", "done"].map(|end| folder.join(format!("{name}.{end}")));
    fs::rename(ready, done).unwrap();
}

fn archiver(bench: &Bench) -> Archiver {
    Archiver {
        patience: Duration::ZERO,
        ..Archiver::new(bench.settings_with("shop/orders", "limits: {memory: 1Gi}"))
    }
}

/// Works ahead until this holds, for a server that has asked.
async fn ahead_until(archiver: &Archiver, holds: impl Fn() -> bool) {
    archiver.ahead.wake();
    let waited = async {
        while !holds() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = archiver.run_ahead() => {}
        waited = timeout(Duration::from_secs(60), waited) => waited.expect("it is never so"),
    }
}

fn count(archiver: &Archiver, is: fn(&Place) -> bool) -> usize {
    let places = archiver.ahead.places();
    places.values().filter(|(_, place)| is(place)).count()
}

/// How many wait for their turn: whoever else waits for a change are the two who look and who begin.
fn in_turn(archiver: &Archiver) -> usize {
    archiver.ahead.changed.receiver_count().saturating_sub(2)
}

fn remembered(archiver: &Archiver) -> usize {
    count(archiver, |place| matches!(place, Place::Stored(_)))
}

#[tokio::test]
async fn what_is_marked_is_stored_and_answered_without_the_store() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    let files: Vec<_> = (3..9).map(|n| bench.segment(1, n, Fill::Whole)).collect();
    // Marked while it is not whole: whether that is a loss is told to who asks.
    let half = bench.segment(1, 9, Fill::Pages(3));
    let after = bench.segment(1, 10, Fill::Whole);
    for (name, _) in files.iter().chain([&half, &after]) {
        mark(&bench, name);
    }
    ahead_until(&archiver, || {
        remembered(&archiver) == 6 && count(&archiver, |place| matches!(place, Place::Left)) == 1
    })
    .await;
    for number in 3..9 {
        assert!(bench.segment_object(1, number).exists(), "{number}");
    }
    assert!(!bench.segment_object(1, 9).exists());
    assert!(
        !bench.segment_object(1, 10).exists(),
        "not before the ninth"
    );
    assert_eq!(archiver.progress().archived, 0, "nobody was answered");

    fs::rename(bench.path("store"), bench.path("away")).unwrap();
    fs::write(bench.path("store"), "a file").unwrap();
    let (name, path) = &files[0];
    archiver.archive(name, path).await.unwrap();
    done(&bench, name);
    // Answered once: who asks again wants to know how it is now.
    archiver.archive(name, path).await.unwrap_err();
    // Another file under the name.
    let (name, path) = &files[1];
    let file = bench.data().join(path);
    fs::write(bench.path("spare/copy"), fs::read(&file).unwrap()).unwrap();
    fs::rename(bench.path("spare/copy"), &file).unwrap();
    archiver.archive(name, path).await.unwrap_err();
    // Other settings may name other repositories.
    archiver.settings.replace(bench.settings());
    let (name, path) = &files[2];
    archiver.archive(name, path).await.unwrap_err();

    fs::remove_file(bench.path("store")).unwrap();
    fs::rename(bench.path("away"), bench.path("store")).unwrap();
    for (name, path) in &files[1..] {
        archiver.archive(name, path).await.unwrap();
    }
    let (name, path) = &half;
    assert!(matches!(
        archiver.archive(name, path).await,
        Err(NotArchived::NotWhole { .. })
    ));
}

#[tokio::test]
async fn what_can_not_be_stored_ahead_is_left_and_nothing_after_it_is_stored() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    // Of another cluster, and the first in order.
    let foreign = bench.segment(1, 3, Fill::Whole);
    let file = bench.data().join(&foreign.1);
    let mut content = fs::read(&file).unwrap();
    content[24] ^= 1;
    fs::write(&file, &content).unwrap();
    let good = bench.segment(1, 4, Fill::Whole);
    for (name, _) in [&foreign, &good] {
        mark(&bench, name);
    }
    ahead_until(&archiver, || {
        count(&archiver, |place| matches!(place, Place::Left)) == 1 && in_turn(&archiver) == 1
    })
    .await;
    let refused = archiver.archive(&foreign.0, &foreign.1).await.unwrap_err();
    assert!(refused.is_permanent(), "{refused}");
    assert!(!bench.segment_object(1, 4).exists());
    // Mended, and answered: its turn has come.
    content[24] ^= 1;
    fs::write(&file, &content).unwrap();
    let mended = async {
        archiver.archive(&foreign.0, &foreign.1).await.unwrap();
        done(&bench, &foreign.0);
        while remembered(&archiver) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = archiver.run_ahead() => {}
        mended = timeout(Duration::from_secs(60), mended) => mended.unwrap(),
    }
    assert!(bench.segment_object(1, 4).exists());
}

#[tokio::test]
async fn what_changes_before_its_turn_is_not_stored() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    let files: Vec<_> = (3..6).map(|n| bench.segment(1, n, Fill::Whole)).collect();
    for (name, _) in &files {
        mark(&bench, name);
    }
    // Somebody asks for the first and takes long.
    let (asking, none) = archiver.ahead.ask(files[0].0.parse().unwrap(), true).await;
    assert!(none.is_none());
    let work = async {
        archiver.ahead.wake();
        while in_turn(&archiver) < 2 {
            sleep(Duration::from_millis(5)).await;
        }
        done(&bench, &files[1].0);
        let file = bench.data().join(&files[2].1);
        fs::write(bench.path("spare/copy"), fs::read(&file).unwrap()).unwrap();
        fs::rename(bench.path("spare/copy"), &file).unwrap();
        done(&bench, &files[0].0);
        asking.done();
        while count(&archiver, Place::is_ahead) > 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = archiver.run_ahead() => {}
        worked = timeout(Duration::from_secs(60), work) => worked.unwrap(),
    }
    assert_eq!(remembered(&archiver), 0);
    for number in 3..6 {
        assert!(!bench.segment_object(1, number).exists(), "{number}");
    }
}

#[tokio::test]
async fn nothing_is_stored_for_a_server_that_does_not_ask() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    let (name, _) = bench.segment(1, 3, Fill::Whole);
    mark(&bench, &name);
    let left = archiver.archive_left_behind(name.parse().unwrap());
    left.await.unwrap();
    let other = bench.segment(1, 4, Fill::Whole);
    mark(&bench, &other.0);
    let _ = timeout(Duration::from_millis(300), archiver.run_ahead()).await;
    assert!(!bench.segment_object(1, 4).exists());
    ahead_until(&archiver, || bench.segment_object(1, 4).exists()).await;
}

#[tokio::test]
async fn what_waits_no_more_is_forgotten_and_what_is_dropped_waits_again() {
    let ahead = Ahead {
        patience: Duration::from_millis(1),
        ..Ahead::default()
    };
    let name = |n: u32| -> WalFileName {
        format!("{:024X}", (1u128 << 64) | u128::from(n))
            .parse()
            .unwrap()
    };
    let history: WalFileName = "00000002.history".parse().unwrap();
    let places = || -> Vec<String> {
        let places = ahead.places();
        let places = places.values();
        places
            .map(|(name, place)| {
                let name = name.to_string();
                let end = name
                    .strip_prefix("00000001000000000000000")
                    .unwrap_or(&name);
                format!("{end} {place:?}")
            })
            .collect()
    };
    ahead.wake();
    ahead.see(&[history, name(1), name(2)]);
    assert_eq!(
        places(),
        ["00000002.history Left", "1 Waiting", "2 Waiting"]
    );
    let first = ahead.begin().unwrap();
    let (second, _) = ahead.ask(name(2), true).await;
    assert!(ahead.begin().is_none());
    ahead.see(&[name(1), name(3)]);
    assert_eq!(
        places(),
        ["1 Ahead { wanted: false }", "2 Asked", "3 Waiting"]
    );
    drop(first);
    drop(second);
    assert_eq!(places(), ["1 Waiting", "2 Left", "3 Waiting"]);
    // Answered, and still marked.
    ahead.ask(name(2), true).await.0.done();
    ahead.see(&[name(1), name(2), name(3)]);
    assert_eq!(places(), ["1 Waiting", "2 Answered", "3 Waiting"]);
    ahead.see(&[name(1), name(3)]);
    assert_eq!(places(), ["1 Waiting", "3 Waiting"]);
    // Overtaken by one who asks, it is that one's.
    let first = ahead.begin().unwrap();
    let (asking, none) = ahead.ask(name(1), false).await;
    assert!(none.is_none());
    first.settle(Place::Left);
    drop(first);
    assert_eq!(places(), ["1 Asked", "3 Waiting"]);
    asking.done();
    ahead.see(&[]);
    assert!(places().is_empty());
}

/// An archiver with three segments marked, the first of them left to be asked for, and the two after it read and waiting for
/// their turn once this holds.
fn gated(bench: &Bench, lately: Duration) -> (Archiver, Vec<(String, String)>) {
    let mut archiver = archiver(bench);
    archiver.ahead.lately = lately;
    let mut files = vec![bench.segment(1, 3, Fill::Pages(3))];
    files.extend((4..6).map(|n| bench.segment(1, n, Fill::Whole)));
    for (name, _) in &files {
        mark(bench, name);
    }
    (archiver, files)
}

fn is_gated(archiver: &Archiver) -> bool {
    count(archiver, |place| matches!(place, Place::Left)) == 1 && in_turn(archiver) == 2
}

#[tokio::test]
async fn a_server_that_asks_no_more_is_left_alone() {
    let bench = Bench::new();
    let (archiver, _) = gated(&bench, Duration::from_secs(1));
    let gated = std::cell::Cell::new(false);
    ahead_until(&archiver, || {
        if !gated.get() {
            archiver.ahead.wake();
        }
        gated.set(gated.get() || is_gated(&archiver));
        gated.get() && archiver.ahead.places().is_empty()
    })
    .await;
    assert!(!bench.segment_object(1, 4).exists());
    // And nobody begins again by himself.
    let _ = timeout(Duration::from_millis(1500), archiver.run_ahead()).await;
    assert!(archiver.ahead.places().is_empty());
}

#[tokio::test]
async fn what_can_not_be_looked_at_opens_no_way() {
    let bench = Bench::new();
    let (archiver, _) = gated(&bench, LATELY);
    let folder = bench.data().join("pg_wal/archive_status");
    let away = bench.data().join("pg_wal/away");
    let (since, still) = (std::cell::Cell::new(None), std::cell::Cell::new(false));
    ahead_until(&archiver, || {
        if since.get().is_none() && is_gated(&archiver) {
            fs::rename(&folder, &away).unwrap();
            fs::write(&folder, "").unwrap();
            since.set(Some(Instant::now()));
        }
        still.set(is_gated(&archiver));
        // It is looked at every second.
        since
            .get()
            .is_some_and(|at| at.elapsed() > Duration::from_millis(1500))
    })
    .await;
    assert!(still.get());
}

#[tokio::test]
async fn who_asks_out_of_order_waits_for_nobody() {
    let bench = Bench::new();
    let (archiver, files) = gated(&bench, LATELY);
    let (name, path) = &files[2];
    archiver.ahead.wake();
    let asked = async {
        while !is_gated(&archiver) {
            sleep(Duration::from_millis(5)).await;
        }
        archiver.archive(name, path).await.unwrap();
    };
    tokio::select! {
        () = archiver.run_ahead() => {}
        asked = timeout(PATIENCE / 2, asked) => asked.unwrap(),
    }
    assert!(bench.segment_object(1, 5).exists());
    assert!(!bench.segment_object(1, 4).exists());
}

#[tokio::test]
async fn what_is_stored_elsewhere_opens_no_way() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    let files: Vec<_> = (3..5).map(|n| bench.segment(1, n, Fill::Whole)).collect();
    mark(&bench, &files[0].0);
    ahead_until(&archiver, || remembered(&archiver) == 1).await;
    archiver
        .settings
        .replace(bench.settings_with("shop/orders", "limits: {memory: 2Gi}"));
    mark(&bench, &files[1].0);
    ahead_until(&archiver, || in_turn(&archiver) == 1).await;
    assert_eq!(remembered(&archiver), 1);
}

#[tokio::test]
async fn a_mark_that_was_overlooked_holds_up_those_after_it() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    let files: Vec<_> = (3..5).map(|n| bench.segment(1, n, Fill::Whole)).collect();
    for (name, _) in &files {
        mark(&bench, name);
    }
    archiver.ahead.wake();
    archiver.ahead.see(&[files[1].0.parse().unwrap()]);
    let room = archiver.budget.spare(WalStore::PUT_MEMORY).unwrap();
    let begun = archiver.ahead.begin().unwrap();
    archiver.one_ahead(begun, room).await;
    assert!(!bench.segment_object(1, 4).exists());
    assert_eq!(count(&archiver, |place| matches!(place, Place::Left)), 1);
}

#[tokio::test]
async fn what_waits_for_its_turn_goes_nowhere_that_is_not_wanted_any_more() {
    let bench = Bench::new();
    let (archiver, files) = gated(&bench, LATELY);
    archiver.ahead.wake();
    let reloaded = async {
        while !is_gated(&archiver) {
            sleep(Duration::from_millis(5)).await;
        }
        archiver
            .settings
            .replace(bench.settings_with("shop/orders", "limits: {memory: 2Gi}"));
        // Mended, and answered.
        bench.segment(1, 3, Fill::Whole);
        let (name, path) = &files[0];
        archiver.archive(name, path).await.unwrap();
        while count(&archiver, |place| matches!(place, Place::Left)) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        () = archiver.run_ahead() => {}
        reloaded = timeout(Duration::from_secs(60), reloaded) => reloaded.unwrap(),
    }
    assert!(!bench.segment_object(1, 4).exists());
}

#[tokio::test]
async fn another_servers_call_opens_no_way() {
    let bench = Bench::new();
    let (archiver, files) = gated(&bench, LATELY);
    archiver.ahead.wake();
    let refused = async {
        while !is_gated(&archiver) {
            sleep(Duration::from_millis(5)).await;
        }
        let (name, _) = &files[1];
        let path = format!("/elsewhere/pg_wal/{name}");
        archiver.archive(name, &path).await.unwrap_err();
        sleep(Duration::from_millis(200)).await;
        assert!(is_gated(&archiver));
    };
    tokio::select! {
        () = archiver.run_ahead() => {}
        refused = timeout(Duration::from_secs(60), refused) => refused.unwrap(),
    }
    assert!(!bench.segment_object(1, 4).exists());
}
