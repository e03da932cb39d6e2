//! A database that is gone, with all its objects: an Archive in another namespace brings it back.

use crate::chart::root;
use crate::docs;
use crate::fixtures::{Database, archived, backed_up, event, repository, shop, told};
use crate::incarnations::{kept, stored, stored_below};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Space, eventually};

/// As a cluster that knows nothing has it: the place, its key, and where in it the archive lies.
fn objects(from: &Space, target: &str) -> Result<String> {
    let mut archive = std::fs::read_to_string(root().join("examples/kubernetes/rebuilt.yaml"))?;
    for (line, here) in [
        (
            "repositoryRef: {name: s3}",
            "repositoryRef: {name: old}".to_owned(),
        ),
        ("namespace: shop", format!("namespace: {}", from.namespace)),
        ("target: {latest: {}}", format!("target: {target}")),
    ] {
        ensure!(archive.matches(line).count() == 1, "{line}: {archive}");
        archive = archive.replace(line, &here);
    }
    let repository = repository(from).replace("metadata: {name: s3}", "metadata: {name: old}");
    Ok(format!(
        "{repository}  accessMode: ReadOnly\n---\n{archive}"
    ))
}

async fn rows(space: &Space, pod: &str) -> Result<String> {
    space
        .sql(pod, "SELECT count(*), pg_is_in_recovery() FROM rows")
        .await
}

#[tokio::test]
async fn all_is_rebuilt_from_the_bucket_and_the_key() -> Result<()> {
    Space::scenario("gone", async |old| {
        // As the official image has it by itself: on a new volume the directory above is missing, too.
        let mut database = Database {
            mount: "/var/lib/postgresql",
            data_directory: "/var/lib/postgresql/18/docker",
            ..Database::new("orders", 18)
        };
        shop(old, &database).await?;
        database.archive_rows(old, 0).await?;
        backed_up(old, "base", "orders", "").await?;
        database.archive_rows(old, 0).await?;
        let at = old.sql("orders-0", "SELECT now()").await?;
        old.sql("orders-0", "DROP TABLE rows").await?;
        database.archive_rows(old, 0).await?;
        for words in [
            &["delete", "statefulset,archive,repository,backup", "--all"][..],
            &["delete", "pvc", "--all"],
        ] {
            old.kubectl(words).await?.success()?;
        }
        let before = kept(stored(old, "list-before").await?);

        // To just before the accident, with a standby, which is cloned and not restored as well.
        old.beside("rebuilt", async |space| {
            let at = at.replacen(' ', "T", 1) + ":00";
            database.replicas = 2;
            space.apply(&repository(space)).await?;
            space
                .apply(&objects(old, &format!("{{time: \"{at}\"}}"))?)
                .await?;
            database.begin(space).await?;
            ensure!(rows(space, "orders-0").await? == "2000|f");
            ensure!(rows(space, "orders-1").await? == "2000|t");
            let logs = ["logs", "orders-0", "-c", "holdfast-bootstrap"];
            let said = space.kubectl(&logs).await?.success()?;
            for words in ["stops ", "restored ", "promote"] {
                ensure!(said.contains(words), "{words}: {said}");
            }

            // It goes on as an archive of its own, on a timeline of its own, and leaves its source alone.
            space
                .wait_for("archive/orders", "condition=Archiving", 120)
                .await?;
            let segment = database.archive_rows(space, 0).await?;
            ensure!(segment.starts_with("00000002"), "{segment}");
            let backup = backed_up(space, "first", "orders", "").await?;
            ensure!(backup["status"]["timeline"] == 2, "{:#}", backup["status"]);
            space
                .wait_for("archive/orders", "condition=Ready", 120)
                .await?;
            let after = kept(stored(old, "list-after").await?);
            ensure!(after == before, "{before:#?}\n{after:#?}");

            // A lost volume is not restored a second time: the other pod has what came since.
            for words in [
                &["delete", "pvc", "data-orders-1", "--wait=false"][..],
                &["delete", "pod", "orders-1"],
            ] {
                space.kubectl(words).await?.success()?;
            }
            database.rolled_out(space).await?;
            eventually("the standby is cloned again", async || {
                let standby = rows(space, "orders-1").await?;
                ensure!(standby == "3000|t", "{standby}");
                Ok(())
            })
            .await
        })
        .await
    })
    .await
}

