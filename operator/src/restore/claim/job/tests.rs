use super::super::shape::tests::pod as labelled;
use super::super::tests::restore;
use super::*;
use crate::restore::claim::layout::Beside;
use crate::restore::claim::shape::Mounted;
use holdfast_postgres::outside::Outside;
use k8s_openapi::api::batch::v1::Job;

fn settings() -> InjectSettings {
    InjectSettings {
        image: "registry.example.com/holdfast:0.1".to_owned(),
        pull_policy: crate::inject::PullPolicy::IfNotPresent,
        memory: "256Mi".parse().unwrap(),
    }
}

fn made(shape: &Shape) -> Value {
    let layout = Layout::default();
    job(
        &restore(json!({})),
        &into(json!({})),
        shape,
        &layout,
        &settings(),
    )
}

fn into(changes: Value) -> IntoClaim {
    let changes = json!({"spec": {"destination": {"persistentVolumeClaim": changes}}});
    let destination = restore(changes).spec.destination;
    destination.persistent_volume_claim.unwrap()
}

#[test]
fn what_is_not_verified_is_left_as_it_is_restored() {
    let shape = Shape::decide(None, Some("postgres:17"), None).unwrap();
    for (changes, runs) in [(json!({}), true), (json!({"verify": false}), false)] {
        let layout = Layout::default();
        let restore = restore(json!({}));
        let job = job(&restore, &into(changes), &shape, &layout, &settings());
        let postgres = containers(&job).pop().unwrap();
        let script = postgres["command"][2].as_str().unwrap();
        assert_eq!(script.contains("archive_mode=off"), runs, "{script}");
        assert_eq!(containers(&job).len(), 4);
    }
}

#[test]
fn other_claims_are_mounted_wherever_the_data_directory_is() {
    let shape = Shape::decide(None, Some("postgres:17"), None).unwrap();
    let beside = |claim: &str, path: &str, sub_path: Option<&str>| Beside {
        claim: claim.into(),
        mount: Mounted {
            sub_path: sub_path.map(str::to_owned),
            ..Mounted::at(path)
        },
        bytes: 1,
    };
    let needed = |setting: &str, value: &str| Outside {
        file: "postgresql.conf".into(),
        setting: setting.into(),
        value: value.into(),
    };
    let layout = Layout {
        beside: vec![
            beside("fast", "/tablespaces/fast", Some("a")),
            beside("wal", "/wal", None),
        ],
        wal: Some("/wal/pg_wal".into()),
        bytes: 1,
        directories: vec!["/tablespaces/fast/data".into(), "/wal/pg_wal".into()],
        outside: vec![
            needed("include", "/etc/a.conf"),
            needed(LIBRARIES, "timescaledb"),
        ],
    };
    let job = job(
        &restore(json!({})),
        &into(json!({})),
        &shape,
        &layout,
        &settings(),
    );
    let volumes = job["spec"]["template"]["spec"]["volumes"].as_array();
    let claim = |name: &str, claim: &str| json!({"name": name, "persistentVolumeClaim": {"claimName": claim}});
    for volume in [claim("beside-0", "fast"), claim("beside-1", "wal")] {
        assert!(volumes.unwrap().contains(&volume), "{volume}");
    }
    for container in containers(&job) {
        let mut mounts = [
            json!({"name": "data", "mountPath": "/restored"}),
            json!({"name": "beside-0", "mountPath": "/tablespaces/fast", "subPath": "a"}),
            json!({"name": "beside-1", "mountPath": "/wal"}),
        ];
        for mount in mounts
            .iter_mut()
            .filter(|_| container["name"] == "holdfast")
        {
            mount["readOnly"] = json!(true);
        }
        let there = container["volumeMounts"].as_array().unwrap();
        assert_eq!(there.iter().filter(|m| mounts.contains(m)).count(), 3);
        let told = |name: &str| {
            let mut variables = container["env"].as_array().unwrap().iter();
            variables.find(|v| v["name"] == name).cloned()
        };
        let wal = told("HOLDFAST_WAL_DIRECTORY").map(|wal| wal["value"].clone());
        let is_bootstrap = container["name"] == "holdfast-bootstrap";
        assert_eq!(wal, is_bootstrap.then(|| json!("/wal/pg_wal")));
        if container["name"] == "holdfast-prepare" {
            assert_eq!(told("BESIDE").unwrap()["value"], "/tablespaces/fast\n/wal");
            let directories = told("DIRECTORIES").unwrap()["value"].clone();
            assert_eq!(directories, "/tablespaces/fast/data\n/wal/pg_wal");
            assert_eq!(told("LIBRARIES").unwrap()["value"], "timescaledb");
            assert_eq!(told("INCLUDED").unwrap()["value"], "/etc/a.conf");
        }
    }
}

