//! The Job that restores into a claim, as JSON. Its pod passes the Pod Security Standard `restricted`. Pure.
//!
//! Its containers do what an injected pod's do: a native sidecar serves WAL, `holdfast bootstrap` restores the empty
//! directory, and Postgres recovers. Before them, a look whether the claim is empty; instead of the image's own start, a
//! script that ends when recovery has. A pod that is killed is followed by another, which goes on: an unfinished
//! directory is restored anew, a whole one recovers further.

use super::names::metadata;
use super::shape::{Place, Shape};
use crate::inject::InjectSettings;
use crate::inject::names::{
    BOOTSTRAP_CONTAINER, CONFIGURATION_DIRECTORY, CONFIGURATION_VOLUME, CONFIGURE_VARIABLE,
    DATA_DIRECTORY_VARIABLE, MEMORY_VARIABLE, MONITORING_PORT, PROGRAM_DIRECTORY, SHARED_DIRECTORY,
    SHARED_VOLUME, SIDECAR_CONTAINER,
};
use crate::names::{MANAGED_BY, MANAGED_BY_LABEL};
use holdfast_crds::Restore;
use kube::ResourceExt;
use serde_json::{Value, json};

/// Looks whether the claim is empty.
pub const PREPARE_CONTAINER: &str = "holdfast-prepare";
/// Recovers.
pub const POSTGRES_CONTAINER: &str = "postgres";

const PREPARE: &str = include_str!("prepare.sh");
const RECOVER: &str = include_str!("recover.sh");

/// The claim's volume.
pub const DATA_VOLUME: &str = "data";
/// Postgres' own files of this pod: beside the sockets of the sidecar, which it only reads.
const RUN_VOLUME: &str = "run";
const RUN_DIRECTORY: &str = "/run/holdfast";
const TOLD: &str = "/dev/termination-log";

/// What ends so is of no use to try again: of both scripts and of `holdfast bootstrap`.
const REFUSED: i32 = 3;
/// With the pauses between them, which grow to minutes, some hours: a store that is away comes back.
const RETRIES: i32 = 24;

/// The Job.
pub fn job(restore: &Restore, claim: &str, shape: &Shape, settings: &InjectSettings) -> Value {
    let fail = |container: &str| {
        json!({"action": "FailJob", "onExitCodes":
            {"containerName": container, "operator": "In", "values": [REFUSED]}})
    };
    json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata(restore),
        "spec": {
            "backoffLimit": RETRIES,
            "podFailurePolicy": {"rules": [
                fail(PREPARE_CONTAINER),
                fail(BOOTSTRAP_CONTAINER),
                fail(POSTGRES_CONTAINER),
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]},
            "template": {
                // Without the label of an Archive: it is no pod of it, and the webhook must leave it alone.
                "metadata": {"labels": {(MANAGED_BY_LABEL): MANAGED_BY}},
                "spec": pod(restore, claim, shape, settings),
            },
        },
    })
}

fn pod(restore: &Restore, claim: &str, shape: &Shape, settings: &InjectSettings) -> Value {
    let Place {
        node_selector,
        node_affinity,
        tolerations,
        priority_class_name,
        runtime_class_name,
        image_pull_secrets,
    } = &shape.place;
    let metadata = metadata(restore);
    let mut security = json!({
        "runAsUser": shape.user,
        "runAsNonRoot": true,
        "fsGroup": shape.fs_group,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    });
    put(&mut security, "runAsGroup", &shape.group);
    put(
        &mut security,
        "supplementalGroups",
        &shape.supplemental_groups,
    );
    put(&mut security, "seLinuxOptions", &shape.se_linux);
    let mut pod = json!({
        // The pod that failed stays, and tells why.
        "restartPolicy": "Never",
        "automountServiceAccountToken": false,
        "enableServiceLinks": false,
        "terminationGracePeriodSeconds": 120,
        "securityContext": security,
        "initContainers": [prepare(restore, shape), sidecar(shape, settings), bootstrap(shape, settings)],
        "containers": [postgres(shape)],
        "volumes": [
            {"name": DATA_VOLUME, "persistentVolumeClaim": {"claimName": claim}},
            {"name": SHARED_VOLUME, "emptyDir": {}},
            {"name": RUN_VOLUME, "emptyDir": {}},
            {"name": CONFIGURATION_VOLUME, "secret": {"secretName": metadata["name"], "optional": false}},
        ],
    });
    put(&mut pod, "nodeSelector", node_selector);
    put(&mut pod, "tolerations", tolerations);
    put(&mut pod, "priorityClassName", priority_class_name);
    put(&mut pod, "runtimeClassName", runtime_class_name);
    put(&mut pod, "imagePullSecrets", image_pull_secrets);
    if let Some(affinity) = node_affinity {
        pod["affinity"] = json!({"nodeAffinity": affinity});
    }
    pod
}

