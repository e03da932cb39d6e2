//! The operator, as a process of this machine, and what it says of itself.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use holdfast_e2e::{Daemon, World};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::cluster::Cluster;
use super::population::SYSTEM;
use crate::measure::{Process, look};

/// What archives hold is looked through this often, instead of once an hour, so that a window holds one look at least.
const UPKEEP_SECONDS: &str = "600";
/// Between two looks at its memory.
const SAMPLE: Duration = Duration::from_millis(500);

/// A running operator.
pub struct Operator {
    daemon: Daemon,
    metrics: SocketAddr,
}

impl Operator {
    /// Starts it, and waits until it leads. `run` tells logs apart.
    pub async fn start(world: &World, cluster: &Cluster, program: &Path, run: u32) -> Result<Self> {
        let kubeconfig = std::fs::read(cluster.kubeconfig())?;
        let kubeconfig = world.write("home/kubeconfig", kubeconfig)?;
        let metrics = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = world.command(world.reachable(program)?);
        command
            .args(["run", "--namespace", SYSTEM, "--image", "holdfast:bench"])
            .args(["--pod-name", &format!("holdfast-{run}")])
            .args(["--webhook-address", "127.0.0.1:0"])
            .args(["--metrics-address", &metrics.to_string()])
            .args(["--upkeep-seconds", UPKEEP_SECONDS])
            .env("KUBECONFIG", kubeconfig);
        let log = world.path(&format!("log/operator-{run}.log"));
        let mut operator = Self {
            daemon: Daemon::spawn("the operator", command, &log)?,
            metrics,
        };
        for _ in 0..600 {
            match operator.figures().await {
                Ok(figures) if figures.of("leader") == 1.0 => return Ok(operator),
                _ => tokio::time::sleep(Duration::from_millis(100)).await,
            }
            if !operator.daemon.is_running()? {
                bail!("the operator ended at once\n{}", operator.daemon.tail());
            }
        }
        bail!(
            "the operator does not lead after a minute\n{}",
            operator.daemon.tail()
        )
    }

    /// Its process.
    pub fn pid(&self) -> Result<u32> {
        let pid = self.daemon.pid().and_then(|pid| u32::try_from(pid).ok());
        pid.with_context(|| format!("the operator has ended\n{}", self.daemon.tail()))
    }

    /// Its memory and time.
    pub fn look(&self) -> Result<Process> {
        look(self.pid()?).context("the operator has ended")
    }

    /// Its own figures.
    pub async fn figures(&self) -> Result<Figures> {
        let read = async {
            let mut stream = TcpStream::connect(self.metrics).await?;
            stream
                .write_all(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
                .await?;
            let mut text = String::new();
            stream.read_to_string(&mut text).await?;
            Ok::<_, std::io::Error>(Figures(text))
        };
        match tokio::time::timeout(Duration::from_secs(30), read).await {
            Ok(figures) => figures.context("the operator's metrics"),
            Err(_) => bail!("the operator's metrics: no answer\n{}", self.daemon.tail()),
        }
    }

    /// Ends it as Kubernetes would.
    pub async fn stop(mut self) -> Result<()> {
        let ended = self.daemon.stop(Signal::TERM).await?;
        if !ended.success() {
            bail!("the operator ended with {ended}\n{}", self.daemon.tail());
        }
        Ok(())
    }
}

/// In the text format of Prometheus.
pub struct Figures(String);

impl Figures {
    /// One, by its name without the prefix, and with its labels; 0 where it is not there yet.
    pub fn of(&self, name: &str) -> f64 {
        let line = self.matching(name).find_map(|line| {
            line.strip_prefix(' ')
                .and_then(|value| value.trim().parse().ok())
        });
        line.unwrap_or(0.0)
    }

    /// Objects written through the API server.
    pub fn written(&self) -> f64 {
        let values = self.matching("writes_total{").filter_map(|line| {
            let (_, value) = line.rsplit_once(' ')?;
            value.trim().parse::<f64>().ok()
        });
        values.sum()
    }

    /// All of one name, for people.
    pub fn lines(&self, name: &str) -> String {
        self.matching(name).collect::<Vec<_>>().join("; ")
    }

    /// What follows the name.
    fn matching(&self, name: &str) -> impl Iterator<Item = &str> {
        let lines = self.0.lines();
        lines.filter_map(move |line| line.strip_prefix("holdfast_operator_")?.strip_prefix(name))
    }
}

/// Looks at a process' resident memory twice a second, until it ends or this is dropped.
pub struct Sampler {
    samples: Arc<Mutex<Vec<u64>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Sampler {
    /// From now on.
    pub fn begin(pid: u32) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let taken = samples.clone();
        let task = tokio::spawn(async move {
            while let Some(process) = look(pid) {
                let push = |mut taken: MutexGuard<'_, Vec<u64>>| taken.push(process.resident);
                push(taken.lock().unwrap_or_else(PoisonError::into_inner));
                tokio::time::sleep(SAMPLE).await;
            }
        });
        Self { samples, task }
    }

    /// All since this was asked last, in bytes.
    pub fn take(&self) -> Vec<u64> {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut samples)
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_found_by_name_and_labels() {
        let text = "holdfast_operator_leader 1
holdfast_operator_writes_total{kind=\"Archive\"} 3
holdfast_operator_writes_total{kind=\"Secret\"} 4
";
        let figures = Figures(text.to_owned());
        assert_eq!(figures.of("leader"), 1.0);
        assert_eq!(figures.of(r#"writes_total{kind="Archive"}"#), 3.0);
        assert_eq!(figures.of("lead"), 0.0);
        assert_eq!(figures.written(), 7.0);
    }
}
