//! One label: the pod gets its sidecar, and WAL and backups go to the store.

use crate::fixtures::{Database, backed_up, shop};
use anyhow::{Result, ensure};
use holdfast_e2e::Space;

async fn archives_and_backs_up(database: Database) -> Result<()> {
    Space::scenario("archive", async |space| {
        shop(space, &database).await?;
        let pod = database.pod(0);
        database.archive_rows(space, 0).await?;
        let command = space.sql(&pod, "SHOW archive_command").await?;
        if database.image.ends_with(":14") {
            ensure!(
                command == "/holdfast/bin/holdfast-wal archive %f %p",
                "{command}"
            );
        } else {
            let library = space.sql(&pod, "SHOW archive_library").await?;
            ensure!(
                library == "/holdfast/lib/holdfast_archive" && command.is_empty(),
                "{library} {command}"
            );
        }
        let backup = backed_up(space, "first", database.name, ", type: Full").await?;
        let status = &backup["status"];
        ensure!(
            status["id"] == backup["metadata"]["uid"] && status["pod"] == pod.as_str(),
            "{status:#}"
        );
        ensure!(
            status["size"]["database"].as_u64() > Some(1 << 20) && status["timeline"] == 1,
            "{status:#}"
        );
        let archive = format!("archive/{}", database.name);
        for condition in [
            "Ready",
            "Archiving",
            "Recoverable",
            "Injected",
            "ConfigurationApplied",
            "IdentityAccepted",
        ] {
            space
                .wait_for(&archive, &format!("condition={condition}"), 90)
                .await?;
        }
        let archive = space.get(&archive).await?;
        let identifier = space
            .sql(&pod, "SELECT system_identifier FROM pg_control_system()")
            .await?;
        ensure!(
            archive["status"]["systemIdentifier"] == identifier.as_str(),
            "{:#}",
            archive["status"]
        );
        no_credentials(space, &pod).await
    })
    .await
}

/// The sidecar has no way to speak to the API server.
async fn no_credentials(space: &Space, pod: &str) -> Result<()> {
    let pod = space.get(&format!("pod/{pod}")).await?;
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    let volumes = pod["spec"]["volumes"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    for name in ["holdfast", "holdfast-bootstrap"] {
        let containers = pod["spec"]["initContainers"].as_array();
        let container = containers
            .into_iter()
            .flatten()
            .find(|container| container["name"] == name);
        let Some(container) = container else {
            anyhow::bail!("no container {name}: {:#}", pod["spec"]);
        };
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            let volume = volumes
                .iter()
                .find(|volume| volume["name"] == mount["name"]);
            ensure!(
                volume.is_some_and(|volume| volume.get("projected").is_none()),
                "{name} mounts a projected volume: {mount}"
            );
            if mount["mountPath"] == token {
                ensure!(
                    volume.is_some_and(|v| v.get("emptyDir").is_some()),
                    "{mount}"
                );
            }
        }
        ensure!(
            container["volumeMounts"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|mount| mount["mountPath"] == token),
            "nothing lies over the token's path in {name}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn postgres_14() -> Result<()> {
    archives_and_backs_up(Database::new("orders", 14)).await
}

#[tokio::test]
async fn postgres_15() -> Result<()> {
    archives_and_backs_up(Database::new("orders", 15)).await
}

#[tokio::test]
async fn postgres_16() -> Result<()> {
    archives_and_backs_up(Database::new("orders", 16)).await
}

#[tokio::test]
async fn postgres_17() -> Result<()> {
    archives_and_backs_up(Database::new("orders", 17)).await
}

#[tokio::test]
async fn postgres_18() -> Result<()> {
    archives_and_backs_up(Database::new("orders", 18)).await
}
