//! What the program reports, with the field names of the Kubernetes resources' `status`.
//!
//! Whatever prints `--json` or answers over the control API fills these, so that a script reads the same names from
//! either. LSNs are PostgreSQL's text (`16/B374D848`), times RFC 3339 in UTC, sizes bytes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The three values of a condition's `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum ConditionStatus {
    /// It is so.
    True,
    /// It is not so.
    False,
    /// It could not be told.
    Unknown,
}

/// One aspect of a resource's state, as Kubernetes writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about, such as `Complete`.
    pub r#type: String,
    /// Whether it holds: True, False, or Unknown where it could not be told.
    pub status: ConditionStatus,
    /// Why, in one word for programs, such as `BucketMissing`.
    pub reason: String,
    /// Why, in one sentence for people, with what to do where something is to be done.
    pub message: String,
    /// When `status` last changed.
    pub last_transition_time: Timestamp,
    /// The `metadata.generation` of the resource that this was found for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
}

impl Condition {
    /// A condition that changed just now.
    pub fn new(
        r#type: &str,
        status: ConditionStatus,
        reason: &str,
        message: impl Into<String>,
    ) -> Self {
        Self {
            r#type: r#type.to_owned(),
            status,
            reason: reason.to_owned(),
            message: message.into(),
            last_transition_time: Timestamp::now(),
            observed_generation: None,
        }
    }
}

/// Whether `conditions` holds one of this type that is true.
pub fn is_true(conditions: &[Condition], r#type: &str) -> bool {
    conditions
        .iter()
        .any(|c| c.r#type == r#type && c.status == ConditionStatus::True)
}

/// Puts `condition` in the place of the one of its type; an unchanged status keeps its transition time.
pub fn set_condition(conditions: &mut Vec<Condition>, mut condition: Condition) {
    match conditions
        .iter_mut()
        .find(|known| known.r#type == condition.r#type)
    {
        Some(known) => {
            if known.status == condition.status {
                condition.last_transition_time = known.last_transition_time;
            }
            *known = condition;
        }
        None => conditions.push(condition),
    }
}

/// How far long work has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct ProgressStatus {
    /// Bytes of the database that are done, uncompressed.
    pub bytes_done: u64,
    /// Bytes of the database, as counted at the start; it may grow meanwhile.
    pub bytes_total: u64,
    /// How much of it is done, 0 to 100.
    pub percent: u8,
}

impl ProgressStatus {
    /// `percent` follows from the bytes, and is 100 only when all are done.
    pub fn new(bytes_done: u64, bytes_total: u64) -> Self {
        let percent = match bytes_total {
            0 => 0,
            total => (u128::from(bytes_done.min(total)) * 100 / u128::from(total)) as u8,
        };
        Self {
            bytes_done,
            bytes_total,
            percent,
        }
    }
}

/// A backup's sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct BackupSize {
    /// Bytes of all files of the backup, as Postgres has them.
    pub database: u64,
    /// Bytes that this backup added to the store, compressed and sealed.
    pub stored: u64,
    /// Bytes that this backup read and found changed; all of them for a full one.
    pub changed: u64,
}

/// A page whose checksum stayed wrong through re-reads. It is in the backup as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct PageError {
    /// The file, relative to the data directory.
    pub file: String,
    /// The block's number within the relation fork.
    pub block: u32,
    /// What was found.
    pub reason: String,
}

/// One repository's share in a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct BackupRepository {
    /// The repository's name.
    pub name: String,
    /// Bytes that the backup added there.
    pub stored_bytes: u64,
    /// Complete: the backup and the WAL that makes it consistent are there. Otherwise it says why not.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// What became of the backup, how large it is, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct BackupStatus {
    /// The backup's id in the repositories, chosen by who ordered it.
    pub id: String,
    /// The pod whose server was read. Left out where there is no pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// What it is: `Full` or `Incremental`. Left out until it is stored.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub r#type: String,
    /// How far it has come. Left out once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// Where it begins in the WAL: what `pg_backup_start` returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_lsn: Option<String>,
    /// Where it is consistent: what `pg_backup_stop` returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_lsn: Option<String>,
    /// The timeline that it was taken on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// When it began, by the clock of the database server's machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When all of it was stored: the moment that its manifest was committed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Timestamp>,
    /// How large it is. Left out until all of it is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<BackupSize>,
    /// How many pages failed their checksum: 0 is good. They are in the backup as they are in the database.
    pub page_errors: u64,
    /// The first of the pages that failed their checksum.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bad_pages: Vec<PageError>,
    /// The repositories that have it.
    pub repositories: Vec<BackupRepository>,
    /// When every byte of it was last read back and compared. Left out if never.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification_time: Option<Timestamp>,
    /// Started: a server is being read, or was. Complete: all of it and its WAL are stored. Failed: it will never be
    /// complete.
    pub conditions: Vec<Condition>,
}

