//! A test's world: a directory, an unprivileged user, and a guardian that ends it all when the test ends, however it ends.

use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as StdCommand, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::daemon;

/// First of the numeric users that worlds take when the tests run as root: one each, so that a world's processes are
/// known by their user. No account needs to exist.
const FIRST_USER: u32 = 26_000;
const USERS: u32 = 3_000;
/// The unprivileged user that every system has by name.
const NOBODY: u32 = 65_534;

/// A cheap handle; the world ends when the last one is dropped.
#[derive(Clone, Debug)]
pub struct World {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    id: String,
    dir: PathBuf,
    user: Option<u32>,
    guardian: Mutex<Option<Child>>,
    next_port: Mutex<u16>,
}

/// What a program said when it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// Exit code; 128 + signal where a signal ended it, as a shell says it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    command: String,
}

impl World {
    /// Makes a world. `name` shows in process tags.
    ///
    /// # Errors
    /// If the directory can't be made or the guardian can't be started.
    pub fn new(name: &str) -> Result<Self> {
        let base = std::env::var_os("HOLDFAST_TEST_DIR")
            .map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
        let (user, claim) = claim()?;
        // Short, because a Unix socket's path ends at 107 bytes.
        let dir = base.join(claim.file_name().context("a claim has a name")?);
        if dir != claim {
            std::fs::DirBuilder::new()
                .mode(0o755)
                .create(&dir)
                .with_context(|| format!("making {}", dir.display()))?;
        }
        let id = format!(
            "{name}-{}",
            dir.file_name().unwrap_or_default().to_string_lossy()
        );
        let guardian = StdCommand::new("sh")
            .arg("-c")
            .arg(include_str!("guardian.sh"))
            .arg("guardian")
            .arg(&id)
            .arg(&dir)
            .arg(&claim)
            .arg(user.map(|uid| uid.to_string()).unwrap_or_default())
            .arg(std::env::var("HOLDFAST_TEST_KEEP").unwrap_or_default())
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting the guardian")?;
        let world = Self {
            inner: Arc::new(Inner {
                id,
                dir: dir.clone(),
                user,
                guardian: Mutex::new(Some(guardian)),
                next_port: Mutex::new(5432),
            }),
        };
        world.own(&dir)?;
        for folder in ["log", "run", "bin", "home"] {
            world.make_dir(folder)?;
        }
        // Programs that had to be copied are for initdb's user too.
        std::fs::set_permissions(world.path("bin"), std::fs::Permissions::from_mode(0o755))?;
        Ok(world)
    }

    /// Runs one scenario in a world of its own. When it fails, the ends of all logs are printed.
    ///
    /// # Errors
    /// The scenario's.
    pub async fn scenario<F>(name: &str, scenario: F) -> Result<()>
    where
        F: AsyncFnOnce(&World) -> Result<()>,
    {
        let world = Self::new(name)?;
        let result = scenario(&world).await;
        if result.is_err() {
            world.print_logs();
        }
        result
    }

