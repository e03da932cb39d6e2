//! `ScheduledBackup`: Backups made by the clock.

use crate::archive::BackupSource;
use crate::backup::{BackupKeep, DeletionPolicy};
use crate::reference::ArchiveReference;
use holdfast_protocol::control::BackupKind;
use holdfast_protocol::status::Condition;
use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// When backups are made, and what they look like.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "ScheduledBackup",
    shortname = "hfs",
    category = "holdfast",
    namespaced,
    status = "ScheduledBackupStatus",
    derive = "PartialEq",
    doc = "Makes a Backup of an Archive at each of its times. Backups of one ScheduledBackup never overlap. Deleting it deletes no Backup and nothing that is stored.",
    annotation("helm.sh/resource-policy", "keep"),
    validation = Rule::new("self.metadata.name.size() <= 52")
        .field_path(".metadata.name")
        .message("a ScheduledBackup's name has 52 characters at most: its Backups' names are made of it and the time"),
    printcolumn(name = "Archive", type_ = "string", json_path = ".spec.archiveRef.name"),
    printcolumn(name = "Schedule", type_ = "string", json_path = ".spec.schedule"),
    printcolumn(name = "Time-Zone", type_ = "string", json_path = ".spec.timeZone"),
    printcolumn(name = "Suspend", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Last-Schedule", type_ = "date", json_path = ".status.lastScheduleTime"),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.nextScheduleTime"),
    printcolumn(name = "Last-Backup", type_ = "string", json_path = ".status.lastBackup", priority = "1"),
    printcolumn(name = "Missed", type_ = "integer", json_path = ".status.missed", priority = "1"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
pub struct ScheduledBackupSpec {
    /// The Archive whose database is backed up. Can't change.
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("archiveRef can't change: make another ScheduledBackup"))]
    pub archive_ref: ArchiveReference,
    /// Five fields as in a CronJob: minute, hour, day of the month, month, day of the week, such as "0 2 * * *" for two
    /// o'clock every night. Or @hourly, @daily, @weekly, @monthly, @yearly.
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("!self.contains('TZ=')")
        .message("the time zone belongs into timeZone, such as timeZone: Europe/Berlin"))]
    #[x_kube(validation = Rule::new("!self.startsWith('@') || self in ['@hourly', '@daily', '@weekly', '@monthly', '@yearly']")
        .message("of the words that begin with @ there are @hourly, @daily, @weekly, @monthly and @yearly; @every has no fixed times: write five fields, such as \"0 */6 * * *\""))]
    #[x_kube(validation = Rule::new(format!("self.contains('TZ=') || self.startsWith('@') || self.matches(r'{FIVE_FIELDS}')"))
        .message("a schedule has five fields: minute, hour, day of the month, month and day of the week, such as \"0 2 * * *\"; seconds and years have none"))]
    #[x_kube(validation = Rule::new(format!("self.contains('TZ=') || !self.matches(r'{FIVE_FIELDS}') || self.matches(r'{}')", fields()))
        .message("each field is *, a number, a range, or some of them with commas between, and a step where wanted; minute 0-59, hour 0-23, day 1-31, month 1-12 or jan-dec, day of the week 0-7 or sun-sat: \"*/30 8-18 * * mon-fri\""))]
    pub schedule: String,
    /// The time zone of the schedule, such as `Europe/Berlin`. A time that the clocks skip in spring counts when they
    /// have moved on; one that comes twice in autumn counts the first time. Default: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$') && self != 'Local'")
        .message("write a time zone by its name, such as Europe/Berlin or Etc/UTC, or leave timeZone out for UTC"))]
    pub time_zone: Option<String>,
    /// True: no Backups are made until it is false again; the times in between are not made up for. Default: false.
    #[serde(default)]
    pub suspend: bool,
    /// True: the first Backup is made at once, and does not wait for the schedule. Default: false.
    #[serde(default)]
    pub immediate: bool,
    /// How late a Backup may still be made when its time passed unnoticed, because the operator was down or an earlier
    /// Backup still ran; in seconds, 1 or more. Later than that, the time counts as missed. Default: no limit; the
    /// latest missed time is made up for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub starting_deadline_seconds: Option<i64>,
    /// How many complete Backups of this ScheduledBackup stay as objects, 0 to 10000; older ones are removed. Removes
    /// objects and never data, whatever their deletionPolicy. Default: 10.
    #[serde(default = "default_successful")]
    #[schemars(range(min = 0, max = 10000))]
    pub successful_backups_history_limit: i32,
    /// How many failed Backups of this ScheduledBackup stay as objects, 0 to 10000. Default: 3.
    #[serde(default = "default_failed")]
    #[schemars(range(min = 0, max = 10000))]
    pub failed_backups_history_limit: i32,
    /// What the Backups look like. Changes count for new ones.
    #[serde(default)]
    pub backup_template: BackupTemplate,
}

