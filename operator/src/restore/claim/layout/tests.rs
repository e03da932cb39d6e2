use super::super::shape::tests::pod;
use super::super::volume::tests::backup as backup_of;
use super::*;
use serde_json::{Value, json};

/// How pods of the Archive mount their volumes.
fn known() -> Shape {
    let mounts = json!([
        {"name": "holdfast", "mountPath": "/holdfast"},
        {"name": "data", "mountPath": "/data"},
        {"name": "fast", "mountPath": "/tablespaces/fast", "subPath": "ts"},
        {"name": "odd", "mountPath": "/tablespaces/odd", "subPathExpr": "$(POD)"},
        {"name": "wal", "mountPath": "/wal"},
    ]);
    let told = |name: &str, value: &str| json!([{"name": name, "value": value}]);
    let pod = pod(json!({"spec": {
        "initContainers": [
            {"name": "holdfast", "image": "h", "env": told("HOLDFAST_DATA_DIRECTORY", "/data/pg")},
            {"name": "holdfast-bootstrap", "image": "h", "env": told("HOLDFAST_WAL_DIRECTORY", "/wal/pg_wal")}],
        "containers": [{"name": "postgres", "image": "postgres:17", "volumeMounts": mounts}]}}));
    Shape::decide(Some(&pod), None, None).unwrap()
}

fn unknown() -> Shape {
    Shape::decide(None, Some("postgres:17"), None).unwrap()
}

/// 100 bytes, 10 of them in each tablespace.
fn backup(tablespaces: &[(u32, &str)]) -> BackupFacts {
    let mut backup = backup_of(100);
    let facts = |(oid, location): &(u32, &str)| TablespaceFacts {
        oid: *oid,
        location: (*location).to_owned(),
        bytes: 10,
    };
    backup.tablespaces = tablespaces.iter().map(facts).collect();
    backup
}

fn into(more: Value) -> IntoClaim {
    let mut into = json!({"name": "copy"});
    json_patch::merge(&mut into, &more);
    serde_json::from_value(into).unwrap()
}

const WAL: u64 = 128 << 20;

#[test]
fn each_volume_is_mounted_where_the_database_will_look_for_it() {
    let fast = |more: Value| {
        let mut entry = json!({"oid": 1, "claim": "fast"});
        json_patch::merge(&mut entry, &more);
        into(json!({"tablespaces": [entry]}))
    };
    for (into, shape, tablespace, mount) in [
        (
            fast(json!({})),
            known(),
            "/tablespaces/fast/data",
            ("/tablespaces/fast", Some("ts")),
        ),
        (
            fast(json!({})),
            known(),
            "/tablespaces/fast",
            ("/tablespaces/fast", Some("ts")),
        ),
        (
            fast(json!({})),
            unknown(),
            "/tablespaces/fast/data",
            ("/tablespaces/fast", None),
        ),
        (fast(json!({})), unknown(), "/fast", ("/fast", None)),
        (
            fast(json!({"mountPath": "/tablespaces"})),
            known(),
            "/tablespaces/odd/data",
            ("/tablespaces", None),
        ),
    ] {
        let made = layout(&into, &shape, &backup(&[(1, tablespace)])).unwrap();
        let [beside] = made.beside.as_slice() else {
            panic!("{made:?}");
        };
        let Mounted { path, sub_path, .. } = &beside.mount;
        assert_eq!((path.as_str(), sub_path.as_deref()), mount);
        assert_eq!(made.directories, [tablespace]);
        assert_eq!(made.needed(&into, "fast"), 10);
        assert_eq!(made.needed(&into, "copy"), 90 + WAL);
    }
    for (wal, shape, directory, mount) in [
        (json!({}), known(), "/wal/pg_wal", "/wal"),
        (
            json!({"directory": "/x/wal/17"}),
            known(),
            "/x/wal/17",
            "/x/wal",
        ),
        (
            json!({"directory": "/x/wal/17", "mountPath": "/x"}),
            unknown(),
            "/x/wal/17",
            "/x",
        ),
    ] {
        let mut entry = json!({"wal": {"claim": "wal"}});
        json_patch::merge(&mut entry["wal"], &wal);
        let into = into(entry);
        let made = layout(&into, &shape, &backup(&[])).unwrap();
        assert_eq!(made.wal.as_deref(), Some(directory));
        assert_eq!(made.beside[0].mount.path, mount);
        assert_eq!(made.needed(&into, "wal"), WAL);
        assert_eq!(made.needed(&into, "copy"), 100);
    }
}

