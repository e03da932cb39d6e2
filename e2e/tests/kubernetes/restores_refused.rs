//! Restores that others' doings keep from beginning: each says whose, nothing is touched, and what can be mended goes on.

use crate::fixtures::{Database, archived, ask_store, event, repository, shop, told};
use crate::outages::begun;
use crate::restores::{PATIENCE, has_rows, history, restore};
use crate::store::{Pace, Store};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Space, eventually};
use serde_json::Value;

async fn pod(space: &Space) -> Result<Value> {
    Ok(space.get("pod/orders-0").await?["metadata"]["uid"].clone())
}

/// The pod is the one that it was, and every row is there.
async fn untouched(space: &Space, before: &Value, last: u32) -> Result<()> {
    let now = pod(space).await?;
    ensure!(now == *before, "{now} and {before}");
    has_rows(space, last).await
}

/// A StatefulSet that somebody else runs. It has no pods: it is judged by what it says.
fn theirs(name: &str, labels: &str, owner: &str, container: &str) -> String {
    format!(
        "apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: {name}
  ownerReferences: [{owner}]
spec:
  serviceName: {name}
  replicas: 0
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}{labels}}}}}
    spec:
      containers: [{{name: postgres, image: \"postgres:17\"{container}}}]
"
    )
}

#[tokio::test]
async fn what_another_operator_runs_is_left_to_it() -> Result<()> {
    Space::scenario("restore-theirs", async |space| {
        // Their definitions are not here, and Kubernetes leaves alone what it can't look up.
        let owner = |api: &str, kind: &str| {
            format!("{{apiVersion: {api}, kind: {kind}, name: db, uid: 6d1b0c5e-1c1f-4c43-9a53-0f6f8d0c2a11}}")
        };
        for (name, labels, owner, container, says) in [
            (
                "cnpg",
                "",
                owner("postgresql.cnpg.io/v1", "Cluster"),
                "",
                "by the means of CloudNativePG",
            ),
            (
                "zalando",
                "",
                owner("acid.zalan.do/v1", "postgresql"),
                "",
                "by the means of Zalando's postgres-operator",
            ),
            (
                "spilo",
                ", application: spilo",
                String::new(),
                "",
                "by the means of Zalando's postgres-operator",
            ),
            (
                "patroni",
                ", holdfast.dev/archive: orders",
                String::new(),
                ", env: [{name: PATRONI_SCOPE, value: db}]",
                "by the means of Patroni",
            ),
        ] {
            space.apply(&theirs(name, labels, &owner, container)).await?;
            space
                .apply(
                    &restore(name, "orders", "{latest: {}}", "")
                        .replace("{statefulSet: {name: orders", &format!("{{statefulSet: {{name: {name}")),
                )
                .await?;
            let object = format!("restore/{name}");
            told(space, &object, "Failed", "True", &[says, name]).await?;
            event(space, &object, &["Warning", says]).await?;
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn wal_that_is_missing_is_named() -> Result<()> {
    Space::scenario("restore-gap", async |space| {
        shop(space, &Database::new("orders", 17)).await?;
        history(space).await?;
        let switch = async || {
            let switch = "SELECT pg_walfile_name(pg_switch_wal())";
            let segment = space.sql("orders-0", switch).await?;
            archived(space, "orders-0", &segment).await?;
            Ok::<_, anyhow::Error>(segment)
        };
        let lost = switch().await?;
        space
            .sql("orders-0", "INSERT INTO ledger VALUES (9)")
            .await?;
        let now = "SELECT pg_current_wal_insert_lsn()";
        let later = space.sql("orders-0", now).await?;
        switch().await?;
        // What the server still had would be stored again.
        space.sql("orders-0", "CHECKPOINT").await?;
        let there = format!("SELECT count(*) FROM pg_ls_waldir() WHERE name = '{lost}'");
        ensure!(space.sql("orders-0", &there).await? == "0", "{lost} is there");
        let system = "SELECT system_identifier FROM pg_control_system()";
        let system = space.sql("orders-0", system).await?;
        let own = &space.namespace;
        let folder = format!("holdfast/{own}/{own}/orders/{system}/wal");
        let path = format!("{folder}/{}/{}/{lost}", &lost[..8], &lost[8..16]);
        ask_store(space, "lose", &path, &["-X", "DELETE"]).await?;

        let before = pod(space).await?;
        let now = "SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')";
        let now = space.sql("orders-0", now).await?;
        for (name, target) in [
            ("lsn", format!("{{lsn: {later}}}")),
            ("time", format!("{{time: \"{now}\"}}")),
        ] {
            space.apply(&restore(name, "orders", &target, "")).await?;
            let object = format!("restore/{name}");
            let says = [lost.as_str(), "is missing, although later WAL is archived"];
            told(space, &object, "Failed", "True", &says).await?;
            told(space, &object, "Checked", "False", &says).await?;
        }
        untouched(space, &before, 9).await
    })
    .await
}

#[tokio::test]
async fn another_key_is_told_and_with_the_right_one_it_goes_on() -> Result<()> {
    Space::scenario("restore-key", async |space| {
        shop(space, &Database::new("orders", 17)).await?;
        history(space).await?;
        let before = pod(space).await?;
        let key = |name: &str, key: &str| {
            format!("{{apiVersion: v1, kind: Secret, metadata: {{name: {name}}}, stringData: {{current: k1, k1: {key}}}}}")
        };
        let (right, wrong) = (
            "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
            "HwECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=",
        );

        // Into a claim, from a Repository with another key.
        space.apply(&key("other-key", wrong)).await?;
        let other = repository(space)
            .replace("{name: s3}", "{name: other}")
            .replace("{name: backup-key}", "{name: other-key}");
        space.apply(&other).await?;
        let copy = restore("copy", "orders", "{latest: {}}", "")
            .replace(
                "archiveRef: {name: orders}",
                &format!(
                    "repositoryRef: {{name: other}}, namespace: {}, archive: orders",
                    space.namespace
                ),
            )
            .replace(
                "{statefulSet: {name: orders}}",
                "{persistentVolumeClaim: {name: copy, template: {size: 1Gi}}}",
            )
            + "  postgres: {image: \"postgres:17\"}\n";
        space.apply(&copy).await?;
        let says = ["data key", "wrapped by k1"];
        told(space, "restore/copy", "Checked", "False", &says).await?;
        for object in ["job/holdfast-restore-copy", "persistentvolumeclaim/copy"] {
            space.kubectl(&["get", object]).await?.refused()?;
        }

        // In place, with another key under the name of the right one.
        space.apply(&key("backup-key", wrong)).await?;
        told(space, "archive/orders", "Recoverable", "False", &says).await?;
        space
            .apply(&restore("back", "orders", "{immediate: {}}", ""))
            .await?;
        eventually("it tells of the key", async || {
            let (status, reason, message) = space.condition("restore/back", "Checked").await?;
            ensure!(
                status == "False" && says.iter().all(|words| message.contains(words)),
                "Checked is {status}, {reason}: {message}"
            );
            Ok(())
        })
        .await?;
        untouched(space, &before, 8).await?;

        // Mended, each goes on.
        for name in ["other-key", "backup-key"] {
            space.apply(&key(name, right)).await?;
        }
        for (object, condition) in [("restore/copy", "Complete"), ("restore/back", "Complete")] {
            space
                .wait_for(object, &format!("condition={condition}"), PATIENCE)
                .await?;
        }
        has_rows(space, 2).await
    })
    .await
}

#[tokio::test]
async fn it_begins_after_the_backup_that_runs() -> Result<()> {
    Space::scenario("restore-backup", async |space| {
        let store = Store::shop(space, &Database::new("orders", 17)).await?;
        let ledger = "CREATE TABLE ledger AS SELECT generate_series(1, 3) n";
        space.sql("orders-0", ledger).await?;
        let before = pod(space).await?;
        begun(space, &store, "slow").await?;
        space
            .apply(&restore("back", "orders", "{immediate: {}}", ""))
            .await?;
        let says = [
            "the Backup slow runs",
            "begins after it, or once it is deleted",
        ];
        told(space, "restore/back", "Checked", "False", &says).await?;
        untouched(space, &before, 3).await?;
        store.answers(Pace::Quick).await?;
        for object in ["backup/slow", "restore/back"] {
            space
                .wait_for(object, "condition=Complete", PATIENCE)
                .await?;
        }
        ensure!(pod(space).await? != before, "the pod is the old one");
        has_rows(space, 3).await
    })
    .await
}

/// A volume that ends where it says: what a pod that does nothing keeps in memory. It goes with the namespace.
async fn small_volume(space: &Space, claim: &str, mebibytes: u32) -> Result<()> {
    let own = &space.namespace;
    space
        .apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: holder}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: holder
    image: tools:dev
    command: [sleep, infinity]
    volumeMounts: [{{name: small, mountPath: /small}}]
  volumes: [{{name: small, emptyDir: {{medium: Memory, sizeLimit: {mebibytes}Mi}}}}]
"
        ))
        .await?;
    space.wait_for("pod/holder", "condition=Ready", 120).await?;
    let uid = |object: Value| -> Result<String> {
        let uid = object["metadata"]["uid"].as_str().context("a uid")?;
        Ok(uid.to_owned())
    };
    let holder = uid(space.get("pod/holder").await?)?;
    let namespace = uid(space.get(&format!("namespace/{own}")).await?)?;
    space
        .apply(&format!(
            "apiVersion: v1
kind: PersistentVolume
metadata:
  name: {own}
  ownerReferences: [{{apiVersion: v1, kind: Namespace, name: {own}, uid: {namespace}}}]
spec:
  capacity: {{storage: {mebibytes}Mi}}
  accessModes: [ReadWriteOnce]
  storageClassName: \"\"
  persistentVolumeReclaimPolicy: Retain
  claimRef: {{namespace: {own}, name: {claim}}}
  hostPath: {{path: /var/lib/kubelet/pods/{holder}/volumes/kubernetes.io~empty-dir/small, type: Directory}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {{name: {claim}}}
spec:
  accessModes: [ReadWriteOnce]
  storageClassName: \"\"
  volumeName: {own}
  resources: {{requests: {{storage: {mebibytes}Mi}}}}
"
        ))
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_volume_without_room_keeps_what_it_has() -> Result<()> {
    Space::scenario("restore-room", async |space| {
        let database = Database {
            storage: "600Mi",
            arguments: ["-c", "max_wal_size=64MB", "-c", "min_wal_size=32MB"]
                .map(str::to_owned)
                .to_vec(),
            ..Database::new("orders", 17)
        };
        small_volume(space, "data-orders-0", 600).await?;
        shop(space, &database).await?;
        // Of 170 MB, which a later state of the database has no longer.
        let bulk = "CREATE TABLE bulk AS SELECT g, repeat('x', 1000) FROM generate_series(1, 150000) g";
        space.sql("orders-0", bulk).await?;
        history(space).await?;
        space.sql("orders-0", "DROP TABLE bulk").await?;
        space.sql("orders-0", "CHECKPOINT").await?;
        let data = "/var/lib/postgresql/data";
        let fill = format!("set -e; cd {data}; free=$(df -m --output=avail . | tail -1); head -c $((free - 60))M /dev/zero >filler");
        let run = async |script: &str| {
            let words = ["exec", "orders-0", "-c", "postgres", "--", "bash", "-c", script];
            space.kubectl(&words).await?.success()
        };
        run(&fill).await?;
        space
            .apply(&restore("full", "orders", "{immediate: {}}", ""))
            .await?;
        let says = ["has room for", "are needed: nothing was written"];
        told(space, "restore/full", "Failed", "True", &says).await?;
        database.rolled_out(space).await?;
        has_rows(space, 8).await?;
        // With room another one does it.
        run(&format!("rm {data}/filler")).await?;
        space
            .apply(&restore("roomy", "orders", "{immediate: {}}", ""))
            .await?;
        space
            .wait_for("restore/roomy", "condition=Complete", PATIENCE)
            .await?;
        has_rows(space, 2).await
    })
    .await
}
