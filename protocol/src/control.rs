//! The control API: HTTP and JSON, over a Unix socket (mode 0600) or over TLS with certificates on both sides.
//!
//! ```text
//! GET    /v1/status          200 InstanceReport
//! POST   /v1/backups         {"type": "Full", "id": "…", "podUid": "…"}   202 {"id": "…"}   409, 412 or 422 {"error": "…"}
//! GET    /v1/backups/{id}    200 Backup.status   404
//! DELETE /v1/backups/{id}    202 it ends          404
//! POST   /v1/switch-wal      {"podUid": "…"}   200 {"lsn": "…"}   409, 412 or 422 {"error": "…"}
//! POST   /v1/lacking       {"outside": […], "podUid": "…"}   200 {"lacking": […]}   409 or 412 {"error": "…"}
//! POST   /v1/drain           {"podUid": "…"}   200 Drain   412 {"error": "…"}
//! POST   /v1/restore         {"order": "…", "podUid": "…"}   202 {"order": "…"}   409 or 412 {"error": "…"}
//! ```
//!
//! `lacking` tells which of the files that a backup's configuration needs from outside of the data directory the server
//! would not find. `drain` begins to archive whatever the data directory has and the archive lacks, if that is not under way, and tells
//! how far it is: it is asked again until it says `done`. `restore` lets the restore in place go on that this pod holds
//! for; the order itself stands in the settings.
//!
//! Ordering a backup twice with one id does it once. 409: not now; 412: the order is for another pod; 422: never.

use crate::status::{Lag, Moment, ProgressStatus};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What the operator's certificate is made out to, and a sidecar lets in.
pub const OPERATOR_NAME: &str = "operator.holdfast.dev";

/// What the certificate of the sidecars of an archive (`namespace/name`) is made out to: never an address, which
/// another pod may have tomorrow.
pub fn sidecar_name(namespace: &str, archive: &str) -> String {
    format!("{archive}.{namespace}.sidecar.holdfast.dev")
}

/// The kind of a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum BackupKind {
    /// Everything is read and stored.
    Full,
    /// What changed.
    Incremental,
    /// Incremental where that is possible.
    #[default]
    Auto,
}

/// The body of `POST /v1/backups`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupOrder {
    /// Left out: auto.
    #[serde(default)]
    pub r#type: BackupKind,
    /// Chosen by who orders, so that ordering twice does nothing; left out: one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// Whom the order is for: another pod's sidecar refuses it. Left out where there is no pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

/// The answer to an accepted order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupAccepted {
    /// Asks for the status.
    pub id: String,
}

/// The body of `POST /v1/switch-wal`: close the segment that is being written, so that it can be archived.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SwitchWalOrder {
    /// Whom the order is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

/// The answer to a switch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WalSwitched {
    /// The end of the closed segment's last record.
    pub lsn: String,
}

/// A file outside of the data directory that a backup's configuration needs, or a library that it has preloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Outside {
    /// The configuration file that names it, relative to the data directory.
    pub file: String,
    /// `include`, `include_dir`, or a setting's name.
    pub setting: String,
    /// An absolute path; of `shared_preload_libraries`, one library.
    pub value: String,
}

/// The body of `POST /v1/lacking`: which of these would the server not find?
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LackingQuestion {
    /// What is needed.
    pub outside: Vec<Outside>,
    /// Whom the question is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

/// The answer to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Lacking {
    /// Those that are not there.
    pub lacking: Vec<Outside>,
}

/// The body of `POST /v1/drain`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct DrainOrder {
    /// Whom the order is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

/// How far a drain is: the answer to `POST /v1/drain`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Drain {
    /// Everything that the data directory held when it began is in the archive.
    pub done: bool,
    /// WAL files that were stored, or were there.
    pub archived: u64,
    /// The end of the data directory's WAL, which is stored; left out before it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub through: Option<String>,
    /// Why it does not go on: it is tried again when it is asked for again. Left out where nothing is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
    /// What the last attempt at a file ran into, while it goes on trying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retrying: Option<String>,
}

/// The body of `POST /v1/restore`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GoOrder {
    /// The order in the settings that may be carried out.
    pub order: String,
    /// Whom the order is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
}

/// The answer to it: from now on the order is carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GoAccepted {
    /// Which.
    pub order: String,
}

/// The body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// One sentence.
    pub error: String,
}

/// What a server is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Recovers: a standby, or a restored server on its way.
    Standby,
}

/// The answer to `GET /v1/status`: what a sidecar knows of itself and its server. Figures are since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct InstanceReport {
    /// `namespace/name`.
    pub archive: String,
    /// Left out where there is no pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// Of the program.
    pub sidecar_version: String,
    /// Of the settings that are in use; left out where they carry none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration_generation: Option<i64>,
    /// Why newer settings are not in use; left out where there is nothing to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration_error: Option<String>,
    /// The server.
    pub postgres: PostgresReport,
    /// The WAL.
    pub wal: WalReport,
    /// The backup that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running_backup: Option<String>,
    /// The restore that Postgres waits for; left out once it may start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<BootstrapReport>,
    /// Another one where archiving, streaming or the settings have turned since: who asks with `?unless=` and this is answered
    /// when it has, or after [`UNLESS_SECONDS`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<String>,
}

