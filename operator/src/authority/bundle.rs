//! Fills `caBundle` in the webhook's configuration, and again when somebody resets it.

use super::serving::Serving;
use crate::names::FIELD_MANAGER;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures::TryStreamExt;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use serde_json::{Value, json};
use std::pin::pin;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// After an answer of the API server that was no success.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps `caBundle` of every webhook of the configuration `name` at what `serving` says, until `stop`.
///
/// Verbs on that one MutatingWebhookConfiguration: get, list, watch, patch.
pub async fn keep_filled(client: Client, name: String, serving: Serving, stop: CancellationToken) {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client);
    let mut seen = pin!(watcher::watch_object(configurations.clone(), &name).default_backoff());
    let mut present = None;
    loop {
        let changed = serving.changes();
        if let Some(patch) = present
            .as_ref()
            .zip(serving.authorities())
            .and_then(|(configuration, authorities)| fill(configuration, &authorities))
        {
            let parameters = PatchParams::apply(FIELD_MANAGER).force();
            match configurations
                .patch(&name, &parameters, &Patch::Apply(patch))
                .await
            {
                Ok(_) => tracing::info!("filled caBundle of the webhook configuration {name}"),
                Err(error) => {
                    tracing::warn!(
                        "can't fill caBundle of the webhook configuration {name}: {error}"
                    );
                    tokio::select! {
                        () = stop.cancelled() => return,
                        () = tokio::time::sleep(PATIENCE) => {}
                    }
                }
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed => {}
            event = seen.try_next() => match event {
                Ok(Some(configuration)) => present = configuration,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!("can't watch the webhook configuration {name}: {error}");
                }
            },
        }
    }
}

/// What to apply so that every webhook trusts `authorities`; none where it does.
fn fill(configuration: &MutatingWebhookConfiguration, authorities: &str) -> Option<Value> {
    let webhooks = configuration.webhooks.as_deref().unwrap_or_default();
    let good = webhooks.iter().all(|webhook| {
        let bundle = webhook.client_config.ca_bundle.as_ref();
        bundle.is_some_and(|bundle| bundle.0 == authorities.as_bytes())
    });
    if good {
        return None;
    }
    let bundle = STANDARD.encode(authorities);
    let webhooks: Vec<Value> = webhooks
        .iter()
        .map(|webhook| json!({"name": webhook.name, "clientConfig": {"caBundle": bundle}}))
        .collect();
    Some(json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "MutatingWebhookConfiguration",
        "metadata": {"name": configuration.metadata.name},
        "webhooks": webhooks,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(bundles: &[Option<&str>]) -> MutatingWebhookConfiguration {
        let webhooks: Vec<Value> = bundles
            .iter()
            .enumerate()
            .map(|(n, bundle)| {
                let service = json!({"name": "s", "namespace": "n"});
                json!({
                    "name": format!("{n}.holdfast.dev"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
                    "clientConfig": {"service": service, "caBundle": bundle.map(|text| STANDARD.encode(text))},
                })
            })
            .collect();
        serde_json::from_value(json!({"metadata": {"name": "holdfast"}, "webhooks": webhooks}))
            .unwrap()
    }

    #[test]
    fn only_a_bundle_that_differs_is_written() {
        for (bundles, written) in [
            (vec![], false),
            (vec![Some("pem")], false),
            (vec![None], true),
            (vec![Some("")], true),
            (vec![Some("pem"), Some("old")], true),
        ] {
            let patch = fill(&configuration(&bundles), "pem");
            assert_eq!(patch.is_some(), written, "{bundles:?}");
            for webhook in patch.iter().flat_map(|p| p["webhooks"].as_array().unwrap()) {
                assert_eq!(webhook["clientConfig"], json!({"caBundle": "cGVt"}));
            }
        }
    }
}
