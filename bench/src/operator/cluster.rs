//! A cluster of its own, which ends with this process, however that ends.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{World, parts};
use kube::Client;
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The local node of `e2e/cluster`, with our definitions.
pub struct Cluster {
    name: String,
    kubeconfig: PathBuf,
    /// Of kubectl.
    cache: PathBuf,
    client: Client,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Cluster {
    /// Brings it up.
    pub async fn up(world: &World) -> Result<Self> {
        let name = format!("bench-{}", std::process::id());
        let pid = std::process::id().to_string();
        script("up", &[&name, "--with-parent", &pid]).await?;
        let kubeconfig = root().join(format!(".cluster/{name}/kubeconfig"));
        let read = Kubeconfig::read_from(&kubeconfig)?;
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
        let cluster = Self {
            name,
            kubeconfig,
            cache: world.path("home/kubectl"),
            client: Client::try_from(config)?,
        };
        let definitions = root().join("crds").display().to_string();
        let words = ["apply", "--server-side", "-f", definitions.as_str()];
        cluster.kubectl(&words, "").await?;
        let kinds = [
            "repositories",
            "archives",
            "backups",
            "scheduledbackups",
            "restores",
        ];
        for kind in kinds {
            let definition = format!("crd/{kind}.holdfast.dev");
            let words = ["wait", "--for=condition=Established", &definition];
            cluster.kubectl(&words, "").await?;
        }
        Ok(cluster)
    }

    /// To its API server.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// How others get in.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs kubectl, which has to succeed.
    pub async fn kubectl(&self, words: &[&str], input: &str) -> Result<String> {
        let mut child = Command::new(parts::kubectl()?)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .arg("--cache-dir")
            .arg(&self.cache)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("starting kubectl")?;
        let mut pipe = child.stdin.take().context("kubectl has an input")?;
        pipe.write_all(input.as_bytes()).await?;
        drop(pipe);
        said(&format!("kubectl {}", words.join(" ")), child).await
    }

    /// Takes it down, and waits until nothing of it is left.
    pub async fn down(self) -> Result<()> {
        script("down", &[&self.name]).await
    }
}

async fn script(name: &str, words: &[&str]) -> Result<()> {
    let child = Command::new(root().join("e2e/cluster").join(name))
        .args(words)
        // A cluster of the user's would keep what is made here.
        .env_remove("KUBECONFIG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting e2e/cluster/{name}"))?;
    said(&format!("e2e/cluster/{name}"), child).await.map(drop)
}

async fn said(what: &str, child: tokio::process::Child) -> Result<String> {
    let output = child.wait_with_output().await?;
    ensure!(
        output.status.success(),
        "{what}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
