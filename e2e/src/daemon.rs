//! A long-running program of a world, with its log file.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// A started program. Dropping it kills it; its log stays until the world ends.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Starts `command` with its output appended to `log`.
    ///
    /// # Errors
    /// If the log can't be opened or the program can't be started.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // A group of its own: Ctrl-C on the test runner reaches the test, whose guardian then ends this.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// Starts a server on a free port of 127.0.0.1 and waits until it accepts connections there.
    ///
    /// # Errors
    /// If it ends, or does not within a minute, five times over; with its log.
    pub async fn on_free_port(
        name: &str,
        log: &Path,
        command: impl Fn(u16) -> Command,
    ) -> Result<(Self, u16)> {
        // Between finding a free port and listening on it, another may take it.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let mut daemon = Self::spawn(name, command(port), log)?;
            for _ in 0..1200 {
                let accepts = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
                if !daemon.is_running()? {
                    break;
                }
                if accepts.is_ok() {
                    return Ok((daemon, port));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        bail!("{name} does not serve\n{}", tail(log))
    }

    /// Starts what `command` makes and holds it still (SIGSTOP) while `on_its_way`: again, should a quick machine have
    /// ended it before it was looked at.
    ///
    /// # Errors
    /// If it was never seen so; with its log.
    pub async fn held(
        name: &str,
        log: &Path,
        command: impl Fn() -> Result<Command>,
        on_its_way: impl AsyncFn() -> Result<bool>,
    ) -> Result<Self> {
        for _ in 0..10 {
            let mut daemon = Self::spawn(name, command()?, log)?;
            while daemon.is_running()? {
                if on_its_way().await? {
                    daemon.pause()?;
                    if daemon.is_running()? && on_its_way().await? {
                        return Ok(daemon);
                    }
                    let _ = daemon.resume();
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        bail!("{name} was never seen on its way\n{}", tail(log))
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.child.id().and_then(|id| i32::try_from(id).ok())
    }

    /// Whether it has not ended.
    ///
    /// # Errors
    /// If the system can't tell.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self
            .pid()
            .and_then(Pid::from_raw)
            .with_context(|| format!("{} has ended\n{}", self.name, self.tail()))?;
        kill_process(pid, signal).with_context(|| format!("signalling {}", self.name))
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// If it has not ended when `patience` is over; the message ends with its log's last lines.
    pub async fn wait(&mut self, patience: Duration) -> Result<ExitStatus> {
        match tokio::time::timeout(patience, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!(
                "{} still runs after {patience:?}\n{}",
                self.name,
                self.tail()
            ),
        }
    }

    /// Sends a signal and waits a minute for the end.
    ///
    /// # Errors
    /// If it had ended before, or has not after a minute.
    pub async fn stop(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.signal(signal)?;
        self.wait(Duration::from_secs(60)).await
    }

    /// SIGKILL, as a crash or the out-of-memory killer would; its children are left alone.
    ///
    /// # Errors
    /// If it had ended before.
    pub async fn kill9(&mut self) -> Result<()> {
        self.stop(Signal::KILL).await.map(drop)
    }

    /// SIGSTOP: it hangs, with its sockets open.
    ///
    /// # Errors
    /// If it has ended.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: ends [`Daemon::pause`].
    ///
    /// # Errors
    /// If it has ended.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// All that it has written.
    pub fn log(&self) -> String {
        read_lossy(&self.log)
    }

    /// Its log's last lines, with a heading.
    pub fn tail(&self) -> String {
        tail(&self.log)
    }

    /// Its largest resident memory so far, in bytes (`VmHWM`).
    ///
    /// # Errors
    /// If it has ended.
    pub fn peak_memory(&self) -> Result<u64> {
        let pid = self
            .pid()
            .with_context(|| format!("{} has ended", self.name))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib: u64 = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
            .context("no VmHWM in /proc/PID/status")?
            .trim()
            .parse()?;
        Ok(kib * 1024)
    }
}

fn read_lossy(path: &Path) -> String {
    std::fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

/// A log file's last lines, with a heading: what a failure's message ends with.
pub fn tail(path: &Path) -> String {
    let text = read_lossy(path);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(30);
    format!(
        "--- end of {}:\n{}",
        path.display(),
        lines.get(from..).unwrap_or_default().join("\n")
    )
}
