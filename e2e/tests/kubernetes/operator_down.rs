//! What goes on while no operator runs. These run alone.

use crate::fixtures::{Database, backed_up, event, shop};
use crate::outages::{begun, is_backed_up};
use crate::shutdown::{ROWS, restored};
use crate::store::{Pace, Store};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::Space;

#[tokio::test]
async fn archiving_goes_on_without_the_operator() -> Result<()> {
    Space::alone("operator", async |space| {
        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        space.cluster().scale_operator(0).await?;
        database.archive_rows(space, 0).await?;
        // A labelled pod waits for the webhook, and starts when it is back.
        space
            .kubectl(&["delete", "pod", "orders-0"])
            .await?
            .success()?;
        space.cluster().scale_operator(2).await?;
        database.rolled_out(space).await?;
        database.archive_rows(space, 0).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_backup_outlives_the_operator() -> Result<()> {
    Space::alone("killed", async |space| {
        let database = Database::new("orders", 17);
        let store = Store::shop(space, &database).await?;
        begun(space, &store, "one").await?;
        space.cluster().kill_operator().await?;
        ensure!(
            is_backed_up(space, "orders-0").await?,
            "the backup was over before the operator was killed"
        );
        store.answers(Pace::Quick).await?;
        space
            .wait_for("backup/one", "condition=Complete", 240)
            .await
    })
    .await
}

#[tokio::test]
async fn a_node_is_drained_without_the_operator() -> Result<()> {
    Space::alone("drained", async |space| {
        let database = Database::new("drained", 17);
        shop(space, &database).await?;
        let pod = database.pod(0);
        space.sql(&pod, "CREATE TABLE numbers (n int)").await?;
        backed_up(space, "base", database.name, "").await?;
        let node = space.get(&format!("pod/{pod}")).await?["spec"]["nodeName"].clone();
        let node = node.as_str().context("the pod's node")?;
        space.cluster().scale_operator(0).await?;
        space
            .sql(&pod, "INSERT INTO numbers SELECT generate_series(1, 1000)")
            .await?;
        // Of a node that is the only one, the store had better stay.
        let drained = space
            .cluster()
            .kubectl(&[
                "drain",
                node,
                &format!("--pod-selector=app={}", database.name),
                "--delete-emptydir-data",
                "--timeout=180s",
            ])
            .await;
        // Whatever came of it: others need the node.
        let uncordoned = space.cluster().kubectl(&["uncordon", node]).await;
        let drained = drained?.success()?;
        uncordoned?.success()?;
        ensure!(drained.contains("evicted"), "{drained}");
        // The next one waits for the webhook, and its StatefulSet says so.
        event(
            space,
            "statefulset/drained",
            &["FailedCreate", "failed calling webhook", "holdfast"],
        )
        .await?;
        let rows = restored(space, database.name, ROWS).await?;
        ensure!(rows == "1000|1000", "{rows}");

        space.cluster().scale_operator(2).await?;
        database.rolled_out(space).await?;
        let rows = space.sql(&pod, ROWS).await?;
        ensure!(rows == "1000|1000", "{rows}");
        database.archive_rows(space, 0).await?;
        space
            .wait_for(
                &format!("archive/{}", database.name),
                "condition=Ready",
                120,
            )
            .await
    })
    .await
}
