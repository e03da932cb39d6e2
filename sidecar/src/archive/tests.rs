use super::*;
use crate::origin::ORIGIN_FILE;
use crate::wal_bench::{Bench, IN_PRODUCTION, IN_RECOVERY, SYSTEM};
use holdfast_postgres::{Lsn, SystemIdentifier};
use holdfast_repository::PutError;
use holdfast_repository::wal::sample::{self, Fill};
use std::fs;

const SHUT_DOWN: u32 = 1;
const SHUTTING_DOWN: u32 = 3;

fn archiver(bench: &Bench) -> Archiver {
    Archiver {
        patience: Duration::ZERO,
        ..Archiver::new(bench.settings())
    }
}

async fn archive(
    archiver: &Archiver,
    (name, path): (String, String),
) -> Result<String, NotArchived> {
    archiver.archive(&name, &path).await
}

#[tokio::test]
async fn what_is_acknowledged_is_stored() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    archive(&archiver, bench.segment(1, 3, Fill::Whole))
        .await
        .unwrap();
    assert!(bench.segment_object(1, 3).exists());
    archive(&archiver, bench.segment(1, 3, Fill::Whole))
        .await
        .unwrap();
    let progress = archiver.progress();
    assert_eq!((progress.archived, progress.failed), (2, 0));
    assert_eq!(
        progress.last_archived.unwrap().0,
        bench.name(1, 3).to_string()
    );
}

#[tokio::test]
async fn names_and_paths_that_are_none_are_refused() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    let (name, path) = bench.segment(1, 3, Fill::Whole);
    for (name, path) in [
        ("../passwd", "pg_wal/../passwd"),
        ("", ""),
        (&*format!("pg_wal/{name}"), &*path),
        (&*name, "/etc/passwd"),
        (&*name, "pg_wal/000000010000000000000004"),
        (&*name, &*name),
    ] {
        let error = archiver.archive(name, path).await.unwrap_err();
        assert!(error.is_permanent(), "{error}");
    }
    assert!(!bench.path("store/shop").exists());
    assert!(archiver.progress().last_failure.is_some());
}

#[tokio::test]
async fn another_databases_wal_is_refused() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    archive(&archiver, bench.segment(1, 3, Fill::Whole))
        .await
        .unwrap();
    // A segment of another cluster in our pg_wal.
    let foreign = sample::Cluster {
        system: SystemIdentifier(5),
        ..bench.cluster
    };
    let (name, path) = bench.segment(1, 4, Fill::Whole);
    fs::write(
        bench.data().join(&path),
        sample::segment(foreign, bench.name(1, 4), Fill::Whole, 0),
    )
    .unwrap();
    assert!(matches!(
        archiver.archive(&name, &path).await,
        Err(NotArchived::Put(PutError::Foreign { .. }))
    ));
    // Another cluster in our data directory.
    fs::write(
        bench.data().join("global/pg_control"),
        sample::control_file(foreign, TimelineId(1), IN_PRODUCTION),
    )
    .unwrap();
    let error = archiver.archive(&name, &path).await.unwrap_err();
    assert!(
        error.to_string().contains("acceptSystemIdentifier"),
        "{error}"
    );
    assert!(!bench.path("store/shop/orders/5").exists());
}

#[tokio::test]
async fn a_copy_does_not_archive_into_its_source() {
    let bench = Bench::new();
    archive(&archiver(&bench), bench.segment(1, 3, Fill::Whole))
        .await
        .unwrap();
    let opened = open::open(
        &bench.settings(),
        &bench.settings().repositories[0],
        Create::Never,
    )
    .await
    .unwrap();
    bench.is_copy_of(opened.id());
    let refused = archive(&archiver(&bench), bench.segment(1, 4, Fill::Whole)).await;
    assert!(
        matches!(refused, Err(NotArchived::Copy { .. })),
        "{refused:?}"
    );
    assert!(!bench.segment_object(1, 4).exists());
    let other = Archiver::new(bench.settings_with("shop/copy", ""));
    archive(&other, bench.segment(1, 4, Fill::Whole))
        .await
        .unwrap();
    fs::write(bench.data().join(ORIGIN_FILE), "{").unwrap();
    assert!(matches!(
        archive(&other, bench.segment(1, 5, Fill::Whole)).await,
        Err(NotArchived::Origin(_))
    ));
}

