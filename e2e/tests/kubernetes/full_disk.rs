//! A database that has filled its volume.

use crate::fixtures::Database;
use crate::restores::{PATIENCE, goes_on, has_rows, history, restore, rows, up_to};
use crate::store::Store;
use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Said, Space, eventually};

/// The volume's size. Larger than what a restore of a small database asks for.
const SIZE: &str = "256Mi";

/// Has a volume that is really no larger, for the first claim of the class that is returned: a pod's directory in memory, as
/// a volume of its node. The kubelet makes it, and takes it away with the pod; the object goes with the namespace.
async fn small_volume(space: &Space) -> Result<String> {
    space
        .apply(&format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: disk}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: disk
    image: tools:dev
    volumeMounts: [{{name: small, mountPath: /small}}]
  volumes: [{{name: small, emptyDir: {{medium: Memory, sizeLimit: {SIZE}}}}}]
"
        ))
        .await?;
    space.wait_for("pod/disk", "condition=Ready", 60).await?;
    let pod = space.get("pod/disk").await?;
    let uid = pod["metadata"]["uid"].as_str().context("a UID")?;
    let node = pod["spec"]["nodeName"].as_str().context("a node")?;
    let node = space.get(&format!("node/{node}")).await?;
    let host = node["metadata"]["labels"]["kubernetes.io/hostname"]
        .as_str()
        .context("a host")?;
    let namespace = &space.namespace;
    let object = space.get(&format!("namespace/{namespace}")).await?;
    let owner = object["metadata"]["uid"].as_str().context("a UID")?;
    let class = format!("small-{namespace}");
    space
        .apply(&format!(
            "apiVersion: v1
kind: PersistentVolume
metadata:
  name: {class}
  ownerReferences: [{{apiVersion: v1, kind: Namespace, name: {namespace}, uid: {owner}}}]
spec:
  storageClassName: {class}
  accessModes: [ReadWriteOnce]
  capacity: {{storage: {SIZE}}}
  persistentVolumeReclaimPolicy: Retain
  local: {{path: /var/lib/kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/small}}
  nodeAffinity: {{required: {{nodeSelectorTerms: [{{matchExpressions: [{{key: kubernetes.io/hostname, operator: In, values: [{host}]}}]}}]}}}}
"
        ))
        .await?;
    Ok(class)
}

/// Runs a script in a container, which may end under it.
async fn script(space: &Space, pod: &str, container: &str, script: &str) -> Result<Said> {
    let words = ["exec", pod, "-c", container, "--", "bash", "-c", script];
    space.kubectl(&words).await
}

/// What Postgres has said, in this container and the one before.
async fn log(space: &Space) -> Result<String> {
    let logs = ["logs", "orders-0", "-c", "postgres"];
    let now = space.kubectl(&logs).await?.out;
    let before = space
        .kubectl(&[&logs[..], &["--previous"]].concat())
        .await?;
    Ok(before.out + &now)
}

/// With much WAL.
const WRITE: &str = "write() {
  psql -U postgres -h 127.0.0.1 -XAtq -c \"BEGIN; $1; SELECT FROM pg_logical_emit_message(true, 'fill', repeat('x', 3000000)); COMMIT\"
}
";

/// Commits one number after the other until the server has gone, and says the last one that was acknowledged.
async fn fill(space: &Space) -> Result<u32> {
    let numbers = "for ((n = 9; ; n++)); do write \"INSERT INTO ledger VALUES ($n)\" >&2 || break; echo $n; done";
    let said = script(space, "orders-0", "postgres", &format!("{WRITE}{numbers}")).await?;
    let log = log(space).await?;
    let panic = log.lines().find(|line| line.contains("PANIC"));
    ensure!(
        panic.is_some_and(|line| line.contains("No space left on device")),
        "{log}{}",
        said.err
    );
    // Less than a segment is left. Without it no start can be lucky.
    let full = script(space, "disk", "disk", "cat /dev/zero >/small/filler").await?;
    ensure!(full.err.contains("No space left on device"), "{}", full.err);
    Ok(said.out.lines().last().context("a number")?.parse()?)
}

/// Waits until Postgres ends again and again for that reason; whoever writes does not give up.
async fn crash_loops(space: &Space) -> Result<()> {
    eventually("Postgres crashes again and again", async || {
        let again = format!("{WRITE}write SELECT");
        script(space, "orders-0", "postgres", &again).await?;
        let pod = space.get("pod/orders-0").await?;
        let postgres = &pod["status"]["containerStatuses"][0];
        let log = log(space).await?;
        ensure!(
            postgres["restartCount"].as_u64() >= Some(2)
                && postgres["state"].get("running").is_none()
                && log.contains("No space left on device"),
            "{postgres}\n{log}"
        );
        Ok(())
    })
    .await
}

async fn goes_back(space: &Space, name: &str, target: &str) -> Result<()> {
    space.apply(&restore(name, "orders", target, "")).await?;
    let object = format!("restore/{name}");
    space
        .wait_for(&object, "condition=Complete", PATIENCE)
        .await
}

#[tokio::test]
async fn one_that_crash_loops_because_its_disk_is_full_goes_back() -> Result<()> {
    Space::scenario("full-disk", async |space| {
        let mut database = Database::new("orders", 17);
        database.storage_class = Some(small_volume(space).await?);
        database.storage = SIZE;
        // So that WAL stays for the archive's sake alone; and what has crashed is started anew by the kubelet.
        for setting in [
            "max_wal_size=64MB",
            "min_wal_size=32MB",
            "restart_after_crash=off",
        ] {
            database.arguments.extend(["-c".into(), setting.into()]);
        }
        let store = Store::shop(space, &database).await?;
        let moments = history(space).await?;
        store.goes().await?;
        let last = fill(space).await?;
        crash_loops(space).await?;

        store.comes_back().await?;
        goes_back(space, "back", &format!("{{lsn: {}}}", moments.lsn)).await?;
        has_rows(space, 5).await?;
        goes_on(space, "second", 2).await?;

        // The last one may have been committed without its client having heard of it.
        goes_back(space, "future", "{latest: {}, timeline: \"1\"}").await?;
        let there = rows(space).await?;
        ensure!(
            there == up_to(last) || there == up_to(last + 1),
            "{last} were acknowledged: {there}"
        );
        goes_on(space, "third", 3).await
    })
    .await
}
