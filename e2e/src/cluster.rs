//! A real Kubernetes for tests: the local node of `e2e/cluster`, or the one that KUBECONFIG names.
//!
//! One cluster serves all tests of a program; each test has a namespace of its own, a [`Space`]. Tests that take the
//! operator away have a second one, one at a time; where there is only the user's, they have it for themselves.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command as StdCommand, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::process::Command;
use tokio::sync::{Mutex, OnceCell, Semaphore};

use crate::parts;

/// Where the operator is installed.
pub const SYSTEM: &str = "holdfast-system";

/// So many scenarios at a time in the shared cluster: most of their time is waiting.
const TOGETHER: u32 = 5;

static SHARED: OnceCell<Cluster> = OnceCell::const_new();
/// For scenarios that take the operator away.
static ALONE: OnceCell<Cluster> = OnceCell::const_new();
static SHARED_TURN: Semaphore = Semaphore::const_new(TOGETHER as usize);
static ALONE_TURN: Mutex<()> = Mutex::const_new(());

/// A cluster with Holdfast installed by its chart.
#[derive(Debug)]
pub struct Cluster {
    kubeconfig: PathBuf,
    image: String,
}

/// What a command said.
#[derive(Debug)]
pub struct Said {
    /// Whether it succeeded.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// Standard output of a command that succeeded.
    ///
    /// # Errors
    /// With all that it said.
    pub fn success(self) -> Result<String> {
        ensure!(self.ok, "{}{}", self.out, self.err);
        Ok(self.out)
    }

    /// What a command said that was refused.
    ///
    /// # Errors
    /// If it succeeded.
    pub fn refused(self) -> Result<String> {
        ensure!(!self.ok, "this should have been refused: {}", self.out);
        Ok(self.err)
    }
}