#[tokio::test]
async fn a_timeline_is_known_by_its_history() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    bench.control(2, IN_PRODUCTION);
    let missing = archive(&archiver, bench.segment(2, 4, Fill::Whole)).await;
    assert!(
        matches!(&missing, Err(NotArchived::NoHistory { .. })),
        "{missing:?}"
    );
    assert!(!bench.segment_object(2, 4).exists());
    let history = bench.history(2, "1\t0/380000\tno recovery target specified\n");
    archive(&archiver, bench.segment(2, 4, Fill::Whole))
        .await
        .unwrap();
    assert!(bench.object(&format!("wal/history/{history}")).exists());
    // Postgres asks for the history file too.
    archiver
        .archive(&history, &format!("pg_wal/{history}"))
        .await
        .unwrap();
    bench.history(2, "1\t0/390000\tno recovery target specified\n");
    for archiver in [archiver, super::tests::archiver(&bench)] {
        let diverged = archive(&archiver, bench.segment(2, 5, Fill::Whole))
            .await
            .unwrap_err();
        assert!(
            matches!(&diverged, NotArchived::Diverged { ours, stored, .. } if ours != stored),
            "{diverged}"
        );
        assert!(
            archiver
                .archive(&history, &format!("pg_wal/{history}"))
                .await
                .is_err()
        );
        // The parent's is not concerned.
        archive(&archiver, bench.segment(1, 3, Fill::Whole))
            .await
            .unwrap();
    }
    assert!(!bench.segment_object(2, 5).exists());
}

#[tokio::test]
async fn a_half_filled_segment_is_fine_where_a_switch_left_it_and_a_loss_where_it_was_written() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    let lost = archive(&archiver, bench.segment(1, 3, Fill::Pages(50))).await;
    assert!(
        matches!(&lost, Err(NotArchived::NotWhole { .. })),
        "{lost:?}"
    );
    // Also while the server that wrote it stops.
    for state in [SHUTTING_DOWN, SHUT_DOWN] {
        bench.control(1, state);
        let lost = archive(&archiver, bench.segment(1, 3, Fill::Pages(50))).await;
        assert!(
            matches!(&lost, Err(NotArchived::NotWhole { .. })),
            "{lost:?}"
        );
    }
    bench.control(1, IN_RECOVERY);
    let told = archive(&archiver, bench.segment(1, 3, Fill::Pages(50)))
        .await
        .unwrap();
    assert!(told.starts_with("kept aside"), "{told}");
    bench.control(2, IN_PRODUCTION);
    archive(&archiver, bench.segment(1, 3, Fill::Pages(50)))
        .await
        .unwrap();
    assert!(!bench.segment_object(1, 3).exists());
    archive(&archiver, bench.segment(1, 3, Fill::Whole))
        .await
        .unwrap();
    assert!(
        archive(&archiver, bench.segment(1, 3, Fill::Pages(50)))
            .await
            .unwrap()
            .contains("beginning")
    );
}

#[tokio::test]
async fn every_required_repository_must_hold_it() {
    let bench = Bench::new();
    let more = |mode: &str| {
        format!(
            "- name: spare\n  mode: {mode}\n  filesystem: {{path: {}}}\n",
            bench.path("spare").display()
        )
    };
    let (required, best_effort) = (
        bench.settings_with("shop/orders", &more("Required")),
        bench.settings_with("shop/orders", &more("BestEffort")),
    );
    let archiver = |settings: &Arc<Settings>| Archiver {
        patience: Duration::ZERO,
        ..Archiver::new(settings.clone())
    };
    archive(&archiver(&required), bench.segment(1, 3, Fill::Whole))
        .await
        .unwrap();
    assert!(
        bench
            .path(&format!("spare/shop/orders/{SYSTEM}/wal/00000001/00000000"))
            .join(bench.name(1, 3).to_string())
            .exists()
    );
    fs::remove_dir_all(bench.path("spare")).unwrap();
    let (required, best_effort) = (archiver(&required), archiver(&best_effort));
    assert!(
        archive(&required, bench.segment(1, 4, Fill::Whole))
            .await
            .is_err()
    );
    archive(&best_effort, bench.segment(1, 4, Fill::Whole))
        .await
        .unwrap();
    fs::create_dir(bench.path("spare")).unwrap();
    archive(&required, bench.segment(1, 4, Fill::Whole))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_store_that_is_away_at_the_start_may_come_later() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    fs::rename(bench.path("store"), bench.path("away")).unwrap();
    assert!(
        archive(&archiver, bench.segment(1, 3, Fill::Whole))
            .await
            .is_err()
    );
    fs::rename(bench.path("away"), bench.path("store")).unwrap();
    archive(&archiver, bench.segment(1, 3, Fill::Whole))
        .await
        .unwrap();
    // And one that was emptied under us is not the archive any more.
    fs::remove_dir_all(bench.path("store/shop")).unwrap();
    let gone = archive(&archiver, bench.segment(1, 4, Fill::Whole)).await;
    assert!(gone.is_err(), "{gone:?}");
}

