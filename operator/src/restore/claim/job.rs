//! The Job that restores into a claim, as JSON. Its pod passes the Pod Security Standard `restricted`. Pure.
//!
//! Its containers do what an injected pod's do: a native sidecar serves WAL, `holdfast bootstrap` restores the empty
//! directory, and Postgres recovers. Before them, a look whether the claim is empty; instead of the image's own start, a
//! script that ends when recovery has. A pod that is killed is followed by another, which goes on: an unfinished
//! directory is restored anew, a whole one recovers further.

use super::layout::Layout;
use super::names::metadata;
use super::shape::{Place, Shape};
use crate::inject::InjectSettings;
use crate::inject::names::{
    BOOTSTRAP_CONTAINER, CONFIGURATION_DIRECTORY, CONFIGURATION_VOLUME, CONFIGURE_VARIABLE,
    DATA_DIRECTORY_VARIABLE, MEMORY_VARIABLE, MONITORING_PORT, PROGRAM_DIRECTORY, SHARED_DIRECTORY,
    SHARED_VOLUME, SIDECAR_CONTAINER, WAL_DIRECTORY_VARIABLE,
};
use crate::names::{MANAGED_BY, MANAGED_BY_LABEL};
use holdfast_crds::{IntoClaim, Restore};
use holdfast_postgres::outside::LIBRARIES;
use kube::ResourceExt;
use serde_json::{Value, json};

/// Looks whether the claim is empty.
pub const PREPARE_CONTAINER: &str = "holdfast-prepare";
/// Recovers.
pub const POSTGRES_CONTAINER: &str = "postgres";

const PREPARE: &str = include_str!("prepare.sh");
const RECOVER: &str = include_str!("recover.sh");
/// Without recovery.
const LEAVE: &str = ":";

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
pub fn job(
    restore: &Restore,
    into: &IntoClaim,
    shape: &Shape,
    layout: &Layout,
    settings: &InjectSettings,
) -> Value {
    let making = Making {
        verify: into.verify,
        shape,
        layout,
        settings,
    };
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
                "spec": making.pod(restore, &into.name),
            },
        },
    })
}

/// What the containers are made of.
struct Making<'a> {
    verify: bool,
    shape: &'a Shape,
    layout: &'a Layout,
    settings: &'a InjectSettings,
}

