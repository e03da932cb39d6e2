//! How one object names another: always in its own namespace.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct SecretReference {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// One entry of a Secret in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct SecretKeyReference {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// The entry of the Secret's `data`, such as `password` or `ca.crt`.
    #[schemars(length(min = 1, max = 253))]
    pub key: String,
}

/// An Archive in the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub struct ArchiveReference {
    /// The Archive's name. It may be made later: what refers to it waits.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}
