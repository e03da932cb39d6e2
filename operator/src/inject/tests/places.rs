//! Which of Postgres' mounts the sidecar sees, and where it looks for the data directory.

use super::*;

const DATA: &str = "/var/lib/postgresql/data";

fn mounts(list: Value) -> Value {
    with(usual(), "/spec/containers/0/volumeMounts", list)
}

fn volume(pod: Value, name: &str, source: Value) -> Value {
    let mut volume = json!({"name": name});
    let more = source.as_object().unwrap().clone();
    volume.as_object_mut().unwrap().extend(more);
    with(pod, "/spec/volumes/-", volume)
}

fn claim(pod: Value, name: &str) -> Value {
    volume(
        pod,
        name,
        json!({"persistentVolumeClaim": {"claimName": name}}),
    )
}

fn env(pod: Value, name: &str, value: &str) -> Value {
    with(
        pod,
        "/spec/containers/0/env/-",
        json!({"name": name, "value": value}),
    )
}

#[test]
fn sub_paths_and_sub_folders_are_kept() {
    let pod = env(
        mounts(json!([{"name": "data", "mountPath": DATA, "subPath": "pg"}])),
        "PGDATA",
        "/var/lib/postgresql/data/pgdata",
    );
    let (pod, _) = patched(&pod);
    assert_eq!(data_mounts(&pod, "holdfast"), [format!("{DATA}=pg")]);
    assert_eq!(
        data_mounts(&pod, "holdfast-bootstrap"),
        [format!("{DATA}=pg!")]
    );
    let told = variable(&pod, "holdfast", "HOLDFAST_DATA_DIRECTORY").unwrap();
    assert_eq!(told["value"], "/var/lib/postgresql/data/pgdata");
}