#[tokio::test]
async fn trouble_that_passes_is_waited_for() {
    let bench = Bench::new();
    let archiver = Archiver {
        patience: Duration::from_secs(60),
        ..Archiver::new(bench.settings())
    };
    let control = bench.data().join("global/pg_control");
    let good = fs::read(&control).unwrap();
    let mut half_written = good.clone();
    half_written[100] ^= 1;
    fs::write(&control, half_written).unwrap();
    let segment = bench.segment(1, 3, Fill::Whole);
    let name = segment.0.clone();
    let (archived, ()) = futures::join!(archive(&archiver, segment), async {
        // Told at once, though nothing has been answered yet.
        while archiver.progress().last_failure.is_none() {
            sleep(Duration::from_millis(1)).await;
        }
        let progress = archiver.progress();
        assert_eq!(
            (progress.failed, progress.last_failure.unwrap().0),
            (0, name)
        );
        fs::write(&control, &good).unwrap();
    });
    archived.unwrap();
    assert_eq!(archiver.progress().last_failure, None);
}

#[tokio::test]
async fn a_server_that_stops_is_not_held_up_by_a_store_that_is_away() {
    let bench = Bench::new();
    let archiver = Archiver::new(bench.settings());
    let (shut_down, shutting_down) = (1, 3);
    for (state, patience) in [
        (IN_PRODUCTION, PATIENCE),
        (IN_RECOVERY, PATIENCE),
        (shut_down, PATIENCE_AT_THE_END),
        (shutting_down, PATIENCE_AT_THE_END),
    ] {
        bench.control(1, state);
        assert_eq!(archiver.patience_now().await, patience, "{state}");
    }
}

#[tokio::test]
async fn no_other_archive_takes_the_place_of_one_that_was_there() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    archive(&archiver, bench.segment(1, 3, Fill::Whole))
        .await
        .unwrap();
    fs::rename(bench.path("store"), bench.path("mounted")).unwrap();
    fs::create_dir(bench.path("store")).unwrap();
    // The first finds it out, those after it must not make it good.
    for _ in 0..3 {
        archive(&archiver, bench.segment(1, 4, Fill::Whole))
            .await
            .unwrap_err();
    }
    let again = archive(&archiver, bench.segment(1, 4, Fill::Whole)).await;
    assert!(matches!(&again, Err(NotArchived::Replaced(_))), "{again:?}");
    assert!(!bench.path("store/shop/orders/archive.json").exists());
    // Another's.
    archive(
        &super::tests::archiver(&bench),
        bench.segment(1, 5, Fill::Whole),
    )
    .await
    .unwrap();
    let others = archive(&archiver, bench.segment(1, 4, Fill::Whole)).await;
    assert!(
        matches!(&others, Err(NotArchived::Replaced(_))),
        "{others:?}"
    );
    fs::remove_dir_all(bench.path("store")).unwrap();
    fs::rename(bench.path("mounted"), bench.path("store")).unwrap();
    archive(&archiver, bench.segment(1, 4, Fill::Whole))
        .await
        .unwrap();
}

