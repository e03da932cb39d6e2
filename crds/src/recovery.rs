//! What is recovered, and to which moment.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) const IS_NAMESPACE: &str = "self.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')";
pub(crate) const NO_NAMESPACE: &str = "write a namespace's name: small letters, digits and '-'";
pub(crate) const IS_ARCHIVE: &str = "self.matches('^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$')";
pub(crate) const NO_ARCHIVE: &str = "write an Archive's name: small letters, digits, '-' and '.'";

/// An archive in a repository: that of a database that may be gone, with all its objects.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecoverySource {
    /// A Repository in this object's own namespace: it says where the archive lies, and who may read it. One with
    /// accessMode ReadOnly will do.
    pub repository_ref: RepositoryReference,
    /// The namespace of the Archive as it was named when it was archived: a folder of the repository. It need not exist
    /// in this cluster.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(IS_NAMESPACE).message(NO_NAMESPACE))]
    pub namespace: String,
    /// The name of that Archive: the folder below.
    #[schemars(length(min = 1, max = 63))]
    #[x_kube(validation = Rule::new(IS_ARCHIVE).message(NO_ARCHIVE))]
    pub archive: String,
}

/// A Repository in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct RepositoryReference {
    /// The Repository's name.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// A moment: exactly one of time, lsn, xid, name, immediate and latest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.time), has(self.lsn), has(self.xid), has(self.name), has(self.immediate), has(self.latest)].filter(given, given).size() == 1")
        .message("a target is exactly one of time, lsn, xid, name, immediate: {} and latest: {}"),
    validation = Rule::new("!has(self.exclusive) || !self.exclusive || has(self.time) || has(self.lsn) || has(self.xid)")
        .message("exclusive means something only with time, lsn or xid"),
)]
pub struct RecoveryTarget {
    /// The state after the last commit up to this time, such as `"2026-11-20T10:00:00+01:00"`: with its zone. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40))]
    #[x_kube(validation = Rule::new(r"self.matches('^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})$')")
        .message("write a time with its zone, such as 2026-11-20T10:00:00Z or 2026-11-20T10:00:00+01:00"))]
    pub time: Option<String>,
    /// The state after the record at this position, such as `16/B374D848`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 17))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}$')")
        .message("write an LSN as pg_current_wal_lsn() prints it, such as 16/B374D848"))]
    pub lsn: Option<String>,
    /// The state after this transaction, as pg_current_xact_id() prints it. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 3))]
    pub xid: Option<i64>,
    /// The state at this restore point, made by pg_create_restore_point(): the first of that name. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub name: Option<String>,
    /// The first moment at which the backup is consistent. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub immediate: Option<Nothing>,
    /// The end of what is archived. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest: Option<Nothing>,
    /// Just before time, lsn or xid instead of just after it. Default: false.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exclusive: bool,
    /// The timeline that is followed: a number in quotes, `latest`, or `current` for the backup's own. Default: latest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 10))]
    #[x_kube(validation = Rule::new("self.matches('^(latest|current|[1-9][0-9]*)$')")
        .message("a timeline is a number in quotes, latest or current"))]
    pub timeline: Option<String>,
    /// The id of the backup to begin with. Default: the newest from which the target can be reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub backup: Option<String>,
}

/// Written `{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct Nothing {}
