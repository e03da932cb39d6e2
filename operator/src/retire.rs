//! `holdfast-operator retire`: what has to happen before the operator goes for good. The chart runs it when it is
//! uninstalled.
//!
//! A Backup that runs, or whose deletion deletes what is stored, and a Restore that is carried out are held by a finalizer
//! that only the operator takes off. With nobody there the object could not be deleted, nor its namespace. So the Lease is taken from whoever acts, and
//! then the finalizers go. The webhook answers all the while. An operator that is installed again puts them back.

use crate::backup;
use crate::cli::RetireArgs;
use crate::leader::LEASE;
use crate::names::FIELD_MANAGER;
use crate::objects::Watched;
use crate::restore;
use anyhow::{Context as _, bail};
use holdfast_crds::{Backup, Restore};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::Instant;

/// Those that only the operator takes off.
const FINALIZERS: [&str; 2] = [backup::FINALIZER, restore::FINALIZER];

/// Who holds the Lease then.
const HOLDER: &str = "retired";

/// For so long nobody acts: enough to uninstall what acts, and little where that fails, or it is installed again.
const HELD: Duration = Duration::from_secs(30);

/// The Lease is renewed this often.
const RENEWAL: Duration = Duration::from_secs(10);

/// The former leader has seen within four seconds that the Lease is not its own; what it was at then, it may end.
const FORMER: Duration = Duration::from_secs(15);

/// Objects in one answer.
const PAGE: u32 = 500;

/// Looks at all objects, until one finds no finalizer.
const ROUNDS: usize = 5;

/// Verbs in the operator's namespace on leases: get, create, update. Where archives are, on backups and restores: list,
/// patch.
pub async fn run(args: RetireArgs) -> anyhow::Result<()> {
    let client = Client::try_default()
        .await
        .context("can't find the API server")?;
    hold(&client, &args.namespace).await?;
    tracing::info!("holds the Lease: no replica acts any more");
    tokio::time::sleep(FORMER).await;
    for _ in 0..ROUNDS {
        let mut held = hold(&client, &args.namespace).await?;
        let mut found = 0;
        for backups in everywhere::<Backup>(&client, &args.watch_namespaces) {
            found += let_go(&client, &args, &backups, &mut held).await?;
        }
        for restores in everywhere::<Restore>(&client, &args.watch_namespaces) {
            found += let_go(&client, &args, &restores, &mut held).await?;
        }
        if found == 0 {
            tracing::info!("no Backup and no Restore has a finalizer: the operator can go");
            return Ok(());
        }
        tracing::info!(found, "took finalizers off Backups and Restores");
    }
    bail!(
        "finalizers come back: another operator runs. See who holds the Lease {}/{LEASE}",
        args.namespace
    )
}

fn everywhere<K: Watched>(client: &Client, namespaces: &[String]) -> Vec<Api<K>> {
    let names = namespaces.iter().map(|name| name.trim());
    let some: Vec<Api<K>> = names
        .filter(|name| !name.is_empty())
        .map(|name| Api::namespaced(client.clone(), name))
        .collect();
    match some.is_empty() {
        true => vec![Api::all(client.clone())],
        false => some,
    }
}

/// Takes the finalizers off; answers how many there were.
async fn let_go<K: Watched>(
    client: &Client,
    args: &RetireArgs,
    objects: &Api<K>,
    held: &mut Instant,
) -> anyhow::Result<usize> {
    let kind = K::kind(&());
    let mut found = 0;
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let listed = match objects.list_metadata(&page).await {
            Ok(listed) => listed,
            // Without definitions there are no objects.
            Err(kube::Error::Api(refused)) if refused.code == 404 => return Ok(found),
            Err(error) => {
                return Err(error).with_context(|| format!("can't list all of kind {kind}"));
            }
        };
        for object in &listed.items {
            let Some(patch) = without(&object.metadata) else {
                continue;
            };
            found += 1;
            if held.elapsed() >= RENEWAL {
                *held = hold(client, &args.namespace).await?;
            }
            let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
            let name = object.metadata.name.as_deref().unwrap_or_default();
            let api: Api<K> = Api::namespaced(client.clone(), namespace);
            let parameters = PatchParams::default();
            match api
                .patch_metadata(name, &parameters, &Patch::Merge(patch))
                .await
            {
                Ok(_) => {}
                // It is gone, or has changed: the next round sees.
                Err(kube::Error::Api(refused)) if matches!(refused.code, 404 | 409) => {
                    tracing::info!(namespace, name, "not yet: {}", refused.message);
                }
                Err(error) => {
                    return Err(error)
                        .with_context(|| format!("can't patch the {kind} {namespace}/{name}"));
                }
            }
        }
        match listed.metadata.continue_ {
            Some(next) if !next.is_empty() => page = page.continue_token(&next),
            _ => return Ok(found),
        }
    }
}