/// What a standby that is promoted makes of the segment that it was receiving.
#[tokio::test]
async fn the_end_of_a_timeline_that_was_left_is_a_part_of_it() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    let name = format!("{}.partial", bench.name(1, 5));
    let path = format!("pg_wal/{name}");
    let begun = bench.content(1, 5, Fill::Pages(3));
    fs::write(bench.data().join(&path), &begun).unwrap();
    let answer = archiver.archive(&name, &path).await.unwrap();
    assert!(answer.contains("aside"), "{answer}");
    assert!(!bench.segment_object(1, 5).exists());
    let settings = bench.settings();
    let control = data_directory::control_file(&bench.data()).unwrap();
    let opened = archiver
        .opened(&settings, &settings.repositories[0], &control)
        .await
        .unwrap();
    let part = opened.wal.part(bench.name(1, 5)).await.unwrap().unwrap();
    let start = bench.name(1, 5).number(bench.cluster.segment_size).unwrap();
    let start = start.start(bench.cluster.segment_size);
    assert_eq!(part.end().0 - start.0, 3 * 8192);
}

#[tokio::test]
async fn what_is_being_written_is_stored_as_far_as_it_is_flushed() {
    let bench = Bench::new();
    let archiver = archiver(&bench);
    let settings = bench.settings();
    let size = bench.cluster.segment_size;
    let number = bench.name(1, 5).number(size).unwrap();
    let start = number.start(size);
    let mut writers = Writers::new(TimelineId(1), size);
    let now = Timestamp::now();
    let at = |pages: u64| Lsn(start.0 + pages * 8192);
    let stored = async || {
        let control = data_directory::control_file(&bench.data()).unwrap();
        let opened = archiver
            .opened(&settings, &settings.repositories[0], &control)
            .await
            .unwrap();
        opened
            .wal
            .part(bench.name(1, 5))
            .await
            .unwrap()
            .map(|part| part.end())
    };
    bench.segment(1, 5, Fill::Pages(3));
    // Behind a segment that is not stored a part would say that WAL goes on after a hole.
    let waits = archiver
        .store_written(&settings, &mut writers, at(3), now)
        .await;
    assert_eq!(waits.unwrap(), Stored::Waits(Some(bench.name(1, 4))));
    assert_eq!((stored().await, archiver.progress().written), (None, None));
    archive(&archiver, bench.segment(1, 4, Fill::Whole))
        .await
        .unwrap();
    for pages in [3, 7] {
        bench.segment(1, 5, Fill::Pages(pages as usize));
        archiver
            .store_written(&settings, &mut writers, at(pages), now)
            .await
            .unwrap();
        assert_eq!(stored().await, Some(at(pages)));
        let written = archiver.progress().written.unwrap();
        assert_eq!(
            (written.start, written.end, written.as_of),
            (start, at(pages), now)
        );
    }
    // Nothing new: only the time goes on.
    let later = Timestamp::from_second(now.as_second() + 9).unwrap();
    archiver
        .store_written(&settings, &mut writers, at(7), later)
        .await
        .unwrap();
    assert_eq!(archiver.progress().written.unwrap().as_of, later);
    // The store is away, and back with more to store.
    fs::rename(bench.path("store"), bench.path("away")).unwrap();
    fs::write(bench.path("store"), "in the way").unwrap();
    bench.segment(1, 5, Fill::Pages(20));
    archiver
        .store_written(&settings, &mut writers, at(20), now)
        .await
        .unwrap_err();
    assert_eq!(archiver.progress().written.unwrap().stored, at(7));
    fs::remove_file(bench.path("store")).unwrap();
    fs::rename(bench.path("away"), bench.path("store")).unwrap();
    archiver
        .store_written(&settings, &mut writers, at(20), now)
        .await
        .unwrap();
    assert_eq!(stored().await, Some(at(20)));
    // What is whole is the archive_command's.
    let whole = number.end(size);
    archiver
        .store_written(&settings, &mut writers, whole, now)
        .await
        .unwrap();
    assert_eq!(archiver.progress().written.unwrap().stored, at(20));
    // A timeline that cannot be told for the archived one is refused, as with whole segments.
    bench.segment(2, 6, Fill::Pages(3));
    let mut writers = Writers::new(TimelineId(2), size);
    let other = Lsn(number.end(size).0 + 8192);
    let error = archiver
        .store_written(&settings, &mut writers, other, now)
        .await
        .unwrap_err();
    assert!(matches!(error, NotArchived::NoHistory { .. }), "{error}");
}