#[tokio::test]
async fn by_the_words_of_the_docs_it_is_rebuilt_when_its_namespace_is_gone() -> Result<()> {
    Space::scenario("lost", async |old| {
        let page = docs::page()?;
        let run = async |space: &Space, script: &str| {
            let said = space.shell(script, &root()).await?;
            ensure!(said.ok, "{script}\n{}{}", said.out, said.err);
            Ok(said.out)
        };
        let secrets = ["delete", "secret", "s3-writer", "backup-key"];
        old.kubectl(&secrets).await?.success()?;
        let place = docs::between(&page, "## Where backups go", "## What is kept")?;
        let said = run(old, &docs::script(place)).await?;
        let key = said
            .lines()
            .last()
            .context("the key is printed")?
            .to_owned();
        for (from, to) in [
            ("## What is kept", "## One label"),
            ("## One label", "## Backups"),
        ] {
            run(old, &docs::script(docs::between(&page, from, to)?)).await?;
        }
        let pod = "orders-db-0";
        let write = async |space: &Space, statement: &str| {
            space.sql(pod, statement).await?;
            // A backup that ends at this moment closes the segment, too, and the one after it holds nothing yet.
            let written = "SELECT pg_walfile_name(pg_logical_emit_message(false, '', 'x'))";
            let segment = space.sql(pod, written).await?;
            space.sql(pod, "SELECT pg_switch_wal()").await?;
            archived(space, pod, &segment).await?;
            Ok::<_, anyhow::Error>(segment)
        };
        write(old, "CREATE TABLE ledger AS SELECT generate_series(1, 3) n").await?;
        backed_up(old, "base", "orders", "").await?;
        write(old, "INSERT INTO ledger VALUES (4)").await?;
        for words in [
            &["delete", "statefulset", "--all"][..],
            &["delete", "pvc", "--all"],
            &["delete", "holdfast", "--all"],
            &["delete", "namespace", &old.namespace, "--timeout=180s"],
        ] {
            old.kubectl(words).await?.success()?;
        }

        old.beside("found", async |space| {
            space.kubectl(&secrets).await?.success()?;
            let folder = format!("prod/{}", old.namespace);
            let before = kept(stored_below(space, "list-before", &folder).await?);
            ensure!(
                before.keys().any(|key| key.contains("/backups/")),
                "{before:#?}"
            );
            let mut script = docs::script(docs::between(&page, docs::GONE, "## Not there yet")?);
            for (words, here) in [
                (
                    "OLD_NAMESPACE=shop",
                    format!("OLD_NAMESPACE={}", old.namespace),
                ),
                ("\"the key that you kept\"", format!("'{key}'")),
            ] {
                ensure!(script.matches(words).count() == 1, "{words}: {script}");
                script = script.replace(words, &here);
            }
            run(space, &script).await?;

            let rows = "SELECT string_agg(n::text, ',' ORDER BY n) FROM ledger";
            let rows = space.sql(pod, rows).await?;
            ensure!(rows == "1,2,3,4", "{rows}");
            let segment = write(space, "INSERT INTO ledger VALUES (5)").await?;
            ensure!(segment.starts_with("00000002"), "{segment}");
            let own = format!("prod/{}", space.namespace);
            let own = stored_below(space, "list-own", &own).await?;
            ensure!(
                own.keys().any(|key| key.ends_with(&segment)),
                "{segment}: {own:#?}"
            );
            let after = kept(stored_below(space, "list-after", &folder).await?);
            ensure!(after == before, "{before:#?}\n{after:#?}");
            Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn what_cant_be_reached_keeps_postgres_from_starting() -> Result<()> {
    Space::scenario("unreachable", async |old| {
        let database = Database::new("orders", 17);
        shop(old, &database).await?;
        database.archive_rows(old, 0).await?;
        backed_up(old, "base", "orders", "").await?;
        old.beside("unrestored", async |space| {
            space.apply(&repository(space)).await?;
            let target = "{time: \"2020-01-01T00:00:00Z\"}";
            space.apply(&objects(old, target)?).await?;
            space.apply(&database.yaml()).await?;
            eventually("the pod tells why", async || {
                let pod = space.get("pod/orders-0").await?;
                let statuses = pod["status"]["initContainerStatuses"].as_array();
                let bootstrap = statuses.and_then(|all| {
                    let mut all = all.iter();
                    all.find(|one| one["name"] == "holdfast-bootstrap")
                });
                let bootstrap = bootstrap.context("no status yet")?.to_string();
                let says = ["not restored", "2020-01-01"];
                ensure!(
                    says.iter().all(|words| bootstrap.contains(words)),
                    "{bootstrap}"
                );
                Ok(())
            })
            .await?;
            // And so does its Archive.
            let says = ["orders-0: not restored", "2020-01-01"];
            told(space, "archive/orders", "Archiving", "False", &says).await?;
            told(space, "archive/orders", "Ready", "False", &says).await?;
            let says = ["Warning", "RestoreRefused", "2020-01-01"];
            event(space, "archive/orders", &says).await?;

            // Mended without deleting anything.
            space.apply(&objects(old, "{latest: {}}")?).await?;
            database.rolled_out(space).await?;
            ensure!(rows(space, "orders-0").await? == "1000|f");
            Ok(())
        })
        .await
    })
    .await
}
