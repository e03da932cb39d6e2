//! Where the containers go among the init containers of others.

use super::*;

fn init(name: &str, image: &str, volume: &str) -> Value {
    json!({"name": name, "image": image, "volumeMounts": [{"name": volume, "mountPath": "/v"}], "extra": {"kept": name}})
}

#[test]
fn before_the_first_that_may_clone_else_last() {
    let mesh = json!({"name": "mesh", "image": "mesh:1", "restartPolicy": "Always"});
    let chown = init("chown", "busybox", "data");
    let setup = init("setup", "postgres:17", "init");
    let clone = init("clone", "docker.io/library/postgres:17.6", "data");
    for (before, after) in [
        (json!([]), vec!["holdfast", "holdfast-bootstrap"]),
        (
            json!([mesh]),
            vec!["mesh", "holdfast", "holdfast-bootstrap"],
        ),
        (
            json!([chown, setup]),
            vec!["chown", "setup", "holdfast", "holdfast-bootstrap"],
        ),
        (
            json!([mesh, chown, clone, setup]),
            vec![
                "mesh",
                "chown",
                "holdfast",
                "holdfast-bootstrap",
                "clone",
                "setup",
            ],
        ),
        (
            json!([clone, clone]),
            vec!["holdfast", "holdfast-bootstrap", "clone", "clone"],
        ),
    ] {
        let pod = with(usual(), "/spec/initContainers", before);
        assert_eq!(init_names(&patched(&pod).0), after);
    }
    let (pod, _) = patched(&with(usual(), "/spec/initContainers", json!(null)));
    assert_eq!(init_names(&pod), ["holdfast", "holdfast-bootstrap"]);
}

#[test]
fn a_mesh_may_come_before_or_after_us() {
    let (ours, _) = patched(&usual());
    let mesh = json!({"name": "mesh", "image": "mesh:1", "restartPolicy": "Always", "ports": [{"containerPort": 15090}]});
    for place in [0, 1, 2] {
        let mut both = ours.clone();
        let init = both["spec"]["initContainers"].as_array_mut().unwrap();
        init.insert(place, mesh.clone());
        let plain = json!({"name": "mesh-proxy", "image": "mesh:1"});
        let containers = both["spec"]["containers"].as_array_mut().unwrap();
        containers.insert(0, plain);
        assert_eq!(inject(&both, &settings()), Outcome::Unchanged, "{both:#}");
    }
}
