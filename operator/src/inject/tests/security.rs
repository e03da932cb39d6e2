//! What the added containers may do, and that they change nothing for the rest of the pod.

use super::*;

const OURS: [&str; 2] = ["holdfast", "holdfast-bootstrap"];

/// The Pod Security Standard `restricted`, for a container that relies on nothing of the pod's.
/// <https://kubernetes.io/docs/concepts/security/pod-security-standards/>
fn restricted(container: &Value) {
    let security = &container["securityContext"];
    assert_eq!(security["allowPrivilegeEscalation"], false);
    assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
    assert_eq!(security["runAsNonRoot"], true);
    assert!(security["runAsUser"].as_i64().unwrap() > 0);
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    for absent in ["privileged", "procMount"] {
        assert_eq!(security[absent], Value::Null);
    }
    for port in container["ports"].as_array().into_iter().flatten() {
        assert_eq!(port["hostPort"], Value::Null);
    }
    for probe in ["startupProbe", "livenessProbe"] {
        assert_eq!(container[probe]["httpGet"]["host"], Value::Null);
    }
}

#[test]
fn they_pass_restricted_by_themselves() {
    for pod in [
        usual(),
        with(
            usual(),
            "/spec/securityContext",
            json!({"runAsUser": 0, "runAsNonRoot": false, "seccompProfile": {"type": "Unconfined"}}),
        ),
        with(
            usual(),
            "/spec/containers/0/securityContext",
            json!({"privileged": true, "runAsUser": 0}),
        ),
    ] {
        let (pod, _) = patched(&pod);
        for name in OURS {
            restricted(container(&pod, name));
            assert_eq!(
                container(&pod, name)["securityContext"]["readOnlyRootFilesystem"],
                true
            );
        }
        let added = pod["spec"]["volumes"].as_array().unwrap().iter();
        let added = added.filter(|v| v["name"].as_str().unwrap().starts_with("holdfast"));
        for volume in added {
            assert!(!volume["emptyDir"].is_null() || !volume["secret"].is_null());
        }
    }
}

#[test]
fn nothing_of_ours_has_a_token() {
    let (pod, _) = patched(&usual());
    for name in OURS {
        let mounts = container(&pod, name)["volumeMounts"].as_array().unwrap();
        let token = "/var/run/secrets/kubernetes.io/serviceaccount";
        let there: Vec<_> = mounts.iter().filter(|m| m["mountPath"] == token).collect();
        assert_eq!(there.len(), 1);
        assert_eq!(there[0]["name"], "holdfast-no-token");
    }
}

#[test]
fn user_and_group_are_those_of_postgres() {
    for (pod, container_context, user, group) in [
        (
            json!({}),
            json!({"runAsUser": 5, "runAsGroup": 6}),
            5,
            json!(6),
        ),
        (
            json!({"runAsUser": 7, "runAsGroup": 8}),
            json!({}),
            7,
            json!(null),
        ),
        (json!({"fsGroup": 999}), json!({}), 999, json!(999)),
    ] {
        let raw = with(usual(), "/spec/securityContext", pod);
        let (pod, _) = patched(&with(
            raw,
            "/spec/containers/0/securityContext",
            container_context,
        ));
        for name in OURS {
            let security = &container(&pod, name)["securityContext"];
            assert_eq!(security["runAsUser"], user);
            assert_eq!(security["runAsGroup"], group);
        }
    }
}

#[test]
fn an_selinux_label_of_postgres_is_ours_too() {
    let options = json!({"level": "s0:c123,c456"});
    let context = json!({"seLinuxOptions": options});
    let (pod, _) = patched(&with(
        usual(),
        "/spec/containers/0/securityContext",
        context,
    ));
    for name in OURS {
        assert_eq!(
            container(&pod, name)["securityContext"]["seLinuxOptions"],
            options
        );
    }
}

#[test]
fn the_quality_of_service_class_is_kept() {
    let resources = |value: Value| with(usual(), "/spec/containers/0/resources", value);
    let full =
        json!({"limits": {"cpu": "2", "memory": "4Gi"}, "requests": {"cpu": "2", "memory": "4Gi"}});
    for (pod, expected) in [
        (
            resources(full.clone()),
            json!({"limits": {"cpu": "500m", "memory": "256Mi"}, "requests": {"cpu": "500m", "memory": "256Mi"}}),
        ),
        (
            annotated(resources(full), "holdfast.dev/memory", "512Mi"),
            json!({"limits": {"cpu": "500m", "memory": "512Mi"}, "requests": {"cpu": "500m", "memory": "512Mi"}}),
        ),
        (
            resources(json!({"requests": {"memory": "1Gi"}})),
            json!({"limits": {"memory": "256Mi"}, "requests": {"cpu": "50m", "memory": "64Mi"}}),
        ),
        (usual(), json!({})),
        (
            with(
                usual(),
                "/spec/resources",
                json!({"limits": {"cpu": "2", "memory": "4Gi"}}),
            ),
            json!({}),
        ),
    ] {
        let (pod, _) = patched(&pod);
        for name in OURS {
            assert_eq!(container(&pod, name)["resources"], expected);
        }
        // The sidecar keeps to its memory also where no limit would make it.
        assert!(variable(&pod, "holdfast", "HOLDFAST_MEMORY").is_some());
    }
}
