//! `Restore`: a database brought back to a moment.

use crate::recovery::{
    IS_ARCHIVE, IS_NAMESPACE, NO_ARCHIVE, NO_NAMESPACE, RecoveryTarget, RepositoryReference,
};
use crate::reference::ArchiveReference;
use holdfast_protocol::status::RestoreStatus;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is restored, to which moment, and where.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "Restore",
    shortname = "hfrs",
    category = "holdfast",
    namespaced,
    status = "RestoreStatus",
    derive = "PartialEq",
    doc = "Brings a database back to a moment. An order, carried out once: first it is checked that the moment can be reached, and only then anything is touched. Deleting it takes the order back as long as nothing was written; later it stays until the restore has ended. What has been restored stays.",
    annotation("helm.sh/resource-policy", "keep"),
    printcolumn(
        name = "Archive",
        type_ = "string",
        json_path = ".spec.source.archiveRef.name"
    ),
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".status.plan.target",
        priority = "1"
    ),
    printcolumn(
        name = "Percent",
        type_ = "integer",
        json_path = ".status.progress.percent"
    ),
    printcolumn(
        name = "Checked",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Checked")].status"#
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
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    )
)]
#[x_kube(
    validation = Rule::new("self.source == oldSelf.source && self.target == oldSelf.target && self.action == oldSelf.action && self.destination == oldSelf.destination && has(self.postgres) == has(oldSelf.postgres) && (!has(self.postgres) || self.postgres == oldSelf.postgres) && self.force == oldSelf.force")
        .message("only suspend of a Restore can change: make another Restore"),
    validation = Rule::new("!has(self.destination.persistentVolumeClaim) || self.action != 'Pause'")
        .message("on a claim nobody reads what stands still: leave action out, or take Shutdown"),
    validation = Rule::new("!has(self.destination.statefulSet) || self.action != 'Shutdown'")
        .message("in place a server that shuts down is started again and again: leave action out, or take Pause"),
    validation = Rule::new("!has(self.destination.persistentVolumeClaim) || !self.force")
        .message("force means something only in place: a claim has to be empty"),
    validation = Rule::new("!has(self.destination.persistentVolumeClaim) || !has(self.source.repositoryRef) || has(self.postgres)")
        .message("write postgres.image, such as postgres:17: without an Archive nobody tells what runs on the claim"),
    validation = Rule::new("!has(self.destination.statefulSet) || !has(self.postgres)")
        .message("postgres means something only for a claim: in place the pods run what they ran"),
)]
pub struct RestoreSpec {
    /// Whose database. Can't change.
    pub source: RestoreSource,
    /// To which moment. Can't change.
    pub target: RecoveryTarget,
    /// What Postgres does at the target. Promote: it takes writes, on a new timeline; on a claim it is shut down after that.
    /// Pause, only in place: it stands still and can be read, until pg_wal_replay_resume(). Shutdown, only for a claim: it
    /// shuts down in its recovery, and can be promoted later. Default: Promote. Can't change.
    #[serde(default)]
    pub action: RestoreAction,
    /// Where it is restored to. Can't change.
    pub destination: RestoreDestination,
    /// What recovers the database on a claim. Default: what the Archive's pods run; required where the source is a
    /// repositoryRef. Only for a claim. Can't change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<RestorePostgres>,
    /// True: go on also where it can't be proven that all WAL of the present data directory is stored, which is lost then,
    /// and where Postgres would not find what the backup's configuration needs. Default: false. Can't change.
    #[serde(default)]
    pub force: bool,
    /// True: it is checked and planned, and nothing is restored until it is false. Default: false. Can change.
    #[serde(default)]
    pub suspend: bool,
}

/// Whose database: exactly one of archiveRef, and repositoryRef with namespace and archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.archiveRef) != (has(self.repositoryRef) || has(self.namespace) || has(self.archive)) && has(self.repositoryRef) == has(self.namespace) && has(self.repositoryRef) == has(self.archive)")
        .message("a source is exactly one of archiveRef, and repositoryRef with namespace and archive"),
)]
pub struct RestoreSource {
    /// An Archive in this namespace. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_ref: Option<ArchiveReference>,
    /// A Repository in this namespace, for an archive that has no Archive here. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository_ref: Option<RepositoryReference>,
    /// The namespace of the Archive as it was named when it was archived: a folder of the repository. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(IS_NAMESPACE).message(NO_NAMESPACE))]
    pub namespace: Option<String>,
    /// The name of that Archive: the folder below. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(IS_ARCHIVE).message(NO_ARCHIVE))]
    pub archive: Option<String>,
}

/// What Postgres does at the target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum RestoreAction {
    /// Takes writes.
    #[default]
    Promote,
    /// Stands still.
    Pause,
    /// Shuts down in its recovery.
    Shutdown,
}

impl RestoreAction {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Promote => "Promote",
            Self::Pause => "Pause",
            Self::Shutdown => "Shutdown",
        }
    }
}

/// Where to: exactly one of statefulSet and persistentVolumeClaim.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.statefulSet) != has(self.persistentVolumeClaim)")
        .message("a destination is exactly one of statefulSet and persistentVolumeClaim"),
)]
pub struct RestoreDestination {
    /// In place: into the volume that the database has. Its pods are deleted and come back restored; nothing is scaled
    /// and no other object changes. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stateful_set: Option<InPlace>,
    /// Into a claim, beside the database: a Job restores it there and runs Postgres up to the target, with archiving
    /// off. What it leaves is promoted and shut down, unless action or verify says otherwise. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<IntoClaim>,
}

