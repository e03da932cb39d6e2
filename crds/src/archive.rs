//! `Archive`: all that is kept of one database over its life.

use crate::period::Period;
use crate::recovery::{Nothing, RecoverySource, RecoveryTarget};
use crate::reference::SecretKeyReference;
use holdfast_protocol::status::{Condition, Instance, Lag, Moment, RecoveryWindow};
use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the archive is kept, how long, and how its database is reached.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "Archive",
    shortname = "hfa",
    category = "holdfast",
    namespaced,
    status = "ArchiveStatus",
    derive = "PartialEq",
    doc = "All that is kept of one database over its life: its WAL and its backups. Pods join by the label `holdfast.dev/archive: <name>` on their template. Deleting an Archive deletes nothing that is stored; made again, it goes on where it was.",
    annotation("helm.sh/resource-policy", "keep"),
    validation = Rule::new("self.metadata.name.size() <= 63")
        .field_path(".metadata.name")
        .message("an Archive's name has 63 characters at most: it is the value of the label holdfast.dev/archive"),
    printcolumn(name = "Postgres", type_ = "string", json_path = ".status.postgresVersion"),
    printcolumn(name = "Archiving", type_ = "string", json_path = r#".status.conditions[?(@.type=="Archiving")].status"#),
    printcolumn(name = "Recoverable", type_ = "string", json_path = r#".status.conditions[?(@.type=="Recoverable")].status"#),
    printcolumn(name = "Window-Start", type_ = "string", json_path = ".status.recoveryWindow.earliestTime"),
    printcolumn(name = "Latest", type_ = "string", json_path = ".status.recoveryWindow.latestTime"),
    printcolumn(name = "Last-Backup", type_ = "date", json_path = ".status.lastBackup.completionTime"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp", priority = "1")
)]
pub struct ArchiveSpec {
    /// The Repositories that keep it, 1 to 16, each named once.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[x_kube(validation = Rule::new("self.exists(r, r.mode == 'Required')")
        .message("at least one repository has mode Required: otherwise WAL would be dropped before it is stored"))]
    pub repositories: Vec<ArchiveRepository>,
    /// How the server in the labelled pods is reached.
    #[serde(default)]
    pub postgres: ArchivePostgres,
    /// How WAL is stored.
    #[serde(default)]
    pub wal: ArchiveWal,
    /// How backups are taken.
    #[serde(default)]
    pub backup: ArchiveBackup,
    /// How long backups and WAL are kept. Default: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Retention>,
    /// What happens before the first server starts. Default: it makes a new database, or goes on with the one it finds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<ArchiveBootstrap>,
    /// Consent to go on with another database cluster under this name, after pg_upgrade or initdb: the new cluster's
    /// system identifier, as the condition IdentityAccepted and pg_controldata print it, such as
    /// "7423518236458716201". Until then WAL of the new cluster waits. What was kept of the old one stays. Default: "".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 20))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]*$')")
        .message("write a system identifier in digits and in quotes, as the condition IdentityAccepted prints it, or leave it empty"))]
    pub accept_system_identifier: String,
    /// Consent to expire what another installation of Holdfast has written: the id of that installation, as the
    /// condition Owner prints it. Until then nothing in this archive expires. Default: "".
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 253))]
    pub take_over: String,
    /// True: the operator starts no backups and expires nothing. WAL is archived all the same. Default: false.
    #[serde(default)]
    pub suspend: bool,
}

/// A Repository and its part in the archive.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveRepository {
    /// A Repository in the same namespace. It may be made later: until then the Archive is not Ready and says why.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Required: WAL counts as archived, and a backup as complete, only when this repository has it; when it can't be
    /// reached, pg_wal grows. BestEffort: it gets what it can take. Default: Required.
    #[serde(default)]
    pub mode: RepositoryMode,
}

/// Whether archiving waits for a repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum RepositoryMode {
    /// It does.
    #[default]
    Required,
    /// It does not.
    BestEffort,
}

/// How the server in a labelled pod is reached.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchivePostgres {
    /// The port that Postgres listens on. Default: 5432.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// Who takes backups.
    #[serde(default)]
    pub auth: ArchiveAuth,
}

impl Default for ArchivePostgres {
    fn default() -> Self {
        Self {
            port: default_port(),
            auth: ArchiveAuth::default(),
        }
    }
}

fn default_port() -> u16 {
    5432
}

/// Who takes backups.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveAuth {
    /// A role that may call pg_backup_start, pg_backup_stop and pg_switch_wal. Default: postgres.
    #[serde(default = "default_user")]
    #[schemars(length(min = 1, max = 63))]
    pub user: String,
    /// Whether connections are encrypted, as libpq's sslmode says it. disable: no. prefer: where the server can.
    /// require: always. The server's certificate is not verified. Connections through a socket are never encrypted. Default: prefer.
    #[serde(default)]
    pub ssl_mode: SslMode,
    /// The role's password. Default: none is sent, as pg_hba.conf's `trust` and `peer` want it. A changed Secret is
    /// taken up without a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretKeyReference>,
}

impl Default for ArchiveAuth {
    fn default() -> Self {
        Self {
            user: default_user(),
            ssl_mode: SslMode::default(),
            password_secret_ref: None,
        }
    }
}

fn default_user() -> String {
    "postgres".to_owned()
}

/// Whether connections are encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum SslMode {
    /// Never.
    Disable,
    /// Where the server can.
    #[default]
    Prefer,
    /// Always.
    Require,
}

