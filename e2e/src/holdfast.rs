//! Holdfast as users run it: a configuration file, the `holdfast` command, the sidecar, `holdfast-wal`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::daemon::Daemon;
use crate::minio::{ACCESS_KEY, Bucket, SECRET_KEY};
use crate::objects::Objects;
use crate::parts;
use crate::postgres::Postgres;
use crate::world::{Output, World};

/// Where an archive is kept.
#[derive(Clone, Debug)]
pub enum Repository {
    /// A folder.
    Filesystem(PathBuf),
    /// A bucket of MinIO.
    S3(Bucket),
    /// Any other, as lines of the file.
    Written(String),
}

/// What a configuration file says. Settings that a test does not set are left out of the file.
#[derive(Clone, Debug)]
pub struct Builder {
    world: World,
    instance: String,
    archive: String,
    data_directory: PathBuf,
    host: PathBuf,
    port: u16,
    repository: Option<Repository>,
    prefix: String,
    keys: Vec<(String, PathBuf)>,
    wal_compression: Option<(String, i32)>,
    backup_compression: Option<(String, i32)>,
    lines: Vec<String>,
}

/// One configuration file, with the programs that use it.
#[derive(Clone, Debug)]
pub struct Holdfast {
    settings: Builder,
    config: PathBuf,
}

/// A sidecar that serves its socket, until it is stopped or killed through its [`Daemon`].
#[derive(Debug)]
pub struct Sidecar {
    /// The running program: to pause, resume, kill or measure it.
    pub daemon: Daemon,
}

impl World {
    /// A primary with segments of 1 MB that archives to a folder, with its sidecar.
    ///
    /// # Errors
    /// With all that a program said.
    pub async fn archiving(&self, major: u32) -> Result<(Postgres, Holdfast, Sidecar)> {
        let primary = self
            .postgres("primary", major)
            .segment_mib(1)
            .create()
            .await?;
        let holdfast = self
            .holdfast("shop/orders", &primary)
            .filesystem("backups")?
            .build()?;
        let sidecar = holdfast.sidecar().await?;
        primary.archive_with(&holdfast).await?;
        Ok((primary, holdfast, sidecar))
    }

    /// Configures Holdfast for a server. `archive` is `<namespace>/<name>`. A repository must be chosen before `build`.
    pub fn holdfast(&self, archive: &str, postgres: &Postgres) -> Builder {
        Builder {
            world: self.clone(),
            instance: postgres.name().to_owned(),
            archive: archive.to_owned(),
            data_directory: postgres.dir().to_owned(),
            host: postgres.host(),
            port: postgres.port(),
            repository: None,
            prefix: "prod".to_owned(),
            keys: Vec::new(),
            wal_compression: None,
            backup_compression: None,
            lines: Vec::new(),
        }
    }
}

impl Builder {
    /// Names the configuration file and the socket's folder; two in one world must differ. Default: the server's name.
    pub fn instance(mut self, name: &str) -> Self {
        self.instance = name.to_owned();
        self
    }

    /// Another archive.
    pub fn archive(mut self, archive: &str) -> Self {
        self.archive = archive.to_owned();
        self
    }

    /// Another data directory than the server's: one to restore to, for instance.
    pub fn data_directory(mut self, path: &Path) -> Self {
        self.data_directory = path.to_owned();
        self
    }

    /// Keeps the archive in a folder of the world, which is made.
    ///
    /// # Errors
    /// If the folder can't be made.
    pub fn filesystem(mut self, relative: &str) -> Result<Self> {
        self.repository = Some(Repository::Filesystem(self.world.make_dir(relative)?));
        Ok(self)
    }

    /// Keeps the archive in a bucket.
    pub fn s3(mut self, bucket: &Bucket) -> Self {
        self.repository = Some(Repository::S3(bucket.clone()));
        self
    }

    /// Keeps the archive where these lines of the file say, with the credentials that they name. What is stored there
    /// can't be looked at as [`Objects`].
    pub fn repository(mut self, lines: &str) -> Self {
        self.repository = Some(Repository::Written(lines.to_owned()));
        self
    }

    /// The prefix inside a bucket. Default `prod`.
    pub fn prefix(mut self, prefix: &str) -> Self {
        self.prefix = prefix.to_owned();
        self
    }

