//! The order that the pods of a restore in place find in their settings, and what it says of a Restore from outside.

use super::phase::{Phase, was_started};
use crate::archive::target;
use crate::context::Context;
use crate::names::Key;
use holdfast_crds::{RecoveryTarget, Restore, RestoreSource, RestoreSpec};
use holdfast_protocol::settings::RestoreOrder;
use holdfast_protocol::status::RestoreStatus;
use kube::ResourceExt;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The Archive whose database a Restore is about; none where its source is no Archive of its namespace.
pub fn archive_of(restore: &Restore) -> Option<Key> {
    let key = Key::of(restore)?;
    let RestoreSource {
        archive_ref,
        repository_ref: _,
        namespace,
        archive,
    } = &restore.spec.source;
    match (archive_ref, namespace, archive) {
        (Some(own), ..) => Some(key.beside(own.name.clone())),
        (None, Some(namespace), Some(archive)) if *namespace == key.namespace => {
            Some(key.beside(archive.clone()))
        }
        _ => None,
    }
}

/// The name of an order: the same for the same Restore, also where its object was deleted and made again, so that it is
/// carried out once.
pub fn order_id(key: &Key, spec: &RestoreSpec) -> String {
    let mut spec = serde_json::json!(spec);
    if let Some(fields) = spec.as_object_mut() {
        fields.remove("suspend");
    }
    let Key { namespace, name } = key;
    let digest = Sha256::digest(format!("{namespace}\n{name}\n{spec}"));
    hex::encode(digest.get(..16).unwrap_or_default())
}

/// What the pods are to do; none while nothing is ordered, when it has ended, and when it is taken back.
pub fn order_of(
    spec: &RestoreSpec,
    status: &RestoreStatus,
    is_deleted: bool,
) -> Option<RestoreOrder> {
    if Phase::of(Some(status)) != Phase::Ordered || (is_deleted && !was_started(status)) {
        return None;
    }
    let plan = status.plan.as_ref()?;
    let (restored, others) = status.pods.split_first()?;
    Some(RestoreOrder {
        id: status.order_id.clone()?,
        pod: restored.name.clone(),
        wiped: others.iter().map(|pod| pod.name.clone()).collect(),
        system_identifier: status.system_identifier.clone()?,
        repository: plan.repository.clone(),
        target: target(&RecoveryTarget {
            backup: Some(plan.backup.clone()),
            ..spec.target.clone()
        }),
        action: spec.action.name().to_owned(),
        force: spec.force,
    })
}

/// The Restores of an Archive that have a status, with what it is now.
fn of_archive(context: &Context, archive: &Key) -> Vec<(Arc<Restore>, RestoreStatus)> {
    let restores = &context.watched.restores;
    let restores = restores.filter(&archive.namespace, |restore| {
        archive_of(restore).as_ref() == Some(archive)
    });
    let known = &context.restore_status;
    restores
        .into_iter()
        .filter_map(|restore| {
            let status = known.known(restore.as_ref(), restore.status.as_ref())?;
            Some((restore, status))
        })
        .collect()
}

/// What stands in the settings of an Archive's pods. Of two Restores, one that replaces another that is being deleted.
pub fn ordered(context: &Context, archive: &Key) -> Option<RestoreOrder> {
    let restores = of_archive(context, archive);
    let orders = restores.iter().filter_map(|(restore, status)| {
        let is_deleted = restore.metadata.deletion_timestamp.is_some();
        let order = order_of(&restore.spec, status, is_deleted)?;
        Some((is_deleted, restore.name_any(), order))
    });
    orders
        .min_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)))
        .map(|(.., order)| order)
}

/// The backups that Restores of an Archive have planned with, and which Restores. They must not expire meanwhile.
pub fn needed(context: &Context, archive: &Key) -> BTreeMap<String, String> {
    of_archive(context, archive)
        .into_iter()
        .filter(|(_, status)| !Phase::of(Some(status)).has_ended())
        .filter_map(|(restore, status)| {
            let what = format!("the Restore {}", restore.name_any());
            Some((status.plan?.backup, what))
        })
        .collect()
}