#[test]
fn what_lies_on_the_data_directorys_volume_needs_no_claim() {
    let mut nested = known();
    nested.mounts.push(Mounted::at("/data/nested"));
    let entry = into(json!({"tablespaces": [{"oid": 1, "claim": "a"}]}));
    let made = layout(&entry, &nested, &backup(&[(1, "/data/nested/a")])).unwrap();
    assert_eq!(made.beside[0].mount.path, "/data/nested");
    let made = layout(
        &into(json!({})),
        &known(),
        &backup(&[(1, "/data/spaces/a")]),
    )
    .unwrap();
    assert_eq!(made.beside, []);
    assert_eq!(made.directories, ["/data/spaces/a"]);
    assert_eq!(made.bytes, 100 + WAL);
}

#[test]
fn two_tablespaces_may_share_a_claim() {
    let entry = |oid: u32| json!({"oid": oid, "claim": "spaces"});
    let into = into(json!({"tablespaces": [entry(1), entry(2)]}));
    let backup = backup(&[(1, "/spaces/a"), (2, "/spaces/b")]);
    let made = layout(&into, &unknown(), &backup).unwrap();
    assert_eq!(made.beside.len(), 1);
    assert_eq!(made.needed(&into, "spaces"), 20);
    assert_eq!(claims(&into).len(), 2);
}

#[test]
fn what_does_not_fit_together_is_refused_with_what_to_write() {
    let entry = |oid: u32, claim: &str| json!({"oid": oid, "claim": claim});
    let at =
        |mount: &str| json!({"tablespaces": [{"oid": 1, "claim": "fast", "mountPath": mount}]});
    let (fast, odd) = ("/tablespaces/fast/data", "/tablespaces/odd/data");
    for (wish, shape, tablespaces, words) in [
        (
            json!({}),
            known(),
            &[(1, fast)][..],
            "{oid: 1, claim: NAME}",
        ),
        (
            json!({"tablespaces": [entry(2, "a")]}),
            known(),
            &[(1, fast)],
            "no tablespace 2; it has 1 (at /tablespaces/fast/data)",
        ),
        (
            json!({"tablespaces": [entry(1, "a")]}),
            known(),
            &[(1, "/data/spaces/a")],
            "leave it out",
        ),
        (
            json!({"tablespaces": [entry(1, "a")]}),
            known(),
            &[(1, odd)],
            "with a mountPath",
        ),
        (at("/other"), known(), &[(1, fast)], "does not lie in"),
        (
            json!({"tablespaces": [entry(1, "a"), entry(2, "b")]}),
            unknown(),
            &[(1, "/spaces/a"), (2, "/spaces/b")],
            "both be mounted at /spaces",
        ),
        (
            json!({"tablespaces": [entry(1, "a"), entry(2, "a")]}),
            unknown(),
            &[(1, "/x/a"), (2, "/y/b")],
            "at /x and at /y",
        ),
        (
            at("/holdfast"),
            unknown(),
            &[(1, "/holdfast/a")],
            "hide /holdfast",
        ),
        (at("/usr"), unknown(), &[(1, "/usr/a")], "hide /usr"),
        (
            json!({"tablespaces": [entry(1, "a")]}),
            unknown(),
            &[(1, "/etc/holdfast/a")],
            "hide /etc/holdfast",
        ),
        (
            json!({"tablespaces": [entry(1, "a")]}),
            unknown(),
            &[(1, "/a/../etc")],
            "can't be mounted",
        ),
        (
            json!({"wal": {"claim": "w"}}),
            unknown(),
            &[],
            "wal.directory",
        ),
        (
            json!({"wal": {"claim": "w", "directory": "/wal"}}),
            known(),
            &[],
            "root of the claim w",
        ),
    ] {
        match layout(&into(wish.clone()), &shape, &backup(tablespaces)) {
            Err(State::Refused { message, .. }) => assert!(message.contains(words), "{message}"),
            other => panic!("{wish}: {other:?}"),
        }
    }
}
