//! Shapes that no API server sends: an answer all the same, and never a patch that does not apply.

use super::*;
use proptest::prelude::*;

fn json_value() -> impl Strategy<Value = Value> {
    let words = prop_oneof![
        any::<String>(),
        proptest::sample::select(
            [
                "",
                "/",
                "holdfast",
                "postgres",
                "/holdfast",
                "data",
                "$(A)",
                "-c",
                "-D",
                "sh",
                "postgres:17",
                "archive_command=x",
                "/var/lib/postgresql/data",
                "Always",
                "1",
                "0",
                "999999999999999999999Gi",
            ]
            .map(str::to_owned)
            .to_vec()
        ),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        words.clone().prop_map(Value::from),
    ];
    let names = prop_oneof![
        any::<String>(),
        proptest::sample::select(
            [
                "name",
                "image",
                "mountPath",
                "value",
                "args",
                "env",
                "volumeMounts",
                "limits",
                "cpu"
            ]
            .map(str::to_owned)
            .to_vec()
        ),
    ];
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::vec((names.clone(), inner), 0..4)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// All the places of a pod, to put something else there.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let name = name.replace('~', "~0").replace('/', "~1");
                pointers(value, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                pointers(value, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

/// A pod in which every part that is looked at is there.
fn rich() -> Value {
    let mut pod = usual();
    for (pointer, value) in [
        (
            "/metadata/annotations",
            json!({"holdfast.dev/container": "postgres", "holdfast.dev/memory": "1Gi", "holdfast.dev/configure": "Arguments"}),
        ),
        (
            "/spec/containers/0/args",
            json!(["postgres", "-c", "archive_mode=on"]),
        ),
        (
            "/spec/containers/0/env/-",
            json!({"name": "PGDATA", "value": "/var/lib/postgresql/data/$(SUB)"}),
        ),
        (
            "/spec/containers/0/resources",
            json!({"limits": {"cpu": "1", "memory": "1Gi"}}),
        ),
        (
            "/spec/containers/0/securityContext",
            json!({"runAsUser": 5, "runAsGroup": 6, "seLinuxOptions": {"level": "s0"}}),
        ),
        (
            "/spec/initContainers",
            json!([{"name": "clone", "image": "postgres:17", "volumeMounts": [{"name": "data", "mountPath": "/v"}]}]),
        ),
    ] {
        pod = with(pod, pointer, value);
    }
    let env = pod["spec"]["containers"][0]["env"].as_array_mut().unwrap();
    env.insert(0, json!({"name": "SUB", "value": "pg"}));
    pod
}

fn holds(pod: &Value) {
    if let Outcome::Patch(patch) = inject(pod, &settings()) {
        let after = apply(pod, &patch);
        preserved(pod, &after, "");
        assert_eq!(inject(&after, &settings()), Outcome::Unchanged, "{pod:#}");
    }
}

#[test]
fn the_rich_pod_is_let_in() {
    patched(&rich());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_json_is_answered(value in json_value()) {
        holds(&value);
    }

    #[test]
    fn a_pod_with_anything_anywhere_is_answered(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), json_value()), 1..4),
        before in any::<bool>(),
    ) {
        let mut pod = if before { patched(&rich()).0 } else { rich() };
        for (index, value) in changes {
            let mut places = Vec::new();
            pointers(&pod, "", &mut places);
            let place = places[index.index(places.len())].clone();
            *pod.pointer_mut(&place).unwrap() = value;
        }
        holds(&pod);
    }
}
