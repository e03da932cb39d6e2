//! What is committed is stored within about a second, long before its segment is whole.

use crate::sidecar::report;
use crate::wal::restored_has_all;
use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Holdfast, Ledger, Postgres, Shutdown, Target, World, eventually};
use serde_json::Value;
use std::time::Duration;

/// The keys of all parts.
async fn parts(holdfast: &Holdfast) -> Result<Vec<String>> {
    holdfast.objects()?.keys("/parts/").await
}

/// Waits until all that the server has flushed is stored, without a segment being closed.
pub async fn all_is_stored(
    world: &World,
    postgres: &Postgres,
    holdfast: &Holdfast,
) -> Result<Value> {
    // A report tells of the server as it was up to two seconds before.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    eventually("all is stored", async || {
        let report = report(world, holdfast).await?;
        let wal = &report["wal"];
        ensure!(wal["streaming"]["active"] == true, "{report:#}");
        ensure!(
            wal["lag"]["bytes"] == 0 && wal["lag"]["seconds"] == 0,
            "{report:#}\n{}",
            postgres.tail()
        );
        Ok(report)
    })
    .await
}

/// Postgres and its sidecar are killed, and the volume is gone.
async fn lost(major: u32) -> Result<()> {
    World::scenario(&format!("lost-{major}"), async |world| {
        let mut primary = world
            .postgres("primary", major)
            .segment_mib(16)
            .create()
            .await?;
        let holdfast = world
            .holdfast("shop/orders", &primary)
            .filesystem("backups")?
            .encrypted()?
            .build()?;
        let sidecar = holdfast.sidecar().await?;
        primary.archive_with(&holdfast).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        let load = ledger.start(&primary, 3).await?;
        eventually("some parts are stored", async || {
            ensure!(parts(&holdfast).await?.len() > 5);
            Ok(())
        })
        .await?;
        load.stop().await?;
        ledger.read_wal(&primary).await?;
        let report = all_is_stored(world, &primary, &holdfast).await?;
        let archived = &report["wal"]["lastArchived"]["name"];
        let written = primary
            .value("SELECT pg_walfile_name(pg_current_wal_lsn())")
            .await?;
        ensure!(archived != &Value::String(written), "{report:#}");
        eventually("info says so, too", async || {
            let info = holdfast.info().await?;
            ensure!(
                info["instances"][0]["streaming"] == true && info["lag"]["bytes"] == 0,
                "{info:#}"
            );
            Ok(())
        })
        .await?;
        sidecar.kill9().await?;
        primary.kill9().await?;
        std::fs::remove_dir_all(primary.dir())?;

        holdfast.verify().await?.success()?;
        restored_has_all(world, major, &holdfast, &ledger, 1).await
    })
    .await
}

#[tokio::test]
async fn what_is_committed_outlives_its_server_14() -> Result<()> {
    lost(14).await
}

#[tokio::test]
async fn what_is_committed_outlives_its_server_15() -> Result<()> {
    lost(15).await
}

#[tokio::test]
async fn what_is_committed_outlives_its_server_16() -> Result<()> {
    lost(16).await
}

#[tokio::test]
async fn what_is_committed_outlives_its_server_17() -> Result<()> {
    lost(17).await
}

#[tokio::test]
async fn what_is_committed_outlives_its_server_18() -> Result<()> {
    lost(18).await
}

