//! The settings file, as it is written. The sidecar reads it with places for its messages, and refuses fields that are
//! not here; a test there reads what these types write.

use serde::Serialize;
use std::collections::BTreeMap;

/// The file in [`SettingsFile::history_directory`] that holds the system identifier of the database cluster whose history
/// files lie there: their own content does not tell.
pub const HISTORIES_OF: &str = "histories-of";

/// The file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SettingsFile {
    /// `namespace/name`.
    pub archive: String,
    /// Counts up with every change; reported back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// The server.
    pub postgres: Postgres,
    /// One at least.
    pub repositories: Vec<Repository>,
    /// Those that are only read from; their mode means nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Repository>,
    /// How WAL is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wal: Option<Wal>,
    /// How backups are taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<Backup>,
    /// The control API over TLS; left out: the Unix socket alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub control: Option<Control>,
    /// Metrics and probes; left out: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<Monitoring>,
    /// A folder with the history files that are known: the floor for a new timeline.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub history_directory: Option<String>,
    /// Consent to begin an incarnation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accept_system_identifier: Option<String>,
    /// What happens before the first server starts; left out: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
}

/// What happens before the first server starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// What an empty data directory is restored from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<Recovery>,
    /// The restore in place that is under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<RestoreOrder>,
}

/// A restore in place: of the settings' own archive, into the data directories of its own pods.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RestoreOrder {
    /// Names it, for ever: what was carried out once is never carried out again.
    pub id: String,
    /// The pod that is restored.
    pub pod: String,
    /// The pods whose data directories are emptied, to be cloned again.
    pub wiped: Vec<String>,
    /// Of the database, in decimal digits: a directory that holds another is left alone.
    pub system_identifier: String,
    /// One of the repositories.
    pub repository: String,
    /// To which moment.
    pub target: RecoveryTarget,
    /// `Promote` or `Pause`.
    pub action: String,
    /// Go on where it can't be proven that all WAL of the data directory is stored.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

/// A restore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// One of the repositories or sources.
    pub repository: String,
    /// `namespace/name`.
    pub archive: String,
    /// To which moment.
    pub target: RecoveryTarget,
    /// `Promote`, `Pause` or `Shutdown`; default `Promote`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
}

/// A moment: exactly one of the first six.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecoveryTarget {
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// As Postgres prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// As `pg_current_xact_id` prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub xid: Option<String>,
    /// Of a restore point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// When the backup is consistent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub immediate: Option<Nothing>,
    /// The end of what is archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest: Option<Nothing>,
    /// Just before it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub exclusive: bool,
    /// A number, `latest` or `current`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<String>,
    /// To begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
}

/// Written `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Nothing {}

/// The server. What is left out has a default, or comes from the pod.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Postgres {
    /// Left out where the environment's HOLDFAST_DATA_DIRECTORY names it: it is the pod's, not the archive's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_directory: Option<String>,
    /// A name, an address, or a folder with the server's socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The server's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Who takes backups.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Left out: none is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<String>,
    /// `disable`, `prefer` or `require`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ssl_mode: Option<String>,
}

/// A place that holds archives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Repository {
    /// For messages and reports.
    pub name: String,
    /// Where it is.
    #[serde(flatten)]
    pub place: Place,
    /// Left out: the environment, as the SDKs read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Left out: not encrypted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// `Required` or `BestEffort`.
    pub mode: String,
}

/// A store, under the name of its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Place {
    /// A bucket of S3.
    S3(S3),
    /// A container of Azure Blob Storage.
    Azure(Azure),
    /// A bucket of Google Cloud Storage.
    Gcs(Gcs),
}

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct S3 {
    /// Must exist.
    pub bucket: String,
    /// Before every key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Left out: from the environment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Left out: AWS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// PEM certificates to trust besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// A container of Azure Blob Storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Azure {
    /// The storage account.
    pub account: String,
    /// Must exist.
    pub container: String,
    /// Before every key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The account's address. Left out: Azure's public cloud.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// PEM certificates to trust besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// A bucket of Google Cloud Storage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Gcs {
    /// Must exist.
    pub bucket: String,
    /// Before every key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// Left out: Google.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// PEM certificates to trust besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<String>,
}

/// Files with credentials.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum Credentials {
    /// For S3.
    AccessKey {
        /// Names the key.
        access_key_id_file: String,
        /// The secret.
        secret_access_key_file: String,
        /// For temporary credentials.
        #[serde(skip_serializing_if = "Option::is_none")]
        session_token_file: Option<String>,
    },
    /// For Azure: everything in the account.
    AccountKey {
        /// Holds it.
        account_key_file: String,
    },
    /// For Azure: a shared access signature.
    SasToken {
        /// Holds it.
        sas_token_file: String,
    },
    /// For Google.
    ServiceAccount {
        /// Holds the account's key, in JSON.
        service_account_file: String,
    },
}

/// Master keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// For new data.
    pub current_key: String,
    /// By id.
    pub key_files: BTreeMap<String, String>,
}

/// How WAL is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Wal {
    /// Of WAL objects.
    pub compression: Compression,
    /// Of the segment that is being written.
    pub streaming: Streaming,
}

/// How what a server is writing is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Streaming {
    /// Between two parts, 60 at most; 0: none are stored.
    pub interval_seconds: u32,
    /// Whether the server is told what is stored, so that commits may wait for it.
    pub synchronous: bool,
}

/// How backups are taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Backup {
    /// Of pages.
    pub compression: Compression,
    /// Workers, 1 to 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<u32>,
}

/// An algorithm and its level.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Compression {
    /// `zstd`, `lz4` or `none`.
    pub algorithm: String,
    /// Of zstd, 1 to 19.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<i32>,
}

/// The control API over TLS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Control {
    /// An address and port, such as `[::]:9643` or `0.0.0.0:9643`.
    pub listen: String,
    /// PEM: who may sign the operator's certificate.
    pub ca_file: String,
    /// PEM: the sidecar's own chain.
    pub certificate_file: String,
    /// PEM: its key.
    pub key_file: String,
}

/// Metrics and probes, in plain HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// An address and port, such as `[::]:9644` or `0.0.0.0:9644`.
    pub listen: String,
}
