//! The containers and volumes that are added, as JSON. They pass the Pod Security Standard `restricted` by themselves.

use super::annotations::Configure;
use super::identity::Identity;
use super::memory::Memory;
use super::mounts::DataMounts;
use super::names::{
    BOOTSTRAP_CONTAINER, CONFIGURATION_DIRECTORY, CONFIGURATION_VOLUME, CONFIGURE_VARIABLE,
    CONTROL_PORT, DATA_DIRECTORY_VARIABLE, MEMORY_VARIABLE, MONITORING_PORT,
    MOUNT_POINTS_CONTAINER, NO_TOKEN_VOLUME, PROGRAM_DIRECTORY, SHARED_DIRECTORY, SHARED_VOLUME,
    SIDECAR_CONTAINER, SKIP_DRAIN_ANNOTATION, TOKEN_DIRECTORY, WAL_DIRECTORY_VARIABLE,
};
use super::pod::Mount;
use super::settings::InjectSettings;
use serde_json::{Value, json};

/// What the containers are made of.
pub(super) struct Parts<'a> {
    pub(super) settings: &'a InjectSettings,
    pub(super) data_directory: String,
    pub(super) wal_directory: Option<String>,
    pub(super) data: &'a DataMounts,
    pub(super) identity: Identity,
    /// Those of Postgres' container: what it may read, we may.
    pub(super) se_linux_options: Option<&'a Value>,
    pub(super) configure: Configure,
    pub(super) memory: &'a Memory,
    pub(super) resources: Value,
}

