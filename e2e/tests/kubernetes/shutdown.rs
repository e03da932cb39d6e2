//! A pod that goes takes no WAL with it: what it had committed is in the repository before anything starts again.

use std::path::Path;

use crate::fixtures::{Database, backed_up};
use crate::store::{Pace, Store};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::Space;

/// Has the program restore all that is stored of an archive into a pod of its own, and asks that.
pub async fn restored(space: &Space, archive: &str, statement: &str) -> Result<String> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes/copy.yaml");
    let copy = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
    let (secret, ours) = ("holdfast-orders", format!("holdfast-{archive}"));
    let (target, latest) = ("--target-name, before_the_accident", "--target, latest");
    for part in [secret, target, "IMAGE"] {
        ensure!(copy.contains(part), "{} has no {part}", file.display());
    }
    let copy = copy
        .replace("IMAGE", space.cluster().image())
        .replace(secret, &ours)
        .replace(target, latest);
    space.apply(&copy).await?;
    space
        .wait_for("pod/orders-copy", "condition=Ready", 240)
        .await?;
    space.sql("orders-copy", statement).await
}

/// Rows that say whether one is missing, and which was the last.
pub const ROWS: &str = "SELECT count(*), max(n) FROM numbers";

#[tokio::test]
async fn a_pod_that_goes_leaves_nothing_behind() -> Result<()> {
    Space::scenario("queued", async |space| {
        let database = Database::new("orders", 17);
        let store = Store::shop(space, &database).await?;
        let pod = database.pod(0);
        space.sql(&pod, "CREATE TABLE numbers (n int)").await?;
        backed_up(space, "base", "orders", "").await?;
        store.answers(Pace::Still).await?;
        let segments = "DO $$ BEGIN FOR n IN 1..20 LOOP
            INSERT INTO numbers VALUES (n); PERFORM pg_switch_wal(); END LOOP; END $$";
        space.sql(&pod, segments).await?;
        // In the segment that only the shutdown closes.
        space.sql(&pod, "INSERT INTO numbers VALUES (21)").await?;
        let queued = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
        let queued: u32 = space.sql(&pod, queued).await?.parse()?;
        ensure!(queued >= 20, "{queued} files wait");
        store.answers(Pace::Slow).await?;
        // No pod comes after it, which would archive what this one has left.
        space
            .kubectl(&["scale", "statefulset/orders", "--replicas=0"])
            .await?
            .success()?;
        space.wait_for("pod/orders-0", "delete", 180).await?;
        store.answers(Pace::Quick).await?;
        let rows = restored(space, "orders", ROWS).await?;
        ensure!(rows == "21|21", "{rows}");
        Ok(())
    })
    .await
}
