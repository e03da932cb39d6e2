//! `Backup`: one base backup, ordered or found.

use crate::archive::BackupSource;
use crate::cel::same;
use crate::reference::ArchiveReference;
use holdfast_protocol::control::BackupKind;
use holdfast_protocol::status::BackupStatus;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to back up, and what becomes of it.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "Backup",
    shortname = "hfb",
    category = "holdfast",
    namespaced,
    status = "BackupStatus",
    derive = "PartialEq",
    doc = "One base backup of an Archive's database. Made by you or by a ScheduledBackup it is an order, carried out once; made by Holdfast with existingId it stands for a backup that is stored already. Deleting it cancels a backup that runs, and deletes what is stored only with deletionPolicy Delete.",
    annotation("helm.sh/resource-policy", "keep"),
    selectable = ".spec.archiveRef.name",
    printcolumn(
        name = "Archive",
        type_ = "string",
        json_path = ".spec.archiveRef.name"
    ),
    printcolumn(name = "Type", type_ = "string", json_path = ".status.type"),
    printcolumn(
        name = "Percent",
        type_ = "integer",
        json_path = ".status.progress.percent"
    ),
    printcolumn(
        name = "Complete",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Complete")].status"#
    ),
    printcolumn(
        name = "Failed",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Failed")].status"#
    ),
    printcolumn(
        name = "Stored",
        type_ = "integer",
        json_path = ".status.size.stored",
        description = "Bytes that it added to the store",
        priority = "1"
    ),
    printcolumn(
        name = "Pod",
        type_ = "string",
        json_path = ".status.pod",
        priority = "1"
    ),
    printcolumn(
        name = "Keep",
        type_ = "string",
        json_path = ".spec.keep",
        priority = "1"
    ),
    printcolumn(
        name = "Completed",
        type_ = "date",
        json_path = ".status.completionTime"
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(
    validation = Rule::new(format!("self.archiveRef.name == oldSelf.archiveRef.name && self.type == oldSelf.type && {} && {}", same("from"), same("existingId")))
        .message("only keep and deletionPolicy of a Backup can change: make another Backup"),
    validation = Rule::new("!has(self.existingId) || self.existingId == '' || (self.type == 'Auto' && !has(self.from))")
        .message("existingId stands for a backup that is stored already: leave out type and from"),
)]
pub struct BackupSpec {
    /// The Archive whose database is backed up. Can't change.
    pub archive_ref: ArchiveReference,
    /// Full: everything is read and stored. Incremental: only what differs from the newest backup is stored; the first is full.
    /// Auto: what Holdfast finds best, which is Incremental. Each stands alone, and can be deleted without harm to others.
    /// Default: Auto. Can't change.
    #[serde(default, rename = "type")]
    pub r#type: BackupKind,
    /// Which server is read. PreferStandby: a standby that is close behind, else the primary. Primary and Standby: no
    /// other. Default: what the Archive's backup.from says. Can't change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // Said so because the description of an Option's enum hides the field's.
    #[schemars(with = "BackupSource", extend("nullable" = true))]
    pub from: Option<BackupSource>,
    /// Set by Holdfast on objects that stand for what it found in a repository: that backup's id. Such a Backup is
    /// never carried out. Default: "". Can't change.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^([A-Za-z0-9][-A-Za-z0-9]*)?$')")
        .message("a backup's id has letters, digits and '-', and begins with a letter or digit; leave existingId out to order a new backup"))]
    pub existing_id: String,
    /// Retention: it expires as the Archive's retention says. Forever: it stays until you say Retention, or delete it
    /// with deletionPolicy Delete; the WAL that makes it consistent stays with it. Default: Retention. Can change.
    #[serde(default)]
    pub keep: BackupKeep,
    /// What deleting this object does to the stored backup. Retain: nothing. Delete: it is deleted too, and its space
    /// comes back; but never because its namespace is being deleted. Default: Retain. Can change.
    #[serde(default)]
    pub deletion_policy: DeletionPolicy,
}

/// Whether a backup expires.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum BackupKeep {
    /// As the Archive's retention says.
    #[default]
    Retention,
    /// Never.
    Forever,
}

/// What deleting the object does to the stored backup.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum DeletionPolicy {
    /// Nothing.
    #[default]
    Retain,
    /// Deletes it.
    Delete,
}
