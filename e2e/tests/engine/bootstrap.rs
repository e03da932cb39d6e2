//! `holdfast bootstrap`: before Postgres starts, an empty directory is restored, and nothing else is touched.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::restored::ensure_not_startable;
use holdfast_e2e::{Holdfast, Ledger, Output, Shutdown, Snapshot, Target, World};

const RECOVERY: &str =
    "bootstrap: {recovery: {repository: main, archive: shop/orders, target: {latest: {}}}}";

async fn bootstrap(world: &World, holdfast: &Holdfast, index: &str) -> Result<Output> {
    let mut command = holdfast.command(&["bootstrap"])?;
    command.env("HOLDFAST_POD_INDEX", index);
    command.env("HOLDFAST_WAL_DIRECTORY", world.path("rebuilt/wal"));
    world.run(command).await
}

/// All that is stored, but for the marker that a killed reader leaves for a while.
async fn kept(source: &Holdfast) -> Result<BTreeMap<String, (u64, String)>> {
    let mut all = source.objects()?.list().await?;
    all.retain(|key, _| !key.contains("/markers/"));
    Ok(all)
}

#[tokio::test]
async fn an_empty_directory_is_restored_once() -> Result<()> {
    World::scenario("bootstrap", async |world| {
        let (mut primary, source, sidecar) = world.archiving(18).await?;
        let mut ledger = Ledger::create(&primary).await?;
        primary.pgbench(&["-i", "-s", "6", "-q"]).await?;
        let backup = source.backup().await?;
        ledger.write(&primary, 30).await?;
        primary.archive_all().await?;
        ledger.read_wal(&primary).await?;
        primary.stop(Shutdown::Fast).await?;
        sidecar.stop().await?;
        let stored = kept(&source).await?;

        world.make_dir("rebuilt")?;
        // As in the official image: on a new volume the directory above is missing, too.
        let dir = world.path("rebuilt/18/docker");
        let mut copy = world.postgres_on("rebuilt", 18, &dir)?;
        let settings = source.also_for(&copy).archive("rebuilt/orders");
        let plain = settings.clone().instance("plain").build()?;
        let holdfast = settings.line(RECOVERY).build()?;
        let nothing = Snapshot::of(&world.path("rebuilt"))?;
        let alone = bootstrap(world, &holdfast, "0").await?.expect_code(2)?;
        ensure!(
            alone.stderr.contains("no sidecar serves"),
            "{}",
            alone.stderr
        );
        let sidecar = holdfast.sidecar().await?;

        // Not asked to, not the first pod, and where nothing can be told: nothing is made.
        for (settings, index, says) in [
            (&plain, "0", "is empty"),
            (&holdfast, "1", "only the pod with the number 0 is restored"),
        ] {
            let left = bootstrap(world, settings, index).await?.success()?;
            ensure!(left.stdout.contains(says), "{}", left.stdout);
        }
        let number = bootstrap(world, &holdfast, "first").await?.expect_code(3)?;
        ensure!(
            number.stderr.contains("HOLDFAST_POD_INDEX"),
            "{}",
            number.stderr
        );
        let folder = source.folder().context("a folder")?;
        let away = folder.with_extension("away");
        std::fs::rename(folder, &away)?;
        let untold = bootstrap(world, &holdfast, "0").await?;
        ensure!(untold.code != 0, "{}", untold.stdout);
        std::fs::rename(&away, folder)?;
        nothing.ensure_unchanged()?;

        // Killed in the middle it can't be started; without the order it is refused, and with it begun anew.
        let bytes = backup["size"]["database"].as_u64().context("size")?;
        let mut held = world
            .held_writer(&holdfast, &dir, &["bootstrap"], bytes / 3)
            .await?;
        held.kill9().await?;
        ensure_not_startable(world, 18, &dir).await?;
        let refused = bootstrap(world, &plain, "0").await?.expect_code(3)?;
        ensure!(
            refused.stderr.contains("has begun and not ended"),
            "{}",
            refused.stderr
        );
        let restored = bootstrap(world, &holdfast, "0").await?.success()?;
        ensure!(restored.stdout.contains("restored "), "{}", restored.stdout);
        let wal = std::fs::read_link(dir.join("pg_wal"))?;
        ensure!(wal == world.path("rebuilt/wal"), "{}", wal.display());
        world.verify_backup(&dir, 18).await?;
        let whole = Snapshot::of(&dir)?;
        let again = bootstrap(world, &holdfast, "0").await?.success()?;
        ensure!(
            again.stdout.contains("is a data directory of Postgres 18"),
            "{}",
            again.stdout
        );
        whole.ensure_unchanged()?;
        ensure!(kept(&source).await? == stored, "{stored:#?}");

        // It recovers through the sidecar, and goes on in an archive of its own.
        copy.option("archive_mode", "on");
        copy.option("archive_command", &holdfast.archive_command()?);
        copy.start().await?;
        copy.wait_promoted().await?;
        Ledger::compare(&copy, &ledger.expected(1, &Target::Latest, false)?).await?;
        copy.archive_all().await?;
        ensure!(copy.timeline().await? == 2);
        let own = holdfast.objects()?.keys("/wal/00000002/").await?;
        ensure!(!own.is_empty(), "nothing was archived");
        holdfast.backup().await?;
        let theirs = source.objects()?.keys("/wal/00000002/").await?;
        ensure!(theirs.is_empty(), "{theirs:?}");

        // A volume that was lost since is not restored: what came after it would be missing.
        copy.stop(Shutdown::Fast).await?;
        std::fs::remove_dir_all(&dir)?;
        let late = bootstrap(world, &holdfast, "0").await?.success()?;
        ensure!(
            late.stdout
                .contains("restores only before anything was archived"),
            "{}",
            late.stdout
        );
        ensure!(!dir.exists());
        sidecar.stop().await
    })
    .await
}

