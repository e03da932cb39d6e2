//! A pod's Postgres, reached from outside.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio_postgres::{Client, Config};

use crate::cluster::Space;
use crate::ledger::Server;
use crate::{parts, postgres};

/// A pod's Postgres behind a port of loopback, as long as this lives and the pod stays: one that is made anew is reached
/// by another.
#[derive(Debug)]
pub struct Forwarded {
    pod: String,
    port: u16,
    // Its standard input is what keeps it: closed, however this process ends, it ends kubectl.
    _kubectl: Child,
}

/// kubectl, until standard input is closed.
const KEEPER: &str = "\"$@\" 2>&1 & exec >/dev/null; cat >/dev/null; kill $!";

impl Space {
    /// The Postgres of a pod, by `kubectl port-forward`.
    ///
    /// # Errors
    /// With what kubectl said.
    pub async fn postgres(&self, pod: &str) -> Result<Forwarded> {
        let mut kubectl = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .arg(parts::kubectl()?)
            .args(["--namespace", &self.namespace, "port-forward"])
            .args([&format!("pod/{pod}"), "--address=127.0.0.1", ":5432"])
            .env("KUBECONFIG", self.cluster().kubeconfig())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting kubectl port-forward")?;
        let said = kubectl.stdout.take().context("its output")?;
        let mut lines = BufReader::new(said).lines();
        let first = tokio::time::timeout(Duration::from_secs(30), lines.next_line())
            .await
            .context("kubectl port-forward says nothing")??
            .unwrap_or_default();
        // It tells of every connection.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let port = first
            .strip_prefix("Forwarding from 127.0.0.1:")
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        ensure!(port.is_some(), "kubectl port-forward of {pod}: {first}");
        Ok(Forwarded {
            pod: pod.to_owned(),
            port: port.unwrap_or_default(),
            _kubectl: kubectl,
        })
    }
}

impl Server for Forwarded {
    async fn client(&self) -> Result<Client> {
        let mut config = Config::new();
        config
            .host("127.0.0.1")
            .port(self.port)
            .user("postgres")
            .dbname("postgres");
        postgres::connect(&config)
            .await
            .with_context(|| format!("connecting to pod {}", self.pod))
    }

    fn tail(&self) -> String {
        format!("of pod {}", self.pod)
    }
}
