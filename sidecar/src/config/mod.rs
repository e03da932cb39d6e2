//! The settings: one YAML file, the same in and outside Kubernetes.
//!
//! [`load`] reads and checks it. Secrets are not in it: it names files, which are read when they are needed.

mod file;
mod files;
mod live;
mod overrides;
mod place;
mod problem;
mod secrets;
mod validate;

pub use files::Fingerprint;
pub use live::Live;
pub use overrides::Overrides;
pub use place::{Azure, AzureCredentialFile, CredentialFiles, Gcs, Place, S3};
pub(crate) use problem::suggestion;
pub use problem::{ConfigError, Problem};
pub use secrets::SecretError;
pub(crate) use secrets::read as read_secret;

use crate::restore::recovery::Action;
use holdfast_postgres::SystemIdentifier;
use holdfast_postgres::server::SslMode;
use holdfast_repository::Compression;
use holdfast_repository::reach::Request;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// No settings file is larger, in bytes.
const LARGEST_FILE: u64 = 1 << 20;

/// How what the server has flushed of the segment that it is writing is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streaming {
    /// How often.
    pub interval: Duration,
    /// At once, and the server is told what is stored: commits may wait for that.
    pub synchronous: bool,
}

/// Checked settings. Relative paths have become relative to the settings file's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The file that was read, for messages.
    pub file: PathBuf,
    /// `namespace/name`.
    pub archive: String,
    /// Counts up with every change; reported back.
    pub generation: Option<i64>,
    /// The WAL socket. The control API's lies beside it.
    pub socket: PathBuf,
    /// The database.
    pub postgres: Postgres,
    /// At least one; names are unique.
    pub repositories: Vec<Repository>,
    /// Those that are only read from. No name is one of `repositories`.
    pub sources: Vec<Repository>,
    /// How WAL objects are compressed.
    pub wal_compression: Compression,
    /// How what the server has flushed of the segment that it is writing is stored. None: it is not.
    pub streaming: Option<Streaming>,
    /// How backups are compressed.
    pub backup_compression: Compression,
    /// Workers of a backup or restore, 1 to 64.
    pub parallelism: usize,
    /// What the process may use, in bytes; at least 64 MiB.
    pub memory: u64,
    /// The control API over TLS. Left out: the Unix socket alone.
    pub control: Option<Control>,
    /// Where metrics and probes are served. Left out: nowhere.
    pub monitoring: Option<SocketAddr>,
    /// A folder with timelines' history files that are known: the floor for a new timeline.
    pub history_directory: Option<PathBuf>,
    /// Consent to begin an incarnation with this identifier.
    pub accept_system_identifier: Option<SystemIdentifier>,
    /// What an empty data directory is restored from before Postgres starts on it for the first time.
    pub recovery: Option<Recovery>,
    /// The restore in place that is under way.
    pub order: Option<RestoreOrder>,
}

/// A restore that stands in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// One of the repositories or sources.
    pub repository: String,
    /// `namespace/name`.
    pub archive: String,
    /// Where it stops.
    pub request: Request,
    /// What Postgres does there.
    pub action: Action,
}

/// A restore in place: of the settings' own archive, into the data directories of its own pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreOrder {
    /// Names it, for ever: what was carried out once is never carried out again.
    pub id: String,
    /// The pod that is restored.
    pub pod: String,
    /// The pods whose data directories are emptied, to be cloned again.
    pub wiped: Vec<String>,
    /// Of the database: a directory that holds another is left alone.
    pub system_identifier: SystemIdentifier,
    /// One of the repositories.
    pub repository: String,
    /// Where it stops.
    pub request: Request,
    /// What Postgres does there.
    pub action: Action,
    /// Go on where it can't be proven that all WAL of the data directory is stored.
    pub force: bool,
}

/// The database server and its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Postgres {
    /// As this program sees it.
    pub data_directory: PathBuf,
    /// A name, an address, or a folder with the server's socket.
    pub host: String,
    /// The server's.
    pub port: u16,
    /// Needs pg_backup_start and pg_backup_stop.
    pub user: String,
    /// Any database will do.
    pub database: String,
    /// Left out: no password is sent.
    pub password_file: Option<PathBuf>,
    /// Whether a connection over TCP is encrypted. The server's certificate is not verified.
    pub ssl_mode: SslMode,
}

/// The control API over TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// Where it listens.
    pub listen: SocketAddr,
    /// PEM: who may sign the operator's certificate.
    pub ca_file: PathBuf,
    /// PEM: this program's own chain.
    pub certificate_file: PathBuf,
    /// PEM: its key.
    pub key_file: PathBuf,
}

/// Whether an acknowledgement waits for a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Nothing is acknowledged before it is durable here.
    #[default]
    Required,
    /// It gets what it can take.
    BestEffort,
}

/// A place in an object store that holds archives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repository {
    /// For messages and reports.
    pub name: String,
    /// Where it is.
    pub place: Place,
    /// Left out: not encrypted.
    pub encryption: Option<Encryption>,
    /// Whether an acknowledgement waits for it.
    pub mode: Mode,
}

/// The master keys of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encryption {
    /// One of `key_files`: the one for new data.
    pub current_key: String,
    /// By id.
    pub key_files: BTreeMap<String, PathBuf>,
}

impl Settings {
    /// `control.sock`, beside the WAL socket.
    pub fn control_socket(&self) -> PathBuf {
        self.socket.with_file_name("control.sock")
    }

    /// Those that are archived to and those that are only read from.
    pub fn repositories_and_sources(&self) -> impl Iterator<Item = &Repository> {
        self.repositories.iter().chain(&self.sources)
    }

    /// Those that an acknowledgement waits for.
    pub fn required_repositories(&self) -> impl Iterator<Item = &Repository> {
        let all = self.repositories.iter();
        all.filter(|repository| repository.mode == Mode::Required)
    }

    /// A repository or source by its name.
    pub fn repository(&self, name: &str) -> Option<&Repository> {
        self.repositories_and_sources()
            .find(|repository| repository.name == name)
    }

    /// The repository that is read from. Settings hold at least one.
    pub fn first_repository(&self) -> Option<&Repository> {
        self.required_repositories()
            .next()
            .or(self.repositories.first())
    }
}

/// Reads and checks a settings file. What the process' environment says wins ([`Overrides`]).
pub fn load(path: &Path) -> Result<Settings, ConfigError> {
    parse(path, &read(path)?, &Overrides::of_process())
}

/// Reads a settings file's text.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    let text = secrets::read_bounded(path, LARGEST_FILE).map_err(|source| ConfigError::Read {
        file: path.to_owned(),
        source,
    })?;
    String::from_utf8(text).map_err(|_| ConfigError::Read {
        file: path.to_owned(),
        source: std::io::Error::other("it is not UTF-8 text"),
    })
}

/// Checks the text of a settings file. `path` is for messages and for relative paths.
pub fn parse(path: &Path, text: &str, overrides: &Overrides) -> Result<Settings, ConfigError> {
    let invalid = |problems| ConfigError::Invalid {
        file: path.to_owned(),
        problems,
    };
    let file = file::parse(text).map_err(|problem| invalid(vec![problem]))?;
    validate::validate(path, file, overrides).map_err(invalid)
}

#[cfg(test)]
mod tests;
