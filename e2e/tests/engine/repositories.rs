//! An archive in several repositories: some that every acknowledgement waits for, and some that get it later.

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Bucket, Holdfast, Ledger, Minio, Postgres, Sidecar, World, eventually};

use crate::sidecar::report;
use crate::synchronous::{acknowledged, has_what_was_acknowledged, is_held};

/// A line of the settings: one more repository, in a bucket.
fn also(world: &World, mode: &str, bucket: &Bucket) -> String {
    format!(
        "- name: other\n  mode: {mode}\n  s3: {{bucket: {}, prefix: prod, region: us-east-1, endpoint: \"{}\"}}\n  credentials: {{accessKeyIdFile: \"{}\", secretAccessKeyFile: \"{}\"}}",
        bucket.name,
        bucket.endpoint,
        world.path("home/access-key").display(),
        world.path("home/secret-key").display(),
    )
}

/// A server that archives into a folder, and in that mode into a bucket; and settings that know the bucket alone.
async fn in_two(
    world: &World,
    mode: &str,
    bucket: &Bucket,
    line: &str,
) -> Result<(Postgres, Holdfast, Holdfast, Sidecar)> {
    let primary = world
        .postgres("primary", 17)
        .segment_mib(1)
        .set("wal_keep_size", "0")
        .set("max_wal_size", "4MB")
        .set("min_wal_size", "2MB")
        .create()
        .await?;
    let holdfast = world
        .holdfast("shop/orders", &primary)
        .filesystem("backups")?
        .line(&also(world, mode, bucket))
        .line(line)
        .build()?;
    let elsewhere = world
        .holdfast("shop/orders", &primary)
        .instance("elsewhere")
        .s3(bucket)
        .build()?;
    let sidecar = holdfast.sidecar().await?;
    primary.archive_with(&holdfast).await?;
    Ok((primary, holdfast, elsewhere, sidecar))
}

/// What is stored of the WAL's whole segments and histories, by their names.
async fn wal(holdfast: &Holdfast) -> Result<Vec<String>> {
    let keys = holdfast.objects()?.keys("/wal/").await?;
    let name = |key: &String| key.rsplit('/').next().unwrap_or_default().to_owned();
    let mut names: Vec<String> = keys.iter().map(name).collect();
    names.sort();
    Ok(names)
}

async fn has_caught_up(world: &World, holdfast: &Holdfast, elsewhere: &Holdfast) -> Result<()> {
    eventually("the other repository has caught up", async || {
        let (ours, theirs) = (wal(holdfast).await?, wal(elsewhere).await?);
        ensure!(ours == theirs, "{ours:?}, and there {theirs:?}");
        let report = report(world, holdfast).await?;
        let other = &report["wal"]["bestEffort"][0];
        let fine = other["waitingCount"] == 0 && other["trouble"].is_null();
        ensure!(other["name"] == "other" && fine, "{report:#}");
        Ok(())
    })
    .await
}

/// A store that hangs holds nothing up where it is best-effort; what it missed it gets from where it is held, also what Postgres
/// has removed and what was archived while nobody looked.
#[tokio::test]
async fn a_best_effort_repository_catches_up_without_postgres() -> Result<()> {
    World::scenario("behind", async |world| {
        let mut minio = Minio::start(world).await?;
        let bucket = minio.bucket("other")?;
        let (mut primary, holdfast, elsewhere, sidecar) =
            in_two(world, "BestEffort", &bucket, "").await?;
        let ledger = Ledger::create(&primary).await?;
        let fill = async |primary: &Postgres| {
            for _ in 0..6 {
                ledger.write(primary, 5).await?;
                primary.execute("SELECT pg_switch_wal()").await?;
            }
            primary.archive_all().await?;
            // Postgres lets go of what is archived.
            primary.execute("CHECKPOINT").await
        };
        fill(&primary).await?;
        has_caught_up(world, &holdfast, &elsewhere).await?;

        minio.daemon()?.pause()?;
        let before = wal(&holdfast).await?.len();
        fill(&primary).await?;
        ensure!(wal(&holdfast).await?.len() >= before + 6);
        eventually("it is told to be behind", async || {
            let report = report(world, &holdfast).await?;
            let waiting = report["wal"]["bestEffort"][0]["waitingCount"].as_u64();
            ensure!(waiting >= Some(6), "{report:#}");
            Ok(())
        })
        .await?;
        // Nothing is remembered.
        sidecar.kill9().await?;
        let sidecar = holdfast.sidecar().await?;
        fill(&primary).await?;
        let kept = primary
            .value("SELECT string_agg(name, ' ') FROM pg_ls_waldir()")
            .await?;
        let ours = wal(&holdfast).await?;
        let gone = ours.iter().filter(|name| !kept.contains(name.as_str()));
        ensure!(gone.count() > 6, "{kept}");
        minio.daemon()?.resume()?;
        has_caught_up(world, &holdfast, &elsewhere).await?;

        // And it can be restored from.
        elsewhere.backup().await?;
        fill(&primary).await?;
        has_caught_up(world, &holdfast, &elsewhere).await?;
        let expected = acknowledged(&ledger);
        sidecar.stop().await?;
        primary.kill9().await?;
        std::fs::rename(world.path("backups"), world.path("lost"))?;
        let mut copy = world
            .restored("copy", 17, &elsewhere, &[], &[])
            .await?
            .postgres;
        copy.start().await?;
        copy.wait_promoted().await?;
        Ledger::compare(&copy, &expected).await
    })
    .await
}

