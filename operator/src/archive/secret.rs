//! The rendered Secret in the cluster.

use super::render::{Entries, Present};
use crate::metrics::Metrics;
use crate::names::{
    ARCHIVE_LABEL, FIELD_MANAGER, GENERATION_ANNOTATION, Key, MANAGED_BY, MANAGED_BY_LABEL,
    SYSTEM_ANNOTATION, rendered_secret,
};
use crate::work::ReconcileError;
use holdfast_postgres::SystemIdentifier;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
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
    let version = seen.and_then(|secret| secret.resource_version());
    let secret = secret_of(archive, content, system, version);
    if seen.is_some() {
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&name, &parameters, &Patch::Apply(&secret))
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

fn secret_of(
    archive: &Key,
    content: &Present,
    system: Option<SystemIdentifier>,
    resource_version: Option<String>,
) -> Secret {
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
            resource_version,
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
        let secret = secret_of(
            &archive,
            &content,
            Some(SystemIdentifier(9)),
            Some("3".into()),
        );
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
}
