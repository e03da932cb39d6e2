//! `wal.streaming.synchronous`: a commit that is acknowledged is in object storage.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_e2e::holdfast::Builder;
use holdfast_e2e::ledger::Outcome;
use holdfast_e2e::{Holdfast, Ledger, Minio, Postgres, Shutdown, Sidecar, World, eventually};
use tokio::time::timeout;

use crate::sidecar::report;

const LINE: &str = "wal: {streaming: {synchronous: true}}";
/// What was made while commits waited: each has a name of its own.
static HELD: AtomicU32 = AtomicU32::new(0);
/// What waits for ever waits for so long; what does not, is done by then on the busiest machine.
const LONG: Duration = Duration::from_secs(5);

/// A server whose commits wait until they are stored in a folder, with one backup.
async fn waiting(world: &World, major: u32) -> Result<(Postgres, Holdfast, Sidecar, Ledger)> {
    waiting_for(world, major, |settings| settings.filesystem("backups")).await
}

/// The same for another store.
pub async fn waiting_for(
    world: &World,
    major: u32,
    store: impl FnOnce(Builder) -> Result<Builder>,
) -> Result<(Postgres, Holdfast, Sidecar, Ledger)> {
    let primary = world
        .postgres("primary", major)
        .segment_mib(1)
        .create()
        .await?;
    let settings = store(world.holdfast("shop/orders", &primary))?;
    let holdfast = settings.line(LINE).build()?;
    let sidecar = holdfast.sidecar().await?;
    primary.archive_with(&holdfast).await?;
    let ledger = Ledger::create(&primary).await?;
    holdfast.backup().await?;
    primary.wait_for_sidecar().await?;
    Ok((primary, holdfast, sidecar, ledger))
}

/// A commit waits, and is told why.
pub async fn is_held(
    world: &World,
    primary: &Postgres,
    holdfast: &Holdfast,
    words: &[&str],
) -> Result<()> {
    // Whoever waits holds its locks.
    let table = format!("held_{}", HELD.fetch_add(1, Ordering::Relaxed));
    let create = format!("CREATE TABLE {table} (n int)");
    let held = timeout(LONG, primary.execute(&create)).await;
    ensure!(held.is_err(), "it was acknowledged: {words:?}");
    eventually(&format!("{words:?} is told"), async || {
        let report = report(world, holdfast).await?;
        let streaming = &report["wal"]["streaming"];
        let why = streaming["trouble"].as_str().unwrap_or_default();
        let is_told = words.iter().all(|word| why.contains(word));
        ensure!(streaming["active"] == false && is_told, "{report:#}");
        Ok(())
    })
    .await
}

/// The rows of transactions that their clients know to be committed.
pub fn acknowledged(ledger: &Ledger) -> BTreeSet<i64> {
    let is_known =
        |outcome: &Outcome| matches!(outcome, Outcome::Committed { .. } | Outcome::Acknowledged);
    let all = ledger.transactions().into_iter();
    all.filter(|transaction| is_known(&transaction.outcome))
        .flat_map(|transaction| transaction.rows)
        .collect()
}

/// Of the ledger.
pub async fn rows(on: &Postgres) -> Result<BTreeSet<i64>> {
    let rows = on
        .value("SELECT coalesce(string_agg(id::text, ','), '') FROM ledger")
        .await?;
    let rows = rows.split(',').filter(|id| !id.is_empty());
    Ok(rows.map(str::parse).collect::<Result<_, _>>()?)
}

async fn restored_has_what_was_acknowledged(
    world: &World,
    major: u32,
    holdfast: &Holdfast,
    ledger: &Ledger,
) -> Result<()> {
    let restored = world.restored("restored", major, holdfast, &[], &[]);
    has_what_was_acknowledged(restored.await?.postgres, ledger).await
}

/// All that was acknowledged is there after a recovery, and nothing that nobody wrote.
pub async fn has_what_was_acknowledged(mut restored: Postgres, ledger: &Ledger) -> Result<()> {
    restored.start().await?;
    restored.wait_promoted().await?;
    let found = rows(&restored).await?;
    let (known, all) = (acknowledged(ledger), ledger.transactions());
    let lost: Vec<_> = known.difference(&found).collect();
    ensure!(
        lost.is_empty(),
        "{} of {} acknowledged rows are lost: {lost:?}",
        lost.len(),
        known.len()
    );
    let written: BTreeSet<i64> = all.into_iter().flat_map(|one| one.rows).collect();
    ensure!(found.is_subset(&written), "rows that nobody wrote");
    Ok(())
}