fn containers(job: &Value) -> Vec<Value> {
    let pod = &job["spec"]["template"]["spec"];
    let list = |name: &str| pod[name].as_array().unwrap().clone();
    [list("initContainers"), list("containers")].concat()
}

#[test]
fn nothing_of_it_is_lost_on_its_way_to_the_api_server() {
    let shape = Shape::decide(Some(&labelled(json!({}))), None, None).unwrap();
    let job = made(&shape);
    let typed: Job = serde_json::from_value(job.clone()).unwrap();
    assert_eq!(serde_json::to_value(typed).unwrap(), job);
}

#[test]
fn the_sidecar_is_up_before_the_directory_is_restored_and_postgres_recovers() {
    let shape = Shape::decide(None, Some("postgres:17"), None).unwrap();
    let job = made(&shape);
    let names: Vec<Value> = containers(&job).iter().map(|c| c["name"].clone()).collect();
    assert_eq!(
        names,
        [
            "holdfast-prepare",
            "holdfast",
            "holdfast-bootstrap",
            "postgres"
        ]
    );
    let sidecar = &containers(&job)[1];
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert!(sidecar["startupProbe"].is_object());
    assert_eq!(
        sidecar["command"],
        json!([
            "/usr/local/bin/holdfast",
            "sidecar",
            "--install",
            "/holdfast"
        ])
    );
    for ours in &containers(&job)[1..3] {
        let directory = json!({"name": "HOLDFAST_DATA_DIRECTORY", "value": "/restored/pgdata"});
        assert!(
            ours["env"].as_array().unwrap().contains(&directory),
            "{ours}"
        );
    }
    let images: Vec<Value> = containers(&job)
        .iter()
        .map(|c| c["image"].clone())
        .collect();
    let (own, theirs) = ("registry.example.com/holdfast:0.1", "postgres:17");
    assert_eq!(images, [theirs, own, own, theirs]);
    assert_eq!(
        job["spec"]["template"]["spec"]["volumes"],
        json!([
            {"name": "data", "persistentVolumeClaim": {"claimName": "orders-copy"}},
            {"name": "holdfast", "emptyDir": {}}, {"name": "run", "emptyDir": {}},
            {"name": "holdfast-config", "secret": {"secretName": "holdfast-restore-copy", "optional": false}},
        ])
    );
}

#[test]
fn the_webhook_has_nothing_to_do_with_it_and_it_goes_with_its_restore() {
    let shape = Shape::decide(Some(&labelled(json!({}))), None, None).unwrap();
    let job = made(&shape);
    let labels = &job["spec"]["template"]["metadata"]["labels"];
    assert_eq!(*labels, json!({"app.kubernetes.io/managed-by": "holdfast"}));
    let owner = &job["metadata"]["ownerReferences"][0];
    assert_eq!(
        (&owner["kind"], &owner["uid"]),
        (&json!("Restore"), &json!("r"))
    );
}

#[test]
fn it_is_restricted_and_has_no_token() {
    for shape in [
        Shape::decide(Some(&labelled(json!({}))), None, None).unwrap(),
        Shape::decide(None, Some("bitnami/postgresql:17"), None).unwrap(),
    ] {
        let job = made(&shape);
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
        assert_eq!(pod["securityContext"]["runAsUser"], shape.user);
        assert_eq!(pod["securityContext"]["fsGroup"], shape.fs_group);
        assert_eq!(
            pod["securityContext"]["seccompProfile"]["type"],
            "RuntimeDefault"
        );
        for container in containers(&job) {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{container}");
            assert_eq!(
                security["capabilities"],
                json!({"drop": ["ALL"]}),
                "{container}"
            );
        }
    }
}

#[test]
fn it_runs_where_the_archives_pods_do() {
    let shape = Shape::decide(Some(&labelled(json!({}))), None, None).unwrap();
    let pod = made(&shape)["spec"]["template"]["spec"].clone();
    for (field, expected) in [
        ("nodeSelector", json!({"disk": "fast"})),
        ("tolerations", json!([{"key": "db", "operator": "Exists"}])),
        ("priorityClassName", json!("high")),
        ("imagePullSecrets", json!([{"name": "registry"}])),
    ] {
        assert_eq!(pod[field], expected);
    }
    // The database itself must not keep it off its node.
    let affinity = pod["affinity"].as_object().unwrap();
    assert_eq!(affinity.keys().collect::<Vec<_>>(), ["nodeAffinity"]);
    assert_eq!(
        pod["containers"][0]["resources"],
        json!({"requests": {"memory": "2Gi"}})
    );
}

