//! A database restored into a claim: beside the one that runs, and where nobody knows it.

use crate::chart::root;
use crate::fixtures::{Database, archive, backed_up, event, repository, shop, told};
use crate::incarnations::{kept, stored};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Space, eventually};
use holdfast_postgres::Lsn;

/// The example, with these lines in place of its own.
fn example(changes: &[(&str, &str)]) -> Result<String> {
    let file = root().join("examples/kubernetes/restore-into-claim.yaml");
    let mut restore: String = std::fs::read_to_string(file)?
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| format!("{line}\n"))
        .collect();
    for (line, here) in changes {
        ensure!(restore.matches(line).count() == 1, "{line}: {restore}");
        restore = restore.replace(line, here);
    }
    Ok(restore)
}

/// Postgres on a claim, without any label: as somebody who looks into it.
fn reader(claim: &str) -> String {
    format!(
        "apiVersion: v1
kind: Pod
metadata: {{name: {claim}}}
spec:
  securityContext: {{runAsUser: 999, runAsGroup: 999, fsGroup: 999, fsGroupChangePolicy: OnRootMismatch}}
  containers:
  - name: postgres
    image: postgres:17
    args: [-c, archive_mode=off]
    env: [{{name: PGDATA, value: /data/pgdata}}]
    readinessProbe:
      exec: {{command: [pg_isready, -U, postgres, -h, 127.0.0.1]}}
      periodSeconds: 1
    volumeMounts: [{{name: data, mountPath: /data}}]
  volumes: [{{name: data, persistentVolumeClaim: {{claimName: {claim}}}}}]
"
    )
}

/// Waits until the copy is whole, and returns how many rows it has.
async fn copied(space: &Space, restore: &str, claim: &str) -> Result<String> {
    let object = format!("restore/{restore}");
    space.wait_for(&object, "condition=Complete", 240).await?;
    let status = &space.get(&object).await?["status"];
    ensure!(status["recoveredTo"]["timeline"] == 2, "{status:#}");
    ensure!(status["recoveredTo"]["lsn"].is_string(), "{status:#}");
    ensure!(
        status["durations"]["replaySeconds"].is_number(),
        "{status:#}"
    );
    let says = ["ClaimFilled", claim, "promoted and shut down"];
    event(space, &object, &says).await?;
    // Credentials and keys went with the end.
    let secret = format!("secret/holdfast-restore-{restore}");
    eventually("the Secret is gone", async || {
        space.kubectl(&["get", &secret]).await?.refused()?;
        Ok(())
    })
    .await?;
    space.apply(&reader(claim)).await?;
    let pod = format!("pod/{claim}");
    space.wait_for(&pod, "condition=Ready", 120).await?;
    space
        .sql(claim, "SELECT count(*), pg_is_in_recovery() FROM rows")
        .await
}

#[tokio::test]
async fn a_copy_beside_the_database_and_one_where_nobody_knows_it() -> Result<()> {
    Space::scenario("copied", async |space| {
        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        database.archive_rows(space, 0).await?;
        backed_up(space, "base", "orders", "").await?;
        database.archive_rows(space, 0).await?;
        let at = space.sql("orders-0", "SELECT now()").await?;
        let at = at.replacen(' ', "T", 1) + ":00";
        space.sql("orders-0", "DROP TABLE rows").await?;
        // More than the accident: the end of what is archived is later than the moment.
        database.archive_rows(space, 0).await?;
        let uid = space.get("pod/orders-0").await?["metadata"]["uid"].clone();

        let before_it = format!("target: {{time: \"{at}\"}}");
        let copy = example(&[("target: {latest: {}}", &before_it)])?;
        space.apply(&copy).await?;
        let rows = copied(space, "orders-copy", "orders-copy").await?;
        ensure!(rows == "2000|f", "{rows}");
        // The database knows nothing of it.
        let now = space.get("pod/orders-0").await?["metadata"]["uid"].clone();
        ensure!(now == uid, "{now} and {uid}");
        let rows = space.sql("orders-0", "SELECT count(*) FROM rows").await?;
        ensure!(rows == "1000", "{rows}");

        // Nothing may be put into the source by a copy: here it is asked alone.
        space
            .kubectl(&["scale", "statefulset/orders", "--replicas=0"])
            .await?
            .success()?;
        space
            .kubectl(&["wait", "pod/orders-0", "--for=delete", "--timeout=120s"])
            .await?
            .success()?;
        let before = kept(stored(space, "list-before").await?);

        space.beside("fresh", async |fresh| {
        let place = repository(space).replace("metadata: {name: s3}", "metadata: {name: old}");
        fresh.apply(&format!("{place}  accessMode: ReadOnly\n")).await?;
        let source = format!(
            "source: {{repositoryRef: {{name: old}}, namespace: {}, archive: orders}}\n  postgres: {{image: \"postgres:17\"}}",
            space.namespace
        );
        let elsewhere = [
            ("source: {archiveRef: {name: orders}}", source.as_str()),
            ("target: {latest: {}}", before_it.as_str()),
        ];
        fresh.apply(&example(&elsewhere)?).await?;
        let rows = copied(fresh, "orders-copy", "orders-copy").await?;
        ensure!(rows == "2000|f", "{rows}");
        let after = kept(stored(space, "list-after").await?);
        ensure!(after == before, "{before:#?}\n{after:#?}");

        // The claim stays, the Job goes.
        fresh
            .kubectl(&["delete", "restore/orders-copy"])
            .await?
            .success()?;
        eventually("the Job is gone", async || {
            fresh
                .kubectl(&["get", "job/holdfast-restore-orders-copy"])
                .await?
                .refused()?;
            Ok(())
        })
        .await?;
        fresh.get("persistentvolumeclaim/orders-copy").await?;
        Ok(())
        })
        .await
    })
    .await
}