/// Takes our finalizers off exactly this version of this object, whoever has put it there; none if it has none.
fn without(object: &ObjectMeta) -> Option<Value> {
    let finalizers = object.finalizers.as_ref()?;
    let others: Vec<&String> = finalizers
        .iter()
        .filter(|name| !FINALIZERS.contains(&name.as_str()))
        .collect();
    (others.len() < finalizers.len()).then(|| {
        json!({"metadata": {
            "uid": object.uid,
            "resourceVersion": object.resource_version,
            "finalizers": others,
        }})
    })
}

/// Takes the Lease, from whomever, or renews it. Answers when.
async fn hold(client: &Client, namespace: &str) -> anyhow::Result<Instant> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), namespace);
    let parameters = PostParams {
        field_manager: Some(FIELD_MANAGER.to_owned()),
        ..PostParams::default()
    };
    // The leader may be renewing just now.
    for _ in 0..10 {
        let begin = Instant::now();
        let there = leases
            .get_opt(LEASE)
            .await
            .with_context(|| format!("can't read the Lease {namespace}/{LEASE}"))?;
        let lease = taken(there.as_ref(), Timestamp::now());
        let written = match there {
            None => leases.create(&parameters, &lease).await,
            Some(_) => leases.replace(LEASE, &parameters, &lease).await,
        };
        match written {
            Ok(_) => return Ok(begin),
            Err(kube::Error::Api(refused)) if matches!(refused.code, 404 | 409) => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("can't take the Lease {namespace}/{LEASE}"));
            }
        }
    }
    bail!("the Lease {namespace}/{LEASE} is written by somebody else all the time")
}

fn taken(there: Option<&Lease>, now: Timestamp) -> Lease {
    let before = there
        .and_then(|lease| lease.spec.clone())
        .unwrap_or_default();
    let ours = before.holder_identity.as_deref() == Some(HOLDER);
    let transitions = before.lease_transitions.unwrap_or(0);
    Lease {
        metadata: ObjectMeta {
            name: Some(LEASE.to_owned()),
            resource_version: there.and_then(|lease| lease.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(HOLDER.to_owned()),
            lease_duration_seconds: i32::try_from(HELD.as_secs()).ok(),
            acquire_time: match ours {
                true => before.acquire_time,
                false => Some(MicroTime(now)),
            },
            renew_time: Some(MicroTime(now)),
            lease_transitions: Some(transitions.saturating_add(i32::from(!ours))),
            ..LeaseSpec::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_finalizers_are_taken_off() {
        for (finalizers, others) in [
            (vec![], None),
            (vec!["other.dev/x"], None),
            (vec![backup::FINALIZER], Some(vec![])),
            (
                vec!["other.dev/x", restore::FINALIZER],
                Some(vec!["other.dev/x"]),
            ),
        ] {
            let object = ObjectMeta {
                uid: Some("u".to_owned()),
                resource_version: Some("7".to_owned()),
                finalizers: Some(finalizers.iter().map(|name| (*name).to_owned()).collect()),
                ..ObjectMeta::default()
            };
            let wanted = others.map(|others| {
                json!({"metadata": {"uid": "u", "resourceVersion": "7", "finalizers": others}})
            });
            assert_eq!(without(&object), wanted, "{finalizers:?}");
        }
        assert_eq!(without(&ObjectMeta::default()), None);
    }

    #[test]
    fn the_lease_is_taken_over_the_version_that_was_seen() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        let later: Timestamp = "2026-11-21T12:00:20Z".parse().unwrap();
        let leader = Lease {
            metadata: ObjectMeta {
                resource_version: Some("7".to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some("holdfast-1_a".to_owned()),
                lease_transitions: Some(3),
                ..LeaseSpec::default()
            }),
        };
        let taken_once = taken(Some(&leader), now);
        assert_eq!(taken_once.metadata.resource_version.as_deref(), Some("7"));
        let spec = taken_once.spec.clone().unwrap();
        assert_eq!(spec.holder_identity.as_deref(), Some(HOLDER));
        assert_eq!(spec.lease_transitions, Some(4));
        assert_eq!(spec.lease_duration_seconds, Some(30));
        let again = taken(Some(&taken_once), later).spec.unwrap();
        assert_eq!(again.acquire_time, Some(MicroTime(now)));
        assert_eq!(again.renew_time, Some(MicroTime(later)));
        assert_eq!(again.lease_transitions, Some(4));
        assert_eq!(taken(None, now).metadata.resource_version, None);
    }
}
