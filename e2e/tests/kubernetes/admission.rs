//! What the webhook makes of pods, asked without making them.

use crate::fixtures::containers;
use anyhow::{Context, Result, ensure};
use holdfast_e2e::Space;
use serde_json::{Value, json};

/// A pod as the API server would keep it.
async fn admitted(space: &Space, pod: &Value) -> Result<Value> {
    let said = space
        .shell(
            &format!(
                "kubectl create --dry-run=server --validate=strict -o json -f - <<'POD'\n{pod}\nPOD"
            ),
            std::path::Path::new("/"),
        )
        .await?
        .success()?;
    serde_json::from_str(&said).with_context(|| said)
}

fn labelled(pod: &Value) -> Value {
    let mut pod = pod.clone();
    pod["metadata"]["labels"]["holdfast.dev/archive"] = json!("orders");
    pod
}

/// Takes away what is ours, and what the API server gives each pod.
fn without_ours(mut pod: Value) -> Value {
    fn ours(item: &Value) -> bool {
        item["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("holdfast"))
    }
    for list in [
        "/spec/initContainers",
        "/spec/volumes",
        "/spec/containers/0/volumeMounts",
    ] {
        if let Some(Value::Array(list)) = pod.pointer_mut(list) {
            list.retain(|item| !ours(item));
        }
    }
    for (place, name) in [
        ("/metadata", "uid"),
        ("/metadata", "creationTimestamp"),
        ("/metadata/labels", "holdfast.dev/archive"),
        ("/metadata/annotations", "holdfast.dev/injected"),
        ("/spec", "terminationGracePeriodSeconds"),
    ] {
        if let Some(Value::Object(place)) = pod.pointer_mut(place) {
            place.remove(name);
        }
    }
    if let Some(Value::Array(arguments)) = pod.pointer_mut("/spec/containers/0/args") {
        arguments.truncate(2);
    }
    pod
}

/// Uses what came to Kubernetes after the types that the operator is built with.
fn newest() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "orders-0", "labels": {"app": "orders"}, "annotations": {"example.com/mesh": "on"}},
        "spec": {
            "automountServiceAccountToken": false,
            "hostnameOverride": "orders.example.com",
            "securityContext": {"supplementalGroupsPolicy": "Strict", "fsGroup": 999},
            "initContainers": [
                {"name": "proxy", "image": "postgres:17", "restartPolicy": "Always", "command": ["sleep", "infinity"]},
                {"name": "last", "image": "postgres:17", "command": ["true"]},
            ],
            "containers": [{
                "name": "postgres",
                "image": "postgres:17",
                "args": ["-c", "shared_buffers=128MB"],
                "env": [{"name": "POSTGRES_PASSWORD", "valueFrom": {"fileKeyRef": {"path": "orders", "volumeName": "passwords", "key": "password"}}}],
                "restartPolicy": "Never",
                "restartPolicyRules": [{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}],
                "resizePolicy": [{"resourceName": "memory", "restartPolicy": "RestartContainer"}],
                "volumeMounts": [
                    {"name": "data", "mountPath": "/var/lib/postgresql/data", "mountPropagation": "None"},
                    {"name": "extensions", "mountPath": "/extensions", "readOnly": true, "recursiveReadOnly": "IfPossible"},
                ],
            }],
            "volumes": [
                {"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"],
                    "volumeAttributesClassName": "silver", "resources": {"requests": {"storage": "1Gi"}}}}}},
                {"name": "passwords", "emptyDir": {}},
                {"name": "extensions", "image": {"reference": "example.com/extensions:1", "pullPolicy": "IfNotPresent"}},
            ],
        },
    })
}

#[tokio::test]
async fn nothing_that_a_pod_has_is_lost_and_nothing_is_added_twice() -> Result<()> {
    Space::scenario("kept", async |space| {
        let pod = newest();
        let plain = admitted(space, &pod).await?;
        for field in [
            "/spec/hostnameOverride",
            "/spec/containers/0/restartPolicyRules/0",
            "/spec/containers/0/env/0/valueFrom/fileKeyRef/key",
        ] {
            ensure!(
                plain.pointer(field).is_some(),
                "this API server has no {field}"
            );
        }
        let patched = admitted(space, &labelled(&pod)).await?;
        let names: Vec<_> = containers(&patched).map(|c| c["name"].clone()).collect();
        ensure!(
            names
                == [
                    "proxy",
                    "last",
                    "holdfast",
                    "holdfast-bootstrap",
                    "postgres"
                ],
            "{names:?}"
        );
        let (before, after) = (without_ours(plain), without_ours(patched.clone()));
        ensure!(before == after, "{before:#}\n{after:#}");

        // As it is asked about again after other webhooks, or made anew from a running pod's YAML.
        let mut again = patched.clone();
        for field in ["uid", "creationTimestamp"] {
            again["metadata"]
                .as_object_mut()
                .context("metadata")?
                .remove(field);
        }
        let again = admitted(space, &again).await?;
        ensure!(again["spec"] == patched["spec"], "{again:#}\n{patched:#}");
        let digest = "/metadata/annotations/holdfast.dev~1injected";
        ensure!(
            again.pointer(digest) == patched.pointer(digest),
            "{again:#}"
        );
        Ok(())
    })
    .await
}

#[tokio::test]
async fn every_pod_keeps_its_class() -> Result<()> {
    Space::scenario("class", async |space| {
        let some = json!({"cpu": "1", "memory": "1Gi"});
        for (container, pod, class) in [
            (json!({}), json!(null), "BestEffort"),
            (json!({"requests": {"cpu": "1"}}), json!(null), "Burstable"),
            (json!({"limits": {"memory": "1Gi"}}), json!(null), "Burstable"),
            (json!({"limits": some}), json!(null), "Guaranteed"),
            (json!({"limits": some, "requests": some}), json!(null), "Guaranteed"),
            (json!({}), json!({"limits": some, "requests": some}), "Guaranteed"),
            (json!({}), json!({"requests": some}), "Burstable"),
        ] {
            let mut wanted = json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "orders-0"},
                "spec": {
                    "containers": [{"name": "postgres", "image": "postgres:17", "resources": container,
                        "volumeMounts": [{"name": "data", "mountPath": "/var/lib/postgresql/data"}]}],
                    "volumes": [{"name": "data", "emptyDir": {}}],
                },
            });
            if !pod.is_null() {
                wanted["spec"]["resources"] = pod.clone();
            }
            let (plain, patched) = (
                admitted(space, &wanted).await?,
                admitted(space, &labelled(&wanted)).await?,
            );
            ensure!(containers(&patched).any(|c| c["name"] == "holdfast"), "{patched:#}");
            ensure!(
                plain["status"]["qosClass"] == class && patched["status"]["qosClass"] == class,
                "{container} {pod}: {} became {}, not {class}",
                plain["status"]["qosClass"],
                patched["status"]["qosClass"]
            );
        }
        Ok(())
    })
    .await
}
