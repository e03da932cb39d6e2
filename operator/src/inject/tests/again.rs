//! The same pod once more: the API server calls again after other webhooks (`reinvocationPolicy: IfNeeded`), and people
//! make pods from the YAML of running ones.

use super::*;

/// What the API server and other webhooks do to what we added.
fn defaulted(mut pod: Value) -> Value {
    for list in ["initContainers", "containers"] {
        for container in pod["spec"][list].as_array_mut().unwrap() {
            container["terminationMessagePath"] = json!("/dev/termination-log");
            container["resources"] =
                json!({"limits": {"memory": "1Gi"}, "requests": {"memory": "1Gi"}});
            if !container["livenessProbe"].is_null() {
                container["livenessProbe"]["httpGet"]["path"] = json!("/app-health/holdfast/livez");
            }
        }
    }
    for volume in pod["spec"]["volumes"].as_array_mut().unwrap() {
        if volume["name"] == "holdfast-config" {
            volume["secret"]["defaultMode"] = json!(420);
        }
    }
    pod
}

#[test]
fn what_others_changed_stays_as_it_is() {
    let (pod, _) = patched(&usual());
    assert_eq!(inject(&defaulted(pod), &settings()), Outcome::Unchanged);
}

#[test]
fn another_version_of_us_changes_nothing_on_a_pod_that_has_all() {
    let (pod, _) = patched(&usual());
    let newer = InjectSettings {
        image: "registry.example.com/holdfast:0.2".to_owned(),
        memory: "1Gi".parse().unwrap(),
        ..settings()
    };
    assert_eq!(inject(&pod, &newer), Outcome::Unchanged);
}

#[test]
fn what_went_missing_is_added_again() {
    let (whole, _) = patched(&usual());
    let remove = |lists: &[(&str, &str)]| {
        let mut pod = whole.clone();
        for (list, name) in lists {
            let list = pod.pointer_mut(list).unwrap().as_array_mut().unwrap();
            list.retain(|item| item["name"] != *name);
        }
        pod
    };
    let (init, volumes) = ("/spec/initContainers", "/spec/volumes");
    let mounts = "/spec/containers/0/volumeMounts";
    for mut pod in [
        remove(&[(init, "holdfast")]),
        remove(&[(init, "holdfast-bootstrap")]),
        remove(&[(init, "holdfast"), (init, "holdfast-bootstrap")]),
        remove(&[(volumes, "holdfast")]),
        remove(&[(volumes, "holdfast-config")]),
        remove(&[(mounts, "holdfast")]),
        with(whole.clone(), "/spec/containers/0/args", json!([])),
        with(
            whole.clone(),
            "/spec/containers/0/args",
            json!(["-c", "archive_mode=on"]),
        ),
        with(
            whole.clone(),
            "/spec/terminationGracePeriodSeconds",
            json!(30),
        ),
        whole.clone(),
    ] {
        let complete = pod == whole;
        // The order of volumes means nothing.
        let sorted = |mut pod: Value| {
            let volumes = pod["spec"]["volumes"].as_array_mut().unwrap();
            volumes.sort_by_key(|volume| volume["name"].to_string());
            pod
        };
        if !complete {
            pod = patched(&pod).0;
        }
        assert_eq!(sorted(pod), sorted(whole.clone()));
    }
}

#[test]
fn the_digest_tells_what_was_added_and_not_to_what() {
    let digest =
        |pod: &Value| patched(pod).0["metadata"]["annotations"]["holdfast.dev/injected"].clone();
    let first = digest(&usual());
    assert_eq!(
        first,
        digest(&with(usual(), "/metadata/name", json!("db-1")))
    );
    assert_ne!(
        first,
        digest(&annotated(usual(), "holdfast.dev/memory", "1Gi"))
    );
}

#[test]
fn a_name_of_ours_is_ours_only_on_a_pod_that_was_here() {
    let (whole, _) = patched(&usual());
    let strip = |mut pod: Value| {
        let annotations = pod["metadata"]["annotations"].as_object_mut().unwrap();
        annotations.remove("holdfast.dev/injected");
        pod
    };
    assert!(refused(&strip(whole.clone())).contains("named holdfast already"));

    let init = |container: Value| with(usual(), "/spec/initContainers", json!([container]));
    let container = |name: &str| json!({"name": name, "image": "x"});
    let volume = |name: &str| {
        with(
            usual(),
            "/spec/volumes/-",
            json!({"name": name, "emptyDir": {}}),
        )
    };
    for (pod, name) in [
        (init(container("holdfast")), "holdfast"),
        (init(container("holdfast-bootstrap")), "holdfast-bootstrap"),
        (
            with(usual(), "/spec/containers/-", container("holdfast")),
            "holdfast",
        ),
        (volume("holdfast"), "holdfast"),
        (volume("holdfast-config"), "holdfast-config"),
        (volume("holdfast-no-token"), "holdfast-no-token"),
    ] {
        assert!(refused(&pod).contains(&format!("named {name} already")));
    }
    // The annotation alone makes no sidecar of a container that ends.
    let pod = annotated(init(container("holdfast")), "holdfast.dev/injected", "x");
    assert!(refused(&pod).contains("named holdfast already"));
}
