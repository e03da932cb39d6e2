//! Throw-away Postgres servers of majors 14 to 18, on Unix sockets in the world's directory.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;
use tokio_postgres::{Client, Config, NoTls};

use crate::daemon::Daemon;
use crate::holdfast::Holdfast;
use crate::ledger::server;
use crate::parts;
use crate::world::{Output, World, eventually};

/// Settings of every new server, in its postgresql.conf. Archiving is on from the start with an empty command: Postgres
/// then keeps all WAL until [`Postgres::archive_with`] names one, and no restart is needed for it.
const SETTINGS: &str = "
listen_addresses = ''
wal_level = replica
archive_mode = on
archive_command = ''
track_commit_timestamp = on
max_wal_senders = 10
max_connections = 40
shared_buffers = '32MB'
dynamic_shared_memory_type = mmap
wal_keep_size = '1GB'
max_prepared_transactions = 10
fsync = off
timezone = 'UTC'
log_timezone = 'UTC'
lc_messages = 'C'
log_line_prefix = '%m [%p] '
log_checkpoints = on
logging_collector = off
";

/// How a server is shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Clean: disconnects clients, writes a shutdown checkpoint.
    Fast,
    /// As a crash, but orderly for the children: recovery at the next start.
    Immediate,
}

/// A new server's properties.
#[derive(Clone, Debug)]
pub struct Builder {
    world: World,
    name: String,
    major: u32,
    segment_mib: u32,
    checksums: bool,
    wal_elsewhere: bool,
    settings: Vec<(String, String)>,
}

/// A server, running or not. Dropping it kills it.
#[derive(Debug)]
pub struct Postgres {
    world: World,
    name: String,
    major: u32,
    tree: PathBuf,
    dir: PathBuf,
    port: u16,
    options: Vec<(String, String)>,
    daemon: Option<Daemon>,
}

impl World {
    /// A new server; its data directory will be `NAME/data` in the world.
    pub fn postgres(&self, name: &str, major: u32) -> Builder {
        Builder {
            world: self.clone(),
            name: name.to_owned(),
            major,
            segment_mib: 16,
            checksums: true,
            wal_elsewhere: false,
            settings: Vec::new(),
        }
    }

    /// A server on a data directory that is there already: one that was restored. It is not started.
    /// It shares no port or socket with the server it was copied from, whatever its configuration files say.
    ///
    /// # Errors
    /// If the server's part is missing.
    pub fn postgres_on(&self, name: &str, major: u32, dir: &Path) -> Result<Postgres> {
        Ok(Postgres {
            world: self.clone(),
            name: name.to_owned(),
            major,
            tree: self.reachable(&parts::postgres(major)?)?,
            dir: dir.to_owned(),
            port: self.next_port(),
            options: Vec::new(),
            daemon: None,
        })
    }
}

impl Builder {
    /// WAL segment size in MiB: a power of two, 1 to 1024. Default 16.
    pub fn segment_mib(mut self, mib: u32) -> Self {
        self.segment_mib = mib;
        self
    }

    /// Data checksums. Default on.
    pub fn checksums(mut self, on: bool) -> Self {
        self.checksums = on;
        self
    }

    /// pg_wal as a symbolic link to a folder outside the data directory.
    pub fn wal_elsewhere(mut self) -> Self {
        self.wal_elsewhere = true;
        self
    }