/// A place in the history of a cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Reached {
    /// Where recovery ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// The last commit before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
    /// The timeline of `lsn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
}

/// What a restore will do, known before it writes a byte.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct RestorePlan {
    /// The repository that serves it.
    pub repository: String,
    /// The backup that it starts from.
    pub backup: String,
    /// The timeline that recovery follows.
    pub timeline: u32,
    /// The target in words, such as `time 2026-11-20T10:00:00Z, inclusive`.
    pub target: String,
    /// `promote`, `pause` or `shutdown`.
    pub action: String,
    /// Where replay begins.
    pub start_lsn: String,
    /// Where it ends, as far as the WAL's indexes tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_lsn: Option<String>,
    /// The last commit that will be there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Timestamp>,
    /// Files to write.
    pub files: u64,
    /// Bytes to write.
    pub bytes: u64,
    /// WAL segments to replay.
    pub wal_segments: u64,
}

/// How long the parts of a restore took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreDurations {
    /// Until the data directory was whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restore_seconds: Option<f64>,
    /// Postgres' own part; left out where Postgres is not run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_seconds: Option<f64>,
}

/// A pod that a restore in place concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct RestorePod {
    /// Its name, which its successor has too.
    pub name: String,
    /// The pod that must be gone before anything is written. Left out where there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
}

/// `Restore.status`. Conditions: `Checked`, `Started`, `Restored`, `Complete`, `Failed`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct RestoreStatus {
    /// The backup that it starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<String>,
    /// Left out where the target can't be reached; the condition `Checked` says why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plan: Option<RestorePlan>,
    /// Only for a restore in place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_id: Option<String>,
    /// Of the database that is restored, in decimal digits. Only for a restore in place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// The pods of a restore in place, the restored one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<RestorePod>,
    /// Left out once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// Known once Postgres has run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered_to: Option<Reached>,
    /// How long it took.
    pub durations: RestoreDurations,
    /// The state.
    pub conditions: Vec<Condition>,
}

/// A moment, by position and by time.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Moment {
    /// The position in the WAL, such as `16/B374D848`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<String>,
    /// The time of the last commit up to there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<Timestamp>,
}

/// How far the archive is behind the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Lag {
    /// Bytes of WAL that are written and not stored yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Seconds since the oldest of these bytes was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seconds: Option<u64>,
}

/// From the earliest to the latest recoverable moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct RecoveryWindow {
    /// The earliest moment that can be recovered: where the oldest complete backup is consistent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earliest_time: Option<Timestamp>,
    /// The earliest moment, as a position in the WAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub earliest_lsn: Option<String>,
    /// The latest moment that can be recovered: the last commit that is stored without a gap before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_time: Option<Timestamp>,
    /// The latest moment, as a position in the WAL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latest_lsn: Option<String>,
}

/// One database server of an archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct Instance {
    /// The pod. Left out where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// The container image of its Postgres.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What it is: `Primary` or `Standby`. Left out where it could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// The version of the sidecar beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sidecar_version: Option<String>,
    /// The generation of the settings that its sidecar has loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub configuration_generation: Option<i64>,
    /// Whether its unfinished WAL segment is streamed to the store.
    pub streaming: bool,
}

/// A hole in a timeline's WAL, as LSNs; `to` is where WAL is there again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Gap {
    /// The first missing byte.
    pub from: String,
    /// The first byte that is there again.
    pub to: String,
}

/// The WAL of one timeline.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct TimelineStatus {
    /// Its number.
    pub id: u32,
    /// The timeline that it branched from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<u32>,
    /// Where it branched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub switch_lsn: Option<String>,
    /// The first stored byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub first_lsn: Option<String>,
    /// The end of the last stored record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_lsn: Option<String>,
    /// Stored objects of whole segments.
    pub segments: u64,
    /// In bytes, as stored.
    pub stored_bytes: u64,
    /// Holes between `first_lsn` and `last_lsn`.
    pub gaps: Vec<Gap>,
}