/// Under load, at any moment, Postgres and the sidecar are killed and the volume is gone.
async fn killed(major: u32) -> Result<()> {
    World::scenario(&format!("acknowledged-{major}"), async |world| {
        let (mut primary, holdfast, sidecar, ledger) = waiting(world, major).await?;
        let load = ledger.start(&primary, 4).await?;
        // Over the ends of segments, too.
        for closed in 1..=4 {
            eventually("commits are acknowledged", async || {
                let known = acknowledged(&ledger).len();
                ensure!(known > closed * 80, "{known} rows");
                Ok(())
            })
            .await?;
            primary.execute("SELECT pg_switch_wal()").await?;
        }
        eventually("commits are acknowledged", async || {
            let known = acknowledged(&ledger).len();
            ensure!(known > 400, "{known} rows");
            Ok(())
        })
        .await?;
        // In this order: it could store yet what the server had acknowledged too early.
        sidecar.kill9().await?;
        primary.kill9().await?;
        std::fs::remove_dir_all(primary.dir())?;
        load.stop().await?;
        restored_has_what_was_acknowledged(world, major, &holdfast, &ledger).await
    })
    .await
}

#[tokio::test]
async fn what_is_acknowledged_outlives_its_server_14() -> Result<()> {
    killed(14).await
}

#[tokio::test]
async fn what_is_acknowledged_outlives_its_server_15() -> Result<()> {
    killed(15).await
}

#[tokio::test]
async fn what_is_acknowledged_outlives_its_server_16() -> Result<()> {
    killed(16).await
}

#[tokio::test]
async fn what_is_acknowledged_outlives_its_server_17() -> Result<()> {
    killed(17).await
}

#[tokio::test]
async fn what_is_acknowledged_outlives_its_server_18() -> Result<()> {
    killed(18).await
}

/// While the store hangs nothing is acknowledged, that is told, and a server that is shut down ends all the same.
#[tokio::test]
async fn a_store_that_hangs_holds_up_commits_and_no_shutdown() -> Result<()> {
    World::scenario("hangs", async |world| {
        let mut minio = Minio::start(world).await?;
        let bucket = minio.bucket("backups")?;
        let (mut primary, holdfast, sidecar, ledger) =
            waiting_for(world, 17, |settings| Ok(settings.s3(&bucket))).await?;
        ledger.write(&primary, 20).await?;
        let check = holdfast.run(&["check"]).await?;
        ensure!(
            check.stdout.contains("ok       synchronous_standby_names"),
            "{}",
            check.stdout
        );

        minio.daemon()?.pause()?;
        is_held(world, &primary, &holdfast, &["has not answered"]).await?;
        primary.stop(Shutdown::Fast).await?;
        // Its archiver has not asked again and again.
        let tail = primary.tail();
        let failed = tail.matches("archive command failed").count();
        ensure!(failed <= 1, "{tail}");
        minio.daemon()?.resume()?;

        primary.start().await?;
        ledger.write(&primary, 20).await?;
        ensure!(rows(&primary).await?.is_superset(&acknowledged(&ledger)));
        primary.kill9().await?;
        sidecar.kill9().await?;
        std::fs::remove_dir_all(primary.dir())?;
        restored_has_what_was_acknowledged(world, 17, &holdfast, &ledger).await
    })
    .await
}

/// Without a backup nothing can be recovered, however much is stored.
#[tokio::test]
async fn before_the_first_backup_commits_wait() -> Result<()> {
    World::scenario("first", async |world| {
        let primary = world
            .postgres("primary", 17)
            .segment_mib(1)
            .create()
            .await?;
        let ledger = Ledger::create(&primary).await?;
        let holdfast = world
            .holdfast("shop/orders", &primary)
            .filesystem("backups")?
            .line(LINE)
            .build()?;
        let sidecar = holdfast.sidecar().await?;
        primary.archive_with(&holdfast).await?;
        primary
            .configure(&[("synchronous_standby_names", "holdfast")])
            .await?;
        primary.execute("SELECT pg_switch_wal()").await?;
        is_held(world, &primary, &holdfast, &["no complete backup"]).await?;
        holdfast.backup().await?;
        ledger.write(&primary, 10).await?;
        sidecar.stop().await
    })
    .await
}