async fn refuse(world: &World, holdfast: &Holdfast, says: &[&str]) -> Result<()> {
    let refused = bootstrap(world, holdfast, "").await?.expect_code(3)?;
    ensure!(
        says.iter().all(|words| refused.stderr.contains(words)),
        "{says:?}: {}",
        refused.stderr
    );
    ensure!(refused.stderr.lines().count() == 1, "{}", refused.stderr);
    Ok(())
}

#[tokio::test]
async fn a_moment_that_cant_be_reached_leaves_it_empty() -> Result<()> {
    World::scenario("bootstrap-refused", async |world| {
        let (mut primary, source, sidecar) = world.archiving(17).await?;
        source.backup().await?;
        primary.stop(Shutdown::Fast).await?;
        sidecar.stop().await?;
        world.make_dir("rebuilt")?;
        let dir = world.path("rebuilt/data");
        let copy = world.postgres_on("rebuilt", 17, &dir)?;
        let nothing = Snapshot::of(&world.path("rebuilt"))?;
        let reader = source.also_for(&copy).archive("rebuilt/orders").build()?;
        let sidecar = reader.sidecar().await?;
        for (recovery, says) in [
            (
                RECOVERY.replace("{latest: {}}", "{time: '2020-01-01T00:00:00Z'}"),
                "2020-01-01",
            ),
            (RECOVERY.replace("{latest: {}}", "{name: never}"), "never"),
            (
                RECOVERY.replace("{latest: {}}", "{latest: {}, timeline: '9'}"),
                "timeline 9",
            ),
            (
                RECOVERY.replace("shop/orders", "shop/nothing"),
                "shop/nothing",
            ),
        ] {
            let settings = source.also_for(&copy).archive("rebuilt/orders");
            refuse(
                world,
                &settings.line(&recovery).build()?,
                &["not restored", says],
            )
            .await?;
        }
        // A database that starts empty where one was to be restored would be the worst of it.
        let itself = source.also_for(&copy).line(RECOVERY).build()?;
        refuse(world, &itself, &["names this Archive itself"]).await?;
        sidecar.stop().await?;
        nothing.ensure_unchanged()
    })
    .await
}
