//! Restores in place whose store goes away, and their pod with it: each completes, and no database starts on a mixture.

use crate::fixtures::{Database, told};
use crate::restores::{PATIENCE, goes_on, history, restore, rows, up_to};
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
        ensure!(rows(space).await? == up_to(5), "{}", rows(space).await?);
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
        ensure!(rows(space).await? == up_to(8), "{}", rows(space).await?);
        goes_on(space, "third", 3).await
    })
    .await
}
