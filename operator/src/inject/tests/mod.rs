//! Whole pods, as the API server sends them, and what becomes of them.

mod again;
mod arguments;
mod hostile;
mod order;
mod places;
mod refusals;
mod security;

use super::*;
use serde_json::{Value, json};

fn settings() -> InjectSettings {
    InjectSettings {
        image: "registry.example.com/holdfast:0.1".to_owned(),
        pull_policy: PullPolicy::IfNotPresent,
        memory: "256Mi".parse().unwrap(),
    }
}

/// A StatefulSet's pod with the official image, as it reaches a webhook: with the API server's defaults, the token's
/// volume, and fields from a future that our types don't know.
fn official(image: &str, data_mount: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "generateName": "db-",
            "name": "db-0",
            "labels": {"app": "db", "holdfast.dev/archive": "orders"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "1", "controller": true}],
            "fieldOfTomorrow": {"kept": [1, 2, {"three": null}]},
        },
        "spec": {
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "data-db-0"}},
                {"name": "init", "configMap": {"name": "init", "defaultMode": 420}},
                {"name": "shm", "emptyDir": {"medium": "Memory"}},
                {"name": "kube-api-access-x", "projected": {"sources": [], "defaultMode": 420}},
            ],
            "containers": [{
                "name": "postgres",
                "image": image,
                "ports": [{"containerPort": 5432, "name": "pg", "protocol": "TCP"}],
                "env": [{"name": "POSTGRES_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}}],
                "resources": {},
                "volumeMounts": [
                    {"name": "data", "mountPath": data_mount},
                    {"name": "init", "mountPath": "/docker-entrypoint-initdb.d"},
                    {"name": "shm", "mountPath": "/dev/shm"},
                    {"name": "kube-api-access-x", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
                ],
                "imagePullPolicy": "IfNotPresent",
                "knobOfTomorrow": "on",
            }],
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "securityContext": {},
            "schedulerName": "default-scheduler",
            "gatesOfTomorrow": [{"name": "gate"}],
        },
    })
}

fn usual() -> Value {
    official("postgres:17", "/var/lib/postgresql/data")
}

/// That pod with a value somewhere.
fn with(mut pod: Value, pointer: &str, value: Value) -> Value {
    let (parent, member) = pointer.rsplit_once('/').unwrap();
    let member = member.replace("~1", "/");
    match pod.pointer_mut(parent).expect(parent) {
        Value::Object(object) => {
            object.insert(member, value);
        }
        Value::Array(list) if member == "-" => list.push(value),
        other => panic!("{pointer}: {other}"),
    }
    pod
}

fn annotated(pod: Value, annotation: &str, value: &str) -> Value {
    let mut annotations = pod["metadata"]["annotations"].clone();
    if annotations.is_null() {
        annotations = json!({});
    }
    annotations[annotation] = json!(value);
    with(pod, "/metadata/annotations", annotations)
}

fn apply(pod: &Value, patch: &Patch) -> Value {
    let operations = serde_json::to_value(&patch.operations).unwrap();
    let operations: json_patch::Patch = serde_json::from_value(operations).unwrap();
    let mut patched = pod.clone();
    json_patch::patch(&mut patched, &operations).unwrap();
    patched
}

/// The pod as it is let in, after the checks that hold for every one.
fn patched(pod: &Value) -> (Value, Vec<String>) {
    let patch = match inject(pod, &settings()) {
        Outcome::Patch(patch) => patch,
        other => panic!("{other:?}: {pod:#}"),
    };
    let patched = apply(pod, &patch);
    preserved(pod, &patched, "");
    assert_eq!(inject(&patched, &settings()), Outcome::Unchanged);
    let typed: k8s_openapi::api::core::v1::Pod = serde_json::from_value(patched.clone()).unwrap();
    let facts = describe(&typed).unwrap();
    assert_eq!(facts.sidecar_image.as_deref(), Some("registry.example.com/holdfast:0.1"));
    assert_eq!(facts.digest.unwrap().len(), 32);
    (patched, patch.warnings)
}

fn refused(pod: &Value) -> String {
    match inject(pod, &settings()) {
        Outcome::Refused(refusal) => refusal.to_string(),
        other => panic!("{other:?}: {pod:#}"),
    }
}

/// All that was there is there, in its order.
fn preserved(before: &Value, after: &Value, place: &str) {
    match (before, after) {
        _ if place == "/spec/terminationGracePeriodSeconds" => {}
        (Value::Object(before), Value::Object(after)) => {
            for (name, value) in before {
                let place = format!("{place}/{name}");
                preserved(value, after.get(name).expect(&place), &place);
            }
        }
        (Value::Array(before), Value::Array(after)) => {
            let mut rest = after.iter();
            for value in before {
                let same = |other: &&Value| match (&value["name"], &other["name"]) {
                    (Value::String(one), Value::String(other)) => one == other,
                    _ => &value == other,
                };
                let other = rest.find(same);
                preserved(value, other.unwrap_or_else(|| panic!("{place}: {value}")), place);
            }
        }
        // What is null is what is left out.
        (Value::Null, _) => {}
        _ => assert_eq!(before, after, "{place}"),
    }
}

