//! Whole pods, as the API server sends them, and what becomes of them.

mod again;
mod arguments;
mod hostile;
mod order;
mod places;
mod refusals;
mod security;
mod usual;

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
    assert_eq!(
        facts.sidecar_image.as_deref(),
        Some("registry.example.com/holdfast:0.1")
    );
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
        // Our own, written anew with what went missing.
        _ if place == "/metadata/annotations/holdfast.dev/injected" => {}
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
                preserved(
                    value,
                    other.unwrap_or_else(|| panic!("{place}: {value}")),
                    place,
                );
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
    containers
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect()
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
    let data = mounts
        .iter()
        .filter(|m| !text(&m["name"]).starts_with("holdfast"));
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