#[tokio::test]
async fn it_follows_restarts_promotions_and_new_segments_and_nothing_is_sent_for_nothing()
-> Result<()> {
    World::scenario("follows", async |world| {
        let (mut primary, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        let mut standby = primary.standby("standby").await?;
        let second = holdfast.also_for(&standby).build()?;
        let second_sidecar = second.sidecar().await?;
        standby.archive_with(&second).await?;
        ledger.write(&primary, 20).await?;
        all_is_stored(world, &primary, &holdfast).await?;
        // Beside a standby nothing is followed.
        let followed = report(world, &second).await?;
        ensure!(followed["wal"]["streaming"].is_null(), "{followed:#}");

        // Its session ends with the server, and begins anew.
        primary.restart().await?;
        ledger.write(&primary, 20).await?;
        all_is_stored(world, &primary, &holdfast).await?;
        primary.kill9().await?;
        primary.start().await?;
        ledger.write(&primary, 20).await?;
        all_is_stored(world, &primary, &holdfast).await?;
        // Over the ends of segments, and with a sidecar that was killed.
        sidecar.kill9().await?;
        for _ in 0..3 {
            ledger.write(&primary, 5).await?;
            primary.execute("SELECT pg_switch_wal()").await?;
        }
        ledger.write(&primary, 5).await?;
        let sidecar = holdfast.sidecar().await?;
        all_is_stored(world, &primary, &holdfast).await?;

        // An idle server: twice the interval, and a keepalive's time, and nothing more than before.
        let written = async || primary.value("SELECT pg_current_wal_insert_lsn()").await;
        let mut was = String::new();
        let mut wal = written().await?;
        // Its background writer may note something once.
        while was != wal {
            all_is_stored(world, &primary, &holdfast).await?;
            let before = parts(&holdfast).await?;
            tokio::time::sleep(Duration::from_secs(12)).await;
            (was, wal) = (wal, written().await?);
            let after = parts(&holdfast).await?;
            ensure!(
                was != wal || before == after,
                "nothing was written after {wal}, and {} parts became {}",
                before.len(),
                after.len()
            );
        }
        all_is_stored(world, &primary, &holdfast).await?;

        ledger.read_wal(&primary).await?;
        standby
            .wait_replayed(&primary.value("SELECT pg_current_wal_flush_lsn()").await?)
            .await?;
        primary.stop(Shutdown::Immediate).await?;
        standby.promote().await?;
        ledger.write(&standby, 20).await?;
        ledger.read_wal(&standby).await?;
        all_is_stored(world, &standby, &second).await?;
        second_sidecar.kill9().await?;
        standby.kill9().await?;
        for timeline in [1, 2] {
            restored_has_all(world, 17, &holdfast, &ledger, timeline).await?;
        }
        sidecar.stop().await
    })
    .await
}

/// Archiving goes on without it, and the line that is missing is told.
#[tokio::test]
async fn what_it_may_not_follow_is_told_with_the_line_that_mends_it() -> Result<()> {
    World::scenario("permissions", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        sidecar.stop().await?;
        primary
            .execute("CREATE ROLE keeper LOGIN; GRANT pg_checkpoint, pg_monitor TO keeper; GRANT EXECUTE ON FUNCTION pg_switch_wal() TO keeper")
            .await?;
        let hba = primary.dir().join("pg_hba.conf");
        std::fs::write(&hba, "local all all trust\n")?;
        primary.reload().await?;
        let yaml = std::fs::read_to_string(holdfast.config())?;
        ensure!(yaml.contains("user: postgres"), "{yaml}");
        std::fs::write(
            holdfast.config(),
            yaml.replace("user: postgres", "user: keeper"),
        )?;
        let sidecar = holdfast.sidecar().await?;
        let told = async |words: &str| {
            eventually(&format!("{words} is told"), async || {
                let report = report(world, &holdfast).await?;
                let streaming = &report["wal"]["streaming"];
                let trouble = streaming["trouble"].as_str().unwrap_or_default();
                ensure!(
                    streaming["active"] == false && trouble.contains(words),
                    "{report:#}"
                );
                Ok(())
            })
            .await
        };
        let line = "local replication keeper trust";
        told(line).await?;
        let check = holdfast.run(&["check"]).await?.expect_code(1)?;
        ensure!(check.stdout.contains(line), "{}", check.stdout);
        primary.archive_all().await?;
        std::fs::write(&hba, format!("local all all trust\n{line}\n"))?;
        primary.reload().await?;
        let grant = "ALTER ROLE keeper REPLICATION";
        told(grant).await?;
        primary.archive_all().await?;
        primary.execute(grant).await?;
        primary.execute("CREATE TABLE more (n int)").await?;
        all_is_stored(world, &primary, &holdfast).await?;
        ensure!(!parts(&holdfast).await?.is_empty());
        sidecar.stop().await.context("the sidecar")
    })
    .await
}

