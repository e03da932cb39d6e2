//! What a running pod tells of its injection.

use super::annotations::Configure;
use super::names::{
    BOOTSTRAP_CONTAINER, CONFIGURE_VARIABLE, DATA_DIRECTORY_VARIABLE, INJECTED_ANNOTATION,
    SHARED_DIRECTORY, SHARED_VOLUME, SIDECAR_CONTAINER, WAL_DIRECTORY_VARIABLE,
};
use k8s_openapi::api::core::v1::Pod;

/// Read back from the pod itself, so that it is true also of pods that an older webhook let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected {
    /// Postgres' container; none where it has lost its mount.
    pub container: Option<String>,
    /// The image of that container.
    pub postgres_image: Option<String>,
    /// As the sidecar was told.
    pub data_directory: Option<String>,
    /// As the bootstrap container was told.
    pub wal_directory: Option<String>,
    /// As the sidecar was told.
    pub configure: Option<Configure>,
    /// The sidecar's.
    pub sidecar_image: Option<String>,
    /// Of what was added: pods that differ in it were let in by webhooks or settings that differ.
    pub digest: Option<String>,
}

/// None for a pod without our sidecar.
pub fn describe(pod: &Pod) -> Option<Injected> {
    let spec = pod.spec.as_ref()?;
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let sidecar = init.iter().find(|c| c.name == SIDECAR_CONTAINER)?;
    let postgres = spec.containers.iter().find(|container| {
        let mounts = container.volume_mounts.as_deref().unwrap_or_default();
        let shared = |name: &str, path: &str| name == SHARED_VOLUME && path == SHARED_DIRECTORY;
        mounts.iter().any(|m| shared(&m.name, &m.mount_path))
    });
    let told_to = |container: &str, name: &str| {
        let container = init.iter().find(|c| c.name == container)?;
        let variables = container.env.as_deref().unwrap_or_default();
        variables.iter().find(|v| v.name == name)?.value.clone()
    };
    let told = |name: &str| told_to(SIDECAR_CONTAINER, name);
    let annotations = pod.metadata.annotations.as_ref();
    Some(Injected {
        container: postgres.map(|container| container.name.clone()),
        postgres_image: postgres.and_then(|container| container.image.clone()),
        data_directory: told(DATA_DIRECTORY_VARIABLE),
        wal_directory: told_to(BOOTSTRAP_CONTAINER, WAL_DIRECTORY_VARIABLE),
        configure: told(CONFIGURE_VARIABLE).and_then(|text| text.parse().ok()),
        sidecar_image: sidecar.image.clone(),
        digest: annotations.and_then(|all| all.get(INJECTED_ANNOTATION).cloned()),
    })
}