    /// The world's directory, which its user owns.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// A path in the world's directory.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.inner.dir.join(relative)
    }

    /// The tag in the environment of all the world's processes.
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// The user that the world's programs run as; `None`: the one who runs the tests.
    pub fn user(&self) -> Option<u32> {
        self.inner.user
    }

    /// Gives a path to the world's user.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn own(&self, path: &Path) -> Result<()> {
        if let Some(uid) = self.inner.user {
            chown(path, Some(uid), Some(uid))
                .with_context(|| format!("giving {} to {uid}", path.display()))?;
        }
        Ok(())
    }

    /// Makes a folder (and those above it) for the world's user, mode 0700.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn make_dir(&self, relative: &str) -> Result<PathBuf> {
        let mut path = self.inner.dir.clone();
        for component in Path::new(relative) {
            path.push(component);
            if !path.exists() {
                std::fs::DirBuilder::new()
                    .mode(0o700)
                    .create(&path)
                    .with_context(|| format!("making {}", path.display()))?;
                self.own(&path)?;
            }
        }
        Ok(path)
    }

    /// Writes a file that only the world's user may read (mode 0600).
    ///
    /// # Errors
    /// If the system refuses.
    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.path(relative);
        std::fs::write(&path, content).with_context(|| format!("writing {}", path.display()))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        self.own(&path)?;
        Ok(path)
    }

    /// A file system of its own with so many MiB and some thousand files, for tests of full disks. Needs root.
    ///
    /// # Errors
    /// If it can't be mounted.
    pub async fn small_disk(&self, relative: &str, mib: u32) -> Result<PathBuf> {
        let Some(uid) = self.inner.user else {
            bail!("a small disk is a mounted tmpfs, which needs root: run this test as root");
        };
        let path = self.make_dir(relative)?;
        let options = format!("size={mib}m,nr_inodes=8k,uid={uid},gid={uid},mode=700");
        let mount = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "none"])
            .arg(&path)
            .output()
            .await?;
        if !mount.status.success() {
            bail!(
                "mounting a tmpfs at {}: {}",
                path.display(),
                String::from_utf8_lossy(&mount.stderr)
            );
        }
        Ok(path)
    }

    /// A command that will run as the world's user, in the world's directory, with a clean environment.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin")
            .env("HOME", self.path("home"))
            .env("LC_ALL", "C")
            .env("TZ", "UTC")
            .env("HOLDFAST_TEST_ID", &self.inner.id)
            .current_dir(&self.inner.dir);
        if let Some(uid) = self.inner.user {
            command.uid(uid).gid(uid);
        }
        command
    }

    /// As [`World::command`], but where the tests run as root, as `nobody`: initdb alone insists on a user with a name.
    /// What it makes must be given to the world's user with [`World::own_tree`].
    pub(crate) fn command_of_a_named_user(&self, program: &Path) -> Command {
        let mut command = self.command(program);
        if self.inner.user.is_some() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    /// Lets that command write a folder.
    pub(crate) fn give_to_a_named_user(&self, path: &Path) -> Result<()> {
        if self.inner.user.is_some() {
            chown(path, Some(NOBODY), Some(NOBODY))
                .with_context(|| format!("giving {} to nobody", path.display()))?;
        }
        Ok(())
    }

    /// Gives a folder with all in it to the world's user. Symbolic links are given, not followed.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn own_tree(&self, path: &Path) -> Result<()> {
        let Some(uid) = self.inner.user else {
            return Ok(());
        };
        let chown = StdCommand::new("chown")
            .args(["-hR", &format!("{uid}:{uid}")])
            .arg(path)
            .output()?;
        if !chown.status.success() {
            bail!(
                "giving {} to {uid}: {}",
                path.display(),
                String::from_utf8_lossy(&chown.stderr)
            );
        }
        Ok(())
    }

    /// Runs a command to its end, which must come within ten minutes.
    ///
    /// # Errors
    /// If it can't be started or does not end. Any exit code is an answer.
    pub async fn run(&self, mut command: Command) -> Result<Output> {
        let words = format!("{:?}", command.as_std());
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {words}"))?;
        let output = tokio::time::timeout(Duration::from_secs(600), child.wait_with_output())
            .await
            .with_context(|| format!("{words} has not ended after ten minutes"))??;
        let signal = std::os::unix::process::ExitStatusExt::signal(&output.status);
        Ok(Output {
            code: output
                .status
                .code()
                .unwrap_or_else(|| 128 + signal.unwrap_or_default()),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            command: words,
        })
    }

    /// Where the world's user can run what lies at `path` (a program or a tree of them): there, or a copy in the world
    /// if a folder above it is closed to others, as a checkout in root's home is.
    ///
    /// # Errors
    /// If it can't be copied.
    pub fn reachable(&self, path: &Path) -> Result<PathBuf> {
        let open = |folder: &Path| {
            std::fs::metadata(folder).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0)
        };
        if self.inner.user.is_none() || path.ancestors().all(open) {
            return Ok(path.to_owned());
        }
        let copy = self
            .path("bin")
            .join(path.file_name().context("a part has a name")?);
        if !copy.exists() {
            // Links where both lie on one file system, else copies.
            let linked = StdCommand::new("cp")
                .arg("-alH")
                .arg(path)
                .arg(&copy)
                .output()?;
            if !linked.status.success() {
                let _ = std::fs::remove_dir_all(&copy);
                let copied = StdCommand::new("cp")
                    .arg("-aH")
                    .arg(path)
                    .arg(&copy)
                    .output()?;
                if !copied.status.success() {
                    bail!(
                        "copying {}: {}",
                        path.display(),
                        String::from_utf8_lossy(&copied.stderr)
                    );
                }
            }
        }
        Ok(copy)
    }

    /// A port number that no other server of this world has; only for servers that listen on Unix sockets.
    pub(crate) fn next_port(&self) -> u16 {
        let mut next = self
            .inner
            .next_port
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *next += 1;
        *next - 1
    }

    /// Prints the last lines of every log.
    pub fn print_logs(&self) {
        let Ok(entries) = std::fs::read_dir(self.path("log")) else {
            return;
        };
        for entry in entries.flatten() {
            eprintln!("{}", daemon::tail(&entry.path()));
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let guardian = self
            .guardian
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut guardian) = guardian {
            drop(guardian.stdin.take());
            let ended = guardian.wait().is_ok_and(|status| status.success());
            if !ended && !std::thread::panicking() {
                panic!("the guardian could not clean {}", self.dir.display());
            }
        }
    }
}