    /// Encrypts with a new key `k1`, in a file of the world that all that is configured in it as encrypted share.
    ///
    /// # Errors
    /// If the key can't be made.
    pub fn encrypted(self) -> Result<Self> {
        self.key("k1")
    }

    /// Adds a key, made when first named; the last one added is the current one.
    ///
    /// # Errors
    /// If the key can't be made.
    pub fn key(mut self, id: &str) -> Result<Self> {
        let relative = format!("home/key-{id}");
        let path = self.world.path(&relative);
        if !path.exists() {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes)
                .map_err(|error| anyhow::anyhow!("random bytes: {error}"))?;
            use base64::Engine;
            self.world.write(
                &relative,
                base64::engine::general_purpose::STANDARD.encode(bytes) + "\n",
            )?;
        }
        self.keys.push((id.to_owned(), path));
        Ok(self)
    }

    /// No encryption, though what this was made from has it.
    pub fn without_keys(mut self) -> Self {
        self.keys.clear();
        self
    }

    /// `zstd`, `lz4` or `none` for backups.
    pub fn backup_compression(mut self, algorithm: &str, level: i32) -> Self {
        self.backup_compression = Some((algorithm.to_owned(), level));
        self
    }

    /// `zstd`, `lz4` or `none` for WAL.
    pub fn wal_compression(mut self, algorithm: &str, level: i32) -> Self {
        self.wal_compression = Some((algorithm.to_owned(), level));
        self
    }

    /// `zstd`, `lz4` or `none` for both.
    pub fn compression(self, algorithm: &str) -> Self {
        self.backup_compression(algorithm, 3)
            .wal_compression(algorithm, 1)
    }

    /// A further line of the file as it is: `limits: {memory: 128Mi}`.
    pub fn line(mut self, yaml: &str) -> Self {
        self.lines.push(yaml.to_owned());
        self
    }

    /// The file's text.
    ///
    /// # Errors
    /// If no repository was chosen.
    pub fn yaml(&self) -> Result<String> {
        let mut text = format!(
            "archive: {}\nsocket: {}\n",
            self.archive,
            self.socket().display()
        );
        text += &format!(
            "postgres: {{dataDirectory: \"{}\", host: \"{}\", port: {}, user: postgres}}\nrepositories:\n- name: main\n",
            self.data_directory.display(),
            self.host.display(),
            self.port
        );
        match self
            .repository
            .as_ref()
            .context("no repository: call s3() or filesystem()")?
        {
            Repository::Filesystem(path) => {
                text += &format!("  filesystem: {{path: \"{}\"}}\n", path.display())
            }
            Repository::Written(lines) => {
                for line in lines.lines() {
                    text += &format!("  {line}\n");
                }
            }
            Repository::S3(bucket) => {
                let (access, secret) = (
                    self.world.path("home/access-key"),
                    self.world.path("home/secret-key"),
                );
                text += &format!(
                    "  s3: {{bucket: {}, prefix: {}, region: us-east-1, endpoint: \"{}\"}}\n  credentials: {{accessKeyIdFile: \"{}\", secretAccessKeyFile: \"{}\"}}\n",
                    bucket.name,
                    self.prefix,
                    bucket.endpoint,
                    access.display(),
                    secret.display()
                );
            }
        }
        if let Some((current, _)) = self.keys.last() {
            let files: Vec<String> = self
                .keys
                .iter()
                .map(|(id, path)| format!("{id}: \"{}\"", path.display()))
                .collect();
            text += &format!(
                "  encryption: {{currentKey: {current}, keyFiles: {{{}}}}}\n",
                files.join(", ")
            );
        }
        for (section, compression) in [
            ("wal", &self.wal_compression),
            ("backup", &self.backup_compression),
        ] {
            if let Some((algorithm, level)) = compression {
                let level = if algorithm == "zstd" {
                    format!(", level: {level}")
                } else {
                    String::new()
                };
                text += &format!("{section}: {{compression: {{algorithm: {algorithm}{level}}}}}\n");
            }
        }
        for line in &self.lines {
            text += line;
            text.push('\n');
        }
        Ok(text)
    }

    fn socket(&self) -> PathBuf {
        self.world.path(&format!("run/{}/wal.sock", self.instance))
    }

    /// Writes the file (and those that it names).
    ///
    /// # Errors
    /// If no repository was chosen or a file can't be written.
    pub fn build(self) -> Result<Holdfast> {
        self.world.make_dir(&format!("run/{}", self.instance))?;
        self.world.write("home/access-key", ACCESS_KEY)?;
        self.world.write("home/secret-key", SECRET_KEY)?;
        let config = self
            .world
            .write(&format!("home/{}.yaml", self.instance), self.yaml()?)?;
        Ok(Holdfast {
            settings: self,
            config,
        })
    }
}

