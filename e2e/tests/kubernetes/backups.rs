//! Backup and ScheduledBackup.

use crate::fixtures::{Database, backed_up, backup, shop};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Space, eventually};

#[tokio::test]
async fn from_primary_and_standby_and_after_a_failover() -> Result<()> {
    Space::scenario("standby", async |space| {
        let database = Database {
            replicas: 2,
            ..Database::new("orders", 17)
        };
        shop(space, &database).await?;
        database.archive_rows(space, 0).await?;
        let primary = backed_up(space, "of-primary", "orders", ", from: Primary").await?;
        ensure!(
            primary["status"]["pod"] == "orders-0",
            "{:#}",
            primary["status"]
        );
        // Nothing is written meanwhile: the operator has the primary close the last segment.
        let standby = backed_up(space, "of-standby", "orders", ", from: Standby").await?;
        ensure!(
            standby["status"]["pod"] == "orders-1",
            "{:#}",
            standby["status"]
        );

        // The primary is lost with its volume; the standby takes over.
        space.sql("orders-1", "SELECT pg_promote()").await?;
        space
            .kubectl(&["delete", "pvc", "data-orders-0", "--wait=false"])
            .await?
            .success()?;
        space
            .kubectl(&["delete", "pod", "orders-0"])
            .await?
            .success()?;
        database.rolled_out(space).await?;
        eventually("the lost one is a standby of the other", async || {
            let recovering = space.sql("orders-0", "SELECT pg_is_in_recovery()").await?;
            ensure!(recovering == "t", "{recovering}");
            Ok(())
        })
        .await?;
        let segment = database.archive_rows(space, 1).await?;
        ensure!(segment.starts_with("00000002"), "{segment}");
        let after = backed_up(space, "after", "orders", ", from: Primary").await?;
        ensure!(
            after["status"]["pod"] == "orders-1" && after["status"]["timeline"] == 2,
            "{:#}",
            after["status"]
        );
        eventually("the archive tells the new timeline", async || {
            let archive = space.get("archive/orders").await?;
            ensure!(
                archive["status"]["timeline"] == 2,
                "{:#}",
                archive["status"]
            );
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_schedule_makes_backups_and_a_deleted_object_keeps_the_data() -> Result<()> {
    Space::scenario("schedule", async |space| {
        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        space
            .apply(
                "{apiVersion: holdfast.dev/v1alpha1, kind: ScheduledBackup, metadata: {name: nightly},
                  spec: {archiveRef: {name: orders}, schedule: '0 2 * * *', timeZone: Europe/Berlin, immediate: true}}",
            )
            .await?;
        let name = eventually("a backup is made", async || {
            let said = space
                .kubectl(&["get", "backups", "-l", "holdfast.dev/scheduled-backup=nightly", "-o", "name"])
                .await?
                .success()?;
            said.lines().next().map(str::to_owned).context("none yet")
        })
        .await?;
        space.wait_for(&name, "condition=Complete", 180).await?;
        let id = space.get(&name).await?["status"]["id"].clone();
        let schedule = space.get("scheduledbackup/nightly").await?;
        ensure!(
            schedule["status"]["nextScheduleTime"].is_string(),
            "{:#}",
            schedule["status"]
        );
        space.kubectl(&["delete", &name]).await?.success()?;
        let info = space
            .kubectl(&["exec", "orders-0", "-c", "holdfast", "--", "holdfast", "info", "--json"])
            .await?
            .success()?;
        let info: serde_json::Value = serde_json::from_str(&info)?;
        ensure!(
            info["backups"].as_array().into_iter().flatten().any(|b| b["id"] == id),
            "{info:#}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn one_at_a_time_and_cancelled_by_deletion() -> Result<()> {
    Space::scenario("cancel", async |space| {
        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        space
            .sql("orders-0", "CREATE TABLE big AS SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 200000) n")
            .await?;
        space.apply(&backup("first", "orders", "")).await?;
        space.apply(&backup("second", "orders", "")).await?;
        space.kubectl(&["delete", "backup", "first", "--timeout=60s"]).await?.success()?;
        space.wait_for("backup/second", "condition=Complete", 180).await?;
        let running = space
            .sql(
                "orders-0",
                "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'holdfast backup%'",
            )
            .await?;
        ensure!(running == "0", "{running} sessions of a backup are left");
        Ok(())
    })
    .await
}
