//! The pods of an archive, as far as anybody here needs them, with what their sidecars said last.

use super::reports::Said;
use crate::inject::describe;
use crate::inject::names::CONTAINER_ANNOTATION;
use crate::names::{ARCHIVE_LABEL, INJECT_ANNOTATION, Key, SIDECAR_CONTAINER};
use crate::sidecar_client::Sidecar;
use holdfast_postgres::SystemIdentifier;
use holdfast_protocol::control::{InstanceReport, Role};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use std::net::IpAddr;

/// A labelled pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// Whose label it carries.
    pub archive: Key,
    /// Its name.
    pub name: String,
    /// Its UID: another pod of the same name has another.
    pub uid: String,
    /// Where it can be reached; none before it is scheduled.
    pub address: Option<IpAddr>,
    /// The image of the container that runs Postgres.
    pub image: Option<String>,
    /// Whether it has a sidecar.
    pub injected: bool,
    /// Whether its sidecar listens.
    pub listens: bool,
    /// It says itself that it is no Postgres.
    pub opted_out: bool,
    /// Its containers have ended for good.
    pub finished: bool,
    /// It is on its way out.
    pub leaving: bool,
    /// What made it and would make it again: kind and name.
    pub controller: Option<(String, String)>,
    /// What its sidecar said last.
    pub said: Said,
}

impl Member {
    /// Of a pod; none for one without label or name.
    pub fn of(pod: &Pod, said: impl Fn(&str) -> Said) -> Option<Self> {
        let archive = pod.labels().get(ARCHIVE_LABEL)?;
        let uid = pod.uid()?;
        let status = pod.status.as_ref();
        let injected = describe(pod);
        let statuses = status
            .and_then(|status| status.init_container_statuses.as_deref())
            .unwrap_or_default();
        let phase = status.and_then(|status| status.phase.as_deref());
        let controller = pod
            .owner_references()
            .iter()
            .find(|owner| owner.controller == Some(true));
        Some(Self {
            archive: Key::new(pod.namespace()?, archive.clone()),
            name: pod.name_any(),
            address: status
                .and_then(|status| status.pod_ip.as_deref())
                .and_then(|address| address.parse().ok()),
            image: match &injected {
                Some(injected) => injected.postgres_image.clone(),
                None => pod
                    .spec
                    .as_ref()
                    .and_then(|spec| image(pod, &spec.containers)),
            },
            listens: injected.is_some()
                && statuses
                    .iter()
                    .any(|s| s.name == SIDECAR_CONTAINER && s.started == Some(true)),
            injected: injected.is_some(),
            opted_out: pod.annotations().get(INJECT_ANNOTATION).map(String::as_str)
                == Some("false"),
            finished: matches!(phase, Some("Succeeded" | "Failed")),
            leaving: pod.metadata.deletion_timestamp.is_some(),
            controller: controller.map(|owner| (owner.kind.clone(), owner.name.clone())),
            said: said(&uid),
            uid,
        })
    }

    /// Whether it counts as one of the archive's servers.
    pub fn counts(&self) -> bool {
        !self.opted_out && !self.finished
    }

    /// Where orders for it go; none while its sidecar does not listen.
    pub fn sidecar(&self) -> Option<Sidecar> {
        (self.listens && !self.finished).then_some(())?;
        Some(Sidecar {
            archive: self.archive.clone(),
            address: self.address?,
            pod_uid: self.uid.clone(),
        })
    }

    /// What its sidecar said last, if that was just now.
    pub fn report(&self) -> Option<&InstanceReport> {
        match &self.said {
            Said::Report(report) => Some(report),
            Said::Nothing | Said::Silent(_) => None,
        }
    }

    /// What its server is.
    pub fn role(&self) -> Option<Role> {
        self.report()?.postgres.role
    }

    /// How many WAL files wait in a primary whose sidecar has tried none yet: whether they can be stored is not known.
    pub fn untried(&self) -> Option<u64> {
        let wal = &self.report()?.wal;
        let tried = wal.last_archived.is_some() || wal.last_failure.is_some();
        let of_a_primary = self.role() == Some(Role::Primary);
        wal.ready_count
            .filter(|count| of_a_primary && !tried && *count > 0)
    }

    /// Whose data it has.
    pub fn system(&self) -> Option<SystemIdentifier> {
        self.report()?
            .postgres
            .system_identifier
            .as_deref()?
            .parse()
            .ok()
    }
}

/// Of a pod without our sidecar: the annotated container's, else that of the one that is called so, else the first's.
fn image(pod: &Pod, containers: &[Container]) -> Option<String> {
    let named = |name: &str| containers.iter().find(|c| c.name == name);
    pod.annotations()
        .get(CONTAINER_ANNOTATION)
        .and_then(|name| named(name))
        .or_else(|| named("postgres"))
        .or_else(|| named("postgresql"))
        .or(containers.first())?
        .image
        .clone()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::sync::Arc;

    pub fn pod(changes: Value) -> Pod {
        let mut pod = json!({
            "metadata": {"namespace": "shop", "name": "orders-0", "uid": "u0", "labels": {"holdfast.dev/archive": "orders"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "orders", "uid": "s", "controller": true}]},
            "spec": {"containers": [{"name": "exporter", "image": "exporter:1"},
                {"name": "postgres", "image": "postgres:17", "volumeMounts": [{"name": "holdfast", "mountPath": "/holdfast"}]}], "initContainers": [{"name": "holdfast"}]},
            "status": {"phase": "Running", "podIP": "10.0.0.1", "initContainerStatuses": [
                {"name": "holdfast", "started": true, "image": "i", "imageID": "i", "ready": true, "restartCount": 0}]},
        });
        json_patch::merge(&mut pod, &changes);
        serde_json::from_value(pod).unwrap()
    }

    pub fn member(changes: Value) -> Member {
        Member::of(&pod(changes), |_| Said::Nothing).unwrap()
    }

    /// A member named `orders-<n>` whose sidecar says this.
    pub fn reporting(n: u32, report: Value) -> Member {
        let report: InstanceReport = serde_json::from_value(report).unwrap();
        Member {
            said: Said::Report(Arc::new(report)),
            ..member(json!({"metadata": {"name": format!("orders-{n}"), "uid": format!("u{n}")}}))
        }
    }

    #[test]
    fn a_pod_is_what_it_says() {
        let running = member(json!({}));
        assert_eq!(running.archive, Key::new("shop", "orders"));
        assert_eq!(running.image.as_deref(), Some("postgres:17"));
        assert!(running.counts() && running.sidecar().is_some());
        assert_eq!(
            running.controller,
            Some(("StatefulSet".into(), "orders".into()))
        );
        for (changes, counts, reachable) in [
            (
                json!({"metadata": {"annotations": {"holdfast.dev/inject": "false"}}}),
                false,
                true,
            ),
            (json!({"status": {"phase": "Failed"}}), false, false),
            (json!({"status": {"podIP": null}}), true, false),
            (json!({"status": {"podIP": "nonsense"}}), true, false),
            (
                json!({"status": {"initContainerStatuses": null}}),
                true,
                false,
            ),
            (json!({"spec": {"initContainers": null}}), true, false),
            (json!({"spec": null, "status": null}), true, false),
        ] {
            let member = member(changes.clone());
            assert_eq!(
                (member.counts(), member.sidecar().is_some()),
                (counts, reachable),
                "{changes}"
            );
        }
        assert_eq!(
            Member::of(&pod(json!({"metadata": {"labels": null}})), |_| {
                Said::Nothing
            }),
            None
        );
    }
}
