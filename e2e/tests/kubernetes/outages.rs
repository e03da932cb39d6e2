//! What fails, and what goes on meanwhile.

use crate::fixtures::{Database, backup, shop};
use anyhow::{Result, ensure};
use holdfast_e2e::{Space, eventually};

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
async fn a_backup_outlives_the_operator_and_not_its_sidecar() -> Result<()> {
    Space::alone("killed", async |space| {
        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        space
            .sql("orders-0", "CREATE TABLE big AS SELECT n, repeat(md5(n::text), 30) FROM generate_series(1, 400000) n")
            .await?;
        space.apply(&backup("one", "orders", "")).await?;
        space.wait_for("backup/one", "condition=Started", 60).await?;
        space.cluster().kill_operator().await?;
        space.wait_for("backup/one", "condition=Complete", 240).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_rotated_secret_needs_no_restart() -> Result<()> {
    Space::scenario("rotated", async |space| {
        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        let before = space.get("pod/orders-0").await?;
        space
            .apply("{apiVersion: v1, kind: Secret, metadata: {name: s3-writer}, stringData: {accessKeyId: holdfast, secretAccessKey: wrong}}")
            .await?;
        eventually("the repository says so", async || {
            let (status, _, message) = space.condition("repository/s3", "Ready").await?;
            ensure!(status == "False" && message.contains("s3-writer"), "{status}: {message}");
            Ok(())
        })
        .await?;
        space
            .apply("{apiVersion: v1, kind: Secret, metadata: {name: s3-writer}, stringData: {accessKeyId: holdfast, secretAccessKey: holdfast-secret}}")
            .await?;
        space.wait_for("repository/s3", "condition=Ready", 120).await?;
        database.archive_rows(space, 0).await?;
        let after = space.get("pod/orders-0").await?;
        ensure!(
            before["metadata"]["uid"] == after["metadata"]["uid"],
            "the pod was replaced"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_label_that_is_added_later() -> Result<()> {
    Space::scenario("later", async |space| {
        let plain = Database {
            archive: None,
            ..Database::new("orders", 17)
        };
        plain.begin(space).await?;
        let labelled = Database::new("orders", 17);
        shop(space, &labelled).await?;
        labelled.archive_rows(space, 0).await?;
        Ok(())
    })
    .await
}