impl Cluster {
    /// The cluster that this test program's scenarios share: brought up, and Holdfast installed, by the first who asks.
    ///
    /// # Errors
    /// With what the scripts said.
    pub async fn shared() -> Result<&'static Self> {
        SHARED.get_or_try_init(|| Self::begin("e2e")).await
    }

    /// Whether there is the user's cluster only.
    fn is_users() -> bool {
        std::env::var_os("KUBECONFIG").is_some()
    }

    async fn begin(prefix: &str) -> Result<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let cluster = match std::env::var_os("KUBECONFIG") {
            Some(kubeconfig) => Self {
                kubeconfig: kubeconfig.into(),
                image: std::env::var("IMAGE").context(
                    "KUBECONFIG names a cluster: IMAGE must name the image that it can pull",
                )?,
            },
            None => {
                // Its own process ends it, however this one ends.
                let name = format!("{prefix}-{}", std::process::id());
                let up = Command::new(root.join("e2e/cluster/up"))
                    .arg(&name)
                    .arg("--with-parent")
                    .arg(std::process::id().to_string())
                    .stdin(Stdio::null())
                    .output()
                    .await
                    .context("e2e/cluster/up")?;
                ensure!(
                    up.status.success(),
                    "e2e/cluster/up failed: {}{}",
                    String::from_utf8_lossy(&up.stdout),
                    String::from_utf8_lossy(&up.stderr)
                );
                Self {
                    kubeconfig: root.join(format!(".cluster/{name}/kubeconfig")),
                    image: "holdfast:dev".to_owned(),
                }
            }
        };
        cluster.install(&[]).await?;
        Ok(cluster)
    }

    /// Installs or upgrades Holdfast by its chart, and waits until it is up.
    ///
    /// # Errors
    /// With what helm said.
    pub async fn install(&self, settings: &[&str]) -> Result<()> {
        let (repository, tag) = self
            .image
            .rsplit_once(':')
            .context("IMAGE needs a tag, as in holdfast:dev")?;
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/holdfast");
        let mut words = vec![
            "upgrade".to_owned(),
            "--install".into(),
            "holdfast".into(),
            chart.display().to_string(),
            "--namespace".into(),
            SYSTEM.into(),
            "--create-namespace".into(),
            "--wait".into(),
            "--timeout=3m".into(),
            // What scenarios scale by kubectl is the chart's again.
            "--force-conflicts".into(),
            "--set".into(),
            format!("image.repository={repository},image.tag={tag}"),
        ];
        for setting in settings {
            words.extend(["--set".to_owned(), (*setting).to_owned()]);
        }
        self.helm(&words).await?.success()?;
        Ok(())
    }

    /// The file that says how it is reached.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// The image of operator and sidecar.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// Runs helm.
    ///
    /// # Errors
    /// If it can't be run, or does not end within five minutes.
    pub async fn helm<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<Said> {
        self.run(&parts::helm()?, words, None).await
    }

    /// Runs kubectl.
    ///
    /// # Errors
    /// If it can't be run, or does not end within five minutes.
    pub async fn kubectl<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<Said> {
        self.run(&parts::kubectl()?, words, None).await
    }

    /// A field of an object where Holdfast is installed, by a JSONPath such as `{.metadata.generation}`.
    ///
    /// # Errors
    /// If the object is not there.
    pub async fn field(&self, object: &str, path: &str) -> Result<String> {
        let path = format!("jsonpath={path}");
        self.kubectl(&["--namespace", SYSTEM, "get", object, "-o", &path])
            .await?
            .success()
    }

    async fn run<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: &Path,
        words: &[S],
        input: Option<&str>,
    ) -> Result<Said> {
        let mut child = Command::new(program)
            .args(words)
            .env("KUBECONFIG", &self.kubeconfig)
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
            use tokio::io::AsyncWriteExt;
            pipe.write_all(text.as_bytes()).await?;
        }
        let output = tokio::time::timeout(Duration::from_secs(300), child.wait_with_output())
            .await
            .with_context(|| format!("{} did not end in five minutes", program.display()))??;
        Ok(Said {
            ok: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Has so many replicas of the operator run, and waits until it is so.
    ///
    /// # Errors
    /// The cluster's.
    pub async fn scale_operator(&self, replicas: u32) -> Result<()> {
        let count = format!("--replicas={replicas}");
        self.kubectl(&["-n", SYSTEM, "scale", "deployment/holdfast", &count])
            .await?
            .success()?;
        self.kubectl(&[
            "-n",
            SYSTEM,
            "rollout",
            "status",
            "deployment/holdfast",
            "--timeout=120s",
        ])
        .await?
        .success()?;
        if replicas == 0 {
            self.kubectl(&[
                "-n",
                SYSTEM,
                "wait",
                "pods",
                "-l",
                "app.kubernetes.io/name=holdfast",
                "--for=delete",
                "--timeout=120s",
            ])
            .await?
            .success()?;
        }
        Ok(())
    }

    /// Kills all replicas of the operator without letting them end.
    ///
    /// # Errors
    /// The cluster's.
    pub async fn kill_operator(&self) -> Result<()> {
        self.kubectl(&[
            "-n",
            SYSTEM,
            "delete",
            "pods",
            "-l",
            "app.kubernetes.io/name=holdfast",
            "--force",
            "--grace-period=0",
        ])
        .await?
        .success()?;
        Ok(())
    }

    /// Has no replica of the operator act until [`Cluster::let_operator_act`]: a stranger holds its Lease. Those of before
    /// are killed; all that come answer the webhook.
    ///
    /// # Errors
    /// The cluster's.
    pub async fn hold_operator(&self) -> Result<()> {
        self.hand_lease("{\"holderIdentity\": \"stranger\", \"leaseDurationSeconds\": 86400}")
            .await?;
        self.kill_operator().await?;
        self.scale_operator(2).await
    }

    /// Frees the operator's Lease, whoever holds it: a replica takes it at once.
    ///
    /// # Errors
    /// The cluster's.
    pub async fn let_operator_act(&self) -> Result<()> {
        self.hand_lease("{\"holderIdentity\": \"\"}").await
    }

    async fn hand_lease(&self, spec: &str) -> Result<()> {
        let patch = format!("{{\"spec\": {spec}}}");
        let lease = "lease/holdfast-operator";
        let words = ["-n", SYSTEM, "patch", lease, "--type=merge", "-p", &patch];
        self.kubectl(&words).await?.success()?;
        Ok(())
    }

    /// A namespace for one test, with a Secret `s3-writer` and a Secret `backup-key`. Gone when the space is dropped.
    ///
    /// # Errors
    /// The cluster's.
    pub async fn space(&'static self, name: &str) -> Result<Space> {
        let mut random = [0_u8; 3];
        getrandom::fill(&mut random).context("random bytes")?;
        let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let space = Space {
            cluster: self,
            namespace: format!("{name}-{hex}"),
        };
        self.kubectl(&["create", "namespace", &space.namespace])
            .await?
            .success()?;
        let key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        space
            .apply(&format!(
                "{{apiVersion: v1, kind: Secret, metadata: {{name: s3-writer}}, stringData: {{accessKeyId: {ACCESS_KEY}, secretAccessKey: {SECRET_KEY}}}}}
---
{{apiVersion: v1, kind: Secret, metadata: {{name: backup-key}}, stringData: {{current: k1, k1: {key}}}}}"
            ))
            .await?;
        Ok(space)
    }
}

/// Of the cluster's MinIO.
const ACCESS_KEY: &str = "holdfast";
const SECRET_KEY: &str = "holdfast-secret";

/// One test's namespace.
#[derive(Debug)]
pub struct Space {
    cluster: &'static Cluster,
    /// Its name.
    pub namespace: String,
}

impl Space {
    /// Runs a scenario in a namespace of its own. When it fails, what happened there is printed.
    ///
    /// # Errors
    /// The scenario's.
    pub async fn scenario<F>(name: &str, scenario: F) -> Result<()>
    where
        F: AsyncFnOnce(&Space) -> Result<()>,
    {
        let _turn = SHARED_TURN.acquire().await?;
        Self::run(Cluster::shared().await?, name, scenario).await
    }

    /// As [`Space::scenario`], in a cluster where no other scenario runs: it may do to the operator what it likes.
    ///
    /// # Errors
    /// The scenario's.
    pub async fn alone<F>(name: &str, scenario: F) -> Result<()>
    where
        F: AsyncFnOnce(&Space) -> Result<()>,
    {
        let _turn = ALONE_TURN.lock().await;
        let (cluster, _all) = if Cluster::is_users() {
            let all = SHARED_TURN.acquire_many(TOGETHER).await?;
            (Cluster::shared().await?, Some(all))
        } else {
            let cluster = ALONE.get_or_try_init(|| Cluster::begin("e2e-alone"));
            (cluster.await?, None)
        };
        let result = Self::run(cluster, name, scenario).await;
        cluster.scale_operator(2).await?;
        result
    }

    /// Goes on in another namespace, in the middle of a scenario. When it fails, what happened there is printed as well.
    ///
    /// # Errors
    /// The scenario's.
    pub async fn beside<F>(&self, name: &str, scenario: F) -> Result<()>
    where
        F: AsyncFnOnce(&Space) -> Result<()>,
    {
        Self::run(self.cluster, name, scenario).await
    }

    async fn run<F>(cluster: &'static Cluster, name: &str, scenario: F) -> Result<()>
    where
        F: AsyncFnOnce(&Space) -> Result<()>,
    {
        let space = cluster.space(name).await?;
        let result = scenario(&space).await;
        if let Err(error) = &result {
            eprintln!("--- {}: {error:?}", space.namespace);
            space.print().await;
        }
        result
    }

    /// The cluster.
    pub fn cluster(&self) -> &'static Cluster {
        self.cluster
    }

    /// kubectl in this namespace.
    ///
    /// # Errors
    /// If it can't be run.
    pub async fn kubectl(&self, words: &[&str]) -> Result<Said> {
        let mut all = vec!["--namespace", &self.namespace];
        all.extend(words);
        self.cluster.kubectl(&all).await
    }

    /// Runs a script as a user would, with kubectl and helm, this namespace being the default one.
    ///
    /// # Errors
    /// If it can't be run.
    pub async fn shell(&self, script: &str, directory: &Path) -> Result<Said> {
        let parts = parts::kubectl()?;
        let parts = parts.parent().context("kubectl lies in a folder")?;
        let namespace = &self.namespace;
        let script = format!(
            "own=$(mktemp); trap 'rm -f \"$own\"' EXIT; kubectl config view --raw --flatten >\"$own\"; export KUBECONFIG=$own
             kubectl config set-context --current --namespace {namespace} >/dev/null
             export PATH={}:$PATH\ncd {}\n{script}",
            parts.display(),
            directory.display()
        );
        let script = format!("PATH={}:$PATH\n{script}", parts.display());
        self.cluster
            .run(Path::new("bash"), &["-c", &script], None)
            .await
    }

    /// Applies what must be accepted.
    ///
    /// # Errors
    /// With what the API server said.
    pub async fn apply(&self, yaml: &str) -> Result<String> {
        self.try_apply(yaml)
            .await?
            .success()
            .with_context(|| yaml.to_owned())
    }

    /// Applies what may be refused.
    ///
    /// # Errors
    /// If kubectl can't be run.
    pub async fn try_apply(&self, yaml: &str) -> Result<Said> {
        self.cluster
            .run(
                &parts::kubectl()?,
                &["--namespace", &self.namespace, "apply", "-f", "-"],
                Some(yaml),
            )
            .await
    }

    /// An object as it is, such as `archive/orders`.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn get(&self, object: &str) -> Result<Value> {
        let said = self
            .kubectl(&["get", object, "-o", "json"])
            .await?
            .success()?;
        Ok(serde_json::from_str(&said)?)
    }

    /// Waits as a user would, by `kubectl wait`.
    ///
    /// # Errors
    /// With the object as it is then.
    pub async fn wait_for(&self, object: &str, condition: &str, seconds: u32) -> Result<()> {
        let waited = self
            .kubectl(&[
                "wait",
                object,
                &format!("--for={condition}"),
                &format!("--timeout={seconds}s"),
            ])
            .await?;
        if waited.ok {
            return Ok(());
        }
        let object = self.kubectl(&["get", object, "-o", "yaml"]).await?;
        bail!("{}{}{}", waited.err, object.out, object.err)
    }

    /// A condition of an object: its status and its message.
    ///
    /// # Errors
    /// If the object is not there, or has no such condition.
    pub async fn condition(&self, object: &str, name: &str) -> Result<(String, String, String)> {
        let value = self.get(object).await?;
        let conditions = value["status"]["conditions"].as_array();
        let found = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == name)
            .with_context(|| format!("{object} has no condition {name}: {}", value["status"]))?;
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        Ok((text("status"), text("reason"), text("message")))
    }

    /// One value from a server, by psql in its pod.
    ///
    /// # Errors
    /// psql's.
    pub async fn sql(&self, pod: &str, statement: &str) -> Result<String> {
        let said = self
            .kubectl(&[
                "exec",
                pod,
                "-c",
                "postgres",
                "--",
                "psql",
                "-U",
                "postgres",
                "-h",
                "127.0.0.1",
                "-XAtqc",
                statement,
            ])
            .await?
            .success()
            .with_context(|| statement.to_owned())?;
        Ok(said.trim().to_owned())
    }

    async fn print(&self) {
        for words in [
            &[
                "get",
                "pods,archives,repositories,backups,scheduledbackups,restores",
                "-o",
                "wide",
            ][..],
            &[
                "get",
                "archives,repositories,backups,scheduledbackups,restores",
                "-o",
                "yaml",
            ],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["describe", "pods"],
            &[
                "logs",
                "--all-containers",
                "--prefix",
                "--tail=40",
                "-l",
                "holdfast.dev/archive",
            ],
        ] {
            if let Ok(said) = self.kubectl(words).await {
                eprintln!("--- kubectl {}\n{}{}", words.join(" "), said.out, said.err);
            }
        }
        let words = [
            "--namespace",
            SYSTEM,
            "logs",
            "--prefix",
            "--tail=5000",
            "-l",
            "app.kubernetes.io/name=holdfast",
        ];
        if let Ok(said) = self.cluster.kubectl(&words).await {
            eprintln!("--- operator, of {}\n{}", self.namespace, said.err);
            let ours = said.out.lines();
            let ours: Vec<&str> = ours.filter(|line| line.contains(&self.namespace)).collect();
            for line in ours.iter().skip(ours.len().saturating_sub(60)) {
                eprintln!("{line}");
            }
        }
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // The local node goes with the test program; a cluster of the user's must be left as it was.
        let Ok(kubectl) = parts::kubectl() else {
            return;
        };
        let deleted = StdCommand::new(kubectl)
            .args([
                "delete",
                "namespace",
                &self.namespace,
                "--wait=false",
                "--ignore-not-found",
            ])
            .env("KUBECONFIG", &self.cluster.kubeconfig)
            .stdin(Stdio::null())
            .output();
        if let Ok(output) = deleted
            && !output.status.success()
        {
            let _ = std::io::stderr().write_all(&output.stderr);
        }
    }
}