impl Output {
    /// This output if the exit code was 0.
    ///
    /// # Errors
    /// With the command and all that it said, otherwise.
    pub fn success(self) -> Result<Self> {
        self.expect_code(0)
    }

    /// This output if the exit code was `code`.
    ///
    /// # Errors
    /// With the command and all that it said, otherwise.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        if self.code != code {
            bail!(
                "exit {} where {code} was expected: {}\n--- stdout:\n{}\n--- stderr:\n{}",
                self.code,
                self.command,
                self.stdout,
                self.stderr
            );
        }
        Ok(self)
    }

    /// Standard output as JSON.
    ///
    /// # Errors
    /// With all that the command said, if it is not.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| {
            format!(
                "no JSON: {}\n--- stdout:\n{}\n--- stderr:\n{}",
                self.command, self.stdout, self.stderr
            )
        })
    }
}

/// Takes a user number (as root) and the folder that says it is taken: making a folder happens or fails as a whole.
fn claim() -> Result<(Option<u32>, PathBuf)> {
    let root = rustix::process::geteuid().is_root();
    let clock = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let start = clock.subsec_nanos() ^ std::process::id();
    for attempt in 0..USERS {
        let number = FIRST_USER + start.wrapping_add(attempt) % USERS;
        let folder = PathBuf::from(format!("/tmp/holdfast-e2e-{number}"));
        match std::fs::DirBuilder::new().mode(0o755).create(&folder) {
            Ok(()) => return Ok((root.then_some(number), folder)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => {
                return Err(error).with_context(|| format!("making {}", folder.display()));
            }
        }
    }
    bail!("all of /tmp/holdfast-e2e-* are taken: remove those that no test uses");
}

/// Tries until it works: for what takes its time, never for what should be so at once.
///
/// # Errors
/// `what`, with the last failure, after two minutes.
pub async fn eventually<T, F>(what: &str, mut attempt: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<T>,
{
    let begun = tokio::time::Instant::now();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if begun.elapsed() > Duration::from_secs(120) => {
                return Err(error.context(format!("not within two minutes: {what}")));
            }
            // Looking costs more than what is waited for, where it is kubectl that looks.
            Err(_) => {
                let pause = begun.elapsed() / 10;
                let (least, most) = (Duration::from_millis(100), Duration::from_secs(1));
                tokio::time::sleep(pause.clamp(least, most)).await;
            }
        }
    }
}
