//! The rendered Secret in the cluster.

use super::render::{Entries, Present};
use crate::controller::ReconcileError;
use crate::metrics::Metrics;
use crate::names::{
    ARCHIVE_LABEL, FIELD_MANAGER, GENERATION_ANNOTATION, Key, MANAGED_BY, MANAGED_BY_LABEL,
    SYSTEM_ANNOTATION, rendered_secret,
};
use holdfast_postgres::SystemIdentifier;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a Secret that we rendered holds.
pub fn present(secret: &Secret) -> Present {
    let generation = secret.annotations().get(GENERATION_ANNOTATION);
    let data = secret.data.iter().flatten();
    Present {
        generation: generation
            .and_then(|generation| generation.parse().ok())
            .unwrap_or(0),
        entries: data.map(|(n, v)| (n.clone(), v.0.clone())).collect(),
    }
}

/// Whose history files it holds.
pub fn system(secret: &Secret) -> Option<SystemIdentifier> {
    secret.annotations().get(SYSTEM_ANNOTATION)?.parse().ok()
}

/// What became of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// It stands.
    Done,
    /// Another object of that name is not ours.
    Taken,
}

/// Writes the Secret: the first time only if there is none, later only over the version that was seen.
///
/// Verbs on Secrets: get, create, patch.
pub async fn write(
    client: &Client,
    metrics: &Metrics,
    archive: &Key,
    content: &Present,
    system: Option<SystemIdentifier>,
    seen: Option<&Secret>,
) -> Result<Written, ReconcileError> {
    let api: Api<Secret> = Api::namespaced(client.clone(), &archive.namespace);
    let name = rendered_secret(&archive.name);
    let secret = secret_of(archive, content, system);
    if let Some(seen) = seen {
        let parameters = PatchParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PatchParams::default()
        };
        let patch = Patch::Merge(patch(&secret, seen));
        api.patch(&name, &parameters, &patch)
            .await
            .map_err(ReconcileError::api("can't write the pods' Secret"))?;
        metrics.written("Secret");
        return Ok(Written::Done);
    }
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    match api.create(&parameters, &secret).await {
        Ok(_) => {
            metrics.written("Secret");
            Ok(Written::Done)
        }
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let standing = api
                .get_opt(&name)
                .await
                .map_err(ReconcileError::api("can't read the pods' Secret"))?;
            match standing {
                // The watch will show it.
                Some(secret) if is_ours(&secret, archive) => {
                    Err(ReconcileError::api("the pods' Secret was just made")(
                        kube::Error::Api(status),
                    ))
                }
                Some(_) => Ok(Written::Taken),
                None => Err(ReconcileError::api("the pods' Secret was just deleted")(
                    kube::Error::Api(status),
                )),
            }
        }
        Err(error) => Err(ReconcileError::api("can't make the pods' Secret")(error)),
    }
}

/// Whether we rendered it, for this archive.
pub fn is_ours(secret: &Secret, archive: &Key) -> bool {
    let label = |name: &str| secret.labels().get(name).map(String::as_str);
    label(MANAGED_BY_LABEL) == Some(MANAGED_BY)
        && label(ARCHIVE_LABEL) == Some(&archive.name)
        && secret.name_any() == rendered_secret(&archive.name)
}

/// What makes `seen` hold what `secret` holds, and no entry besides, if it is still that version. Labels and annotations
/// of others stay.
fn patch(secret: &Secret, seen: &Secret) -> Value {
    let entry = |value: Option<&ByteString>| match value {
        Some(value) => json!(value),
        None => Value::Null,
    };
    let wanted = secret.data.iter().flatten();
    let gone = seen.data.iter().flatten().map(|(name, _)| (name, None));
    let data: serde_json::Map<String, Value> = gone
        .chain(wanted.map(|(name, value)| (name, Some(value))))
        .map(|(name, value)| (name.clone(), entry(value)))
        .collect();
    json!({
        "metadata": {
            "uid": seen.metadata.uid,
            "resourceVersion": seen.metadata.resource_version,
            "labels": secret.metadata.labels,
            "annotations": secret.metadata.annotations,
        },
        "data": data,
    })
}

fn secret_of(archive: &Key, content: &Present, system: Option<SystemIdentifier>) -> Secret {
    let mut annotations = BTreeMap::from([(
        GENERATION_ANNOTATION.to_owned(),
        content.generation.to_string(),
    )]);
    annotations.extend(system.map(|system| (SYSTEM_ANNOTATION.to_owned(), system.to_string())));
    let entries: &Entries = &content.entries;
    Secret {
        metadata: ObjectMeta {
            name: Some(rendered_secret(&archive.name)),
            namespace: Some(archive.namespace.clone()),
            labels: Some(BTreeMap::from([
                (MANAGED_BY_LABEL.to_owned(), MANAGED_BY.to_owned()),
                (ARCHIVE_LABEL.to_owned(), archive.name.clone()),
            ])),
            annotations: Some(annotations),
            ..ObjectMeta::default()
        },
        data: Some(
            entries
                .iter()
                .map(|(name, value)| (name.clone(), ByteString(value.clone())))
                .collect(),
        ),
        ..Secret::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_known_as_ours() {
        let archive = Key::new("shop", "orders");
        let content = Present {
            generation: 7,
            entries: Entries::from([("config.yaml".into(), b"a: 1".to_vec())]),
        };
        let secret = secret_of(&archive, &content, Some(SystemIdentifier(9)));
        assert_eq!(present(&secret), content);
        assert_eq!(system(&secret), Some(SystemIdentifier(9)));
        assert!(is_ours(&secret, &archive));
        assert!(!is_ours(&secret, &Key::new("shop", "other")));
        let stranger = Secret {
            metadata: ObjectMeta {
                labels: None,
                annotations: None,
                ..secret.metadata
            },
            ..secret
        };
        assert!(!is_ours(&stranger, &archive));
        assert_eq!(
            (present(&stranger).generation, system(&stranger)),
            (0, None)
        );
    }

    #[test]
    fn a_patch_removes_what_is_not_wanted_and_names_the_version_that_was_seen() {
        let archive = Key::new("shop", "orders");
        let of = |entries: &[(&str, &str)]| Present {
            generation: 7,
            entries: entries
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
                .collect(),
        };
        let mut seen = secret_of(&archive, &of(&[("a", "1"), ("old", "x")]), None);
        seen.metadata.resource_version = Some("12".into());
        let wanted = secret_of(&archive, &of(&[("a", "2"), ("b", "3")]), None);
        let patch = patch(&wanted, &seen);
        assert_eq!(patch["metadata"]["resourceVersion"], "12");
        assert_eq!(
            patch["data"],
            json!({"a": "Mg==", "b": "Mw==", "old": null})
        );
        let mut patched = serde_json::to_value(&seen).unwrap();
        json_patch::merge(&mut patched, &patch);
        let patched: Secret = serde_json::from_value(patched).unwrap();
        assert_eq!(present(&patched), of(&[("a", "2"), ("b", "3")]));
    }
}
