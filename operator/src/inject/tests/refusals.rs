//! Pods that are not let in, each with what to write.

use super::*;

#[test]
fn each_refusal_says_what_to_write() {
    let image = |image: &str| with(usual(), "/spec/containers/0/image", json!(image));
    let two = |pod: Value| {
        let renamed = with(pod, "/spec/containers/0/name", json!("one"));
        with(
            renamed,
            "/spec/containers/-",
            json!({"name": "two", "image": "postgres:17"}),
        )
    };
    let port = json!({"name": "exporter", "image": "x", "ports": [{"containerPort": 9644}]});
    for (pod, says) in [
        (
            with(
                usual(),
                "/metadata/labels",
                json!({"holdfast.dev/archive": ""}),
            ),
            "holdfast.dev/archive",
        ),
        (
            with(
                usual(),
                "/metadata/labels",
                json!({"holdfast.dev/archive": "Orders"}),
            ),
            "lower-case",
        ),
        (
            with(
                usual(),
                "/metadata/labels",
                json!({"holdfast.dev/archive": "a".repeat(64)}),
            ),
            "1 to 63",
        ),
        (
            annotated(usual(), "holdfast.dev/inject", "no"),
            "write \"true\" or \"false\"",
        ),
        (
            annotated(usual(), "holdfast.dev/configure", "Magic"),
            "Arguments, AlterSystem or None",
        ),
        (
            annotated(usual(), "holdfast.dev/run-as-user", "0"),
            "above 0",
        ),
        (
            annotated(usual(), "holdfast.dev/container", "db"),
            "\"postgres\"",
        ),
        (
            annotated(usual(), "kubernetes.io/config.mirror", "x"),
            "static pod",
        ),
        (
            with(usual(), "/metadata/labels/cnpg.io~1cluster", json!("x")),
            "CloudNativePG",
        ),
        (two(usual()), "holdfast.dev/container: <its name>"),
        (image("acme/db:3"), "holdfast.dev/data-directory"),
        (image("postgres"), "holdfast.dev/data-directory"),
        (image("postgres:13"), "holdfast.dev/postgres-major"),
        (image("postgres:19"), "holdfast.dev/postgres-major"),
        (
            annotated(
                image("acme/db:3"),
                "holdfast.dev/data-directory",
                "/var/lib/postgresql/data",
            ),
            "holdfast.dev/run-as-user",
        ),
        (with(usual(), "/spec/containers/-", port), "port 9644"),
        (
            with(usual(), "/spec/containers", json!([])),
            "holdfast.dev/container",
        ),
    ] {
        let sentence = refused(&pod);
        assert!(sentence.contains(says), "{sentence}");
        assert!(sentence.len() < 600, "{sentence}");
    }
}

#[test]
fn a_refused_pod_is_let_in_with_the_line_that_was_told() {
    let unknown = with(usual(), "/spec/containers/0/image", json!("acme/db:3"));
    let told = annotated(
        unknown,
        "holdfast.dev/data-directory",
        "/var/lib/postgresql/data",
    );
    let told = annotated(told, "holdfast.dev/run-as-user", "26");
    patched(&told);
    for bad in ["postgres", "postgres:19", "postgres@sha256:00"] {
        let pod = with(usual(), "/spec/containers/0/image", json!(bad));
        let pod = annotated(pod, "holdfast.dev/postgres-major", "17");
        patched(&annotated(pod, "holdfast.dev/run-as-user", "999"));
    }
}

#[test]
fn long_and_odd_text_of_the_pod_is_cut_and_quoted() {
    let name = "x\u{1b}[31m\n".repeat(1000);
    let sentence = refused(&annotated(usual(), "holdfast.dev/container", &name));
    assert!(sentence.len() < 1000, "{}", sentence.len());
    assert!(!sentence.contains(['\n', '\u{1b}']), "{sentence}");
}
