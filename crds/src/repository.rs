//! `Repository`: a place that holds archives.

use crate::reference::SecretReference;
use crate::store::{Azure, Gcs, S3};
use holdfast_protocol::status::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the repository is, and how to get in.
#[derive(CustomResource, Debug, Clone, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "holdfast.dev",
    version = "v1alpha1",
    kind = "Repository",
    plural = "repositories",
    shortname = "hfr",
    category = "holdfast",
    namespaced,
    status = "RepositoryStatus",
    derive = "PartialEq",
    doc = "A place in an object store that holds archives. Any number of Archives of the same namespace may use it; each has a folder of its own, <prefix>/<namespace>/<archive>. Deleting a Repository deletes nothing that is stored.",
    annotation("helm.sh/resource-policy", "keep"),
    validation = Rule::new("self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')")
        .field_path(".metadata.name")
        .message("a Repository's name has 63 characters at most and no '.': it becomes part of file names"),
    printcolumn(name = "Bucket", type_ = "string", json_path = ".spec['s3.bucket','azure.container','gcs.bucket']"),
    printcolumn(name = "Prefix", type_ = "string", json_path = ".spec['s3.prefix','azure.prefix','gcs.prefix']"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".spec['s3.endpoint','azure.endpoint','gcs.endpoint']", priority = "1"),
    printcolumn(name = "Access", type_ = "string", json_path = ".spec.accessMode"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("has(self.encryption) == has(oldSelf.encryption)")
        .message("encryption can't be added or removed later, for what is stored already stays as it is: make another Repository with another prefix"),
    validation = Rule::new("[has(self.s3), has(self.azure), has(self.gcs)].filter(given, given).size() == 1")
        .message("a Repository is in exactly one of s3, azure and gcs"),
    validation = Rule::new("has(self.s3) == has(oldSelf.s3) && has(self.azure) == has(oldSelf.azure) && has(self.gcs) == has(oldSelf.gcs)")
        .message("a Repository can't move to another kind of store, for what is stored stays where it is: make another Repository and name it in the Archive"),
)]
pub struct RepositorySpec {
    /// A bucket of Amazon S3, or of a store that speaks its protocol, such as MinIO, Ceph or Garage. The store must
    /// support conditional writes (`If-None-Match: *`); the condition ConditionalWrites tells whether it does. Default:
    /// azure or gcs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3>,
    /// A container of Azure Blob Storage. Default: s3 or gcs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub azure: Option<Azure>,
    /// A bucket of Google Cloud Storage. Default: s3 or azure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gcs: Option<Gcs>,
    /// Who reads and writes. Default: the database's pods use what their environment says, as the SDKs of the cloud read
    /// it, such as workload identity; the operator never uses an identity of its own, and so lists and expires nothing
    /// there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// Encrypts everything before it leaves the pod. Default: not encrypted. It can't be added or removed later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// ReadWrite, or ReadOnly: nothing is written, deleted or archived there, and what is stored can be listed and
    /// restored. Default: ReadWrite.
    #[serde(default)]
    pub access_mode: AccessMode,
}

/// Who reads and writes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// A Secret. For s3 with `accessKeyId`, `secretAccessKey` and, for temporary credentials, `sessionToken` (or
    /// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN); for azure with one of `accountKey` and `sasToken`;
    /// for gcs with `serviceAccount.json`, a service account's key. They must allow to list, read and create; the
    /// database's pods get them. A changed Secret is taken up without a restart.
    pub secret_ref: SecretReference,
    /// A Secret of the same form whose credentials may also delete. Only the operator has them, so that nobody who
    /// breaks into a database's pod can delete its backups. Default: those of secretRef.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maintenance_secret_ref: Option<SecretReference>,
}

/// Encryption before anything leaves the pod.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// A Secret with master keys: one entry per key, named by an id of your choice and holding 32 bytes in base64, as
    /// `openssl rand -base64 32` prints them; and the entry `current`, which holds the id of the key for new data.
    /// Keep a copy elsewhere: without the key nothing can be restored.
    pub secret_ref: SecretReference,
}

/// What may be done with a repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum AccessMode {
    /// Everything.
    #[default]
    ReadWrite,
    /// Listing and restoring.
    ReadOnly,
}

/// What was found there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryStatus {
    /// Ready: the bucket can be reached, read and, unless it is ReadOnly, written. ConditionalWrites: the store refuses
    /// to overwrite an object when it is asked not to, which Holdfast relies on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}