#[test]
fn an_expression_brings_the_variables_that_it_needs() {
    let mut pod =
        mounts(json!([{"name": "data", "mountPath": DATA, "subPathExpr": "$(DIRECTORY)"}]));
    let name =
        json!({"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}});
    pod = with(pod, "/spec/containers/0/env/-", name.clone());
    pod = env(pod, "DIRECTORY", "pg/$(POD_NAME)");
    let (patched, _) = patched(&pod);
    for container_name in ["holdfast", "holdfast-bootstrap"] {
        let env = container(&patched, container_name)["env"]
            .as_array()
            .unwrap();
        assert_eq!(env[0], name);
        assert_eq!(env[1]["value"], "pg/$(POD_NAME)");
        assert_eq!(env[2]["name"], "HOLDFAST_CONFIG");
        // The password's variable was not needed.
        assert_eq!(
            variable(&patched, container_name, "POSTGRES_PASSWORD"),
            None
        );
    }
    for expression in ["$(POSTGRES_PASSWORD)", "$(MISSING)"] {
        let bad = mounts(json!([{"name": "data", "mountPath": DATA, "subPathExpr": expression}]));
        let sentence = refused(&bad);
        assert!(sentence.contains("subPathExpr"), "{sentence}");
        assert!(
            sentence.contains(&expression[2..expression.len() - 1]),
            "{sentence}"
        );
    }
}

#[test]
fn wal_and_tablespaces_on_volumes_of_their_own_are_seen() {
    let mut pod = mounts(json!([
        {"name": "data", "mountPath": DATA},
        {"name": "wal", "mountPath": "/wal"},
        {"name": "fast", "mountPath": "/tablespaces/fast", "subPath": "a"},
        {"name": "slow", "mountPath": "/tablespaces/slow"},
        {"name": "node", "mountPath": "/tablespaces/node"},
        {"name": "shared", "mountPath": "/tablespaces/shared"},
        {"name": "seed", "mountPath": "/seed", "readOnly": true},
        {"name": "init", "mountPath": "/docker-entrypoint-initdb.d"},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "run", "mountPath": "/var/run/postgresql"},
        {"name": "socket", "mountPath": "/agent.sock"},
        {"name": "password", "mountPath": "/secret"},
        {"name": "vault", "mountPath": "/vault"},
    ]));
    for name in ["wal", "fast", "seed"] {
        pod = claim(pod, name);
    }
    for (name, source) in [
        ("slow", json!({"ephemeral": {"volumeClaimTemplate": {}}})),
        (
            "node",
            json!({"hostPath": {"path": "/mnt/disk", "type": "Directory"}}),
        ),
        ("shared", json!({"nfs": {"server": "s", "path": "/p"}})),
        ("run", json!({"emptyDir": {}})),
        (
            "socket",
            json!({"hostPath": {"path": "/run/agent.sock", "type": "Socket"}}),
        ),
        ("password", json!({"secret": {"secretName": "s"}})),
        (
            "vault",
            json!({"csi": {"driver": "secrets-store.csi.k8s.io", "readOnly": true}}),
        ),
    ] {
        pod = volume(pod, name, source);
    }
    let pod = env(pod, "POSTGRES_INITDB_WALDIR", "/wal/pg_wal");
    let (patched, warnings) = patched(&pod);
    assert_eq!(warnings, Vec::<String>::new());
    let expected = [
        DATA,
        "/wal",
        "/tablespaces/fast=a",
        "/tablespaces/slow",
        "/tablespaces/node",
        "/tablespaces/shared",
    ];
    assert_eq!(data_mounts(&patched, "holdfast"), expected);
    assert_eq!(
        data_mounts(&patched, "holdfast-bootstrap"),
        expected.map(|path| format!("{path}!"))
    );
    let told = |pod, container| variable(pod, container, "HOLDFAST_WAL_DIRECTORY").cloned();
    let wal = told(&patched, "holdfast-bootstrap").unwrap();
    assert_eq!(wal["value"], "/wal/pg_wal");
    assert_eq!(told(&patched, "holdfast"), None);
}

#[test]
fn data_may_lie_on_an_empty_directory_or_a_csi_volume_where_the_pod_says_so() {
    for source in [
        json!({"emptyDir": {}}),
        json!({"csi": {"driver": "local.csi"}}),
        json!({"tomorrow": {}}),
    ] {
        let pod = volume(
            mounts(json!([{"name": "here", "mountPath": DATA}])),
            "here",
            source.clone(),
        );
        assert_eq!(
            data_mounts(&patched(&pod).0, "holdfast"),
            [DATA],
            "{source}"
        );
    }
    let pod =
        mounts(json!([{"name": "data", "mountPath": DATA}, {"name": "wal", "mountPath": "/wal"}]));
    let pod = env(
        volume(pod, "wal", json!({"emptyDir": {}})),
        "POSTGRES_INITDB_ARGS",
        "-k --waldir=/wal/x",
    );
    assert_eq!(data_mounts(&patched(&pod).0, "holdfast"), [DATA, "/wal"]);
}

#[test]
fn what_lies_in_the_data_directory_is_seen_but_for_configuration() {
    let pod = mounts(json!([
        {"name": "data", "mountPath": DATA},
        {"name": "wal", "mountPath": "/var/lib/postgresql/data/pg_wal"},
        {"name": "stats", "mountPath": "/var/lib/postgresql/data/pg_stat_tmp"},
        {"name": "init", "mountPath": "/var/lib/postgresql/data/postgresql.conf", "subPath": "postgresql.conf"},
    ]));
    let pod = volume(
        claim(pod, "wal"),
        "stats",
        json!({"emptyDir": {"medium": "Memory"}}),
    );
    let (patched, _) = patched(&pod);
    let wal = format!("{DATA}/pg_wal");
    let stats = format!("{DATA}/pg_stat_tmp");
    assert_eq!(data_mounts(&patched, "holdfast"), [DATA, &wal, &stats]);
}

#[test]
fn mount_points_of_nested_mounts_are_made_where_the_outer_one_can_be_written() {
    let pod = claim(
        mounts(json!([
            {"name": "data", "mountPath": DATA},
            {"name": "wal", "mountPath": "/var/lib/postgresql/data/wal"},
        ])),
        "wal",
    );
    let pod = with(
        pod,
        "/spec/initContainers",
        json!([{"name": "chown", "image": "busybox"}]),
    );
    let (let_in, _) = patched(&pod);
    assert_eq!(
        init_names(&let_in),
        [
            "chown",
            "holdfast-mount-points",
            "holdfast",
            "holdfast-bootstrap"
        ]
    );
    let first = container(&let_in, "holdfast-mount-points");
    assert_eq!(
        data_mounts(&let_in, "holdfast-mount-points"),
        [format!("{DATA}!"), format!("{DATA}/wal!")]
    );
    assert_eq!(
        first["command"],
        json!(["/usr/local/bin/holdfast", "--version"])
    );
    assert_eq!(first["restartPolicy"], Value::Null);
    assert_eq!(first["volumeMounts"].as_array().unwrap().len(), 3);
    // And it comes back alone.
    let mut without = let_in.clone();
    without["spec"]["initContainers"]
        .as_array_mut()
        .unwrap()
        .remove(1);
    assert_eq!(patched(&without).0, let_in);
}

#[test]
fn data_that_no_volume_holds_is_refused() {
    for (pod, says) in [
        (mounts(json!([])), "lies on no volume"),
        (
            mounts(json!([{"name": "data", "mountPath": "/data"}])),
            "lies on no volume",
        ),
        (
            mounts(json!([{"name": "init", "mountPath": DATA}])),
            "lies on no volume",
        ),
        (
            mounts(json!([{"name": "missing", "mountPath": DATA}])),
            "lies on no volume",
        ),
        (
            env(usual(), "POSTGRES_INITDB_WALDIR", "/wal"),
            "the WAL directory /wal",
        ),
        // A new image with the mount of an old one.
        (
            official("postgres:18", DATA),
            "/var/lib/postgresql/18/docker",
        ),
    ] {
        let sentence = refused(&pod);
        assert!(sentence.contains(says), "{sentence}");
        assert!(sentence.contains("mount a volume there"), "{sentence}");
    }
}

#[test]
fn a_volume_that_the_images_own_one_hides_is_refused() {
    let pod = official("postgres:17", "/var/lib/postgresql");
    let sentence = refused(&pod);
    assert!(
        sentence.contains("mount yours at /var/lib/postgresql/data"),
        "{sentence}"
    );
    let below = env(pod.clone(), "PGDATA", "/var/lib/postgresql/data/pgdata");
    assert!(refused(&below).contains("lost with the pod"));
    let beside = env(pod.clone(), "PGDATA", "/var/lib/postgresql/pgdata");
    assert_eq!(
        data_mounts(&patched(&beside).0, "holdfast"),
        ["/var/lib/postgresql"]
    );
    // Not every runtime does so: who says it is so is believed, and told.
    let said = annotated(pod, "holdfast.dev/data-directory", DATA);
    let (let_in, warnings) = patched(&said);
    assert_eq!(data_mounts(&let_in, "holdfast"), ["/var/lib/postgresql"]);
    assert_eq!(warnings.len(), 1);
}

#[test]
fn a_mount_that_would_hide_the_sidecars_program_is_not_taken() {
    for (path, directory) in [
        ("/", "/data"),
        ("/usr", "/usr/data"),
        ("/usr/local/bin", "/usr/local/bin/data"),
        ("/etc", "/etc/data"),
        ("/etc/holdfast/x", "/etc/holdfast/x/data"),
        ("/lib", "/lib/data"),
        ("/var", "/var/data"),
    ] {
        let pod = env(
            mounts(json!([{"name": "data", "mountPath": path}])),
            "PGDATA",
            directory,
        );
        let sentence = refused(&pod);
        assert!(sentence.contains("would hide"), "{sentence}");
    }
    let pod = claim(
        mounts(json!([
            {"name": "data", "mountPath": DATA},
            {"name": "other", "mountPath": "/usr"},
        ])),
        "other",
    );
    let (let_in, warnings) = patched(&pod);
    assert_eq!(data_mounts(&let_in, "holdfast"), [DATA]);
    assert!(warnings[0].contains("/usr"), "{warnings:?}");
    for path in ["/holdfast", "/holdfast/", "/holdfast/bin", "holdfast"] {
        let pod = claim(
            mounts(json!([
                {"name": "data", "mountPath": DATA},
                {"name": "other", "mountPath": path},
            ])),
            "other",
        );
        assert!(
            refused(&pod).contains("where Holdfast has its own"),
            "{path}"
        );
    }
}
