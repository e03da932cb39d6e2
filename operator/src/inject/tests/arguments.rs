//! What is appended to the server's command line.

use super::*;

const OURS: usize = 6;

fn with_words(image: &str, command: Value, args: Value) -> Value {
    let pod = with(
        official(image, "/var/lib/postgresql/data"),
        "/spec/containers/0/command",
        command,
    );
    with(pod, "/spec/containers/0/args", args)
}

#[test]
fn the_users_arguments_stay_in_front() {
    for (command, args) in [
        (json!(null), json!(null)),
        (json!([]), json!([])),
        (json!(null), json!(["-c", "shared_buffers=1GB"])),
        (json!(null), json!(["postgres", "-c", "shared_buffers=1GB"])),
        (json!(["docker-entrypoint.sh"]), json!(["postgres"])),
        (json!(["docker-entrypoint.sh", "postgres"]), json!(null)),
        (
            json!(null),
            json!(["-c", "archive_mode=on", "-c", "archive_command="]),
        ),
    ] {
        let (pod, _) = patched(&with_words("postgres:17", command.clone(), args.clone()));
        let after = container(&pod, "postgres")["args"]
            .as_array()
            .unwrap()
            .clone();
        let before = args.as_array().cloned().unwrap_or_default();
        assert_eq!(after[..before.len()], before);
        let says = |text: &str| {
            after
                .iter()
                .any(|word| word.as_str().unwrap().contains(text))
        };
        assert!(says("archive_mode=on"));
        assert!(says("archive_library=/holdfast/lib/holdfast_archive"));
        assert!(says("archive_command="));
        assert!(says(
            "restore_command=/holdfast/bin/holdfast-wal restore %f %p"
        ));
        assert_eq!(container(&pod, "postgres")["command"], command);
    }
}

#[test]
fn what_is_not_heard_is_left_to_sql() {
    for (image, command, args) in [
        (
            "postgres:17",
            json!(["sh", "-c"]),
            json!(["exec docker-entrypoint.sh postgres"]),
        ),
        (
            "postgres:17",
            json!(null),
            json!(["bash", "-c", "postgres"]),
        ),
        ("postgres:17", json!(["/scripts/start"]), json!(null)),
    ] {
        let pod = with_words(image, command, args.clone());
        let (let_in, _) = patched(&pod);
        assert_eq!(container(&let_in, "postgres")["args"], args);
        let told = &variable(&let_in, "holdfast", "HOLDFAST_CONFIGURE").unwrap()["value"];
        assert_eq!(told, "AlterSystem");
    }
    let shell = with_words("postgres:17", json!(["sh", "-c"]), json!(["postgres"]));
    let sentence = refused(&annotated(shell, "holdfast.dev/configure", "Arguments"));
    assert!(sentence.contains("whose command is a shell"), "{sentence}");
    assert!(
        sentence.contains("holdfast.dev/configure: AlterSystem"),
        "{sentence}"
    );
}

#[test]
fn an_unknown_image_gets_arguments_when_its_command_line_says_postgres_or_the_user_does() {
    let acme = |args: Value| {
        let mut pod = with_words("acme/db:3", json!(null), args);
        for (annotation, value) in [
            ("holdfast.dev/data-directory", "/var/lib/postgresql/data"),
            ("holdfast.dev/run-as-user", "26"),
        ] {
            pod = annotated(pod, annotation, value);
        }
        pod
    };
    let count = |pod: &Value| {
        let (pod, _) = patched(pod);
        container(&pod, "postgres")["args"]
            .as_array()
            .map_or(0, Vec::len)
    };
    assert_eq!(count(&acme(json!(null))), 0);
    assert_eq!(count(&acme(json!(["postgres"]))), 1 + OURS);
    let asked = annotated(acme(json!(null)), "holdfast.dev/configure", "Arguments");
    assert_eq!(count(&asked), OURS);
    // The module from 15 on, once somebody says that it is no 14.
    let told = annotated(asked, "holdfast.dev/postgres-major", "15");
    assert_eq!(count(&told), 2 + OURS);
}

#[test]
fn another_archive_command_is_not_replaced_in_silence() {
    let pod = with_words(
        "postgres:17",
        json!(null),
        json!(["-c", "archive_command=pgbackrest archive-push %p"]),
    );
    let sentence = refused(&pod);
    assert!(sentence.contains("pgbackrest archive-push"), "{sentence}");
    let (let_in, _) = patched(&annotated(pod, "holdfast.dev/configure", "None"));
    let args = container(&let_in, "postgres")["args"].as_array().unwrap();
    assert_eq!(args.len(), 2);
}
