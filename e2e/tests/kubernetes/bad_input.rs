//! What people get wrong: told in a condition, an event or a refusal, with what to do; mended without deleting anything.

use crate::fixtures::{Database, archive, repository};
use anyhow::{Result, ensure};
use holdfast_e2e::{Space, eventually};

/// Waits for a condition that says all of this.
async fn told(
    space: &Space,
    object: &str,
    condition: &str,
    status: &str,
    says: &[&str],
) -> Result<()> {
    eventually(&format!("{object} tells {says:?}"), async || {
        let (is, reason, message) = space.condition(object, condition).await?;
        ensure!(
            is == status && says.iter().all(|part| message.contains(part)),
            "{condition} is {is}, {reason}: {message}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn in_any_order() -> Result<()> {
    Space::scenario("order", async |space| {
        let database = Database::new("orders", 17);
        space.apply(&database.yaml()).await?;
        space.apply(&archive("orders")).await?;
        told(
            space,
            "archive/orders",
            "Ready",
            "False",
            &["Repository", "s3"],
        )
        .await?;
        space.apply(&repository(space)).await?;
        database.rolled_out(space).await?;
        space
            .wait_for("archive/orders", "condition=Ready", 120)
            .await
    })
    .await
}

#[tokio::test]
async fn a_wrong_store() -> Result<()> {
    Space::scenario("store", async |space| {
        for (from, to, says) in [
            ("bucket: holdfast", "bucket: elsewhere", "elsewhere"),
            ("minio.minio.svc", "nobody.minio.svc", "nobody.minio.svc"),
            ("name: s3-writer", "name: gone", "gone"),
            ("name: backup-key", "name: lost", "lost"),
        ] {
            space
                .apply(
                    &repository(space)
                        .replace("name: s3}", "name: wrong}")
                        .replace(from, to),
                )
                .await?;
            told(space, "repository/wrong", "Ready", "False", &[says]).await?;
            space
                .kubectl(&["delete", "repository", "wrong"])
                .await?
                .success()?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn two_databases_with_one_label() -> Result<()> {
    Space::scenario("two", async |space| {
        let database = Database::new("orders", 17);
        crate::fixtures::shop(space, &database).await?;
        database.archive_rows(space, 0).await?;
        let other = Database {
            archive: Some("orders".to_owned()),
            ..Database::new("others", 17)
        };
        other.begin(space).await?;
        told(
            space,
            "archive/orders",
            "IdentityAccepted",
            "False",
            &["others-0"],
        )
        .await?;
        database.archive_rows(space, 0).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn pods_that_are_no_postgres_are_refused_with_the_line_to_add() -> Result<()> {
    Space::scenario("refused", async |space| {
        for (pod, says) in [
            (
                "{containers: [{name: a, image: example/a}, {name: b, image: example/b}]}",
                "holdfast.dev/container",
            ),
            (
                "{containers: [{name: a, image: example/a}]}",
                "holdfast.dev/data-directory",
            ),
        ] {
            let refused = space
                .try_apply(&format!(
                    "{{apiVersion: v1, kind: Pod, metadata: {{name: x, labels: {{holdfast.dev/archive: orders}}}}, spec: {pod}}}"
                ))
                .await?
                .refused()?;
            ensure!(refused.contains(says), "{refused}");
        }
        Ok(())
    })
    .await
}
