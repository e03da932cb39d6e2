//! What scenarios apply: as users would write it.

use anyhow::{Result, bail, ensure};
use holdfast_e2e::{Space, eventually};

/// A bucket of the cluster's MinIO; everything lies below the namespace's name.
pub fn repository(space: &Space) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1
kind: Repository
metadata: {{name: s3}}
spec:
  s3: {{bucket: holdfast, prefix: {}, region: us-east-1, endpoint: \"http://minio.minio.svc:9000\"}}
  credentials: {{secretRef: {{name: s3-writer}}}}
  encryption: {{secretRef: {{name: backup-key}}}}
",
        space.namespace
    )
}

/// An archive that keeps everything in `s3`.
pub fn archive(name: &str) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1
kind: Archive
metadata: {{name: {name}}}
spec:
  repositories: [{{name: s3}}]
  retention: {{recoveryWindow: 14d}}
"
    )
}

/// One backup, now.
pub fn backup(name: &str, archive: &str, more: &str) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1
kind: Backup
metadata: {{name: {name}}}
spec: {{archiveRef: {{name: {archive}}}{more}}}
"
    )
}

/// Backups by the clock, the first at once.
pub fn schedule(name: &str, archive: &str, more: &str) -> String {
    format!(
        "apiVersion: holdfast.dev/v1alpha1
kind: ScheduledBackup
metadata: {{name: {name}}}
spec: {{archiveRef: {{name: {archive}}}, schedule: '0 2 * * *', timeZone: Europe/Berlin, immediate: true{more}}}
"
    )
}

/// A database as a StatefulSet.
#[derive(Debug, Clone)]
pub struct Database {
    /// The StatefulSet's name, and the value of the label `app`.
    pub name: &'static str,
    /// Of Postgres' container.
    pub image: String,
    /// The label; none: no label.
    pub archive: Option<String>,
    /// The first is the primary, the others are cloned from whoever is primary.
    pub replicas: u32,
    /// Of the pods.
    pub annotations: Vec<(&'static str, String)>,
    /// After `postgres`.
    pub arguments: Vec<String>,
    /// Where the data volume is mounted.
    pub mount: &'static str,
    /// Below the mount.
    pub data_directory: &'static str,
    /// Of every pod's data volume.
    pub storage: &'static str,
    /// Whose volumes those are; none: of the cluster's default class.
    pub storage_class: Option<String>,
    /// Seconds that Postgres gets to shut down.
    pub grace: u32,
    /// Whether its containers see each other's processes.
    pub shares_processes: bool,
    /// A script that runs in Postgres' container, and ends, before that is told to end; none: it is told at once.
    pub pre_stop: Option<&'static str>,
}

impl Database {
    /// The official image, one pod, labelled with the database's own name.
    pub fn new(name: &'static str, major: u32) -> Self {
        Self {
            name,
            image: format!("postgres:{major}"),
            archive: Some(name.to_owned()),
            replicas: 1,
            annotations: Vec::new(),
            arguments: Vec::new(),
            mount: "/var/lib/postgresql/data",
            data_directory: "/var/lib/postgresql/data/pgdata",
            storage: "1Gi",
            storage_class: None,
            grace: 30,
            shares_processes: false,
            pre_stop: None,
        }
    }

    /// The name of a pod.
    pub fn pod(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.name)
    }

