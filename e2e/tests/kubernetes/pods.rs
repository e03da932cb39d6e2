//! Pods of all shapes: another image, volumes of their own for WAL and a tablespace, a restricted namespace.

use crate::fixtures::{Database, archive, backed_up, containers, repository, told};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Space, eventually};
use serde_json::{Value, json};

/// A StatefulSet `orders` of one pod, with the label, made of a pod's spec and its claims' names.
pub fn labelled(spec: &str, claims: &[&str]) -> String {
    let spec = spec.replace('\n', "\n      ");
    let claims: String = claims
        .iter()
        .map(|name| {
            format!(
                "  - {{metadata: {{name: {name}}}, spec: {{accessModes: [ReadWriteOnce], resources: {{requests: {{storage: 1Gi}}}}}}}}\n"
            )
        })
        .collect();
    format!(
        "apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: orders}}
spec:
  serviceName: orders
  selector: {{matchLabels: {{app: orders}}}}
  template:
    metadata: {{labels: {{app: orders, holdfast.dev/archive: orders}}}}
    spec:{spec}
  volumeClaimTemplates:
{claims}"
    )
}

/// Applies it with its Repository and Archive, and waits until the pod is ready.
pub async fn begin(space: &Space, set: &str) -> Result<()> {
    space.apply(&repository(space)).await?;
    space.apply(&archive("orders")).await?;
    space.apply(set).await?;
    Database::new("orders", 17).rolled_out(space).await
}

/// The mounts of a container but our own, as `(path, volume, sub path, read only)`.
fn data_mounts(container: &Value) -> Vec<(&str, &str, &str, bool)> {
    let mounts = container["volumeMounts"].as_array().into_iter().flatten();
    let mut mounts: Vec<_> = mounts
        .map(|mount| {
            let text = |field: &str| mount[field].as_str();
            (
                text("mountPath").unwrap_or_default(),
                text("name").unwrap_or_default(),
                text("subPath").or(text("subPathExpr")).unwrap_or_default(),
                mount["readOnly"] == true,
            )
        })
        .filter(|(_, volume, ..)| !volume.starts_with("holdfast"))
        .collect();
    mounts.sort_unstable();
    mounts
}