/// A question with `?unless=` waits so long for news.
pub const UNLESS_SECONDS: u64 = 12;

/// How a restore goes that Postgres waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapReport {
    /// What is being done.
    pub state: BootstrapState,
    /// One sentence: what is restored, or why it is not.
    pub message: String,
    /// How far it is; left out where nothing is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// The order of a restore in place that this is about; left out elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// Whether the data directory is as it was before; false once anything was removed or written.
    #[serde(default)]
    pub untouched: bool,
}

/// What is being done about a data directory before Postgres starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BootstrapState {
    /// A restore in place is ordered, and waits to be let go on.
    Holding,
    /// It is restored.
    Restoring,
    /// It could not be, for now: it is tried again.
    Waiting,
    /// It can't be, until somebody changes something.
    Refused,
}

/// What is known of the server beside the sidecar.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PostgresReport {
    /// Why the server could not be asked; left out where it answered. What follows is then from pg_control, or left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
    /// Primary or standby.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// From pg_control.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// Such as `17.6`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Such as 17.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major: Option<u32>,
    /// The newest that it has reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// The last restore in place that was carried out on this data directory, or on the one that it was cloned from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_order: Option<String>,
    /// Of the file system that holds the data directory: what ordinary users may fill of it, in bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume_bytes: Option<u64>,
    /// What the server says of its recovery; left out where it has had none since its start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryReport>,
    /// Why archiving does not count as on, and the line that turns it on: `SHOW` must say that the commands are ours.
    /// Left out where it is on, and where the server could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archiving_off: Option<String>,
    /// When the server can't take effect of a setting without a restart: which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_restart: Vec<String>,
}

/// What a sidecar has done with WAL.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WalReport {
    /// Files that were acknowledged.
    pub archived_count: u64,
    /// Requests that failed.
    pub failed_count: u64,
    /// The last that was acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_archived: Option<ArchivedFile>,
    /// The last failure, told from the first attempt on; it is over if `last_archived` is later.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<FailedFile>,
    /// Files that wait in `archive_status`; 10,000 at most are counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_count: Option<u64>,
    /// The end of what is stored without a break, as far as this sidecar knows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived_through: Option<Moment>,
    /// How far the store is behind the server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
    /// Whether what the server writes is stored within about a second. Left out where it is not to be, and beside a standby.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streaming: Option<StreamingReport>,
    /// The volume that it is kept on until it is stored; left out if it can't be told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub volume: Option<WalVolume>,
    /// The repositories that nobody waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub best_effort: Vec<BestEffortReport>,
    /// Timeline history files that were seen, such as `00000002.history`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub histories: Vec<HistoryFile>,
}

/// How far a repository is behind that nobody waits for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BestEffortReport {
    /// The repository.
    pub name: String,
    /// Files that the required repositories hold and it lacks, as far as this sidecar knows; 10,000 at most are counted.
    pub waiting_count: u64,
    /// Seconds since the oldest of them was found to be lacking, or since what it lacks can't be told. Left out where it lacks
    /// nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub behind_seconds: Option<u64>,
    /// Why the last attempt went wrong. Left out once one went well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// Whether what a server writes is followed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StreamingReport {
    /// It is, and was stored the last time.
    pub active: bool,
    /// Why not, and what to do. Archiving goes on without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The volume of pg_wal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WalVolume {
    /// Bytes that Postgres may still fill.
    pub available_bytes: u64,
    /// Bytes by which the WAL that waits has grown in each second of late. Left out where it has not grown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<u64>,
    /// Seconds until it is full if that goes on, at the earliest: Postgres reuses old segments first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full_in_seconds: Option<u64>,
}

impl WalVolume {
    /// What it will be like if the WAL that waits goes on to grow at this rate, in bytes a second.
    pub fn new(available_bytes: u64, growth: Option<u64>) -> Self {
        Self {
            available_bytes,
            growth,
            full_in_seconds: growth.and_then(|growth| available_bytes.checked_div(growth)),
        }
    }

    /// By when it is full, in steps that don't change at every look; none if not within a day.
    pub fn full_within(&self) -> Option<&'static str> {
        let seconds = self.full_in_seconds?;
        [
            (600, "ten minutes"),
            (3600, "an hour"),
            (6 * 3600, "six hours"),
            (24 * 3600, "a day"),
        ]
        .into_iter()
        .find(|(most, _)| seconds <= *most)
        .map(|(_, within)| within)
    }
}

/// What a server says of the recovery that it began with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RecoveryReport {
    /// The end of the last record that was replayed: after a promotion as the history file of the new timeline has it, before
    /// by `pg_last_wal_replay_lsn`.
    pub lsn: String,
    /// `pg_last_xact_replay_timestamp`: of the last commit or rollback that was replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// It stands still at its target.
    pub paused: bool,
}

/// A WAL file that was stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ArchivedFile {
    /// Its name.
    pub name: String,
    /// By the sidecar's clock.
    pub time: Timestamp,
}

/// A WAL file that could not be stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailedFile {
    /// Its name.
    pub name: String,
    /// One sentence.
    pub reason: String,
    /// By the sidecar's clock.
    pub time: Timestamp,
}

/// A timeline's history file: small, and given to every instance as the floor for a new timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryFile {
    /// Its name.
    pub name: String,
    /// As Postgres wrote it.
    pub content: String,
}