    /// A setting in postgresql.conf.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs initdb (superuser `postgres`, no password) and starts the server.
    ///
    /// # Errors
    /// With what initdb or the server's log says.
    pub async fn create(self) -> Result<Postgres> {
        let home = self.world.make_dir(&self.name)?;
        let dir = home.join("data");
        let mut postgres = self.world.postgres_on(&self.name, self.major, &dir)?;
        let mut initdb = self
            .world
            .command_of_a_named_user(&postgres.tree.join("bin/initdb"));
        initdb
            .args([
                "--no-sync",
                "--no-instructions",
                "--username=postgres",
                "--auth=trust",
            ])
            .args(["--encoding=UTF8", "--locale=C"])
            .arg(format!("--wal-segsize={}", self.segment_mib))
            .arg("--pgdata")
            .arg(&dir);
        match (self.checksums, self.major >= 18) {
            (true, _) => drop(initdb.arg("--data-checksums")),
            (false, true) => drop(initdb.arg("--no-data-checksums")),
            (false, false) => {}
        }
        if self.wal_elsewhere {
            initdb
                .arg("--waldir")
                .arg(self.world.path(&format!("{}/wal", self.name)));
        }
        self.world.give_to_a_named_user(&home)?;
        self.world.run(initdb).await?.success()?;
        self.world.own_tree(&home)?;
        postgres.append_settings(SETTINGS)?;
        if self.segment_mib > 16 {
            // At least two segments' worth.
            postgres.append_settings(&format!("min_wal_size = '{}MB'\n", 2 * self.segment_mib))?;
            postgres.append_settings(&format!("max_wal_size = '{}MB'\n", 16 * self.segment_mib))?;
        }
        for (name, value) in &self.settings {
            postgres.append_settings(&setting(name, value))?;
        }
        postgres.start().await?;
        Ok(postgres)
    }
}

fn setting(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\'', "''"))
}

impl Postgres {
    /// The major version.
    pub fn major(&self) -> u32 {
        self.major
    }

    /// The name it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of its socket: libpq's `host`.
    pub fn host(&self) -> PathBuf {
        self.world.path("run")
    }

    /// Its port number, which names the socket.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From the next start on a server runs it that is built for musl, of major 17.
    ///
    /// # Errors
    /// If the part is missing.
    pub fn use_musl(&mut self) -> Result<()> {
        self.tree = self.world.reachable(&parts::postgres_on_musl()?)?;
        Ok(())
    }

    /// The server's program tree (`bin`, `lib`, `share`).
    pub fn tree(&self) -> &Path {
        &self.tree
    }

    fn log_path(&self) -> PathBuf {
        self.world.path(&format!("log/{}.log", self.name))
    }

    /// All that its log says, of every start.
    pub fn log(&self) -> String {
        std::fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn append_settings(&self, text: &str) -> Result<()> {
        use std::io::Write;
        let path = self.dir.join("postgresql.conf");
        std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("appending to {}", path.display()))
    }