/// `Archive.status`, and beside it the backups and the WAL.
/// Conditions: `Ready`, `Archiving`, `Recoverable`, `Injected`, `ConfigurationApplied`, `IdentityAccepted`, `Owner`, as far as known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct ArchiveStatus {
    /// Of the newest incarnation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_identifier: Option<String>,
    /// For instance `17`, or `17.6` where the server was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub postgres_version: Option<String>,
    /// The newest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// The servers that are known.
    pub instances: Vec<Instance>,
    /// The end of what is stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archived_through: Option<Moment>,
    /// Left out where the server could not be asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag: Option<Lag>,
    /// Left out where nothing can be recovered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery_window: Option<RecoveryWindow>,
    /// The id of the newest complete one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<String>,
    /// When a backup was last verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_verification: Option<Timestamp>,
    /// When a restore was last rehearsed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_drill: Option<Timestamp>,
    /// As the newest backup's size and the last figures tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub estimated_restore_seconds: Option<u64>,
    /// The state.
    pub conditions: Vec<Condition>,
    /// Oldest first.
    pub backups: Vec<BackupStatus>,
    /// By number.
    pub timelines: Vec<TimelineStatus>,
}

/// What verification says of one backup or of the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum VerifyResult {
    /// Every byte that a restore would use is there and right.
    Good,
    /// Something is missing or wrong; `damage` names it.
    Damaged,
    /// The store did not let it be told.
    Unknown,
}

/// One verified backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct VerifiedBackup {
    /// The backup's.
    pub id: String,
    /// What was found.
    pub result: VerifyResult,
    /// Files assembled and compared.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// WAL segments read, from the backup's start on.
    pub wal_segments: u64,
    /// Why it could not be told; empty otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// One thing that is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub struct Damage {
    /// The object's key, below the archive.
    pub object: String,
    /// The file of the database that needs it; left out for WAL and for what all files need.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// What is wrong.
    pub reason: String,
}

/// What `verify` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", default)]
pub struct VerifyStatus {
    /// One entry a verified backup.
    pub backups: Vec<VerifiedBackup>,
    /// All that is wrong.
    pub damage: Vec<Damage>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn field_names_are_those_of_the_resources() {
        let backup = BackupStatus {
            id: "b".into(),
            r#type: "Full".into(),
            progress: Some(ProgressStatus::new(1, 3)),
            start_lsn: Some("0/28".into()),
            ..BackupStatus::default()
        };
        assert_eq!(
            serde_json::to_value(backup).unwrap(),
            serde_json::json!({
                "id": "b", "type": "Full", "progress": {"bytesDone": 1, "bytesTotal": 3, "percent": 33},
                "startLsn": "0/28", "pageErrors": 0, "repositories": [], "conditions": []
            })
        );
        let damage = Damage {
            object: "packs/1".into(),
            file: None,
            reason: "short".into(),
        };
        assert_eq!(
            serde_json::to_value(damage).unwrap(),
            serde_json::json!({"object": "packs/1", "reason": "short"})
        );
    }

    #[test]
    fn only_all_of_it_is_a_hundred_percent() {
        for (done, total, percent) in [
            (0, 0, 0),
            (0, 9, 0),
            (999, 1000, 99),
            (1000, 1000, 100),
            (2000, 1000, 100),
            (u64::MAX, u64::MAX, 100),
        ] {
            assert_eq!(ProgressStatus::new(done, total).percent, percent);
        }
    }

    #[test]
    fn an_unchanged_condition_keeps_its_time() {
        let mut conditions = vec![Condition {
            last_transition_time: Timestamp::UNIX_EPOCH,
            ..Condition::new("Started", ConditionStatus::True, "Started", "one")
        }];
        set_condition(
            &mut conditions,
            Condition::new("Started", ConditionStatus::True, "Started", "two"),
        );
        assert_eq!(conditions[0].last_transition_time, Timestamp::UNIX_EPOCH);
        assert_eq!(conditions[0].message, "two");
        set_condition(
            &mut conditions,
            Condition::new("Started", ConditionStatus::False, "Ended", "three"),
        );
        assert_ne!(conditions[0].last_transition_time, Timestamp::UNIX_EPOCH);
        assert!(!is_true(&conditions, "Started"));
    }
}