#[test]
fn only_an_empty_claim_is_taken_and_one_that_was_begun_goes_on() {
    let prepare = |claim: &std::path::Path, restore: &str| {
        let ended = std::process::Command::new("sh")
            .args(["-c", PREPARE])
            .env("CLAIM", claim)
            .env("PGDATA", claim.join("18/docker"))
            .env("RESTORE", restore)
            .output()
            .unwrap();
        let said = String::from_utf8(ended.stdout).unwrap();
        (ended.status.code().unwrap(), said)
    };
    let folder = tempfile::tempdir().unwrap();
    let claim = folder.path();
    std::fs::create_dir(claim.join("lost+found")).unwrap();
    // Of one that was killed as it wrote it.
    std::fs::write(claim.join(".holdfast-restore"), "").unwrap();
    assert_eq!(prepare(claim, "r").0, 0);
    assert!(claim.join("18").is_dir() && !claim.join("18/docker").exists());
    std::fs::create_dir(claim.join("18/docker")).unwrap();
    assert_eq!(prepare(claim, "r").0, 0);
    let (code, said) = prepare(claim, "other");
    assert_eq!(code, REFUSED);
    assert!(said.contains("it holds 18"), "{said}");
    for odd in [".hidden", "..odd", "file"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(odd), "").unwrap();
        let (code, said) = prepare(folder.path(), "r");
        assert_eq!(code, REFUSED);
        assert!(said.contains(odd), "{said}");
        assert!(!folder.path().join(".holdfast-restore").exists());
    }

    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["data", "wal", "fast disk"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    let prepare = || {
        let lines = |names: [&str; 2]| names.map(|n| at(n).display().to_string()).join("\n");
        let ended = std::process::Command::new("sh")
            .args(["-c", PREPARE])
            .env("CLAIM", at("data"))
            .env("BESIDE", lines(["wal", "fast disk"]))
            .env("PGDATA", at("data/pgdata"))
            .env("DIRECTORIES", lines(["wal/pg_wal", "fast disk/a/b"]))
            .env("RESTORE", "r")
            .output()
            .unwrap();
        let said = String::from_utf8(ended.stdout).unwrap();
        (ended.status.code().unwrap(), said)
    };
    std::fs::write(at("fast disk/theirs"), "").unwrap();
    let (code, said) = prepare();
    assert_eq!(code, REFUSED);
    assert!(said.contains("fast disk is not empty: it holds theirs"));
    assert!(!at("data/.holdfast-restore").exists());
    std::fs::remove_file(at("fast disk/theirs")).unwrap();
    assert_eq!(prepare().0, 0);
    assert!(at("fast disk/a").is_dir() && !at("fast disk/a/b").exists());
    // What it has begun there is its own.
    assert_eq!(prepare().0, 0);
}

#[test]
fn what_the_image_lacks_is_told_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["bin", "lib", "claim"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    for name in ["bin/postgres", "lib/plpgsql.so", "lib/there.so", "conf"] {
        std::fs::write(at(name), "").unwrap();
    }
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(at("bin/postgres"), executable).unwrap();
    let path = format!("{}:{}", at("bin").display(), std::env::var("PATH").unwrap());
    let prepare = |libraries: &str, included: &str| {
        let ended = std::process::Command::new("sh")
            .args(["-c", PREPARE])
            .env("PATH", &path)
            .env("CLAIM", at("claim"))
            .env("PGDATA", at("claim/pgdata"))
            .env("LIBRARIES", libraries)
            .env("INCLUDED", included)
            .env("RESTORE", "r")
            .output()
            .unwrap();
        let said = String::from_utf8(ended.stdout).unwrap();
        (ended.status.code().unwrap(), said)
    };
    let (conf, full) = (at("conf"), at("lib/there"));
    for (libraries, included, words) in [
        ("nosuch", "", "preloads the library nosuch"),
        ("there\n$libdir/nosuch", "", "the library $libdir/nosuch"),
        ("/no/such", "", "the library /no/such"),
        ("", "/no/such.conf", "includes /no/such.conf"),
    ] {
        let (code, said) = prepare(libraries, included);
        assert_eq!(code, REFUSED, "{libraries} {included}: {said}");
        assert!(said.contains(words), "{said}");
        assert!(!at("claim/.holdfast-restore").exists());
    }
    let libraries = format!("there\nthere.so\n$libdir/there\n{}", full.display());
    assert_eq!(prepare(&libraries, &conf.display().to_string()).0, 0);
    // An image that does not tell where its libraries are: Postgres will.
    std::fs::remove_file(at("lib/plpgsql.so")).unwrap();
    assert_eq!(prepare("nosuch", "").0, 0);
}