fn put<T: serde::Serialize>(object: &mut Value, name: &str, value: &Option<T>) {
    if let Some(value) = value {
        object[name] = json!(value);
    }
}

fn prepare(restore: &Restore, shape: &Shape) -> Value {
    let mut container = of_image(PREPARE_CONTAINER, PREPARE, shape);
    container["env"] = json!([
        {"name": "CLAIM", "value": shape.mount},
        {"name": "PGDATA", "value": shape.data_directory()},
        {"name": "RESTORE", "value": restore.uid()},
    ]);
    container["volumeMounts"] = json!([data(shape, false)]);
    container["resources"] = small("64Mi");
    container
}

/// A quota may demand that each says something.
fn small(memory: &str) -> Value {
    json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": memory}})
}

fn postgres(shape: &Shape) -> Value {
    let mut container = of_image(POSTGRES_CONTAINER, RECOVER, shape);
    container["env"] = json!([
        {"name": "PGDATA", "value": shape.data_directory()},
        {"name": "RUN", "value": RUN_DIRECTORY},
        {"name": "TOLD", "value": TOLD},
    ]);
    container["volumeMounts"] = json!([
        data(shape, false),
        {"name": SHARED_VOLUME, "mountPath": SHARED_DIRECTORY, "readOnly": true},
        {"name": RUN_VOLUME, "mountPath": RUN_DIRECTORY},
    ]);
    put(&mut container, "resources", &shape.resources);
    container
}

/// With the image of Postgres.
fn of_image(name: &str, script: &str, shape: &Shape) -> Value {
    let mut container = json!({
        "name": name,
        "image": shape.image,
        "command": ["sh", "-c", script],
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePath": TOLD,
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    put(&mut container, "imagePullPolicy", &shape.pull_policy);
    container
}

fn sidecar(shape: &Shape, settings: &InjectSettings) -> Value {
    let probe = |path: &str| json!({"path": path, "port": MONITORING_PORT, "scheme": "HTTP"});
    let arguments = ["sidecar", "--install", SHARED_DIRECTORY];
    let mut container = ours(SIDECAR_CONTAINER, &arguments, true, shape, settings);
    container["restartPolicy"] = json!("Always");
    container["startupProbe"] = json!({"httpGet": probe("/startz"),
        "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 60});
    container["livenessProbe"] = json!({"httpGet": probe("/livez"),
        "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6});
    container
}

fn bootstrap(shape: &Shape, settings: &InjectSettings) -> Value {
    ours(BOOTSTRAP_CONTAINER, &["bootstrap"], false, shape, settings)
}

/// With our image.
fn ours(
    name: &str,
    arguments: &[&str],
    read_only: bool,
    shape: &Shape,
    settings: &InjectSettings,
) -> Value {
    let program = format!("{PROGRAM_DIRECTORY}/holdfast");
    let command: Vec<&str> = [program.as_str()]
        .into_iter()
        .chain(arguments.iter().copied())
        .collect();
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let memory = settings.memory.to_string();
    json!({
        "name": name,
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy.to_string(),
        "command": command,
        "env": [
            {"name": "HOLDFAST_CONFIG", "value": format!("{CONFIGURATION_DIRECTORY}/config.yaml")},
            {"name": DATA_DIRECTORY_VARIABLE, "value": shape.data_directory()},
            {"name": MEMORY_VARIABLE, "value": memory},
            {"name": CONFIGURE_VARIABLE, "value": "None"},
            field("HOLDFAST_POD_NAME", "metadata.name"),
            field("HOLDFAST_POD_UID", "metadata.uid"),
        ],
        "resources": small(&memory),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [
            data(shape, read_only),
            {"name": SHARED_VOLUME, "mountPath": SHARED_DIRECTORY},
            {"name": CONFIGURATION_VOLUME, "mountPath": CONFIGURATION_DIRECTORY, "readOnly": true},
        ],
    })
}

fn data(shape: &Shape, read_only: bool) -> Value {
    let mut mount = json!({"name": DATA_VOLUME, "mountPath": shape.mount});
    if read_only {
        mount["readOnly"] = json!(true);
    }
    mount
}

#[cfg(test)]
mod tests;
