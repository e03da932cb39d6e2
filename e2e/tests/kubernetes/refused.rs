//! Labelled pods that are not let in: each is told with the line to write, and mended by writing it.

use crate::fixtures::{Database, archive, event, repository};
use anyhow::{Result, ensure};
use holdfast_e2e::Space;

/// A pod of one container `a` and these labels besides Holdfast's.
fn pod(labels: &str, more: &str, container: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: x, labels: {{holdfast.dev/archive: orders{labels}}}{more}}}, spec: {{containers: [{{name: a, {container}}}]}}}}"
    )
}

#[tokio::test]
async fn pods_that_are_no_postgres_or_another_operators() -> Result<()> {
    Space::scenario("refused", async |space| {
        let postgres = "image: 'postgres:17'";
        let labelled = |labels: &str| pod(labels, "", postgres);
        let owned = |owner: &str| {
            let owner = format!(", ownerReferences: [{{{owner}, name: x, uid: 0e1b5b0e-1111-4222-8333-444455556666, controller: true}}]");
            pod("", &owner, postgres)
        };
        for (yaml, says) in [
            (
                labelled("").replace("[{name: a", "[{name: b, image: example/b}, {name: a").replace("postgres:17", "example/a"),
                "holdfast.dev/container",
            ),
            (pod("", "", "image: example/a"), "holdfast.dev/data-directory"),
            (
                pod("", "", "image: example/a, env: [{name: PGDATA, value: /data}], volumeMounts: [{name: v, mountPath: /data}]")
                    .replace("spec: {", "spec: {volumes: [{name: v, emptyDir: {}}], "),
                "holdfast.dev/run-as-user",
            ),
            (labelled(""), "lies on no volume"),
            (labelled("").replace("archive: orders", "archive: Orders"), "names no Archive"),
            (labelled(", cnpg.io/cluster: x"), "CloudNativePG runs this pod's Postgres"),
            (labelled(", postgres-operator.crunchydata.com/cluster: x"), "Crunchy Data's PGO"),
            (labelled(", application: spilo, cluster-name: x"), "Zalando's postgres-operator"),
            (labelled(", pgv2.percona.com/version: x"), "Percona's operator"),
            (owned("apiVersion: postgresql.cnpg.io/v1, kind: Cluster"), "CloudNativePG"),
            (pod("", "", "image: 'ghcr.io/zalando/spilo-17:4.0-p2'"), "Spilo"),
            (pod("", "", "image: example/a, command: [patroni, /etc/patroni.yml]"), "Patroni runs"),
        ] {
            let refused = space.try_apply(&yaml).await?.refused()?;
            ensure!(
                refused.contains(says) && refused.contains("inject.holdfast.dev"),
                "{yaml}: {refused}"
            );
        }
        // Let in as it is, where the pod says so itself.
        let no_postgres = pod("", ", annotations: {holdfast.dev/inject: 'false'}", "image: example/a");
        space.try_apply(&no_postgres).await?.success()?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_event_says_the_line_that_lets_the_pod_in() -> Result<()> {
    Space::scenario("mended", async |space| {
        space.apply(&repository(space)).await?;
        space.apply(&archive("orders")).await?;
        let wrong = Database {
            annotations: vec![("holdfast.dev/container", "database".to_owned())],
            ..Database::new("orders", 17)
        };
        space.apply(&wrong.yaml()).await?;
        let says = &["FailedCreate", "holdfast.dev/container", "\"postgres\": write one of them"];
        event(space, "statefulset/orders", says).await?;

        // What Holdfast does not know is told at once, and does no harm.
        let right = Database {
            annotations: vec![("holdfast.dev/contaner", "postgres".to_owned())],
            ..Database::new("orders", 17)
        };
        right.begin(space).await?;
        let template = "{apiVersion: v1, kind: Pod, metadata: {name: x, labels: {holdfast.dev/archive: orders}, annotations: {holdfast.dev/contaner: a, holdfast.dev/inject: 'true'}},
            spec: {volumes: [{name: v, emptyDir: {}}], containers: [{name: a, image: 'postgres:17', volumeMounts: [{name: v, mountPath: /var/lib/postgresql/data}]}]}}";
        let said = space.try_apply(template).await?;
        ensure!(said.ok && said.err.contains("Warning") && said.err.contains("holdfast.dev/contaner"), "{said:?}");
        space
            .wait_for("archive/orders", "condition=Archiving", 120)
            .await
    })
    .await
}