/// The Restore of an Archive that is carried out, and whose database has not recovered.
pub fn under_way(context: &Context, archive: &Key) -> Option<String> {
    of_archive(context, archive)
        .iter()
        .find(|(_, status)| {
            Phase::of(Some(status)) == Phase::Ordered && status.recovered_to.is_none()
        })
        .map(|(restore, _)| restore.name_any())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub fn restore(changes: Value) -> Restore {
        let mut restore = json!({
            "apiVersion": "holdfast.dev/v1alpha1", "kind": "Restore",
            "metadata": {"namespace": "shop", "name": "back", "uid": "r", "generation": 1},
            "spec": {"source": {"archiveRef": {"name": "orders"}}, "target": {"lsn": "0/5000000"},
                "destination": {"statefulSet": {"name": "orders-db"}}},
        });
        json_patch::merge(&mut restore, &changes);
        serde_json::from_value(restore).unwrap()
    }

    pub fn planned(changes: Value) -> RestoreStatus {
        let mut status = json!({
            "orderId": "o1", "systemIdentifier": "7", "backup": "b1",
            "pods": [{"name": "orders-db-0", "uid": "old0"}],
            "plan": {"repository": "s3", "backup": "b1", "timeline": 1, "target": "w", "action": "Promote",
                "startLsn": "0/2000028", "endLsn": "0/5000000", "files": 1, "bytes": 2, "walSegments": 3},
        });
        json_patch::merge(&mut status, &changes);
        serde_json::from_value(status).unwrap()
    }

    pub fn condition(kind: &str, status: &str) -> Value {
        json!({"type": kind, "status": status, "reason": "X", "message": "",
            "lastTransitionTime": "2026-11-20T10:00:00Z"})
    }

    #[test]
    fn a_restore_is_about_an_archive_of_its_namespace() {
        for (source, expected) in [
            (json!({}), Some("orders")),
            (
                json!({"archiveRef": null, "repositoryRef": {"name": "s3"}, "namespace": "shop", "archive": "old"}),
                Some("old"),
            ),
            (
                json!({"archiveRef": null, "repositoryRef": {"name": "s3"}, "namespace": "other", "archive": "old"}),
                None,
            ),
        ] {
            let restore = restore(json!({"spec": {"source": source}}));
            let archive = archive_of(&restore);
            assert_eq!(archive, expected.map(|name| Key::new("shop", name)));
        }
    }

    #[test]
    fn an_order_is_the_same_while_only_suspend_changes() {
        let id = |name: &str, changes: Value| {
            order_id(
                &Key::new("shop", name),
                &restore(json!({ "spec": changes })).spec,
            )
        };
        let one = id("back", json!({}));
        assert_eq!(one.len(), 32);
        assert_eq!(id("back", json!({"suspend": true})), one);
        assert_ne!(id("again", json!({})), one);
        assert_ne!(id("back", json!({"target": {"lsn": "0/6000000"}})), one);
    }

    #[test]
    fn an_order_stands_from_when_it_was_written_down_until_it_has_ended() {
        let spec = restore(json!({"spec": {"force": true}})).spec;
        let order = order_of(&spec, &planned(json!({})), false).unwrap();
        assert_eq!(
            serde_json::to_value(order).unwrap(),
            json!({"id": "o1", "pod": "orders-db-0", "wiped": [], "systemIdentifier": "7", "repository": "s3",
                "target": {"lsn": "0/5000000", "backup": "b1"}, "action": "Promote", "force": true})
        );
        let two = json!({"pods": [{"name": "orders-db-1"}, {"name": "orders-db-0"}]});
        let order = order_of(&spec, &planned(two), false).unwrap();
        assert_eq!(
            (order.pod.as_str(), order.wiped),
            ("orders-db-1", vec!["orders-db-0".to_owned()])
        );
        let with = |kind| json!({"conditions": [condition(kind, "True")]});
        for (status, is_deleted, stands) in [
            (json!({"orderId": null}), false, false),
            (json!({}), true, false),
            (with("Started"), true, true),
            (with("Complete"), false, false),
            (with("Failed"), false, false),
        ] {
            let order = order_of(&spec, &planned(status.clone()), is_deleted);
            assert_eq!(order.is_some(), stands, "{status}");
        }
    }
}