/// A part behind a hole would make the hole one in the WAL, and the latest moment out of reach.
#[tokio::test]
async fn nothing_is_stored_behind_wal_that_waits() -> Result<()> {
    World::scenario("waits", async |world| {
        let (mut primary, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        holdfast.backup().await?;
        ledger.write(&primary, 20).await?;
        ledger.read_wal(&primary).await?;
        let stored = ledger.expected(1, &Target::Latest, false)?.len();
        all_is_stored(world, &primary, &holdfast).await?;
        primary.configure(&[("archive_command", "false")]).await?;
        let waits = primary
            .value("SELECT pg_walfile_name(pg_current_wal_lsn())")
            .await?;
        // Who has not been asked for anything stores no segment ahead of being asked.
        sidecar.kill9().await?;
        let sidecar = holdfast.sidecar().await?;
        for _ in 0..4 {
            primary.execute("SELECT pg_switch_wal()").await?;
            ledger.write(&primary, 5).await?;
            tokio::time::sleep(Duration::from_millis(1500)).await;
        }
        let whole = holdfast.objects()?.keys("/wal/").await?;
        ensure!(!whole.iter().any(|key| key.ends_with(&waits)), "{whole:?}");
        let parts = parts(&holdfast).await?;
        let last = parts.iter().filter_map(|key| key.rsplit('/').nth(1)).max();
        ensure!(last == Some(&waits), "{waits} waits: {parts:?}");
        let behind = report(world, &holdfast).await?;
        ensure!(
            behind["wal"]["readyCount"].as_u64() >= Some(4),
            "{behind:#}"
        );
        sidecar.kill9().await?;
        primary.kill9().await?;
        std::fs::remove_dir_all(primary.dir())?;
        let mut restored = world.restored("restored", 17, &holdfast, &[], &[]).await?;
        restored.postgres.start().await?;
        restored.postgres.wait_promoted().await?;
        let rows = restored
            .postgres
            .value("SELECT count(*) FROM ledger")
            .await?;
        ensure!(rows.parse::<usize>()? >= stored, "{rows} of {stored} rows");
        Ok(())
    })
    .await
}

/// A server that recovers by itself, with nothing but `restore_command` and `recovery.signal`, ends with the last part, too.
#[tokio::test]
async fn recovery_without_an_order_ends_with_the_last_part() -> Result<()> {
    World::scenario("by-itself", async |world| {
        let (primary, holdfast, sidecar) = world.archiving(17).await?;
        let mut ledger = Ledger::create(&primary).await?;
        let mut copy = primary.standby_unstarted("copy").await?;
        ledger.write(&primary, 20).await?;
        primary.archive_all().await?;
        ledger.write(&primary, 20).await?;
        ledger.read_wal(&primary).await?;
        all_is_stored(world, &primary, &holdfast).await?;
        let second = holdfast.also_for(&copy).build()?;
        let second_sidecar = second.sidecar().await?;
        std::fs::rename(
            copy.dir().join("standby.signal"),
            copy.dir().join("recovery.signal"),
        )?;
        copy.option("restore_command", &second.restore_command()?);
        copy.option("primary_conninfo", "");
        copy.option("archive_command", &second.archive_command()?);
        copy.start().await?;
        copy.wait_promoted().await?;
        let all = ledger.expected(1, &Target::Latest, false)?;
        Ledger::compare(&copy, &all).await?;
        second_sidecar.stop().await?;
        sidecar.stop().await
    })
    .await
}