/// A segment that another history has stored under the same name says nothing of this server's.
#[tokio::test]
async fn a_server_that_was_set_back_is_told_nothing() -> Result<()> {
    World::scenario("set-back", async |world| {
        let (mut primary, holdfast, sidecar, ledger) = waiting(world, 17).await?;
        primary.stop(Shutdown::Fast).await?;
        let (data, before) = (primary.dir().to_owned(), world.path("before"));
        let mut copy = world.command("cp");
        copy.arg("-a").arg(&data).arg(&before);
        world.run(copy).await?.success()?;
        primary.start().await?;
        for _ in 0..3 {
            ledger.write(&primary, 5).await?;
            primary.execute("SELECT pg_switch_wal()").await?;
        }
        primary.archive_all().await?;
        primary.stop(Shutdown::Fast).await?;
        std::fs::remove_dir_all(&data)?;
        std::fs::rename(&before, &data)?;
        primary.start().await?;
        is_held(world, &primary, &holdfast, &["set back"]).await?;
        // Now the segment is closed, and one of its name is stored.
        primary.execute("SELECT pg_switch_wal()").await?;
        is_held(world, &primary, &holdfast, &["set back"]).await?;
        sidecar.kill9().await
    })
    .await
}

/// Whose standby was promoted without it is not on the line that is restored.
#[tokio::test]
async fn a_primary_that_was_replaced_is_told_nothing() -> Result<()> {
    World::scenario("replaced", async |world| {
        let (primary, holdfast, sidecar, ledger) = waiting(world, 17).await?;
        let mut standby = primary.standby("standby").await?;
        let second = holdfast.also_for(&standby).build()?;
        let second_sidecar = second.sidecar().await?;
        standby.archive_with(&second).await?;
        standby
            .configure(&[("synchronous_standby_names", "")])
            .await?;
        ledger.write(&primary, 5).await?;
        standby.promote().await?;
        standby.execute("CREATE TABLE taken_over (n int)").await?;
        standby.archive_all().await?;
        // It looks at each segment's beginning.
        primary
            .execute("SET synchronous_commit = local; CREATE TABLE late (n int); SELECT pg_switch_wal(); CREATE TABLE later (n int)")
            .await?;
        is_held(world, &primary, &holdfast, &["timeline 2", "promoted"]).await?;
        // A new session begins with a segment whose beginning is archived.
        primary
            .execute("SET synchronous_commit = local; SELECT pg_switch_wal(); CREATE TABLE latest (n int)")
            .await?;
        sidecar.kill9().await?;
        let sidecar = holdfast.sidecar().await?;
        is_held(world, &primary, &holdfast, &["timeline 2", "promoted"]).await?;
        second_sidecar.stop().await?;
        sidecar.kill9().await
    })
    .await
}

/// What can't be reached from the newest backup is not safe, though it is stored: commits wait for a new one.
#[tokio::test]
async fn a_hole_since_the_newest_backup_holds_commits_until_there_is_a_new_one() -> Result<()> {
    World::scenario("hole", async |world| {
        let (primary, holdfast, sidecar, ledger) = waiting(world, 17).await?;
        let objects = holdfast.objects()?;
        ledger.write(&primary, 10).await?;
        let lost = primary
            .value("SELECT pg_walfile_name(pg_switch_wal())")
            .await?;
        ledger.write(&primary, 10).await?;
        primary.execute("SELECT pg_switch_wal()").await?;
        ledger.write(&primary, 10).await?;
        primary.archive_all().await?;
        for of_it in objects.keys(&format!("/{lost}")).await? {
            objects.take(&of_it).await?;
        }
        // It looks once for each session.
        sidecar.kill9().await?;
        let sidecar = holdfast.sidecar().await?;
        is_held(world, &primary, &holdfast, &[&lost, "backup"]).await?;
        holdfast.backup().await?;
        ledger.write(&primary, 10).await?;
        sidecar.stop().await
    })
    .await
}