/// A claim, which has to be empty. It stays when the Restore is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(!has(self.wal) || self.wal.claim != self.name) && (!has(self.tablespaces) || self.tablespaces.all(one, one.claim != self.name && (!has(self.wal) || one.claim != self.wal.claim)))")
        .message("the data directory, the WAL and tablespaces each need a claim of their own"),
)]
pub struct IntoClaim {
    /// The claim's name, in this namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The claim is made, and there must be none of that name. Default: it is there, empty, and no pod uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<ClaimTemplate>,
    /// Where in the claim the data directory goes, such as pgdata: below its root, which Postgres can't own. Default:
    /// where the Archive's pods have it in theirs; without such a pod, or where it is their claim's root, pgdata.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][-A-Za-z0-9._]*(/[A-Za-z0-9_][-A-Za-z0-9._]*)*$')")
        .message("write a path below the claim's root, such as pgdata or 18/docker"))]
    pub path: Option<String>,
    /// The claims of tablespaces that lie on volumes of their own. Each of the backup's that does not lie on the data
    /// directory's volume needs one. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["oid"]))]
    pub tablespaces: Vec<IntoTablespace>,
    /// The claim of the WAL. Default: none; pg_wal lies in the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wal: Option<IntoWal>,
    /// True: Postgres recovers on the claim up to the target, and leaves a database that is promoted and shut down. False:
    /// the data directory is left as it is restored, and Postgres recovers when it is started there: only under an Archive
    /// whose bootstrap.recovery has the same source, which gives it the WAL. Default: true.
    #[serde(default = "verified")]
    pub verify: bool,
}

fn verified() -> bool {
    true
}

/// A tablespace's claim, which has to be empty. The tablespace keeps its path.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntoTablespace {
    /// The tablespace's OID, as in pg_tablespace.
    #[schemars(range(min = 1))]
    pub oid: u32,
    /// The claim's name, in this namespace.
    #[schemars(length(min = 1, max = 253))]
    pub claim: String,
    /// The claim is made, and there must be none of that name. Default: it is there, empty, and no pod uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<ClaimTemplate>,
    /// Where the pods that will run on it mount the claim, such as /tablespaces/fast: the tablespace's path lies there.
    /// Default: as the Archive's pods do; without such a pod, the directory above the tablespace's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 4096))]
    #[x_kube(validation = Rule::new(IS_DIRECTORY).message(NO_DIRECTORY))]
    pub mount_path: Option<String>,
}

/// The WAL's claim, which has to be empty.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IntoWal {
    /// The claim's name, in this namespace.
    #[schemars(length(min = 1, max = 253))]
    pub claim: String,
    /// The claim is made, and there must be none of that name. Default: it is there, empty, and no pod uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<ClaimTemplate>,
    /// Where pg_wal leads to as a link, such as /wal/pg_wal: a directory below the claim's root, as initdb's --waldir.
    /// Default: what initdb was told in the Archive's pods; without such a pod it must be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 4096))]
    #[x_kube(validation = Rule::new(IS_DIRECTORY).message(NO_DIRECTORY))]
    pub directory: Option<String>,
    /// Where the pods that will run on it mount the claim, such as /wal. Default: as the Archive's pods do; without such
    /// a pod, what is above the directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 2, max = 4096))]
    #[x_kube(validation = Rule::new(IS_DIRECTORY).message(NO_DIRECTORY))]
    pub mount_path: Option<String>,
}

const IS_DIRECTORY: &str = "self.matches('^(/[A-Za-z0-9_][-A-Za-z0-9._]*)+$')";
const NO_DIRECTORY: &str = "write an absolute path, such as /wal/pg_wal";

/// A claim that is made.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaimTemplate {
    /// How large, such as 100Gi: room for the database and the WAL that recovery is fetching.
    #[schemars(length(min = 1, max = 30))]
    #[x_kube(validation = Rule::new("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))")
        .message("write a size, such as 100Gi"))]
    pub size: String,
    /// Its class. Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub storage_class_name: Option<String>,
    /// How it may be mounted. Default: ["ReadWriteOnce"].
    #[serde(default = "read_write_once")]
    #[schemars(length(min = 1, max = 3), extend("x-kubernetes-list-type" = "set"))]
    pub access_modes: Vec<ClaimAccessMode>,
}

fn read_write_once() -> Vec<ClaimAccessMode> {
    vec![ClaimAccessMode::ReadWriteOnce]
}

/// How a claim may be mounted. Something is written to it, so read-only ones are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum ClaimAccessMode {
    /// By one node.
    ReadWriteOnce,
    /// By one pod.
    ReadWriteOncePod,
    /// By many nodes.
    ReadWriteMany,
}

impl ClaimAccessMode {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::ReadWriteOnce => "ReadWriteOnce",
            Self::ReadWriteOncePod => "ReadWriteOncePod",
            Self::ReadWriteMany => "ReadWriteMany",
        }
    }
}

/// What recovers the database on a claim.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RestorePostgres {
    /// An image of the database's major version, with the libraries that it preloads, such as postgres:17.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
}

/// A StatefulSet whose pods carry the label of the source's Archive.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InPlace {
    /// The StatefulSet's name, in this namespace.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The number of the pod that is restored, such as 0 for orders-db-0. Default: that of the only replica; with
    /// several it must be said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub primary_ordinal: Option<i32>,
    /// What becomes of the others where there are several replicas. Refuse: nothing, the Restore is refused. Wipe:
    /// their data directories are emptied, and an init container of the pods has to clone them from the primary again.
    /// Default: Refuse.
    #[serde(default)]
    pub other_replicas: OtherReplicas,
}

/// What becomes of the replicas that are not restored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum OtherReplicas {
    /// There may be none.
    #[default]
    Refuse,
    /// They are emptied.
    Wipe,
}
