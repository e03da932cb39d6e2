//! Whether a pod clones its data directory by itself once that is empty. Pure.

use crate::inject::describe;
use crate::inject::names::{BOOTSTRAP_CONTAINER, SHARED_VOLUME};
use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};

/// Whether an init container after ours, with Postgres' image, mounts the volume of the data directory: only such a one
/// can clone. What it does there can't be seen from outside.
pub fn clones(pod: &Pod) -> bool {
    let parts = || {
        let spec = pod.spec.as_ref()?;
        let told = describe(pod)?;
        let postgres = spec
            .containers
            .iter()
            .find(|container| Some(&container.name) == told.container.as_ref())?;
        let volume = volume_of(postgres, &told.data_directory?)?;
        let init = spec.init_containers.as_deref()?;
        let ours = init.iter().position(|c| c.name == BOOTSTRAP_CONTAINER)?;
        let clones = |container: &Container| {
            container.image == postgres.image
                && container.restart_policy.as_deref() != Some("Always")
                && mounts(container)
                    .iter()
                    .any(|mount| mount.name == volume && mount.read_only != Some(true))
        };
        Some(init.get(ours + 1..)?.iter().any(clones))
    };
    parts().unwrap_or(false)
}

fn mounts(container: &Container) -> &[VolumeMount] {
    container.volume_mounts.as_deref().unwrap_or_default()
}

/// The volume that a directory lies on.
fn volume_of<'a>(container: &'a Container, directory: &str) -> Option<&'a str> {
    let holds = |path: &str| {
        let rest = directory.strip_prefix(path.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    mounts(container)
        .iter()
        .filter(|mount| mount.name != SHARED_VOLUME && holds(&mount.mount_path))
        .max_by_key(|mount| mount.mount_path.trim_end_matches('/').len())
        .map(|mount| mount.name.as_str())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    /// A pod with our containers, and after them this one.
    pub fn pod(later: Value) -> Pod {
        serde_json::from_value(json!({"spec": {
            "initContainers": [
                {"name": "early", "image": "postgres:17", "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
                {"name": "holdfast", "image": "holdfast", "restartPolicy": "Always",
                    "env": [{"name": "HOLDFAST_DATA_DIRECTORY", "value": "/data/pg/pgdata"}]},
                {"name": "holdfast-bootstrap", "image": "holdfast", "volumeMounts": [{"name": "data", "mountPath": "/data"}]},
                later],
            "containers": [{"name": "postgres", "image": "postgres:17", "volumeMounts": [
                {"name": "holdfast", "mountPath": "/holdfast"}, {"name": "other", "mountPath": "/"},
                {"name": "data", "mountPath": "/data/"}, {"name": "wal", "mountPath": "/data/pg/pgdata/pg_wal"}]}],
        }}))
        .unwrap()
    }

    pub fn cloning() -> Value {
        json!({"name": "clone", "image": "postgres:17", "volumeMounts": [{"name": "data", "mountPath": "/data"}]})
    }

    #[test]
    fn only_a_later_container_with_postgres_image_and_the_data_can_clone() {
        for (change, expected) in [
            (json!({}), true),
            (json!({"image": "busybox"}), false),
            (json!({"restartPolicy": "Always"}), false),
            (json!({"volumeMounts": null}), false),
            (
                json!({"volumeMounts": [{"name": "wal", "mountPath": "/wal"}]}),
                false,
            ),
            (
                json!({"volumeMounts": [{"name": "data", "mountPath": "/data", "readOnly": true}]}),
                false,
            ),
        ] {
            let mut later = cloning();
            json_patch::merge(&mut later, &change);
            assert_eq!(clones(&pod(later)), expected, "{change}");
        }
        assert!(!clones(&Pod::default()));
    }
}