const FIVE_FIELDS: &str = r"^ *\S+( +\S+){4} *$";

/// What cron's five fields may be, as CronJob has them. Ranges that end before they begin, and days that never come,
/// pass: the operator tells.
fn fields() -> String {
    let field = |value: &str| {
        let item = format!(r"(\*|{value}-{value})(/[1-9][0-9]?)?|{value}");
        format!("({item})(,({item}))*")
    };
    let day_or_none = |value: &str| format!(r"(\?|{})", field(value));
    let fields = [
        field("[0-5]?[0-9]"),
        field("([01]?[0-9]|2[0-3])"),
        day_or_none("(0?[1-9]|[12][0-9]|3[01])"),
        field("(0?[1-9]|1[0-2]|(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec))"),
        day_or_none("([0-7]|(?i:sun|mon|tue|wed|thu|fri|sat))"),
    ];
    format!("^ *{} *$", fields.join(" +"))
}

fn default_successful() -> i32 {
    10
}

fn default_failed() -> i32 {
    3
}

/// What a Backup looks like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupTemplate {
    /// Labels and annotations to add.
    #[serde(default)]
    pub metadata: BackupTemplateMetadata,
    /// As in a Backup, without archiveRef.
    #[serde(default)]
    pub spec: BackupTemplateSpec,
}

/// What the API server takes as the name of a label or an annotation.
const NAME: &str =
    "^([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?$";
const BAD_NAME: &str = "labels and annotations have names such as team or example.com/team";

/// Labels and annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupTemplateMetadata {
    /// Labels of the Backups, 32 at most. Default: none but Holdfast's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 63}))]
    #[x_kube(validation = Rule::new(format!("self.all(name, name.matches('{NAME}'))"))
        .message(BAD_NAME))]
    #[x_kube(validation = Rule::new("self.all(name, self[name].matches('^([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$'))")
        .message("a label's value has 63 characters at most: letters, digits, '-', '_' and '.', with a letter or digit at both ends"))]
    pub labels: BTreeMap<String, String>,
    /// Annotations of the Backups, 32 at most. Default: none but Holdfast's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32, "additionalProperties" = {"type": "string", "maxLength": 4096}))]
    #[x_kube(validation = Rule::new(format!("self.all(name, name.matches('{NAME}'))"))
        .message(BAD_NAME))]
    pub annotations: BTreeMap<String, String>,
}

/// A Backup's spec without what the ScheduledBackup fills in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BackupTemplateSpec {
    /// Full: everything is read and stored. Incremental: only what differs from the newest backup is stored; the first is full.
    /// Auto: what Holdfast finds best, which is Incremental. Each stands alone, and can be deleted without harm to others.
    /// Default: Auto.
    #[serde(default, rename = "type")]
    pub r#type: BackupKind,
    /// Which server is read: PreferStandby, Primary or Standby. Default: what the Archive's backup.from says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // Said so because the description of an Option's enum hides the field's.
    #[schemars(with = "BackupSource", extend("nullable" = true))]
    pub from: Option<BackupSource>,
    /// Retention: they expire as the Archive's retention says. Forever: they stay. Default: Retention.
    #[serde(default)]
    pub keep: BackupKeep,
    /// What deleting one of the Backups does to the stored backup: Retain or Delete. Default: Retain.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// What was scheduled.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ScheduledBackupStatus {
    /// The last of the schedule's times for which a Backup was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Timestamp>,
    /// The next of the schedule's times. Left out while suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_schedule_time: Option<Timestamp>,
    /// The name of the Backup that was made last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_backup: Option<String>,
    /// How many times in a row passed without a Backup since the last that was made, apart from suspension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missed: Option<i64>,
    /// Ready: the schedule can be read, the Archive is there, and no time was missed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