fn init_names(pod: &Value) -> Vec<&str> {
    let containers = pod["spec"]["initContainers"].as_array().unwrap();
    let name = |container: &'_ Value| container["name"].as_str().map(str::to_owned);
    let names: Vec<String> = containers.iter().filter_map(name).collect();
    assert_eq!(names.len(), containers.len());
    containers.iter().filter_map(|c| c["name"].as_str()).collect()
}

fn container<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].as_array());
    let mut all = lists.into_iter().flatten().flatten();
    all.find(|c| c["name"] == name).expect(name)
}

/// The container's mounts of data: `path` or `path=subPath`, with `!` where they can be written.
fn data_mounts(pod: &Value, name: &str) -> Vec<String> {
    let mounts = container(pod, name)["volumeMounts"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let data = mounts.iter().filter(|m| !text(&m["name"]).starts_with("holdfast"));
    data.map(|mount| {
        let mut told = text(&mount["mountPath"]);
        for key in ["subPath", "subPathExpr"] {
            if mount[key].is_string() {
                told += &format!("={}", text(&mount[key]));
            }
        }
        if mount["readOnly"] != true {
            told += "!";
        }
        told
    })
    .collect()
}

fn variable<'a>(pod: &'a Value, container_name: &str, variable: &str) -> Option<&'a Value> {
    let env = container(pod, container_name)["env"].as_array().unwrap();
    env.iter().find(|v| v["name"] == variable)
}

