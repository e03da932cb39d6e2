//! What fails, and what goes on meanwhile.

use std::time::Duration;

use crate::fixtures::{Database, archived, backed_up, backup, event, shop, told};
use crate::store::{Pace, Store};
use anyhow::{Result, ensure};
use holdfast_e2e::{Space, eventually};
use serde_json::Value;

/// How many WAL files wait.
const WAITING: &str = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";

/// Waits for a condition with this reason that says all of this.
pub async fn told_as(
    space: &Space,
    object: &str,
    (condition, status, reason): (&str, &str, &str),
    says: &[&str],
) -> Result<()> {
    told(space, object, condition, status, says).await?;
    let (_, is, message) = space.condition(object, condition).await?;
    ensure!(
        is == reason,
        "{condition} is {is} and not {reason}: {message}"
    );
    Ok(())
}

/// A pod's UID, and how often each of its containers was started again.
async fn starts(space: &Space, pod: &str) -> Result<(Value, Vec<(String, u64)>)> {
    let pod = space.get(&format!("pod/{pod}")).await?;
    let kinds = ["initContainerStatuses", "containerStatuses"];
    let statuses = kinds
        .iter()
        .flat_map(|kind| pod["status"][kind].as_array().into_iter().flatten());
    let restarts = statuses.map(|status| {
        let name = status["name"].as_str().unwrap_or_default().to_owned();
        (name, status["restartCount"].as_u64().unwrap_or(0))
    });
    Ok((pod["metadata"]["uid"].clone(), restarts.collect()))
}

/// Whether a backup is in the middle of it, as the server itself sees.
pub async fn is_backed_up(space: &Space, pod: &str) -> Result<bool> {
    let sessions =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'holdfast backup%'";
    Ok(space.sql(pod, sessions).await? != "0")
}

/// Orders a backup, and returns when it is in the middle of it. The store stands still then.
pub async fn begun(space: &Space, store: &Store<'_>, name: &str) -> Result<()> {
    store.answers(Pace::UntilBackup).await?;
    space.apply(&backup(name, "orders", "")).await?;
    store.stands_still().await?;
    ensure!(is_backed_up(space, "orders-0").await?, "{name} is over");
    Ok(())
}

#[tokio::test]
async fn a_backup_ends_with_its_sidecar_and_archiving_goes_on() -> Result<()> {
    Space::scenario("sidecar", async |space| {
        // The sidecar's image has nothing that could kill it: another container has.
        let database = Database {
            shares_processes: true,
            ..Database::new("orders", 17)
        };
        let store = Store::shop(space, &database).await?;
        let (uid, _) = starts(space, "orders-0").await?;
        begun(space, &store, "one").await?;
        let kill = [
            "exec", "orders-0", "-c", "postgres", "--", "pkill", "-KILL", "-x", "holdfast",
        ];
        space.kubectl(&kill).await?.success()?;
        store.answers(Pace::Quick).await?;
        told_as(
            space,
            "backup/one",
            ("Failed", "True", "SidecarLost"),
            &["orders-0", "restarted"],
        )
        .await?;
        told_as(space, "backup/one", ("Complete", "False", "Failed"), &[]).await?;
        event(space, "backup/one", &["Warning", "SidecarLost"]).await?;
        let (after, restarts) = starts(space, "orders-0").await?;
        ensure!(uid == after, "the pod was replaced");
        for (name, count) in restarts {
            ensure!(
                count == u64::from(name == "holdfast"),
                "{name} was started again {count} times"
            );
        }
        database.archive_rows(space, 0).await?;
        ensure!(
            !is_backed_up(space, "orders-0").await?,
            "a session of the backup is left"
        );
        backed_up(space, "two", "orders", "").await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_rotated_secret_needs_no_restart() -> Result<()> {
    Space::scenario("rotated", async |space| {
        let database = Database::new("orders", 17);
        let store = Store::shop(space, &database).await?;
        database.archive_rows(space, 0).await?;
        let before = starts(space, "orders-0").await?;
        // The Secret comes first: until the store knows the new password, it is wrong.
        space
            .apply(
                "{apiVersion: v1, kind: Secret, metadata: {name: s3-writer},
                  stringData: {accessKeyId: holdfast, secretAccessKey: the-next-secret}}",
            )
            .await?;
        told_as(
            space,
            "repository/s3",
            ("Ready", "False", "WrongCredentials"),
            &["s3-writer"],
        )
        .await?;
        eventually("the sidecar has taken the new credentials", async || {
            // Not so often that segments pile up.
            tokio::time::sleep(Duration::from_secs(3)).await;
            let switch = "INSERT INTO rows VALUES (0); SELECT pg_switch_wal()";
            space.sql("orders-0", switch).await?;
            let (status, _, message) = space.condition("archive/orders", "Archiving").await?;
            ensure!(
                status == "False" && message.contains("check the credentials"),
                "{status}: {message}"
            );
            Ok(())
        })
        .await?;
        store.takes_password("the-next-secret").await?;
        for (object, condition) in [("repository/s3", "Ready"), ("archive/orders", "Archiving")] {
            space
                .wait_for(object, &format!("condition={condition}"), 120)
                .await?;
        }
        database.archive_rows(space, 0).await?;
        let after = starts(space, "orders-0").await?;
        ensure!(
            before == after,
            "something was restarted: {before:?}, {after:?}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_store_goes_and_comes_back() -> Result<()> {
    Space::scenario("away", async |space| {
        let database = Database::new("orders", 17);
        let store = Store::shop(space, &database).await?;
        database.archive_rows(space, 0).await?;
        store.goes().await?;
        let write = "INSERT INTO rows SELECT generate_series(1, 1000);
            SELECT pg_walfile_name(pg_switch_wal())";
        let first = space.sql("orders-0", write).await?;
        let says = [first.as_str(), "Connection refused", "hands it over again"];
        told_as(
            space,
            "archive/orders",
            ("Archiving", "False", "ArchivingFails"),
            &says,
        )
        .await?;
        told_as(
            space,
            "archive/orders",
            ("Ready", "False", "ArchivingFails"),
            &[],
        )
        .await?;
        event(space, "archive/orders", &["Warning", "ArchivingFails"]).await?;

        // A pod that starts needs no store. The sidecar of the one that goes would wait for it as long as it may.
        let delete = ["delete", "pod", "orders-0", "--grace-period=10"];
        space.kubectl(&delete).await?.success()?;
        database.rolled_out(space).await?;
        let last = space.sql("orders-0", write).await?;
        space.apply(&backup("one", "orders", "")).await?;
        told_as(
            space,
            "backup/one",
            ("Started", "False", "ArchivingFails"),
            &["orders-0 can't archive"],
        )
        .await?;
        told_as(
            space,
            "archive/orders",
            ("Archiving", "False", "ArchivingFails"),
            &[],
        )
        .await?;

        store.comes_back().await?;
        archived(space, "orders-0", &last).await?;
        for condition in ["Archiving", "Ready"] {
            space
                .wait_for("archive/orders", &format!("condition={condition}"), 120)
                .await?;
        }
        space
            .wait_for("backup/one", "condition=Complete", 180)
            .await?;
        space
            .wait_for("archive/orders", "condition=Recoverable", 120)
            .await?;
        let rows = space.sql("orders-0", "SELECT count(*) FROM rows").await?;
        ensure!(rows == "3000", "{rows} rows");
        eventually("nothing waits any more", async || {
            let waiting = space.sql("orders-0", WAITING).await?;
            ensure!(waiting == "0", "{waiting} files wait");
            Ok(())
        })
        .await
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
