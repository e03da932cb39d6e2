//! The stores that a `Repository` can be in.

use crate::cel::same;
use crate::reference::SecretKeyReference;
use kube::KubeSchema;
use kube::core::Rule;
use serde::{Deserialize, Serialize};

fn bucket_is_one_part() -> Rule {
    Rule::new("!self.contains('/')")
        .message("a bucket's name has no '/': what follows it belongs into prefix")
}

fn prefix_climbs_nowhere() -> Rule {
    Rule::new("!self.split('/').exists(part, part == '.' || part == '..')")
        .message("a prefix can't have '.' or '..' as a part")
}

fn prefix_has_no_empty_part() -> Rule {
    Rule::new("!self.contains('//')").message("the parts of a prefix are separated by one '/' each")
}

fn prefix_has_no_control_characters() -> Rule {
    Rule::new(r"self.matches('^[^\\x00-\\x1f\\x7f]*$')")
        .message("a prefix has no control characters")
}

fn endpoint_has_a_scheme() -> Rule {
    Rule::new("self.startsWith('https://') || self.startsWith('http://')").message(
        "an endpoint begins with https:// (or http://, which sends everything in the clear)",
    )
}

fn endpoint_is_a_url() -> Rule {
    Rule::new("!(self.startsWith('https://') || self.startsWith('http://')) || (isURL(self) && url(self).getHostname() != '' && self.matches('^[^@?#]*$'))")
        .message("an endpoint is a URL such as https://minio.storage.svc:9000, without a user and without a query")
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
    #[x_kube(validation = bucket_is_one_part())]
    pub bucket: String,
    /// Stands before every object's key, such as `prod` or `databases/prod`. Default: none. Can't change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = prefix_climbs_nowhere())]
    #[x_kube(validation = prefix_has_no_empty_part())]
    #[x_kube(validation = prefix_has_no_control_characters())]
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
    #[x_kube(validation = endpoint_has_a_scheme())]
    #[x_kube(validation = endpoint_is_a_url())]
    pub endpoint: Option<String>,
    /// PEM certificates to trust besides the well-known ones, for a store with a certificate of a private authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyReference>,
}

/// A container of Azure Blob Storage.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(format!("self.account == oldSelf.account && self.container == oldSelf.container && {} && {}", same("prefix"), same("endpoint")))
        .message("account, container, prefix and endpoint can't change, for what is stored stays where it is: make another Repository and name it in the Archive")
)]
pub struct Azure {
    /// The storage account's name, such as `acmebackups`. Can't change.
    #[schemars(length(max = 24))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9]{3,24}$')")
        .message("a storage account's name has 3 to 24 lower-case letters and digits"))]
    pub account: String,
    /// The container's name, such as `acme-pg`. It must exist. Can't change.
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z0-9-]{3,63}$')")
        .message("a container's name has 3 to 63 lower-case letters, digits and '-': what follows it belongs into prefix"))]
    pub container: String,
    /// Stands before every blob's name, such as `prod` or `databases/prod`. Default: none. Can't change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = prefix_climbs_nowhere())]
    #[x_kube(validation = prefix_has_no_empty_part())]
    #[x_kube(validation = prefix_has_no_control_characters())]
    pub prefix: Option<String>,
    /// The account's address in another cloud, such as `https://acmebackups.blob.core.chinacloudapi.cn`. `http://` is
    /// possible and sends everything but the account's key in the clear. Default: the public cloud. Can't change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = endpoint_has_a_scheme())]
    #[x_kube(validation = endpoint_is_a_url())]
    pub endpoint: Option<String>,
    /// PEM certificates to trust besides the well-known ones, for a store with a certificate of a private authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyReference>,
}

/// A bucket of Google Cloud Storage.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(format!("self.bucket == oldSelf.bucket && {} && {}", same("prefix"), same("endpoint")))
        .message("bucket, prefix and endpoint can't change, for what is stored stays where it is: make another Repository and name it in the Archive")
)]
pub struct Gcs {
    /// The bucket's name, such as `acme-pg`. It must exist. Can't change.
    #[schemars(length(min = 1, max = 222))]
    #[x_kube(validation = bucket_is_one_part())]
    pub bucket: String,
    /// Stands before every object's name, such as `prod` or `databases/prod`. Default: none. Can't change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = prefix_climbs_nowhere())]
    #[x_kube(validation = prefix_has_no_empty_part())]
    #[x_kube(validation = prefix_has_no_control_characters())]
    pub prefix: Option<String>,
    /// Another address than Google's, such as one for private access. `http://` is possible and sends everything in the
    /// clear. Default: Google. Can't change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = endpoint_has_a_scheme())]
    #[x_kube(validation = endpoint_is_a_url())]
    pub endpoint: Option<String>,
    /// PEM certificates to trust besides the well-known ones, for a store with a certificate of a private authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_secret_ref: Option<SecretKeyReference>,
}