/// Recovery does not wait for a best-effort store that hangs, and takes what it has where the required one can't be reached; but
/// the end of the WAL it never is.
#[tokio::test]
async fn recovery_waits_for_no_best_effort_repository_and_ends_with_no_outage() -> Result<()> {
    World::scenario("ends", async |world| {
        let mut minio = Minio::start(world).await?;
        let bucket = minio.bucket("other")?;
        let (mut primary, holdfast, elsewhere, sidecar) =
            in_two(world, "BestEffort", &bucket, "").await?;
        let ledger = Ledger::create(&primary).await?;
        let mut copies = Vec::new();
        for name in ["first", "second"] {
            let copy = primary.standby_unstarted(name).await?;
            let signal = |name| copy.dir().join(name);
            std::fs::rename(signal("standby.signal"), signal("recovery.signal"))?;
            copies.push(copy);
        }
        for _ in 0..4 {
            ledger.write(&primary, 5).await?;
            primary.execute("SELECT pg_switch_wal()").await?;
        }
        primary.archive_all().await?;
        has_caught_up(world, &holdfast, &elsewhere).await?;
        let expected = acknowledged(&ledger);
        sidecar.stop().await?;
        primary.kill9().await?;

        let recovers = async |copy: &mut Postgres| -> Result<Sidecar> {
            let settings = holdfast.also_for(copy).build()?;
            let sidecar = settings.sidecar().await?;
            copy.option("restore_command", &settings.restore_command()?);
            copy.option("primary_conninfo", "");
            copy.option("archive_mode", "off");
            copy.launch()?;
            Ok(sidecar)
        };
        let [mut first, mut second] = <[Postgres; 2]>::try_from(copies)
            .map_err(|copies| anyhow::anyhow!("{} copies", copies.len()))?;
        minio.daemon()?.pause()?;
        let its_sidecar = recovers(&mut first).await?;
        first.wait_ready().await?;
        first.wait_promoted().await?;
        Ledger::compare(&first, &expected).await?;
        first.kill9().await?;
        its_sidecar.kill9().await?;
        minio.daemon()?.resume()?;

        // Where the required one is away, what the other has is served, and nothing is the end.
        std::fs::rename(world.path("backups"), world.path("away"))?;
        let its_sidecar = recovers(&mut second).await?;
        let settings = holdfast.also_for(&second).build()?;
        let ours = wal(&elsewhere).await?;
        let last = ours.last().context("no WAL")?;
        let ask = async |name: &str| settings.wal(&["restore", name, "asked"]).await;
        ask(last).await?.success()?;
        ask("0000000100000000000000FF").await?.expect_code(200)?;
        second.wait_exit().await?;
        let log = second.log();
        ensure!(!log.contains("archive recovery complete"), "{log}");
        std::fs::rename(world.path("away"), world.path("backups"))?;
        second.start().await?;
        second.wait_promoted().await?;
        Ledger::compare(&second, &expected).await?;
        its_sidecar.stop().await
    })
    .await
}

/// With two required repositories a commit is acknowledged once both hold it: either of them may be lost, with the server.
#[tokio::test]
async fn what_is_acknowledged_is_in_each_required_repository() -> Result<()> {
    World::scenario("both", async |world| {
        let mut minio = Minio::start(world).await?;
        let bucket = minio.bucket("other")?;
        let line = "wal: {streaming: {synchronous: true}}";
        let (mut primary, holdfast, elsewhere, sidecar) =
            in_two(world, "Required", &bucket, line).await?;
        let ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        elsewhere.backup().await?;
        primary.wait_for_sidecar().await?;
        let load = ledger.start(&primary, 4).await?;
        let more = async |than: usize| {
            eventually("commits are acknowledged", async || {
                let known = acknowledged(&ledger).len();
                ensure!(known > than, "{known} rows");
                Ok(())
            })
            .await
        };
        for closed in 1..=3 {
            more(closed * 60).await?;
            primary.execute("SELECT pg_switch_wal()").await?;
        }
        minio.daemon()?.pause()?;
        is_held(world, &primary, &holdfast, &["has not answered"]).await?;
        minio.daemon()?.resume()?;
        more(acknowledged(&ledger).len() + 60).await?;
        sidecar.kill9().await?;
        primary.kill9().await?;
        std::fs::remove_dir_all(primary.dir())?;
        load.stop().await?;
        for (name, from) in [("main", &holdfast), ("other", &elsewhere)] {
            let restored = world.restored(name, 17, from, &[], &[]).await?;
            has_what_was_acknowledged(restored.postgres, &ledger).await?;
        }
        Ok(())
    })
    .await
}