#[test]
fn the_usual_pod_gets_all_that_is_promised() {
    let (pod, warnings) = patched(&usual());
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!(init_names(&pod), ["holdfast", "holdfast-bootstrap"]);
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 120);
    assert_eq!(
        pod["spec"]["volumes"].as_array().unwrap()[4..],
        [
            json!({"name": "holdfast", "emptyDir": {}}),
            json!({"name": "holdfast-config", "secret": {"secretName": "holdfast-orders", "optional": false}}),
            json!({"name": "holdfast-no-token", "emptyDir": {}}),
        ]
    );
    let token = "/var/run/secrets/kubernetes.io/serviceaccount";
    let security = json!({
        "runAsUser": 999, "runAsGroup": 999, "runAsNonRoot": true, "allowPrivilegeEscalation": false,
        "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
    });
    let env = json!([
        {"name": "HOLDFAST_CONFIG", "value": "/etc/holdfast/config.yaml"},
        {"name": "HOLDFAST_DATA_DIRECTORY", "value": "/var/lib/postgresql/data"},
        {"name": "HOLDFAST_MEMORY", "value": "256Mi"},
        {"name": "HOLDFAST_POD_NAME", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
        {"name": "HOLDFAST_POD_UID", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.uid"}}},
    ]);
    let mut sidecar_env = env.as_array().unwrap().clone();
    sidecar_env.push(json!({"name": "HOLDFAST_CONFIGURE", "value": "Arguments"}));
    assert_eq!(
        container(&pod, "holdfast"),
        &json!({
            "name": "holdfast",
            "image": "registry.example.com/holdfast:0.1",
            "imagePullPolicy": "IfNotPresent",
            "command": ["/usr/local/bin/holdfast", "sidecar", "--install", "/holdfast"],
            "restartPolicy": "Always",
            "env": sidecar_env,
            "ports": [
                {"name": "hf-control", "containerPort": 9643, "protocol": "TCP"},
                {"name": "hf-metrics", "containerPort": 9644, "protocol": "TCP"},
            ],
            "startupProbe": {"httpGet": {"path": "/startz", "port": 9644, "scheme": "HTTP"}, "periodSeconds": 1, "timeoutSeconds": 2, "failureThreshold": 60},
            "livenessProbe": {"httpGet": {"path": "/livez", "port": 9644, "scheme": "HTTP"}, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
            "volumeMounts": [
                {"name": "holdfast", "mountPath": "/holdfast"},
                {"name": "holdfast-config", "mountPath": "/etc/holdfast", "readOnly": true},
                {"name": "holdfast-no-token", "mountPath": token, "readOnly": true},
                {"name": "data", "mountPath": "/var/lib/postgresql/data", "readOnly": true},
            ],
            "resources": {},
            "securityContext": security,
            "terminationMessagePolicy": "FallbackToLogsOnError",
        })
    );
    assert_eq!(
        container(&pod, "holdfast-bootstrap"),
        &json!({
            "name": "holdfast-bootstrap",
            "image": "registry.example.com/holdfast:0.1",
            "imagePullPolicy": "IfNotPresent",
            "command": ["/usr/local/bin/holdfast", "bootstrap"],
            "env": env,
            "volumeMounts": [
                {"name": "holdfast", "mountPath": "/holdfast"},
                {"name": "holdfast-config", "mountPath": "/etc/holdfast", "readOnly": true},
                {"name": "holdfast-no-token", "mountPath": token, "readOnly": true},
                {"name": "data", "mountPath": "/var/lib/postgresql/data"},
            ],
            "resources": {},
            "securityContext": security,
            "terminationMessagePolicy": "FallbackToLogsOnError",
        })
    );
    let postgres = container(&pod, "postgres");
    assert_eq!(
        postgres["args"],
        json!([
            "-c", "archive_mode=on",
            "-c", "archive_command=/holdfast/bin/holdfast-wal archive %f %p",
            "-c", "restore_command=/holdfast/bin/holdfast-wal restore %f %p",
        ])
    );
    assert_eq!(
        postgres["volumeMounts"][4],
        json!({"name": "holdfast", "mountPath": "/holdfast", "readOnly": true})
    );
    let typed = serde_json::from_value(pod.clone()).unwrap();
    assert_eq!(
        describe(&typed),
        Some(Injected {
            container: Some("postgres".to_owned()),
            postgres_image: Some("postgres:17".to_owned()),
            data_directory: Some("/var/lib/postgresql/data".to_owned()),
            configure: Some(Configure::Arguments),
            sidecar_image: Some("registry.example.com/holdfast:0.1".to_owned()),
            digest: pod["metadata"]["annotations"]["holdfast.dev/injected"].as_str().map(str::to_owned),
        })
    );
}

#[test]
fn pods_that_are_none_of_ours_are_left_alone() {
    let unlabelled = with(usual(), "/metadata/labels", json!({"app": "db"}));
    let spared = annotated(usual(), "holdfast.dev/inject", "false");
    for pod in [unlabelled, spared] {
        assert_eq!(inject(&pod, &settings()), Outcome::Unchanged);
        let typed = serde_json::from_value(pod).unwrap();
        assert_eq!(describe(&typed), None);
    }
}

#[test]
fn every_known_image_is_let_in_as_it_is() {
    for (image, mount, user, directory, configure) in [
        ("postgres:14", "/var/lib/postgresql/data", 999, "/var/lib/postgresql/data", "Arguments"),
        ("docker.io/library/postgres:16-alpine", "/var/lib/postgresql/data", 70, "/var/lib/postgresql/data", "Arguments"),
        ("postgres:18", "/var/lib/postgresql", 999, "/var/lib/postgresql/18/docker", "Arguments"),
        ("postgres:18-alpine", "/var/lib/postgresql", 70, "/var/lib/postgresql/18/docker", "Arguments"),
        ("postgis/postgis:17-3.5", "/var/lib/postgresql/data", 999, "/var/lib/postgresql/data", "Arguments"),
        ("pgvector/pgvector:pg17", "/var/lib/postgresql/data", 999, "/var/lib/postgresql/data", "Arguments"),
        ("timescale/timescaledb:latest-pg17", "/var/lib/postgresql/data", 70, "/var/lib/postgresql/data", "Arguments"),
        ("timescale/timescaledb-ha:pg17", "/home/postgres/pgdata", 1000, "/home/postgres/pgdata/data", "Arguments"),
        ("bitnami/postgresql:17", "/bitnami/postgresql", 1001, "/bitnami/postgresql/data", "AlterSystem"),
    ] {
        let (pod, _) = patched(&official(image, mount));
        assert_eq!(container(&pod, "holdfast")["securityContext"]["runAsUser"], user, "{image}");
        let told = |name| &variable(&pod, "holdfast", name).unwrap()["value"];
        assert_eq!(told("HOLDFAST_DATA_DIRECTORY"), directory, "{image}");
        assert_eq!(told("HOLDFAST_CONFIGURE"), configure, "{image}");
        let arguments = container(&pod, "postgres")["args"].is_array();
        assert_eq!(arguments, configure == "Arguments", "{image}");
        assert_eq!(data_mounts(&pod, "holdfast"), [mount], "{image}");
    }
}

#[test]
fn an_unknown_image_is_let_in_with_what_it_does_not_tell() {
    let mut pod = official("acme/db:3", "/data");
    for (annotation, value) in [
        ("holdfast.dev/data-directory", "/data/pg"),
        ("holdfast.dev/run-as-user", "26"),
        ("holdfast.dev/configure", "None"),
        ("holdfast.dev/memory", "1Gi"),
    ] {
        pod = annotated(pod, annotation, value);
    }
    let (pod, _) = patched(&pod);
    let sidecar = container(&pod, "holdfast");
    assert_eq!(sidecar["securityContext"]["runAsUser"], 26);
    assert_eq!(sidecar["securityContext"]["runAsGroup"], Value::Null);
    assert_eq!(variable(&pod, "holdfast", "HOLDFAST_MEMORY").unwrap()["value"], "1Gi");
    assert_eq!(container(&pod, "postgres")["args"], Value::Null);
}

#[test]
fn the_grace_period_is_never_lowered() {
    for (before, after) in [(json!(0), 120), (json!(120), 120), (json!(900), 900), (json!(null), 120)] {
        let (pod, _) = patched(&with(usual(), "/spec/terminationGracePeriodSeconds", before));
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], after);
    }
}