impl Parts<'_> {
    /// The native sidecar: up before Postgres, down after it.
    pub(super) fn sidecar(&self) -> Value {
        let probe = |path: &str, more: Value| {
            let mut probe =
                json!({"httpGet": {"path": path, "port": MONITORING_PORT, "scheme": "HTTP"}});
            extend(&mut probe, more);
            probe
        };
        let mut variables = self.variables();
        variables.push(json!({"name": CONFIGURE_VARIABLE, "value": self.configure.to_string()}));
        let mut container = self.container(
            SIDECAR_CONTAINER,
            &["sidecar", "--install", SHARED_DIRECTORY],
        );
        extend(
            &mut container,
            json!({
                "restartPolicy": "Always",
                "env": variables,
                "ports": [
                    {"name": "hf-control", "containerPort": CONTROL_PORT, "protocol": "TCP"},
                    {"name": "hf-metrics", "containerPort": MONITORING_PORT, "protocol": "TCP"},
                ],
                // The socket listens: nothing that Postgres would have to wait for.
                "startupProbe": probe("/startz", json!({"periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 60})),
                "livenessProbe": probe("/livez", json!({"periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6})),
                "volumeMounts": self.mounts(true),
            }),
        );
        container
    }

    /// May write the data directory; usually exits at once.
    pub(super) fn bootstrap(&self) -> Value {
        let mut container = self.container(BOOTSTRAP_CONTAINER, &["bootstrap"]);
        let mut variables = self.variables();
        variables.push(field(
            "HOLDFAST_POD_INDEX",
            "metadata.labels['apps.kubernetes.io/pod-index']",
        ));
        variables.push(field(
            "HOLDFAST_SKIP_DRAIN",
            &format!("metadata.annotations['{SKIP_DRAIN_ANNOTATION}']"),
        ));
        if let Some(directory) = &self.wal_directory {
            variables.push(json!({"name": WAL_DIRECTORY_VARIABLE, "value": directory}));
        }
        extend(
            &mut container,
            json!({"env": variables, "volumeMounts": self.mounts(false)}),
        );
        container
    }

    /// Only where data mounts are nested: the runtime makes a missing mount point in the outer volume when it starts a
    /// container, and can't where that is mounted read-only, as in the sidecar. To start this one is all it takes.
    pub(super) fn mount_points(&self) -> Option<Value> {
        if !self.data.are_nested() {
            return None;
        }
        let mut mounts: Vec<_> = self.data.mounts.iter().map(|m| mount(m, false)).collect();
        mounts.push(no_token());
        let mut container = self.container(MOUNT_POINTS_CONTAINER, &["--version"]);
        extend(
            &mut container,
            json!({"env": self.data.variables, "volumeMounts": mounts}),
        );
        Some(container)
    }

    fn container(&self, name: &str, arguments: &[&str]) -> Value {
        let program = format!("{PROGRAM_DIRECTORY}/holdfast");
        let command: Vec<&str> = [program.as_str()]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        let mut security = json!({
            "runAsUser": self.identity.user,
            "runAsNonRoot": true,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        });
        if let Some(group) = self.identity.group {
            security["runAsGroup"] = json!(group);
        }
        if let Some(options) = self.se_linux_options {
            security["seLinuxOptions"] = options.clone();
        }
        json!({
            "name": name,
            "image": self.settings.image,
            "imagePullPolicy": self.settings.pull_policy.to_string(),
            "command": command,
            "resources": self.resources,
            "securityContext": security,
            "terminationMessagePolicy": "FallbackToLogsOnError",
        })
    }

    fn variables(&self) -> Vec<Value> {
        let mut variables = self.data.variables.clone();
        variables.extend([
            json!({"name": "HOLDFAST_CONFIG", "value": format!("{CONFIGURATION_DIRECTORY}/config.yaml")}),
            json!({"name": DATA_DIRECTORY_VARIABLE, "value": self.data_directory}),
            json!({"name": MEMORY_VARIABLE, "value": self.memory.to_string()}),
            field("HOLDFAST_POD_NAME", "metadata.name"),
            field("HOLDFAST_POD_UID", "metadata.uid"),
        ]);
        variables
    }

    fn mounts(&self, read_only: bool) -> Vec<Value> {
        let mut mounts = vec![
            json!({"name": SHARED_VOLUME, "mountPath": SHARED_DIRECTORY}),
            json!({"name": CONFIGURATION_VOLUME, "mountPath": CONFIGURATION_DIRECTORY, "readOnly": true}),
            no_token(),
        ];
        mounts.extend(self.data.mounts.iter().map(|m| mount(m, read_only)));
        mounts
    }
}

/// A variable that the kubelet fills in.
fn field(name: &str, path: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}})
}

/// Where Postgres finds the program and the socket. It writes nothing there.
pub(super) fn shared_mount() -> Value {
    json!({"name": SHARED_VOLUME, "mountPath": SHARED_DIRECTORY, "readOnly": true})
}

/// The volumes. The Secret is not optional: until the operator has rendered it the pod waits, and the kubelet says so.
pub(super) fn volumes(archive: &str) -> [(&'static str, Value); 3] {
    let secret = crate::names::rendered_secret(archive);
    [
        (
            SHARED_VOLUME,
            json!({"name": SHARED_VOLUME, "emptyDir": {}}),
        ),
        (
            CONFIGURATION_VOLUME,
            json!({"name": CONFIGURATION_VOLUME, "secret": {"secretName": secret, "optional": false}}),
        ),
        (
            NO_TOKEN_VOLUME,
            json!({"name": NO_TOKEN_VOLUME, "emptyDir": {}}),
        ),
    ]
}

/// The API server mounts a token in every container that has nothing at exactly this path, also in those that come
/// later.
fn no_token() -> Value {
    json!({"name": NO_TOKEN_VOLUME, "mountPath": TOKEN_DIRECTORY, "readOnly": true})
}

fn mount(mount: &Mount, read_only: bool) -> Value {
    let Mount {
        name,
        mount_path,
        sub_path,
        sub_path_expr,
        read_only: already,
    } = mount;
    let mut copy = json!({"name": name, "mountPath": mount_path});
    if read_only || *already {
        copy["readOnly"] = json!(true);
    }
    if let Some(path) = sub_path {
        copy["subPath"] = json!(path);
    }
    if let Some(expression) = sub_path_expr {
        copy["subPathExpr"] = json!(expression);
    }
    copy
}

fn extend(object: &mut Value, more: Value) {
    if let (Value::Object(object), Value::Object(more)) = (object, more) {
        object.extend(more);
    }
}