impl Holdfast {
    /// The same archive, repository and keys for another server: a standby, a promoted copy.
    pub fn also_for(&self, postgres: &Postgres) -> Builder {
        Builder {
            instance: postgres.name().to_owned(),
            data_directory: postgres.dir().to_owned(),
            host: postgres.host(),
            port: postgres.port(),
            ..self.settings.clone()
        }
    }

    /// These settings, to change some and build again. Without another `instance` the file is overwritten.
    pub fn settings(&self) -> Builder {
        self.settings.clone()
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// The socket that the sidecar serves.
    pub fn socket(&self) -> PathBuf {
        self.settings.socket()
    }

    /// The archive's stored objects.
    ///
    /// # Errors
    /// If no repository was chosen, or one by [`Builder::repository`].
    pub fn objects(&self) -> Result<Objects> {
        let Builder {
            world,
            archive,
            prefix,
            repository,
            ..
        } = &self.settings;
        match repository.as_ref().context("no repository")? {
            Repository::Filesystem(path) => Ok(Objects::in_folder(world, path, archive)),
            Repository::S3(bucket) => Ok(Objects::in_bucket(world, bucket, prefix, archive)),
            Repository::Written(_) => bail!("this repository's objects can't be looked at"),
        }
    }

    /// The repository's root, where it is a folder.
    pub fn folder(&self) -> Option<&Path> {
        match &self.settings.repository {
            Some(Repository::Filesystem(path)) => Some(path),
            _ => None,
        }
    }

    /// `holdfast --config FILE …`, not run yet.
    ///
    /// # Errors
    /// If the program has not been built.
    pub fn command(&self, arguments: &[&str]) -> Result<tokio::process::Command> {
        let world = &self.settings.world;
        let mut command = world.command(world.reachable(&parts::holdfast()?)?);
        command.arg("--config").arg(&self.config).args(arguments);
        Ok(command)
    }

    /// Runs `holdfast --config FILE …`; any exit code is an answer.
    ///
    /// # Errors
    /// If the program has not been built, or does not end within ten minutes.
    pub async fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.settings.world.run(self.command(arguments)?).await
    }

