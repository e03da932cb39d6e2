//! The patch: `add` operations on the raw JSON. Whatever the pod has stays as it is, known to us or not; only the
//! termination grace period is replaced, by a longer one.

use super::names::{
    BOOTSTRAP_CONTAINER, INJECTED_ANNOTATION, MOUNT_POINTS_CONTAINER, SHARED_DIRECTORY,
    SHARED_VOLUME, SIDECAR_CONTAINER,
};
use super::pod::{Mount, Pod};
use serde::Serialize;
use serde_json::{Map, Value, json};

/// What Postgres and then the sidecar need to stop, with the last WAL stored.
const LEAST_GRACE_SECONDS: i64 = 120;

/// One operation of a JSON patch (RFC 6902): it adds, or replaces the member of an object.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "op", rename = "add")]
pub struct Add {
    /// A JSON pointer (RFC 6901).
    pub path: String,
    /// What stands there then.
    pub value: Value,
}

/// Everything that a pod is to have.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    /// Postgres' container.
    pub(super) container: usize,
    /// To append to its arguments.
    pub(super) arguments: Vec<String>,
    pub(super) shared_mount: Value,
    pub(super) volumes: [(&'static str, Value); 3],
    pub(super) mount_points: Option<Value>,
    pub(super) sidecar: Value,
    pub(super) bootstrap: Value,
    /// Where among the init containers they go, unless they are there.
    pub(super) position: usize,
    /// Of what is added.
    pub(super) digest: String,
}

/// What the pod still lacks of the plan; nothing for one that has it all. What is there by name is ours and stays as it
/// is: the API server has filled in defaults, and other webhooks may have changed it for a reason.
pub(super) fn missing(pod: &Pod, plan: &Plan) -> Vec<Add> {
    let mut adds = Vec::new();
    let container = &pod.spec.containers[plan.container];
    let at = format!("/spec/containers/{}", plan.container);

    let volumes = plan.volumes.iter();
    let new = volumes.filter(|(name, _)| !pod.spec.volumes.iter().any(|v| v.name == *name));
    append(
        &mut adds,
        "/spec/volumes",
        pod.spec.volumes.len(),
        new.map(|(_, volume)| volume.clone()),
    );
    if !container.volume_mounts.iter().any(is_shared) {
        let mounts = container.volume_mounts.len();
        let new = [plan.shared_mount.clone()];
        append(&mut adds, &format!("{at}/volumeMounts"), mounts, new);
    }
    let arguments = plan.arguments.iter().map(|argument| json!(argument));
    append(
        &mut adds,
        &format!("{at}/args"),
        container.args.len(),
        arguments,
    );
    insert_containers(&mut adds, pod, plan);
    let grace = pod.spec.termination_grace_period_seconds;
    if grace.is_none_or(|seconds| seconds < LEAST_GRACE_SECONDS) {
        adds.push(Add {
            path: "/spec/terminationGracePeriodSeconds".to_owned(),
            value: json!(LEAST_GRACE_SECONDS),
        });
    }
    if !adds.is_empty() || !pod.metadata.annotations.contains_key(INJECTED_ANNOTATION) {
        adds.push(annotation(pod, &plan.digest));
    }
    adds
}

/// Ours, by volume and place.
pub(super) fn is_shared(mount: &Mount) -> bool {
    mount.name == SHARED_VOLUME && mount.mount_path == SHARED_DIRECTORY
}

/// In their order: what makes mount points, the sidecar, and right after it the one that may write.
fn insert_containers(adds: &mut Vec<Add>, pod: &Pod, plan: &Plan) {
    let present = &pod.spec.init_containers;
    let find = |name| present.iter().position(|container| container.name == name);
    let sidecar = find(SIDECAR_CONTAINER);
    let bootstrap = find(BOOTSTRAP_CONTAINER);
    let mut position = sidecar.or(bootstrap).unwrap_or(plan.position);
    let mut new = Vec::new();
    if let Some(container) = &plan.mount_points
        && find(MOUNT_POINTS_CONTAINER).is_none()
    {
        new.push((position, container));
        position += 1;
    }
    if sidecar.is_none() {
        new.push((position, &plan.sidecar));
    }
    if bootstrap.is_none() {
        new.push((position + 1, &plan.bootstrap));
    }
    if present.is_empty() {
        let containers = new.into_iter().map(|(_, container)| container.clone());
        append(adds, "/spec/initContainers", 0, containers);
        return;
    }
    adds.extend(new.into_iter().map(|(index, container)| Add {
        path: format!("/spec/initContainers/{index}"),
        value: container.clone(),
    }));
}

/// To the end of a list, which is made where there is none.
fn append(adds: &mut Vec<Add>, list: &str, length: usize, values: impl IntoIterator<Item = Value>) {
    let values: Vec<Value> = values.into_iter().collect();
    if values.is_empty() {
        return;
    }
    if length == 0 {
        adds.push(Add {
            path: list.to_owned(),
            value: Value::Array(values),
        });
        return;
    }
    adds.extend(values.into_iter().map(|value| Add {
        path: format!("{list}/-"),
        value,
    }));
}

fn annotation(pod: &Pod, digest: &str) -> Add {
    if pod.metadata.annotations.is_empty() {
        let only = Map::from_iter([(INJECTED_ANNOTATION.to_owned(), json!(digest))]);
        return Add {
            path: "/metadata/annotations".to_owned(),
            value: Value::Object(only),
        };
    }
    Add {
        path: format!("/metadata/annotations/{}", escape(INJECTED_ANNOTATION)),
        value: json!(digest),
    }
}

fn escape(member: &str) -> String {
    member.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_is_written_as_rfc_6902_says() {
        let add = Add {
            path: "/metadata/annotations/holdfast.dev~1injected".to_owned(),
            value: json!("x"),
        };
        assert_eq!(
            serde_json::to_value(&add).unwrap(),
            json!({"op": "add", "path": add.path, "value": "x"})
        );
        assert_eq!(escape("a~b/c"), "a~0b~1c");
    }
}
