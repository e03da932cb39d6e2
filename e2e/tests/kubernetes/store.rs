//! An S3 of a scenario's own: it may be slow, stand still, be gone and come back, and change its password.

use crate::fixtures::{Database, archive, repository};
use anyhow::{Result, ensure};
use holdfast_e2e::{Space, eventually};

/// How the store answers.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// As it can.
    Quick,
    /// It works one moment in thirty.
    Slow,
    /// Connections are accepted and nothing is answered.
    Still,
    /// Slowly, and from the first mark of a backup on not at all.
    UntilBackup,
}

/// MinIO in the scenario's namespace. A second container of its pod makes the bucket, and stops and continues its process.
#[derive(Debug)]
pub struct Store<'a>(&'a Space);

const YAML: &str = r#"apiVersion: v1
kind: Service
metadata: {name: store}
spec: {selector: {app: store}, ports: [{port: 9000}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: store}
spec:
  serviceName: store
  selector: {matchLabels: {app: store}}
  template:
    metadata: {labels: {app: store}}
    spec:
      shareProcessNamespace: true
      terminationGracePeriodSeconds: 1
      securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000}
      containers:
      - name: minio
        image: minio:dev
        args: [server, /data]
        env: &env
        - {name: MINIO_ROOT_USER, value: holdfast}
        - {name: MINIO_ROOT_PASSWORD, value: PASSWORD}
        volumeMounts:
        - {name: data, mountPath: /data}
      - name: hand
        image: tools:dev
        env: *env
        command: [bash, -c]
        args:
        - |
          # 409: the bucket is there.
          until status=$(curl -s -o /dev/null -w '%{http_code}' --max-time 5 --aws-sigv4 aws:amz:us-east-1:s3 \
              --user "$MINIO_ROOT_USER:$MINIO_ROOT_PASSWORD" -X PUT http://127.0.0.1:9000/holdfast) \
            && [[ $status =~ ^(200|409)$ ]]; do sleep 0.1; done
          echo Quick >/tmp/pace
          # Sleeps without another process, so that moments are short on a busy machine, too.
          exec 3<> <(:)
          pause() { read -rt "$1" -u 3; }
          moment() { kill -CONT "$minio"; pause 0.02; kill -STOP "$minio"; pause 0.5; }
          while :; do
            minio=$(pgrep -x minio)
            case $(</tmp/pace) in
              Quick) kill -CONT "$minio"; pause 0.3 ;;
              Slow) moment ;;
              Still) kill -STOP "$minio"; pause 0.3 ;;
              UntilBackup)
                kill -STOP "$minio"
                if compgen -G '/data/holdfast/*/*/*/*/backups/*/started' >/tmp/begun; then echo Still >/tmp/pace
                else moment; fi ;;
            esac
          done
        readinessProbe:
          exec: {command: [test, -e, /tmp/pace]}
          periodSeconds: 1
        volumeMounts:
        - {name: data, mountPath: /data, readOnly: true}
  volumeClaimTemplates:
  - metadata: {name: data}
    spec:
      accessModes: [ReadWriteOnce]
      resources: {requests: {storage: 1Gi}}
"#;

impl<'a> Store<'a> {
    /// Has it, and a repository, an archive and a database that archives into it: as [`crate::fixtures::shop`].
    pub async fn shop(space: &'a Space, database: &Database) -> Result<Self> {
        let store = Self(space);
        // A repository that is looked at too early is looked at again only after ten seconds.
        store.takes_password("holdfast-secret").await?;
        space
            .apply(
                &repository(space)
                    .replace("minio.minio.svc", &format!("store.{}.svc", space.namespace)),
            )
            .await?;
        space.apply(&archive(database.name)).await?;
        database.begin(space).await?;
        let object = format!("archive/{}", database.name);
        space.wait_for(&object, "condition=Ready", 120).await?;
        Ok(store)
    }

    async fn is_up(&self) -> Result<()> {
        let set = ["rollout", "status", "statefulset/store", "--timeout=120s"];
        self.0.kubectl(&set).await?.success()?;
        Ok(())
    }

    /// From now on.
    pub async fn answers(&self, pace: Pace) -> Result<()> {
        self.hand(&format!("echo {pace:?} >/tmp/pace; sleep 1"))
            .await?;
        Ok(())
    }

    /// Beside the one that it has from the beginning.
    pub async fn makes_bucket(&self, name: &str) -> Result<()> {
        let script = format!(
            "curl -sS --fail-with-body --max-time 20 --aws-sigv4 aws:amz:us-east-1:s3 \\
                 --user \"$MINIO_ROOT_USER:$MINIO_ROOT_PASSWORD\" -X PUT http://127.0.0.1:9000/{name}"
        );
        self.hand(&script).await?;
        Ok(())
    }

    /// Waits until it stands still.
    pub async fn stands_still(&self) -> Result<()> {
        eventually("the store stands still", async || {
            let pace = self.hand("cat /tmp/pace").await?;
            ensure!(pace.trim() == "Still", "it is {pace}");
            Ok(())
        })
        .await
    }

    async fn hand(&self, script: &str) -> Result<String> {
        let words = ["exec", "store-0", "-c", "hand", "--", "bash", "-c", script];
        self.0.kubectl(&words).await?.success()
    }

    /// Nobody answers at its address any more.
    pub async fn goes(&self) -> Result<()> {
        self.scale(0).await?;
        let gone = ["wait", "pod/store-0", "--for=delete", "--timeout=60s"];
        let gone = self.0.kubectl(&gone).await?;
        ensure!(gone.ok || gone.err.contains("not found"), "{}", gone.err);
        Ok(())
    }

    /// It is there again, with what it held.
    pub async fn comes_back(&self) -> Result<()> {
        self.scale(1).await?;
        self.is_up().await
    }

    async fn scale(&self, replicas: u32) -> Result<()> {
        let count = format!("--replicas={replicas}");
        let words = ["scale", "statefulset/store", &count];
        self.0.kubectl(&words).await?.success()?;
        Ok(())
    }

    /// From now on it knows this password, and the one before no more.
    pub async fn takes_password(&self, password: &str) -> Result<()> {
        self.0
            .apply(&YAML.replace("PASSWORD}", &format!("{password}}}")))
            .await?;
        self.is_up().await
    }
}