    /// Runs it with `--json` and answers what it printed; it must exit 0.
    ///
    /// # Errors
    /// With all that it said.
    pub async fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let mut all = arguments.to_vec();
        all.push("--json");
        self.run(&all).await?.success()?.json()
    }

    /// Takes a full backup and answers Backup.status.
    ///
    /// # Errors
    /// With all that it said.
    pub async fn backup(&self) -> Result<serde_json::Value> {
        self.json(&["backup", "--type", "full"]).await
    }

    /// Takes a backup of what differs from the newest one, and answers Backup.status.
    ///
    /// # Errors
    /// With all that it said.
    pub async fn incremental(&self) -> Result<serde_json::Value> {
        self.json(&["backup", "--type", "incremental"]).await
    }

    /// Starts a full backup and holds it still (SIGSTOP) in the middle: a pack is begun, the manifest is not.
    ///
    /// # Errors
    /// If it was never seen so; with its log.
    pub async fn held_backup(&self, log: &str) -> Result<Daemon> {
        let objects = self.objects()?;
        let packs = objects.begun("/packs/").await?;
        let manifests = objects.begun("/manifest").await?;
        let on_its_way = async || {
            Ok(objects.begun("/packs/").await? > packs
                && objects.begun("/manifest").await? == manifests)
        };
        let log = self.settings.world.path(&format!("log/{log}.log"));
        let command = || self.command(&["backup", "--type", "full"]);
        Daemon::held("holdfast backup", &log, command, on_its_way).await
    }

    /// Restores to a directory, with further arguments such as `--target-name`, and answers Restore.status.
    ///
    /// # Errors
    /// With all that it said.
    pub async fn restore(&self, to: &Path, arguments: &[&str]) -> Result<serde_json::Value> {
        let to = to.to_string_lossy();
        let mut all = vec!["restore", "--to", &to];
        all.extend_from_slice(arguments);
        self.json(&all).await
    }

    /// `holdfast info --json`.
    ///
    /// # Errors
    /// With all that it said.
    pub async fn info(&self) -> Result<serde_json::Value> {
        self.json(&["info"]).await
    }

    /// The ids of the backups that `info` lists as complete.
    ///
    /// # Errors
    /// With all that it said.
    pub async fn complete_backups(&self) -> Result<Vec<String>> {
        let info = self.info().await?;
        let backups = info["backups"].as_array().context("backups")?;
        let complete = |backup: &&serde_json::Value| {
            backup["conditions"].as_array().is_some_and(|all| {
                all.iter()
                    .any(|one| one["type"] == "Complete" && one["status"] == "True")
            })
        };
        let complete = backups.iter().filter(complete);
        Ok(complete
            .filter_map(|backup| backup["id"].as_str().map(str::to_owned))
            .collect())
    }

    /// `holdfast verify --json`, whatever it finds: 0 all good, 1 damage, 2 could not tell.
    ///
    /// # Errors
    /// If it can't be run.
    pub async fn verify(&self) -> Result<Output> {
        self.run(&["verify", "--json"]).await
    }

    /// Starts the sidecar and waits until its socket answers.
    ///
    /// # Errors
    /// With its log, if it ends or does not serve within a minute.
    pub async fn sidecar(&self) -> Result<Sidecar> {
        let world = &self.settings.world;
        let log = world.path(&format!("log/{}-sidecar.log", self.settings.instance));
        let mut daemon = Daemon::spawn("the sidecar", self.command(&["sidecar"])?, &log)?;
        for _ in 0..600 {
            if tokio::net::UnixStream::connect(self.socket()).await.is_ok() {
                return Ok(Sidecar { daemon });
            }
            if !daemon.is_running()? {
                bail!("the sidecar ended before it served\n{}", daemon.tail());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!(
            "the sidecar does not serve {}\n{}",
            self.socket().display(),
            daemon.tail()
        )
    }

    /// `holdfast-wal --socket … …`, not run yet: `["archive", name, path]` or `["restore", name, path]`.
    ///
    /// # Errors
    /// If the program has not been built.
    pub fn wal_command(&self, arguments: &[&str]) -> Result<tokio::process::Command> {
        let world = &self.settings.world;
        let mut command = world.command(world.reachable(&parts::holdfast_wal()?)?);
        // As Postgres runs it.
        command.current_dir(&self.settings.data_directory);
        command.arg("--socket").arg(self.socket()).args(arguments);
        Ok(command)
    }

    /// Runs `holdfast-wal` in the data directory; any exit code is an answer.
    ///
    /// # Errors
    /// If the program has not been built, or does not end within ten minutes.
    pub async fn wal(&self, arguments: &[&str]) -> Result<Output> {
        self.settings.world.run(self.wal_command(arguments)?).await
    }

    /// The text of archive_command.
    ///
    /// # Errors
    /// If the program has not been built.
    pub fn archive_command(&self) -> Result<String> {
        self.wal_setting("archive")
    }

    /// The text of restore_command.
    ///
    /// # Errors
    /// If the program has not been built.
    pub fn restore_command(&self) -> Result<String> {
        self.wal_setting("restore")
    }

    fn wal_setting(&self, verb: &str) -> Result<String> {
        let program = self.settings.world.reachable(&parts::holdfast_wal()?)?;
        Ok(format!(
            "{} --socket {} {verb} %f %p",
            program.display(),
            self.socket().display()
        ))
    }
}

impl Sidecar {
    /// SIGTERM; it drains and ends.
    ///
    /// # Errors
    /// With its log, if it does not end within a minute or not with exit code 0.
    pub async fn stop(mut self) -> Result<()> {
        let status = self.daemon.stop(Signal::TERM).await?;
        if !status.success() {
            bail!("the sidecar ended with {status}\n{}", self.daemon.tail());
        }
        Ok(())
    }

    /// SIGKILL.
    ///
    /// # Errors
    /// If it had ended.
    pub async fn kill9(mut self) -> Result<()> {
        self.daemon.kill9().await
    }
}
