//! `examples/kubernetes/`: every file is applied, and reaches what it promises.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::fixtures::{Database, repository, told};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::Space;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

#[test]
fn every_file_is_applied() -> Result<()> {
    let mut files = BTreeSet::new();
    for file in std::fs::read_dir(root().join("examples/kubernetes"))? {
        let name = file?.file_name().into_string();
        files.insert(name.ok().context("a name in UTF-8")?);
    }
    let scenarios = [
        include_str!("examples.rs"),
        include_str!("bootstrap.rs"),
        include_str!("claims.rs"),
    ]
    .concat();
    let commands = crate::docs::script(&crate::docs::page()?);
    for file in files {
        let here = scenarios.contains(&format!("examples/kubernetes/{file}"));
        let there = commands.contains(&format!("examples/kubernetes/{file}"));
        ensure!(
            here || there,
            "no scenario applies examples/kubernetes/{file}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn archiving_is_turned_on_later() -> Result<()> {
    Space::scenario("existing", async |space| {
        let database = Database {
            archive: None,
            ..Database::new("legacy-db", 17)
        };
        database.begin(space).await?;
        space
            .sql(
                "legacy-db-0",
                "CREATE TABLE old AS SELECT generate_series(1, 1000) n",
            )
            .await?;
        space.apply(&repository(space)).await?;
        let archive = std::fs::read_to_string(root().join("examples/kubernetes/archive.yaml"))?;
        space
            .apply(&archive.replace("metadata: {name: orders}", "metadata: {name: legacy}"))
            .await?;
        // The commands that the file begins with.
        let file =
            std::fs::read_to_string(root().join("examples/kubernetes/existing-database.yaml"))?;
        let commands: Vec<&str> = file
            .lines()
            .filter_map(|line| line.strip_prefix("#   "))
            .collect();
        let [patch, restart] = commands.as_slice() else {
            anyhow::bail!("{commands:?}");
        };
        let examples = root().join("examples/kubernetes");
        space.shell(patch, &examples).await?.success()?;
        database.rolled_out(space).await?;
        let says = &[
            "legacy-db-0",
            "archive_mode: off until Postgres is restarted",
        ];
        told(space, "archive/legacy", "Archiving", "False", says).await?;
        space.shell(restart, &examples).await?.success()?;
        database.rolled_out(space).await?;
        space
            .wait_for("archive/legacy", "condition=Ready", 180)
            .await?;
        database.archive_rows(space, 0).await?;
        let old = space.sql("legacy-db-0", "SELECT count(*) FROM old").await?;
        ensure!(old == "1000", "{old}");
        Ok(())
    })
    .await
}

/// Without their Secrets, which only their clouds could judge.
#[tokio::test]
async fn repositories_of_other_clouds_say_what_they_need() -> Result<()> {
    Space::scenario("clouds", async |space| {
        for (file, repository, says) in [
            (
                "examples/kubernetes/repository-azure.yaml",
                "repository/azure",
                [
                    "the Secret azure-pods is missing",
                    "--from-literal=sasToken=",
                    "the Secret azure-maintenance is missing",
                ],
            ),
            (
                "examples/kubernetes/repository-gcs.yaml",
                "repository/gcs",
                [
                    "the Secret gcs-pods is missing",
                    "--from-file=serviceAccount.json=",
                    "the Secret gcs-maintenance is missing",
                ],
            ),
        ] {
            let text = std::fs::read_to_string(root().join(file))?;
            space.apply(&text).await?;
            told(space, repository, "Ready", "False", &says).await?;
            let shown = space.kubectl(&["get", repository]).await?.success()?;
            let columns: Vec<&str> = shown.split_whitespace().collect();
            ensure!(
                columns.contains(&"acme-pg") && columns.contains(&"prod"),
                "{shown}"
            );
        }
        Ok(())
    })
    .await
}
