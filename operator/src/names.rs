//! Names that pods, Secrets and other programs know us by. They can't change: what is out there carries them.

use std::fmt;

/// The label that joins a pod to an Archive of its namespace, and a rendered Secret to its Archive.
pub const ARCHIVE_LABEL: &str = "holdfast.dev/archive";

/// The label of what we make, with [`MANAGED_BY`] as its value.
pub const MANAGED_BY_LABEL: &str = "app.kubernetes.io/managed-by";

/// The value of [`MANAGED_BY_LABEL`].
pub const MANAGED_BY: &str = "holdfast";

/// On a rendered Secret: the generation of its settings.
pub const GENERATION_ANNOTATION: &str = "holdfast.dev/generation";

/// On a rendered Secret: whose database cluster's history files it holds.
pub const SYSTEM_ANNOTATION: &str = "holdfast.dev/system-identifier";

/// On a labelled pod: `"false"` says that it is no Postgres and gets nothing.
pub const INJECT_ANNOTATION: &str = "holdfast.dev/inject";

/// Who applies what the operator writes.
pub const FIELD_MANAGER: &str = "holdfast";

/// The native sidecar's container.
pub const SIDECAR_CONTAINER: &str = "holdfast";

/// The port of a sidecar's control API.
pub const CONTROL_PORT: u16 = 9643;

/// The port of a sidecar's metrics and probes.
pub const MONITORING_PORT: u16 = 9644;

/// The Secret that the pods of an archive mount.
pub fn rendered_secret(archive: &str) -> String {
    format!("holdfast-{archive}")
}

/// An object of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its namespace.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

impl Key {
    /// Of these names.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// Of an object that the API server gave; none for one without namespace.
    pub fn of<K: kube::Resource>(object: &K) -> Option<Self> {
        let meta = object.meta();
        Some(Self::new(meta.namespace.clone()?, meta.name.clone()?))
    }

    /// Another object of the same namespace.
    pub fn beside(&self, name: impl Into<String>) -> Self {
        Self::new(self.namespace.clone(), name)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
