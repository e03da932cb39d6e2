//! `Repository`: a place that holds archives.

use crate::cel::same;
use crate::reference::{SecretKeyReference, SecretReference};
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
    printcolumn(name = "Bucket", type_ = "string", json_path = ".spec.s3.bucket"),
    printcolumn(name = "Prefix", type_ = "string", json_path = ".spec.s3.prefix"),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".spec.s3.endpoint", priority = "1"),
    printcolumn(name = "Access", type_ = "string", json_path = ".spec.accessMode"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Reason", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].reason"#, priority = "1"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(
    validation = Rule::new("has(self.encryption) == has(oldSelf.encryption)")
        .message("encryption can't be added or removed later, for what is stored already stays as it is: make another Repository with another prefix")
)]
pub struct RepositorySpec {
    /// A bucket of Amazon S3, or of a store that speaks its protocol, such as MinIO, Ceph or Garage. The store must
    /// support conditional writes (`If-None-Match: *`); the condition ConditionalWrites tells whether it does.
    pub s3: S3,
    /// Who reads and writes. Default: the database's pods use what their environment says, as the SDKs of AWS read it,
    /// such as workload identity; the operator never uses an identity of its own, and so lists and expires nothing there.
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

/// A bucket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(format!("self.bucket == oldSelf.bucket && {} && {}", same("prefix"), same("endpoint")))
        .message("bucket, prefix and endpoint can't change, for what is stored stays where it is: make another Repository and name it in the Archive")
)]
pub struct S3 {
    /// The bucket's name, such as `acme-pg`. It must exist. Can't change.
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("!self.contains('/')")
        .message("a bucket's name has no '/': what follows it belongs into prefix"))]
    pub bucket: String,
    /// Stands before every object's key, such as `prod` or `databases/prod`. Default: none. Can't change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("!self.split('/').exists(part, part == '.' || part == '..')")
        .message("a prefix can't have '.' or '..' as a part"))]
    #[x_kube(validation = Rule::new("!self.contains('//')")
        .message("the parts of a prefix are separated by one '/' each"))]
    #[x_kube(validation = Rule::new(r"self.matches('^[^\\x00-\\x1f\\x7f]*$')")
        .message("a prefix has no control characters"))]
    pub prefix: Option<String>,
    /// The bucket's region, such as `eu-central-1`. Default: `us-east-1`, or, where credentials is left out, what the
    /// pods' environment says; most stores other than AWS don't mind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub region: Option<String>,
    /// The store's address, such as `https://minio.storage.svc:9000`. `http://` is possible and sends everything but
    /// the secret key in the clear. Default: AWS, by region. Can't change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.startsWith('https://') || self.startsWith('http://')")
        .message("an endpoint begins with https:// (or http://, which sends everything in the clear)"))]
    #[x_kube(validation = Rule::new("!(self.startsWith('https://') || self.startsWith('http://')) || (isURL(self) && url(self).getHostname() != '' && self.matches('^[^@?#]*$'))")
        .message("an endpoint is a URL such as https://minio.storage.svc:9000, without a user and without a query"))]
    pub endpoint: Option<String>,
    /// PEM certificates to trust besides the well-known ones, for a store with a certificate of a private authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyReference>,
}

/// Who reads and writes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// A Secret with `accessKeyId`, `secretAccessKey` and, for temporary credentials, `sessionToken` (or
    /// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN). They must allow to list, read and write; the
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