    /// A setting on the command line from the next start on; stronger than every file. Not copied by backups.
    pub fn option(&mut self, name: &str, value: &str) -> &mut Self {
        self.options.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Settings in postgresql.conf, in force at once where a reload is enough.
    ///
    /// # Errors
    /// If the file can't be written or the server does not run.
    pub async fn configure(&self, settings: &[(&str, &str)]) -> Result<()> {
        for (name, value) in settings {
            self.append_settings(&setting(name, value))?;
        }
        self.reload().await
    }

    /// Rereads the configuration and waits until all the server has.
    ///
    /// # Errors
    /// If the server does not run.
    pub async fn reload(&self) -> Result<()> {
        let client = self.client().await?;
        let before = loaded(&client).await?;
        client.execute("SELECT pg_reload_conf()", &[]).await?;
        eventually("the configuration is loaded", async || {
            if loaded(&self.client().await?).await? == before {
                bail!("pg_conf_load_time() has not moved");
            }
            Ok(())
        })
        .await
    }

    /// Points archive_command and restore_command at a sidecar.
    ///
    /// # Errors
    /// If the server does not run.
    pub async fn archive_with(&self, holdfast: &Holdfast) -> Result<()> {
        self.configure(&[
            ("archive_command", &holdfast.archive_command()?),
            ("restore_command", &holdfast.restore_command()?),
        ])
        .await
    }

    /// Has the archive module ask a sidecar; restore_command as ever.
    ///
    /// # Errors
    /// If the module is not there, or the server does not run.
    pub async fn archive_by_module(&self, holdfast: &Holdfast) -> Result<()> {
        let module = self.world.reachable(&parts::archive_module()?)?;
        // 16 and later refuse to have both.
        self.configure(&[
            ("archive_command", ""),
            ("archive_library", &module.display().to_string()),
            ("holdfast.socket", &holdfast.socket().display().to_string()),
            ("restore_command", &holdfast.restore_command()?),
        ])
        .await
    }

    /// Has commits wait for the sidecar, which must tell what is stored (`wal.streaming.synchronous`).
    ///
    /// # Errors
    /// If the server does not take it for a synchronous standby.
    pub async fn wait_for_sidecar(&self) -> Result<()> {
        let names = [("synchronous_standby_names", "holdfast")];
        self.configure(&names).await?;
        eventually("commits wait for the sidecar", async || {
            let state = self
                .value("SELECT coalesce(max(sync_state), '') FROM pg_stat_replication WHERE application_name = 'holdfast'")
                .await?;
            if state != "sync" {
                bail!("{state:?}\n{}", self.tail());
            }
            Ok(())
        })
        .await
    }

    /// Starts the server without waiting for anything.
    ///
    /// # Errors
    /// If it runs already or can't be started.
    pub fn launch(&mut self) -> Result<()> {
        if let Some(daemon) = &mut self.daemon
            && daemon.is_running()?
        {
            bail!("{} runs already", self.name);
        }
        let mut command = self.world.command(self.tree.join("bin/postgres"));
        command
            .arg("-D")
            .arg(&self.dir)
            .arg("-p")
            .arg(self.port.to_string());
        command
            .arg("-c")
            .arg(format!("unix_socket_directories={}", self.host().display()));
        for (name, value) in &self.options {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        self.daemon = Some(Daemon::spawn(&self.name, command, &self.log_path())?);
        Ok(())
    }

    /// Starts the server and waits until it takes connections.
    ///
    /// # Errors
    /// With its log, if it ends or takes none within five minutes.
    pub async fn start(&mut self) -> Result<()> {
        self.launch()?;
        self.wait_ready().await
    }

    /// Waits until the server takes connections.
    ///
    /// # Errors
    /// With its log, if it ends or takes none within five minutes.
    pub async fn wait_ready(&mut self) -> Result<()> {
        let mut config = self.config();
        config.connect_timeout(Duration::from_secs(5));
        for _ in 0..3000 {
            if let Ok(client) = connect(&config).await
                && client.simple_query("SELECT 1").await.is_ok()
            {
                return Ok(());
            }
            let daemon = self.daemon()?;
            if !daemon.is_running()? {
                bail!(
                    "{} ended before it took connections\n{}",
                    self.name,
                    self.tail()
                );
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("{} takes no connections\n{}", self.name, self.tail())
    }

    /// Waits until recovery has ended and the server takes writes.
    ///
    /// # Errors
    /// With its log, if it ends or does not within five minutes.
    pub async fn wait_promoted(&mut self) -> Result<()> {
        self.wait_sql("SELECT NOT pg_is_in_recovery()", "has not left recovery")
            .await
    }

    /// Waits until recovery is paused at its target.
    ///
    /// # Errors
    /// With its log, if it ends or does not within five minutes.
    pub async fn wait_paused(&mut self) -> Result<()> {
        let question = "SELECT pg_is_in_recovery() AND pg_get_wal_replay_pause_state() = 'paused'";
        self.wait_sql(question, "has not paused").await
    }

    async fn wait_sql(&mut self, question: &str, complaint: &str) -> Result<()> {
        self.wait_ready().await?;
        for _ in 0..3000 {
            if let Ok(client) = self.client().await
                && let Ok(row) = client.query_one(question, &[]).await
                && row.get::<_, bool>(0)
            {
                return Ok(());
            }
            if !self.daemon()?.is_running()? {
                bail!("{} ended\n{}", self.name, self.tail());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!("{} {complaint}\n{}", self.name, self.tail())
    }

    /// Waits until the server ends by itself: a recovery that shuts down at its target, or that fails.
    ///
    /// # Errors
    /// With its log, if it still runs after five minutes.
    pub async fn wait_exit(&mut self) -> Result<ExitStatus> {
        let status = self.daemon()?.wait(Duration::from_secs(300)).await?;
        self.daemon = None;
        Ok(status)
    }

    /// The process id of the server's first process, while it runs.
    pub fn pid(&self) -> Option<i32> {
        self.daemon.as_ref().and_then(Daemon::pid)
    }

    /// Whether the server's first process runs.
    ///
    /// # Errors
    /// If the system can't tell.
    pub fn is_running(&mut self) -> Result<bool> {
        match &mut self.daemon {
            Some(daemon) => daemon.is_running(),
            None => Ok(false),
        }
    }

    /// Shuts the server down.
    ///
    /// # Errors
    /// With its log, if it does not end within five minutes.
    pub async fn stop(&mut self, mode: Shutdown) -> Result<()> {
        let daemon = self.daemon()?;
        daemon.signal(match mode {
            Shutdown::Fast => Signal::INT,
            Shutdown::Immediate => Signal::QUIT,
        })?;
        self.wait_exit().await.map(drop)
    }

    /// Stops (fast) and starts.
    ///
    /// # Errors
    /// As [`Postgres::stop`] and [`Postgres::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.stop(Shutdown::Fast).await?;
        self.start().await
    }

    /// SIGKILL to all of the server's processes, its archiver's commands included.
    ///
    /// # Errors
    /// If it does not run.
    pub async fn kill9(&mut self) -> Result<()> {
        let daemon = self.daemon()?;
        daemon.kill9().await?;
        self.daemon = None;
        // Its children notice by themselves, but when they like.
        let dir = self.dir.clone();
        eventually("the server's children are gone", async || {
            let left = standing_in(&dir);
            for pid in &left {
                let _ = rustix::process::kill_process(*pid, Signal::KILL);
            }
            if !left.is_empty() {
                bail!("{} left", left.len());
            }
            Ok(())
        })
        .await
    }

    /// Promotes a standby and waits until it takes writes.
    ///
    /// # Errors
    /// If it is none, or with its log.
    pub async fn promote(&mut self) -> Result<()> {
        let row = self
            .client()
            .await?
            .query_one("SELECT pg_promote(true, 300)", &[])
            .await?;
        if !row.get::<_, bool>(0) {
            bail!("{} was not promoted\n{}", self.name, self.tail());
        }
        self.wait_promoted().await
    }

    fn daemon(&mut self) -> Result<&mut Daemon> {
        let name = &self.name;
        self.daemon
            .as_mut()
            .with_context(|| format!("{name} has not been started"))
    }

    /// The last lines of its log.
    pub fn tail(&self) -> String {
        crate::daemon::tail(&self.log_path())
    }

    /// How to connect: as `postgres` to the database `postgres`.
    pub fn config(&self) -> Config {
        let mut config = Config::new();
        config
            .host_path(self.host())
            .port(self.port)
            .user("postgres")
            .dbname("postgres")
            .application_name("holdfast-test");
        config
    }

    /// A connection to the database `postgres`.
    ///
    /// # Errors
    /// If the server refuses; with its log.
    pub async fn client(&self) -> Result<Client> {
        connect(&self.config())
            .await
            .with_context(|| format!("connecting to {}\n{}", self.name, self.tail()))
    }

    /// Statements without an answer, separated by semicolons.
    ///
    /// # Errors
    /// The server's.
    pub async fn execute(&self, sql: &str) -> Result<()> {
        self.client()
            .await?
            .batch_execute(sql)
            .await
            .with_context(|| sql.to_owned())
    }

    /// The first column of the first row, as text (every type is cast).
    ///
    /// # Errors
    /// The server's, or if there is no row or it is NULL.
    pub async fn value(&self, sql: &str) -> Result<String> {
        server::value(&self.client().await?, sql).await
    }

    /// The WAL insert position (primary) or the replay position (standby), as text.
    ///
    /// # Errors
    /// The server's.
    pub async fn lsn(&self) -> Result<String> {
        self.value(
            "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END",
        )
        .await
    }

    /// The timeline that it writes or replays, from the name of the WAL file.
    ///
    /// # Errors
    /// The server's.
    pub async fn timeline(&self) -> Result<u32> {
        server::timeline(&self.client().await?).await
    }

    /// Makes a restore point and answers its LSN (the end of its record).
    ///
    /// # Errors
    /// The server's.
    pub async fn restore_point(&self, name: &str) -> Result<String> {
        self.value(&format!("SELECT pg_create_restore_point('{name}')"))
            .await
    }

    /// Closes the current segment, if anything is in it, and waits until everything up to there is archived.
    ///
    /// # Errors
    /// If it is not within two minutes; with pg_stat_archiver and the log.
    pub async fn archive_all(&self) -> Result<()> {
        let last = self
            .value("SELECT pg_walfile_name(pg_switch_wal())")
            .await?;
        let status = self.dir.join("pg_wal/archive_status");
        eventually("all WAL is archived", async || {
            // By the archiver's own bookkeeping: nothing ready up to and with the segment that was just closed.
            let waiting: Vec<String> = std::fs::read_dir(&status)?
                .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
                .filter_map(|name| Some(name.strip_suffix(".ready")?.to_owned()))
                .filter(|name| *name <= last)
                .collect();
            if !waiting.is_empty() {
                bail!("waiting: {waiting:?}\n{}", self.tail());
            }
            Ok(())
        })
        .await
    }

    /// A new tablespace of this name, with its folder outside the data directory. Answers its OID and folder.
    ///
    /// # Errors
    /// The server's.
    pub async fn tablespace(&self, name: &str) -> Result<(u32, PathBuf)> {
        let folder = self
            .world
            .make_dir(&format!("{}/tablespace-{name}", self.name))?;
        self.execute(&format!(
            "CREATE TABLESPACE {name} LOCATION '{}'",
            folder.display()
        ))
        .await?;
        let oid = self
            .value(&format!(
                "SELECT oid FROM pg_tablespace WHERE spcname = '{name}'"
            ))
            .await?
            .parse()?;
        Ok((oid, folder))
    }

    /// Runs pgbench against the database `postgres`.
    ///
    /// # Errors
    /// With its output, if it fails.
    pub async fn pgbench(&self, arguments: &[&str]) -> Result<Output> {
        self.client_program("pgbench", arguments).await?.success()
    }

    /// Starts pgbench against the database `postgres`: load in the background until it is dropped, or the server goes.
    ///
    /// # Errors
    /// If it can't be started.
    pub fn pgbench_load(&self, arguments: &[&str]) -> Result<Daemon> {
        let command = self.client_command("pgbench", arguments)?;
        let log = self.world.path(&format!("log/{}-pgbench.log", self.name));
        Daemon::spawn("pgbench", command, &log)
    }

    /// Runs pg_amcheck over all databases, indexes against their tables included.
    ///
    /// # Errors
    /// With what it found.
    pub async fn amcheck(&self) -> Result<()> {
        let arguments = [
            "--all",
            "--install-missing",
            "--heapallindexed",
            "--rootdescend",
            "--jobs=2",
        ];
        self.client_program("pg_amcheck", &arguments)
            .await?
            .success()
            .map(drop)
    }

    async fn client_program(&self, name: &str, arguments: &[&str]) -> Result<Output> {
        let command = self.client_command(name, arguments)?;
        self.world.run(command).await
    }

    fn client_command(&self, name: &str, arguments: &[&str]) -> Result<tokio::process::Command> {
        let mut command = self
            .world
            .command(self.world.client_program(name, self.major)?);
        command
            .env("PGHOST", self.host())
            .env("PGPORT", self.port.to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
            .args(arguments);
        Ok(command)
    }

    /// A streaming standby of this server, started and caught up with the moment of the call. Tablespaces are copied
    /// beside its data directory.
    ///
    /// # Errors
    /// The servers'.
    pub async fn standby(&self, name: &str) -> Result<Postgres> {
        let mut standby = self.standby_unstarted(name).await?;
        standby.start().await?;
        let goal = self.value("SELECT pg_current_wal_flush_lsn()").await?;
        standby.wait_replayed(&goal).await?;
        Ok(standby)
    }

    /// As [`Postgres::standby`], not started: for other settings first.
    ///
    /// # Errors
    /// The servers'.
    pub async fn standby_unstarted(&self, name: &str) -> Result<Postgres> {
        self.world.make_dir(name)?;
        let dir = self.world.make_dir(&format!("{name}/data"))?;
        let standby = self.world.postgres_on(name, self.major, &dir)?;
        let client = self.client().await?;
        let (start, stop) = if self.major >= 15 {
            (
                "SELECT pg_backup_start('standby', true)",
                "SELECT labelfile FROM pg_backup_stop(false)",
            )
        } else {
            (
                "SELECT pg_start_backup('standby', true, false)",
                "SELECT labelfile FROM pg_stop_backup(false, false)",
            )
        };
        client.query_one(start, &[]).await?;
        let left_out = [
            "./pg_wal/*",
            "./postmaster.*",
            "./pg_replslot/*",
            "./pg_dynshmem/*",
            "./pg_tblspc/*",
        ];
        self.copy(&self.dir, &dir, &left_out).await?;
        if std::fs::symlink_metadata(dir.join("pg_wal"))?.is_symlink() {
            std::fs::remove_file(dir.join("pg_wal"))?;
        }
        self.world
            .make_dir(&format!("{name}/data/pg_wal/archive_status"))?;
        for link in std::fs::read_dir(self.dir.join("pg_tblspc"))? {
            let link = link?;
            let oid = link.file_name().to_string_lossy().into_owned();
            let copy = self.world.make_dir(&format!("{name}/tablespace-{oid}"))?;
            self.copy(&link.path(), &copy, &[]).await?;
            std::os::unix::fs::symlink(&copy, dir.join("pg_tblspc").join(&oid))?;
        }
        let label: String = client.query_one(stop, &[]).await?.get(0);
        self.world
            .write(&format!("{name}/data/backup_label"), label)?;
        self.world
            .write(&format!("{name}/data/standby.signal"), "")?;
        let source = format!(
            "host={} port={} user=postgres application_name={name}",
            self.host().display(),
            self.port
        );
        standby.append_settings(&setting("primary_conninfo", &source))?;
        Ok(standby)
    }

    /// Copies a live folder; files that vanish or change meanwhile are what the backup label is for.
    async fn copy(&self, from: &Path, to: &Path, left_out: &[&str]) -> Result<()> {
        let mut command = self.world.command("sh");
        command
            .args([
                "-c",
                r#"from=$1 to=$2; shift 2; tar -C "$from" "$@" -cf - . | tar -C "$to" -xf -"#,
                "copy",
            ])
            .arg(from)
            .arg(to)
            .arg("--warning=no-file-changed")
            .arg("--warning=no-file-removed");
        for pattern in left_out {
            command.arg(format!("--exclude={pattern}"));
        }
        self.world.run(command).await?.success().map(drop)
    }

    /// Waits until this standby has replayed up to an LSN.
    ///
    /// # Errors
    /// With its log, if it has not within two minutes.
    pub async fn wait_replayed(&self, lsn: &str) -> Result<()> {
        let question = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn");
        eventually(&format!("{} has replayed {lsn}", self.name), async || {
            if self.value(&question).await? != "t" {
                bail!("not yet\n{}", self.tail());
            }
            Ok(())
        })
        .await
    }
}

impl World {
    /// A client program that fits a server of this major (17's for all but 18), where the world's user can run it:
    /// `psql`, `pgbench`, `pg_verifybackup`, `pg_waldump`, `pg_amcheck`, …
    ///
    /// # Errors
    /// If the part is missing.
    pub fn client_program(&self, name: &str, major: u32) -> Result<PathBuf> {
        let (wrappers, root) = parts::client_programs(major)?;
        self.reachable(&root)?;
        Ok(self.reachable(&wrappers)?.join(name))
    }

    /// Runs pg_verifybackup on a restored directory before its first start, without looking at WAL (`-n`).
    ///
    /// # Errors
    /// With what it found.
    pub async fn verify_backup(&self, dir: &Path, major: u32) -> Result<()> {
        let mut command = self.command(self.client_program("pg_verifybackup", major)?);
        command.arg("-n").arg(dir);
        self.run(command).await?.success().map(drop)
    }
}

pub(crate) async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    // Ends with the client or the server; what was wrong shows in the client's next call.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

async fn loaded(client: &Client) -> Result<String> {
    Ok(client
        .query_one("SELECT pg_conf_load_time()::text", &[])
        .await?
        .get(0))
}

/// Processes whose working directory is this one: every process of the server on that data directory.
fn standing_in(dir: &Path) -> Vec<rustix::process::Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter(|entry| std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir))
        .filter_map(|entry| {
            rustix::process::Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)
        })
        .collect()
}