/// What happens before the first server starts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct ArchiveBootstrap {
    /// An empty data directory is restored before Postgres starts on it: in the pod with the number 0 of its StatefulSet,
    /// or in a pod of none, and only as long as this Archive holds nothing. So it never becomes a second primary, and may
    /// stay here for good. The database is a copy, which is archived under this Archive and never into its source.
    pub recovery: BootstrapRecovery,
}

/// What is restored into an empty data directory.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct BootstrapRecovery {
    /// From where.
    pub source: RecoverySource,
    /// To which moment. Default: latest.
    #[serde(default = "latest")]
    pub target: RecoveryTarget,
}

fn latest() -> RecoveryTarget {
    RecoveryTarget {
        latest: Some(Nothing {}),
        ..RecoveryTarget::default()
    }
}

/// How WAL is stored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveWal {
    /// How WAL is compressed. Default: zstd, level 1. A change counts for new WAL.
    #[serde(default)]
    pub compression: Compression,
    /// How what is committed is stored before its segment is whole.
    #[serde(default)]
    pub streaming: Streaming,
}

/// How the segment that is being written is stored.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!self.synchronous || self.intervalSeconds > 0")
    .message("synchronous needs streaming, which intervalSeconds: 0 turns off"))]
pub struct Streaming {
    /// How often, in seconds, what was committed since the last time is stored, 60 at most. The role needs the attribute
    /// REPLICATION, and an entry for replication in pg_hba.conf; the condition Streaming says what is missing. 0: WAL is
    /// stored by whole segments alone. Default: 1.
    #[serde(default = "every_second")]
    #[schemars(range(min = 0, max = 60))]
    pub interval_seconds: u32,
    /// Whether Postgres is told what is stored, at once, as by a synchronous standby. With synchronous_standby_names =
    /// 'holdfast' a commit is then acknowledged only once every required repository holds it, and waits while one can't.
    /// Default: false.
    #[serde(default)]
    pub synchronous: bool,
}

impl Default for Streaming {
    fn default() -> Self {
        Self {
            interval_seconds: every_second(),
            synchronous: false,
        }
    }
}

fn every_second() -> u32 {
    1
}

/// How backups are taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveBackup {
    /// How backups are compressed. Default: zstd, level 3. A change counts for new backups.
    #[serde(default)]
    pub compression: Compression,
    /// Which server is read, unless a Backup says otherwise. PreferStandby: a standby that is close behind, else the
    /// primary. Primary and Standby: no other. Default: PreferStandby.
    #[serde(default)]
    pub from: BackupSource,
    /// How many workers read, compress and send, 1 to 64. Each takes some CPU and memory of the database's node.
    /// Default: 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub parallelism: Option<u32>,
}

/// Which server a backup reads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum BackupSource {
    /// A standby that is close behind, else the primary.
    #[default]
    PreferStandby,
    /// The primary.
    Primary,
    /// A standby.
    Standby,
}

/// An algorithm and its level.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.level) || self.algorithm == 'zstd'")
    .message("only zstd has a level: remove it"))]
pub struct Compression {
    /// zstd: small and fast. lz4: faster and larger. none: as it is, for data that can't be compressed.
    /// Default: zstd.
    #[serde(default)]
    pub algorithm: CompressionAlgorithm,
    /// Of zstd: 1 (fast) to 19 (small). Default: 1 for WAL, 3 for backups.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 19))]
    pub level: Option<i32>,
}

/// How data is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum CompressionAlgorithm {
    /// Zstandard.
    #[default]
    Zstd,
    /// LZ4.
    Lz4,
    /// Not at all.
    None,
}

/// How long backups and WAL are kept.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// How far back any moment can be recovered: a number and d (days), h (hours) or m (minutes), such as `14d`, `36h`
    /// or `30m`. The newest backup that is older than that stays, with the WAL since, because the window's first moments need it.
    pub recovery_window: Period,
    /// How many complete backups stay however old they are, 1 to 10000. Default: 2.
    #[serde(default = "default_minimum_backups")]
    #[schemars(range(min = 1, max = 10000))]
    pub minimum_backups: u32,
}

fn default_minimum_backups() -> u32 {
    2
}

/// What is known of the archive: whether it is complete, what can be recovered, and who writes it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveStatus {
    /// The database cluster's system identifier, in digits, as pg_controldata prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// Postgres' version, such as `17.6`, or `17` where no server could be asked yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_version: Option<String>,
    /// The newest timeline that is archived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// The servers in the labelled pods; the first 100 where there are more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub instances: Vec<Instance>,
    /// The end of the WAL that is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archived_through: Option<Moment>,
    /// How far the stored WAL is behind the server. Left out where the server could not be asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
    /// From the earliest to the latest moment that can be recovered. Left out where nothing can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recovery_window: Option<RecoveryWindow>,
    /// The newest complete backup.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<ArchiveLastBackup>,
    /// Ready: all is as it should be; it says what is not. Archiving: WAL gets stored. Streaming: what is
    /// committed is stored within about a second. Recoverable: a complete backup and its WAL are stored. Injected: what the webhook did to the labelled pods. ConfigurationApplied: every
    /// instance has the present settings. IdentityAccepted: the pods' database cluster is the archive's. Owner: this
    /// installation may expire what is stored.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A complete backup.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ArchiveLastBackup {
    /// Its Backup object; left out where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its id in the repository.
    pub id: String,
    /// When it was complete.
    pub completion_time: Timestamp,
}