    /// What a user would write. Clones come by an init container with Postgres' image, as in the example of Kubernetes'
    /// own documentation of StatefulSets.
    pub fn yaml(&self) -> String {
        let Self {
            name,
            image,
            replicas,
            mount,
            data_directory,
            storage,
            grace,
            shares_processes,
            ..
        } = self;
        let label = self
            .archive
            .as_ref()
            .map(|archive| format!(", holdfast.dev/archive: {archive}"))
            .unwrap_or_default();
        let annotations: String = self
            .annotations
            .iter()
            .map(|(key, value)| format!("{key}: {value:?}, "))
            .collect();
        let class = self
            .storage_class
            .as_ref()
            .map(|class| format!("      storageClassName: {class}\n"))
            .unwrap_or_default();
        let arguments = if self.arguments.is_empty() {
            String::new()
        } else {
            let words: Vec<String> = self.arguments.iter().map(|a| format!("{a:?}")).collect();
            format!("        args: [{}]\n", words.join(", "))
        };
        let lifecycle = self.pre_stop.map_or(String::new(), |script| {
            format!(
                "        lifecycle: {{preStop: {{exec: {{command: [bash, -c, {script:?}]}}}}}}\n"
            )
        });
        let clone = if *replicas > 1 {
            format!(
                "      initContainers:
      - name: clone
        image: {image}
        command:
        - bash
        - -ec
        - |
          [ ! -s \"$PGDATA/PG_VERSION\" ] || exit 0
          for ((try = 0; try < 60; try++)); do
            for ((n = 0; n < {replicas}; n++)); do
              peer={name}-$n.{name}
              [ \"$HOSTNAME\" != \"{name}-$n\" ] || continue
              if [ \"$(psql -h \"$peer\" -U postgres -XAtqc 'SELECT pg_is_in_recovery()' 2>/dev/null)\" = f ]; then
                exec pg_basebackup -h \"$peer\" -U postgres -D \"$PGDATA\" -R -X stream -c fast
              fi
            done
            # The first of all makes the cluster.
            [ \"$HOSTNAME\" != \"{name}-0\" ] || [ \"$try\" -lt 3 ] || exit 0
            sleep 1
          done
          exit 1
        securityContext: {{runAsUser: 999, runAsGroup: 999}}
        env:
        - {{name: PGDATA, value: {data_directory}}}
        volumeMounts:
        - {{name: data, mountPath: {mount}}}
"
            )
        } else {
            String::new()
        };
        format!(
            "apiVersion: v1
kind: ConfigMap
metadata: {{name: {name}-init}}
data:
  replication.sh: |
    echo 'host replication all all trust' >>\"$PGDATA/pg_hba.conf\"
---
apiVersion: v1
kind: Service
metadata: {{name: {name}}}
spec: {{clusterIP: None, publishNotReadyAddresses: true, selector: {{app: {name}}}, ports: [{{port: 5432}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: {name}}}
spec:
  serviceName: {name}
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata:
      labels: {{app: {name}{label}}}
      annotations: {{{annotations}}}
    spec:
      terminationGracePeriodSeconds: {grace}
      shareProcessNamespace: {shares_processes}
      securityContext: {{fsGroup: 999}}
{clone}      containers:
      - name: postgres
        image: {image}
{arguments}{lifecycle}        env:
        - {{name: POSTGRES_HOST_AUTH_METHOD, value: trust}}
        - {{name: PGDATA, value: {data_directory}}}
        # Often only until it answers: a command in a container costs more than all that Postgres does here.
        startupProbe:
          exec: {{command: [pg_isready, -U, postgres, -h, 127.0.0.1]}}
          periodSeconds: 1
          failureThreshold: 1000
        readinessProbe:
          exec: {{command: [pg_isready, -U, postgres, -h, 127.0.0.1]}}
          periodSeconds: 10
        volumeMounts:
        - {{name: data, mountPath: {mount}}}
        - {{name: init, mountPath: /docker-entrypoint-initdb.d}}
      volumes:
      - {{name: init, configMap: {{name: {name}-init}}}}
  volumeClaimTemplates:
  - metadata: {{name: data}}
    spec:
{class}      accessModes: [ReadWriteOnce]
      resources: {{requests: {{storage: {storage}}}}}
"
        )
    }

    /// Applies it, and waits until all pods are ready.
    pub async fn begin(&self, space: &Space) -> Result<()> {
        space.apply(&self.yaml()).await?;
        self.rolled_out(space).await
    }

    /// Waits until all pods are ready and of the newest template.
    pub async fn rolled_out(&self, space: &Space) -> Result<()> {
        let set = format!("statefulset/{}", self.name);
        space
            .kubectl(&["rollout", "status", &set, "--timeout=240s"])
            .await?
            .success()?;
        Ok(())
    }

    /// Writes some rows, closes the segment, and waits until Postgres has it archived.
    pub async fn archive_rows(&self, space: &Space, ordinal: u32) -> Result<String> {
        let pod = self.pod(ordinal);
        space
            .sql(&pod, "CREATE TABLE IF NOT EXISTS rows (n int); INSERT INTO rows SELECT generate_series(1, 1000)")
            .await?;
        let segment = space
            .sql(&pod, "SELECT pg_walfile_name(pg_switch_wal())")
            .await?;
        archived(space, &pod, &segment).await?;
        Ok(segment)
    }
}

/// Waits until Postgres has been told that a closed segment is stored.
pub async fn archived(space: &Space, pod: &str, segment: &str) -> Result<()> {
    // Its name may never be the last: a backup's history file is called as an earlier one, and may come later.
    let waits = format!(
        "SELECT (pg_stat_file('pg_wal/archive_status/{segment}.ready', true)).size IS NOT NULL"
    );
    eventually(&format!("{segment} is archived"), async || {
        if space.sql(pod, &waits).await? == "t" {
            let archiver =
                "SELECT last_archived_wal, last_failed_wal, failed_count FROM pg_stat_archiver";
            bail!("{}", space.sql(pod, archiver).await?);
        }
        Ok(())
    })
    .await
}

/// A repository, an archive and a database that archives into it.
pub async fn shop(space: &Space, database: &Database) -> Result<()> {
    space.apply(&repository(space)).await?;
    let name = database.archive.as_deref().unwrap_or(database.name);
    space.apply(&archive(name)).await?;
    database.begin(space).await?;
    let object = format!("archive/{name}");
    space.wait_for(&object, "condition=Ready", 120).await
}

/// Takes a backup, by the resource, and returns it.
pub async fn backed_up(
    space: &Space,
    name: &str,
    archive: &str,
    more: &str,
) -> Result<serde_json::Value> {
    space.apply(&backup(name, archive, more)).await?;
    let object = format!("backup/{name}");
    space.wait_for(&object, "condition=Complete", 180).await?;
    space.get(&object).await
}

/// Waits for a condition that says all of this.
pub async fn told(
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

/// Waits for an event about an object, such as `pod/orders-0`, that says all of this.
pub async fn event(space: &Space, object: &str, says: &[&str]) -> Result<()> {
    eventually(&format!("an event of {object} says {says:?}"), async || {
        let about = format!("--for={object}");
        let said = space.kubectl(&["events", &about]).await?.success()?;
        ensure!(
            said.lines()
                .any(|line| says.iter().all(|part| line.contains(part))),
            "{said}"
        );
        Ok(())
    })
    .await
}

/// Asks the cluster's store as its owner, with curl in a pod of its own: the store is inside.
pub async fn ask_store(space: &Space, pod: &str, path: &str, more: &[&str]) -> Result<()> {
    let url = format!("http://minio.minio.svc:9000/{path}");
    let mut words = vec![
        "run",
        pod,
        "--image=tools:dev",
        "--image-pull-policy=IfNotPresent",
        "--restart=Never",
        "--command",
        "--",
        "curl",
        "-sS",
        "--fail-with-body",
        "--max-time",
        "20",
        "--aws-sigv4",
        "aws:amz:us-east-1:s3",
        "--user",
        "holdfast:holdfast-secret",
        &url,
    ];
    words.extend(more);
    space.kubectl(&words).await?.success()?;
    let object = format!("pod/{pod}");
    space
        .wait_for(&object, "jsonpath={.status.phase}=Succeeded", 120)
        .await
}

/// The containers of a pod, the init containers first.
pub fn containers(pod: &serde_json::Value) -> impl Iterator<Item = &serde_json::Value> {
    ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| pod["spec"][list].as_array().into_iter().flatten())
}
