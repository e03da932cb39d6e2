//! What a pod gets, whole.

use super::*;

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
    let mut bootstrap = env.as_array().cloned().unwrap();
    bootstrap.push(json!({"name": "HOLDFAST_POD_INDEX", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['apps.kubernetes.io/pod-index']"}}}));
    bootstrap.push(json!({"name": "HOLDFAST_SKIP_DRAIN", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.annotations['holdfast.dev/skip-drain']"}}}));
    assert_eq!(
        container(&pod, "holdfast-bootstrap"),
        &json!({
            "name": "holdfast-bootstrap",
            "image": "registry.example.com/holdfast:0.1",
            "imagePullPolicy": "IfNotPresent",
            "command": ["/usr/local/bin/holdfast", "bootstrap"],
            "env": bootstrap,
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
            "-c",
            "archive_mode=on",
            "-c",
            "archive_library=/holdfast/lib/holdfast_archive",
            "-c",
            "archive_command=",
            "-c",
            "restore_command=/holdfast/bin/holdfast-wal restore %f %p",
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
            wal_directory: None,
            configure: Some(Configure::Arguments),
            sidecar_image: Some("registry.example.com/holdfast:0.1".to_owned()),
            digest: pod["metadata"]["annotations"]["holdfast.dev/injected"]
                .as_str()
                .map(str::to_owned),
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
        (
            "postgres:14",
            "/var/lib/postgresql/data",
            999,
            "/var/lib/postgresql/data",
            "Arguments",
        ),
        (
            "docker.io/library/postgres:16-alpine",
            "/var/lib/postgresql/data",
            70,
            "/var/lib/postgresql/data",
            "Arguments",
        ),
        (
            "postgres:18",
            "/var/lib/postgresql",
            999,
            "/var/lib/postgresql/18/docker",
            "Arguments",
        ),
        (
            "postgres:18-alpine",
            "/var/lib/postgresql",
            70,
            "/var/lib/postgresql/18/docker",
            "Arguments",
        ),
        (
            "postgis/postgis:17-3.5",
            "/var/lib/postgresql/data",
            999,
            "/var/lib/postgresql/data",
            "Arguments",
        ),
        (
            "pgvector/pgvector:pg17",
            "/var/lib/postgresql/data",
            999,
            "/var/lib/postgresql/data",
            "Arguments",
        ),
        (
            "timescale/timescaledb:latest-pg17",
            "/var/lib/postgresql/data",
            70,
            "/var/lib/postgresql/data",
            "Arguments",
        ),
        (
            "timescale/timescaledb-ha:pg17",
            "/home/postgres/pgdata",
            1000,
            "/home/postgres/pgdata/data",
            "Arguments",
        ),
        (
            "bitnami/postgresql:17",
            "/bitnami/postgresql",
            1001,
            "/bitnami/postgresql/data",
            "AlterSystem",
        ),
    ] {
        let (pod, _) = patched(&official(image, mount));
        assert_eq!(
            container(&pod, "holdfast")["securityContext"]["runAsUser"],
            user,
            "{image}"
        );
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
    assert_eq!(
        variable(&pod, "holdfast", "HOLDFAST_MEMORY").unwrap()["value"],
        "1Gi"
    );
    assert_eq!(container(&pod, "postgres")["args"], Value::Null);
}

#[test]
fn the_grace_period_is_never_lowered() {
    for (before, after) in [
        (json!(0), 120),
        (json!(120), 120),
        (json!(900), 900),
        (json!(null), 120),
    ] {
        let (pod, _) = patched(&with(
            usual(),
            "/spec/terminationGracePeriodSeconds",
            before,
        ));
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], after);
    }
}
