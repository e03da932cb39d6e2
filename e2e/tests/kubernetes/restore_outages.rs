//! Restores in place whose store goes away, and their pod with it: each completes, and no database starts on a mixture.

use crate::fixtures::{Database, told};
use crate::restores::{PATIENCE, goes_on, has_rows, history, restore};
use crate::store::{Pace, Store};
use anyhow::{Result, ensure};
use holdfast_e2e::{Space, eventually};
use serde_json::Value;

pub async fn status(space: &Space, name: &str) -> Result<Value> {
    Ok(space.get(&format!("restore/{name}")).await?["status"].clone())
}

/// Waits until the Restore has let go of the old pods.
pub async fn ordered(space: &Space, name: &str) -> Result<()> {
    eventually("it is ordered", async || {
        let status = status(space, name).await?;
        ensure!(status["orderId"].is_string(), "{status:#}");
        Ok(())
    })
    .await
}

/// Postgres has not run in the pod, as the kubelet saw it.
pub async fn never_started(space: &Space) -> Result<()> {
    let pod = space.get("pod/orders-0").await?;
    let postgres = &pod["status"]["containerStatuses"][0];
    let waits = !postgres["state"]["waiting"].is_null() && postgres["restartCount"] == 0;
    ensure!(waits, "Postgres ran on a mixture: {postgres:#}");
    Ok(())
}

#[tokio::test]
async fn it_outlives_its_store_and_its_pod() -> Result<()> {
    Space::scenario("restore-away", async |space| {
        let store = Store::shop(space, &Database::new("orders", 17)).await?;
        space
            .sql(
                "orders-0",
                "CREATE TABLE bulk AS SELECT md5(g::text) FROM generate_series(1, 2000000) g",
            )
            .await?;
        let moments = history(space).await?;
        let kill_pod = ["delete", "pod", "orders-0", "--force", "--grace-period=0"];

        // While its data directory is written.
        let target = format!("{{lsn: {}}}", moments.lsn);
        space.apply(&restore("back", "orders", &target, "")).await?;
        ordered(space, "back").await?;
        store.answers(Pace::Slow).await?;
        eventually("it is in the middle", async || {
            let logs = ["logs", "orders-0", "-c", "holdfast-bootstrap"];
            let said = space.kubectl(&logs).await?.out;
            ensure!(said.contains("replays "), "{said}");
            Ok(())
        })
        .await?;
        store.answers(Pace::Still).await?;
        store.goes().await?;
        space.kubectl(&kill_pod).await?.success()?;
        // It waits for the store, and Postgres does not start on what is there.
        told(space, "restore/back", "Restored", "False", &["unfinished"]).await?;
        never_started(space).await?;
        store.comes_back().await?;
        store.answers(Pace::Quick).await?;
        space
            .wait_for("restore/back", "condition=Complete", PATIENCE)
            .await?;
        has_rows(space, 5).await?;
        goes_on(space, "second", 2).await?;

        // The store, in mid-replay: no early promotion.
        let latest = "{latest: {}, timeline: \"1\"}";
        space.apply(&restore("again", "orders", latest, "")).await?;
        ordered(space, "again").await?;
        store.answers(Pace::Slow).await?;
        space
            .wait_for("restore/again", "condition=Restored", PATIENCE)
            .await?;
        store.goes().await?;
        let recovered = status(space, "again").await?["recoveredTo"].clone();
        ensure!(
            recovered.is_null(),
            "it has recovered before the store went: {recovered}"
        );
        // Past every retry of one call: Postgres ends, and is started again.
        eventually("Postgres has ended", async || {
            let pod = space.get("pod/orders-0").await?;
            let postgres = &pod["status"]["containerStatuses"][0];
            ensure!(postgres["restartCount"].as_u64() > Some(0), "{postgres}");
            Ok(())
        })
        .await?;
        space.kubectl(&kill_pod).await?.success()?;
        store.comes_back().await?;
        store.answers(Pace::Quick).await?;
        space
            .wait_for("restore/again", "condition=Complete", PATIENCE)
            .await?;
        has_rows(space, 8).await?;
        goes_on(space, "third", 3).await
    })
    .await
}

#[tokio::test]
async fn one_that_is_deleted_on_its_way_is_taken_back_or_comes_to_its_end() -> Result<()> {
    Space::scenario("restore-deleted", async |space| {
        let database = Database {
            pre_stop: Some("until [ -e /tmp/leave ]; do sleep 0.1; done"),
            ..Database::new("orders", 17)
        };
        let store = Store::shop(space, &database).await?;
        space
            .sql(
                "orders-0",
                "CREATE TABLE bulk AS SELECT md5(g::text) FROM generate_series(1, 1000000) g",
            )
            .await?;
        let target = format!("{{lsn: {}}}", history(space).await?.lsn);
        let leave = [
            "exec",
            "orders-0",
            "-c",
            "postgres",
            "--",
            "touch",
            "/tmp/leave",
        ];

        // While the old pod goes nothing is written yet.
        space
            .apply(&restore("taken", "orders", &target, ""))
            .await?;
        ordered(space, "taken").await?;
        eventually("the pod goes", async || {
            let pod = space.get("pod/orders-0").await?;
            ensure!(pod["metadata"]["deletionTimestamp"].is_string(), "it stays");
            Ok(())
        })
        .await?;
        let delete = ["delete", "restore", "taken", "--timeout=60s"];
        space.kubectl(&delete).await?.success()?;
        space.kubectl(&leave).await?.success()?;
        database.rolled_out(space).await?;
        eventually("it is as it was", async || has_rows(space, 8).await).await?;
        goes_on(space, "second", 1).await?;

        // Once it is being written the object stays until that has ended.
        space.apply(&restore("ends", "orders", &target, "")).await?;
        ordered(space, "ends").await?;
        store.answers(Pace::Slow).await?;
        space.kubectl(&leave).await?.success()?;
        eventually("it is being written", async || {
            let (status, _, message) = space.condition("restore/ends", "Started").await?;
            ensure!(status == "True", "{message}");
            Ok(())
        })
        .await?;
        store.answers(Pace::Still).await?;
        let delete = ["delete", "restore", "ends", "--wait=false"];
        space.kubectl(&delete).await?.success()?;
        let going = ["wait", "restore/ends", "--for=delete", "--timeout=10s"];
        ensure!(
            !space.kubectl(&going).await?.ok,
            "it was let go in the middle"
        );
        never_started(space).await?;
        store.answers(Pace::Quick).await?;
        let gone = ["wait", "restore/ends", "--for=delete", "--timeout=240s"];
        space.kubectl(&gone).await?.success()?;
        database.rolled_out(space).await?;
        eventually("it is where it should be", async || {
            has_rows(space, 5).await
        })
        .await?;
        goes_on(space, "third", 2).await
    })
    .await
}
