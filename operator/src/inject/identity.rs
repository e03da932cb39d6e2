//! Who the sidecar runs as: as the server does, since only its user may read the data directory.

use super::image::Known;
use super::pod::{Container, Pod};
use super::refusal::{Quoted, Refusal};

/// User and group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// Never 0: Postgres refuses to run as root, and so do we.
    pub(super) user: i64,
    /// None: the pod's, or the runtime's choice.
    pub(super) group: Option<i64>,
}

/// Decides: the annotation; else runAsUser of the container, else of the pod; else a known image's. A runAsUser of 0
/// tells nothing: an entrypoint that starts as root hands Postgres to another user.
pub(super) fn decide(
    annotated: Option<i64>,
    container: &Container,
    pod: &Pod,
    known: Option<&Known>,
) -> Result<Identity, Refusal> {
    let own = &container.security_context;
    let all = &pod.spec.security_context;
    let known = known.and_then(|known| known.user);
    let asked = own.run_as_user.or(all.run_as_user);
    let user = annotated
        .or(asked)
        .filter(|user| *user > 0)
        .or(known.map(|(user, _)| user))
        .ok_or_else(|| Refusal::NoUser {
            container: Quoted::new(&container.name),
        })?;
    let of_image = known.filter(|(id, _)| *id == user && all.run_as_group.is_none());
    let group = own.run_as_group.or(of_image.and_then(|(_, group)| group));
    Ok(Identity { user, group })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_sidecar_runs_as_postgres_does() {
        for (annotated, container, pod, image, expected) in [
            (
                Some(26),
                json!({"runAsUser": 5}),
                json!({}),
                "postgres:17",
                Some((26, None)),
            ),
            (
                None,
                json!({"runAsUser": 5}),
                json!({"runAsUser": 6}),
                "postgres:17",
                Some((5, None)),
            ),
            (
                None,
                json!({}),
                json!({"runAsUser": 6}),
                "postgres:17",
                Some((6, None)),
            ),
            (
                None,
                json!({}),
                json!({}),
                "postgres:17",
                Some((999, Some(999))),
            ),
            (
                None,
                json!({}),
                json!({}),
                "postgres:17-alpine",
                Some((70, Some(70))),
            ),
            (
                None,
                json!({}),
                json!({}),
                "bitnami/postgresql:17",
                Some((1001, None)),
            ),
            (
                None,
                json!({"runAsUser": 0}),
                json!({"runAsUser": 6}),
                "postgres:17",
                Some((999, Some(999))),
            ),
            (
                None,
                json!({"runAsUser": 0}),
                json!({"runAsUser": 6}),
                "acme/db",
                None,
            ),
            (None, json!(null), json!(null), "acme/db", None),
            (
                None,
                json!({"runAsUser": 999}),
                json!({}),
                "postgres:17",
                Some((999, Some(999))),
            ),
            (
                None,
                json!({"runAsUser": 999, "runAsGroup": 7}),
                json!({}),
                "postgres:17",
                Some((999, Some(7))),
            ),
            (
                None,
                json!({}),
                json!({"runAsGroup": 7}),
                "postgres:17",
                Some((999, None)),
            ),
            (None, json!({}), json!({}), "postgres@sha256:00", None),
        ] {
            let raw = json!({"spec": {
                "securityContext": pod,
                "containers": [{"name": "db", "image": image, "securityContext": container}],
            }});
            let pod = Pod::read(&raw).unwrap();
            let known = Known::of(image);
            let identity = decide(annotated, &pod.spec.containers[0], &pod, known.as_ref());
            match (identity, expected) {
                (Ok(identity), Some(expected)) => {
                    assert_eq!((identity.user, identity.group), expected, "{raw}");
                }
                (Err(refusal), None) => {
                    assert!(refusal.to_string().contains("holdfast.dev/run-as-user"));
                }
                (other, expected) => panic!("{other:?} {expected:?} {raw}"),
            }
        }
    }
}