impl Making<'_> {
    fn pod(&self, restore: &Restore, claim: &str) -> Value {
        let shape = self.shape;
        let Place {
            node_selector,
            node_affinity,
            tolerations,
            priority_class_name,
            runtime_class_name,
            image_pull_secrets,
        } = &shape.place;
        let metadata = metadata(restore);
        let mut volumes = vec![
            json!({"name": DATA_VOLUME, "persistentVolumeClaim": {"claimName": claim}}),
            json!({"name": SHARED_VOLUME, "emptyDir": {}}),
            json!({"name": RUN_VOLUME, "emptyDir": {}}),
            json!({"name": CONFIGURATION_VOLUME, "secret": {"secretName": metadata["name"], "optional": false}}),
        ];
        volumes.extend(self.layout.beside.iter().enumerate().map(|(n, beside)| {
            json!({"name": beside_volume(n), "persistentVolumeClaim": {"claimName": beside.claim}})
        }));
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
            "initContainers": [self.prepare(restore), self.sidecar(), self.bootstrap()],
            "containers": [self.postgres(restore)],
            "volumes": volumes,
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

    fn prepare(&self, restore: &Restore) -> Value {
        let shape = self.shape;
        let beside = self.layout.beside.iter();
        let beside: Vec<&str> = beside.map(|one| one.mount.path.as_str()).collect();
        let mut container = of_image(PREPARE_CONTAINER, PREPARE, shape);
        let named = |library: bool| {
            let outside = self.layout.outside.iter();
            let outside = outside.filter(|one| (one.setting == LIBRARIES) == library);
            let values: Vec<&str> = outside.map(|one| one.value.as_str()).collect();
            values.join("\n")
        };
        container["env"] = json!([
            {"name": "CLAIM", "value": shape.mount},
            {"name": "BESIDE", "value": beside.join("\n")},
            {"name": "PGDATA", "value": shape.data_directory()},
            {"name": "DIRECTORIES", "value": self.layout.directories.join("\n")},
            {"name": "LIBRARIES", "value": named(true)},
            {"name": "INCLUDED", "value": named(false)},
            {"name": "RESTORE", "value": restore.uid()},
        ]);
        container["volumeMounts"] = json!(self.data(false));
        container["resources"] = small("64Mi");
        container
    }

    fn postgres(&self, restore: &Restore) -> Value {
        let shape = self.shape;
        let script = if self.verify { RECOVER } else { LEAVE };
        let mut container = of_image(POSTGRES_CONTAINER, script, shape);
        container["env"] = json!([
            {"name": "PGDATA", "value": shape.data_directory()},
            {"name": "ACTION", "value": restore.spec.action.name()},
            {"name": "RUN", "value": RUN_DIRECTORY},
            {"name": "TOLD", "value": TOLD},
        ]);
        let mut mounts = self.data(false);
        mounts.extend([
            json!({"name": SHARED_VOLUME, "mountPath": SHARED_DIRECTORY, "readOnly": true}),
            json!({"name": RUN_VOLUME, "mountPath": RUN_DIRECTORY}),
        ]);
        container["volumeMounts"] = json!(mounts);
        put(&mut container, "resources", &shape.resources);
        container
    }

    fn sidecar(&self) -> Value {
        let probe = |path: &str| json!({"path": path, "port": MONITORING_PORT, "scheme": "HTTP"});
        let arguments = ["sidecar", "--install", SHARED_DIRECTORY];
        let mut container = self.ours(SIDECAR_CONTAINER, &arguments, true);
        container["restartPolicy"] = json!("Always");
        container["startupProbe"] = json!({"httpGet": probe("/startz"),
            "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 60});
        container["livenessProbe"] = json!({"httpGet": probe("/livez"),
            "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6});
        container
    }

    fn bootstrap(&self) -> Value {
        let mut container = self.ours(BOOTSTRAP_CONTAINER, &["bootstrap"], false);
        if let (Some(directory), Some(variables)) =
            (&self.layout.wal, container["env"].as_array_mut())
        {
            variables.push(json!({"name": WAL_DIRECTORY_VARIABLE, "value": directory}));
        }
        container
    }

    /// With our image.
    fn ours(&self, name: &str, arguments: &[&str], read_only: bool) -> Value {
        let settings = self.settings;
        let program = format!("{PROGRAM_DIRECTORY}/holdfast");
        let command: Vec<&str> = [program.as_str()]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
        let memory = settings.memory.to_string();
        let mut mounts = self.data(read_only);
        mounts.extend([
            json!({"name": SHARED_VOLUME, "mountPath": SHARED_DIRECTORY}),
            json!({"name": CONFIGURATION_VOLUME, "mountPath": CONFIGURATION_DIRECTORY, "readOnly": true}),
        ]);
        json!({
            "name": name,
            "image": settings.image,
            "imagePullPolicy": settings.pull_policy.to_string(),
            "command": command,
            "env": [
                {"name": "HOLDFAST_CONFIG", "value": format!("{CONFIGURATION_DIRECTORY}/config.yaml")},
                {"name": DATA_DIRECTORY_VARIABLE, "value": self.shape.data_directory()},
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
            "volumeMounts": mounts,
        })
    }

    /// The claims.
    fn data(&self, read_only: bool) -> Vec<Value> {
        let data = json!({"name": DATA_VOLUME, "mountPath": self.shape.mount});
        let beside = self.layout.beside.iter().enumerate();
        let beside = beside.map(|(n, beside)| {
            let mut mount = json!({"name": beside_volume(n), "mountPath": beside.mount.path});
            put(&mut mount, "subPath", &beside.mount.sub_path);
            mount
        });
        let mut mounts: Vec<Value> = std::iter::once(data).chain(beside).collect();
        for mount in mounts.iter_mut().filter(|_| read_only) {
            mount["readOnly"] = json!(true);
        }
        mounts
    }
}

/// A claim's name may be too long for a volume's.
fn beside_volume(number: usize) -> String {
    format!("beside-{number}")
}

fn put<T: serde::Serialize>(object: &mut Value, name: &str, value: &Option<T>) {
    if let Some(value) = value {
        object[name] = json!(value);
    }
}

/// A quota may demand that each says something.
fn small(memory: &str) -> Value {
    json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": memory}})
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

#[cfg(test)]
mod tests;