#[tokio::test]
async fn what_cant_be_restored_into_a_claim_is_refused_before_anything_is_made() -> Result<()> {
    Space::scenario("uncopied", async |space| {
        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        database.archive_rows(space, 0).await?;
        backed_up(space, "base", "orders", "").await?;
        for (name, changes, says) in [
            (
                "in-use",
                &[(
                    "name: orders-copy\n      template",
                    "name: data-orders-0\n      # template",
                )][..],
                "used by the pod orders-0",
            ),
            (
                "exists",
                &[(
                    "name: orders-copy\n      template",
                    "name: data-orders-0\n      template",
                )],
                "leave the template out",
            ),
            (
                "too-small",
                &[("size: 1Gi", "size: 16Mi")],
                "give a larger one",
            ),
            (
                "unreachable",
                &[(
                    "target: {latest: {}}",
                    "target: {time: \"2020-01-01T00:00:00Z\"}",
                )],
                "2020-01-01",
            ),
        ] {
            let object = format!("name: {name}");
            let restore = example(changes)?.replace(
                "metadata: {name: orders-copy}",
                &format!("metadata: {{{object}}}"),
            );
            space.apply(&restore).await?;
            let object = format!("restore/{name}");
            told(space, &object, "Failed", "True", &[says]).await?;
            let job = format!("job/holdfast-restore-{name}");
            space.kubectl(&["get", &job]).await?.refused()?;
        }
        space
            .kubectl(&["get", "persistentvolumeclaim/orders-copy"])
            .await?
            .refused()?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn one_that_is_not_verified_recovers_in_the_pod_that_starts_on_it() -> Result<()> {
    Space::scenario("unverified", async |space| {
        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        database.archive_rows(space, 0).await?;
        backed_up(space, "base", "orders", "").await?;
        database.archive_rows(space, 0).await?;
        let unverified = [(
            "template: {size: 1Gi}",
            "verify: false\n      template: {size: 1Gi}",
        )];
        space.apply(&example(&unverified)?).await?;
        space
            .wait_for("restore/orders-copy", "condition=Complete", 240)
            .await?;
        let status = &space.get("restore/orders-copy").await?["status"];
        ensure!(status["recoveredTo"].is_null(), "{status:#}");
        let says = ["ClaimFilled", "recovers when Postgres is started"];
        event(space, "restore/orders-copy", &says).await?;

        recovers(space, "[]", "2000|f").await
    })
    .await
}

#[tokio::test]
async fn one_that_shuts_down_at_its_target_is_promoted_later() -> Result<()> {
    Space::scenario("stepped", async |space| {
        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        database.archive_rows(space, 0).await?;
        backed_up(space, "base", "orders", "").await?;
        database.archive_rows(space, 0).await?;
        let at = "SELECT pg_current_wal_insert_lsn()";
        let at = space.sql("orders-0", at).await?;
        database.archive_rows(space, 0).await?;
        let target = format!("target: {{lsn: {at}}}\n  action: Shutdown");
        let stepped = example(&[("target: {latest: {}}", &target)])?;
        space.apply(&stepped).await?;
        space
            .wait_for("restore/orders-copy", "condition=Complete", 240)
            .await?;
        let reached = &space.get("restore/orders-copy").await?["status"]["recoveredTo"];
        let lsn: Lsn = reached["lsn"].as_str().context("an LSN")?.parse()?;
        ensure!(
            reached["timeline"] == 1 && lsn >= at.parse()?,
            "{reached:#}: {at}"
        );
        let says = ["ClaimFilled", "at its target, and not promoted"];
        event(space, "restore/orders-copy", &says).await?;

        let stands = "[-c, recovery_target_action=pause]";
        recovers(space, stands, "2000|t").await?;
        space
            .kubectl(&["delete", "pod/orders-copy"])
            .await?
            .success()?;
        let goes_on = "[-c, recovery_target_action=promote]";
        recovers(space, goes_on, "2000|f").await
    })
    .await
}

/// Postgres on the claim of the example, with these arguments, under an Archive of its own with the same source.
async fn recovers(space: &Space, arguments: &str, expected: &str) -> Result<()> {
    let own = format!(
        "{}  bootstrap: {{recovery: {{source: {{repositoryRef: {{name: s3}}, namespace: {}, archive: orders}}, target: {{latest: {{}}}}}}}}\n",
        archive("copy"),
        space.namespace
    );
    space.apply(&own).await?;
    let labelled = reader("orders-copy")
        .replace(
            "metadata: {name: orders-copy}",
            "metadata: {name: orders-copy, labels: {holdfast.dev/archive: copy}}",
        )
        .replace("[-c, archive_mode=off]", arguments);
    space.apply(&labelled).await?;
    eventually("the copy can be read", async || {
        let rows = "SELECT count(*), pg_is_in_recovery() FROM rows";
        let rows = space.sql("orders-copy", rows).await?;
        ensure!(rows == expected, "{rows}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_job_that_fails_says_why_and_what_is_on_the_claim() -> Result<()> {
    Space::scenario("unfilled", async |space| {
        let database = Database::new("orders", 17);
        shop(space, &database).await?;
        database.archive_rows(space, 0).await?;
        backed_up(space, "base", "orders", "").await?;
        // The wrong major: Postgres does not start on the directory.
        let other = [(
            "source: {archiveRef: {name: orders}}",
            "source: {archiveRef: {name: orders}}\n  postgres: {image: \"postgres:16\"}",
        )];
        space.apply(&example(&other)?).await?;
        let says = [
            "Postgres did not recover",
            "incompatible",
            "pgdata of the claim orders-copy",
        ];
        told(space, "restore/orders-copy", "Failed", "True", &says).await
    })
    .await
}