#[tokio::test]
async fn an_image_whose_script_hears_no_arguments() -> Result<()> {
    Space::scenario("script", async |space| {
        // As the chart of that name has it: another user, a read-only root, the configuration outside of the data.
        let set = labelled(
            "
securityContext: {fsGroup: 1001}
containers:
- name: postgresql
  image: bitnami/postgresql:17
  securityContext: {runAsUser: 1001, runAsGroup: 1001, runAsNonRoot: true, readOnlyRootFilesystem: true}
  env:
  - {name: POSTGRESQL_VOLUME_DIR, value: /bitnami/postgresql}
  - {name: PGDATA, value: /bitnami/postgresql/data}
  - {name: POSTGRES_PASSWORD, valueFrom: {secretKeyRef: {name: orders, key: postgres-password}}}
  readinessProbe: {exec: {command: [pg_isready, -U, postgres, -h, 127.0.0.1]}, periodSeconds: 1}
  volumeMounts:
  - {name: empty-dir, mountPath: /tmp, subPath: tmp-dir}
  - {name: empty-dir, mountPath: /opt/bitnami/postgresql/conf, subPath: app-conf-dir}
  - {name: empty-dir, mountPath: /opt/bitnami/postgresql/tmp, subPath: app-tmp-dir}
  - {name: data, mountPath: /bitnami/postgresql}
volumes:
- {name: empty-dir, emptyDir: {}}",
            &["data"],
        );
        space
            .apply("{apiVersion: v1, kind: Secret, metadata: {name: orders}, stringData: {postgres-password: secret}}")
            .await?;
        begin(space, &set).await?;
        let password = json!({"spec": {"postgres": {"auth": {"passwordSecretRef": {"name": "orders", "key": "postgres-password"}}}}});
        space
            .kubectl(&["patch", "archive", "orders", "--type=merge", "-p", &password.to_string()])
            .await?
            .success()?;
        // Set in SQL; the server has to be started once more for archive_mode, and that is told.
        eventually("the restart is asked for", async || {
            let (status, reason, message) = space.condition("archive/orders", "Archiving").await?;
            ensure!(
                status == "False"
                    && reason == "ArchivingOff"
                    && message.contains("archive_mode: off until Postgres is restarted"),
                "{status} {reason}: {message}"
            );
            Ok(())
        })
        .await?;
        space.kubectl(&["rollout", "restart", "statefulset/orders"]).await?.success()?;
        Database::new("orders", 17).rolled_out(space).await?;
        space.wait_for("archive/orders", "condition=Ready", 120).await?;
        let sql = async |statement: &str| {
            let psql = ["psql", "-U", "postgres", "-h", "/tmp", "-XAtqc", statement];
            let words = ["exec", "orders-0", "-c", "postgresql", "--"];
            let said = space.kubectl(&[&words[..], &psql[..]].concat()).await?;
            Ok::<_, anyhow::Error>(said.success()?.trim().to_owned())
        };
        let library = sql("SHOW archive_library").await?;
        ensure!(library == "/holdfast/lib/holdfast_archive", "{library}");
        sql("CREATE TABLE mark AS SELECT 1 AS n").await?;
        let segment = sql("SELECT pg_walfile_name(pg_switch_wal())").await?;
        eventually("it is archived", async || {
            let last = sql("SELECT last_archived_wal FROM pg_stat_archiver").await?;
            ensure!(last >= segment, "{last:?} and not {segment}");
            Ok(())
        })
        .await?;
        let backup = backed_up(space, "first", "orders", "").await?;
        ensure!(backup["status"]["size"]["database"].as_u64() > Some(1 << 20), "{backup:#}");
        let pod = space.get("pod/orders-0").await?;
        let sidecar = containers(&pod).find(|c| c["name"] == "holdfast").context("no sidecar")?;
        ensure!(
            sidecar["securityContext"]["runAsUser"] == 1001
                && data_mounts(sidecar) == [("/bitnami/postgresql", "data", "", true)],
            "{sidecar:#}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn wal_and_a_tablespace_on_volumes_of_their_own() -> Result<()> {
    Space::scenario("volumes", async |space| {
        let root = "/var/lib/postgresql/data";
        let set = labelled(
            "
securityContext: {fsGroup: 999}
containers:
- name: postgres
  image: postgres:17
  env:
  - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: POSTGRES_HOST_AUTH_METHOD, value: trust}
  - {name: PGDATA, value: /var/lib/postgresql/data/pgdata}
  - {name: POSTGRES_INITDB_WALDIR, value: /var/lib/postgresql/data/wal/orders}
  readinessProbe: {exec: {command: [pg_isready, -U, postgres, -h, 127.0.0.1]}, periodSeconds: 1}
  volumeMounts:
  - {name: data, mountPath: /var/lib/postgresql/data, subPath: databases/orders}
  - {name: wal, mountPath: /var/lib/postgresql/data/wal, subPath: wal}
  - {name: fast, mountPath: /fast, subPathExpr: $(POD)}
  - {name: scratch, mountPath: /scratch}
volumes:
- {name: scratch, emptyDir: {}}",
            &["data", "wal", "fast"],
        );
        begin(space, &set).await?;
        let exec = async |container: &str, command: &[&str]| {
            let words = ["exec", "orders-0", "-c", container, "--"];
            space.kubectl(&[&words[..], command].concat()).await?.success()
        };
        exec("postgres", &["install", "-d", "-o", "postgres", "-g", "postgres", "/fast/space"]).await?;
        for statement in [
            "CREATE TABLESPACE fast LOCATION '/fast/space'",
            "CREATE TABLE kept TABLESPACE fast AS SELECT n, md5(n::text) FROM generate_series(1, 20000) n",
            "VACUUM (FREEZE, ANALYZE) kept",
            "CHECKPOINT",
        ] {
            space.sql("orders-0", statement).await?;
        }
        let linked = exec("postgres", &["readlink", &format!("{root}/pgdata/pg_wal")]).await?;
        ensure!(linked.trim() == format!("{root}/wal/orders"), "{linked}");
        Database::new("orders", 17).archive_rows(space, 0).await?;
        backed_up(space, "first", "orders", "").await?;

        let pod = space.get("pod/orders-0").await?;
        let names: Vec<_> = pod["spec"]["initContainers"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|container| container["name"].as_str().unwrap_or_default())
            .collect();
        ensure!(names == ["holdfast-mount-points", "holdfast", "holdfast-bootstrap"], "{names:?}");
        for (name, read_only) in [("holdfast", true), ("holdfast-bootstrap", false)] {
            let container = containers(&pod).find(|c| c["name"] == name).context(name)?;
            let expected = [
                ("/fast", "fast", "$(POD)", read_only),
                (root, "data", "databases/orders", read_only),
                ("/var/lib/postgresql/data/wal", "wal", "wal", read_only),
            ];
            ensure!(data_mounts(container) == expected, "{name}: {:?}", data_mounts(container));
        }

        // What the backup holds is what Postgres has: restored as a copy, the table's file is the same.
        let file = space.sql("orders-0", "SELECT pg_relation_filepath('kept')").await?;
        let oid = file.split('/').nth(1).context("pg_tblspc/OID/…")?;
        ensure!(file.starts_with("pg_tblspc/"), "{file}");
        let place = format!("{oid}=/holdfast/fast");
        exec("holdfast", &["holdfast", "restore", "--to", "/holdfast/copy", "--tablespace", &place]).await?;
        exec("postgres", &["test", "-s", &format!("/holdfast/copy/{file}")]).await?;
        exec("postgres", &["cmp", &format!("{root}/pgdata/{file}"), &format!("/holdfast/copy/{file}")]).await?;

        // Into claims: without one for the tablespace it is refused, with what to write.
        let copy = |name: &str, more: &str| {
            format!(
                "apiVersion: holdfast.dev/v1alpha1
kind: Restore
metadata: {{name: {name}}}
spec:
  source: {{archiveRef: {{name: orders}}}}
  target: {{latest: {{}}}}
  destination:
    persistentVolumeClaim:
      name: {name}
      template: {{size: 1Gi}}
{more}"
            )
        };
        space.apply(&copy("lacking", "")).await?;
        let entry = format!("tablespaces: [{{oid: {oid}, claim: NAME}}]");
        told(space, "restore/lacking", "Failed", "True", &[&entry]).await?;
        let more = format!(
            "      wal: {{claim: copy-wal, template: {{size: 1Gi}}}}
      tablespaces: [{{oid: {oid}, claim: copy-fast, template: {{size: 1Gi}}, mountPath: /fast}}]
"
        );
        space.apply(&copy("copy", &more)).await?;
        space.wait_for("restore/copy", "condition=Complete", 240).await?;
        space
            .apply(
                "apiVersion: v1
kind: Pod
metadata: {name: copy}
spec:
  securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999, fsGroupChangePolicy: OnRootMismatch}
  containers:
  - name: postgres
    image: postgres:17
    args: [-c, archive_mode=off]
    env: [{name: PGDATA, value: /var/lib/postgresql/data/pgdata}]
    readinessProbe: {exec: {command: [pg_isready, -U, postgres, -h, 127.0.0.1]}, periodSeconds: 1}
    volumeMounts:
    - {name: data, mountPath: /var/lib/postgresql/data, subPath: databases/orders}
    - {name: wal, mountPath: /var/lib/postgresql/data/wal, subPath: wal}
    - {name: fast, mountPath: /fast}
  volumes:
  - {name: data, persistentVolumeClaim: {claimName: copy}}
  - {name: wal, persistentVolumeClaim: {claimName: copy-wal}}
  - {name: fast, persistentVolumeClaim: {claimName: copy-fast}}
",
            )
            .await?;
        space.wait_for("pod/copy", "condition=Ready", 120).await?;
        let rows = space.sql("copy", "SELECT count(*), (SELECT count(*) FROM rows) FROM kept").await?;
        ensure!(rows == "20000|1000", "{rows}");
        let link = ["exec", "copy", "--", "readlink", "/var/lib/postgresql/data/pgdata/pg_wal"];
        let linked = space.kubectl(&link).await?.success()?;
        ensure!(linked.trim() == format!("{root}/wal/orders"), "{linked}");
        let now = space.sql("copy", "SELECT pg_relation_filepath('kept')").await?;
        ensure!(now == file, "{now} and not {file}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_restricted_namespace() -> Result<()> {
    Space::scenario("restricted", async |space| {
        let enforce = "pod-security.kubernetes.io/enforce=restricted";
        space
            .cluster()
            .kubectl(&["label", "namespace", &space.namespace, enforce])
            .await?
            .success()?;
        let set = labelled(
            "
terminationGracePeriodSeconds: 30
securityContext: {runAsUser: 999, runAsGroup: 999, fsGroup: 999, runAsNonRoot: true, seccompProfile: {type: RuntimeDefault}}
containers:
- name: postgres
  image: postgres:17
  resources: {limits: {cpu: 500m, memory: 256Mi}}
  securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
  env:
  - {name: POSTGRES_HOST_AUTH_METHOD, value: trust}
  - {name: PGDATA, value: /var/lib/postgresql/data/pgdata}
  readinessProbe: {exec: {command: [pg_isready, -U, postgres, -h, 127.0.0.1]}, periodSeconds: 1}
  volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]",
            &["data"],
        );
        begin(space, &set).await?;
        space.wait_for("archive/orders", "condition=Ready", 120).await?;
        Database::new("orders", 17).archive_rows(space, 0).await?;

        let pod = space.get("pod/orders-0").await?;
        ensure!(pod["status"]["qosClass"] == "Guaranteed", "{}", pod["status"]["qosClass"]);
        ensure!(
            pod["spec"]["terminationGracePeriodSeconds"].as_u64() >= Some(120),
            "{}",
            pod["spec"]["terminationGracePeriodSeconds"]
        );
        let token = "/var/run/secrets/kubernetes.io/serviceaccount";
        // Tokens are mounted here, unless something lies over their place.
        space
            .kubectl(&["exec", "orders-0", "-c", "postgres", "--", "test", "-s", &format!("{token}/token")])
            .await?
            .success()?;
        // Seen from beside the sidecar's process, as its own user.
        let script = format!(
            "grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/1/status
            awk '$2 == \"/\" {{print \"root\", $4}}' /proc/1/mounts
            ls -A /proc/1/root{token} | sed 's/^/token /'
            cd /proc/1/root && ls etc/holdfast/config.yaml"
        );
        space
            .kubectl(&[
                "debug", "orders-0", "--image=postgres:17", "--image-pull-policy=IfNotPresent", "--target=holdfast",
                "--container=look", "--profile=restricted", "--", "bash", "-c", &script,
            ])
            .await?
            .success()?;
        let seen = eventually("somebody has looked", async || {
            let pod = space.get("pod/orders-0").await?;
            let looked = pod["status"]["ephemeralContainerStatuses"][0]["state"].get("terminated");
            ensure!(looked.is_some(), "{:#}", pod["status"]["ephemeralContainerStatuses"]);
            space.kubectl(&["logs", "orders-0", "-c", "look"]).await?.success()
        })
        .await?;
        let has = |line: &[&str]| {
            seen.lines().any(|seen| {
                let words: Vec<_> = seen.split(|c: char| c.is_whitespace() || c == ',').filter(|w| !w.is_empty()).collect();
                words.starts_with(line)
            })
        };
        for line in [
            &["Uid:", "999", "999", "999", "999"][..],
            &["CapEff:", "0000000000000000"],
            &["CapBnd:", "0000000000000000"],
            &["NoNewPrivs:", "1"],
            &["Seccomp:", "2"],
            &["root", "ro"],
            &["etc/holdfast/config.yaml"],
        ] {
            ensure!(has(line), "not {line:?}: {seen}");
        }
        ensure!(!has(&["token"]), "{seen}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_image_without_a_c_library() -> Result<()> {
    Space::scenario("static", async |space| {
        // Nothing but one static program: what archives runs where neither glibc nor a shell is, so on musl too.
        space.apply(&repository(space)).await?;
        space.apply(&archive("orders")).await?;
        space
            .apply(
                "apiVersion: v1
kind: Pod
metadata:
  name: orders-0
  labels: {holdfast.dev/archive: orders}
  annotations:
    holdfast.dev/data-directory: /var/lib/postgresql/data
    holdfast.dev/run-as-user: '70'
    holdfast.dev/configure: None
spec:
  containers:
  - name: postgres
    image: pause:dev
    securityContext: {runAsUser: 70}
    volumeMounts: [{name: data, mountPath: /var/lib/postgresql/data}]
  volumes: [{name: data, emptyDir: {}}]
",
            )
            .await?;
        space
            .wait_for("pod/orders-0", "condition=Ready", 120)
            .await?;
        let command = [
            "/holdfast/bin/holdfast-wal",
            "archive",
            "segment",
            "pg_wal/segment",
        ];
        let words = ["exec", "orders-0", "-c", "postgres", "--"];
        let refused = space
            .kubectl(&[&words[..], &command[..]].concat())
            .await?
            .refused()?;
        ensure!(
            refused.contains("'segment' is not the name of a WAL segment"),
            "{refused}"
        );
        Ok(())
    })
    .await
}
