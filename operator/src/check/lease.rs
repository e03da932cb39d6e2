//! Whether one of the replicas acts: it renews the Lease all the while.

use super::{Found, Installation};
use crate::leader::LEASE;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::Client;
use kube::api::Api;
use std::time::Duration;
use tokio::time::Instant;

const CHECK: &str = "leader";

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(1);

/// A leader renews every four seconds; after fifteen another takes over.
const PATIENCE: Duration = Duration::from_secs(20);

/// Two looks, for clocks of two machines may differ. Rights: get on the Lease.
pub async fn check(client: &Client, installation: &Installation<'_>) -> Found {
    let leases: Api<Lease> = Api::namespaced(client.clone(), installation.namespace);
    let begin = Instant::now();
    let mut first = None;
    loop {
        let now = match leases.get_opt(LEASE).await {
            Ok(lease) => lease.map(|lease| lease.spec.unwrap_or_default()),
            Err(error) => return Found::unanswered(CHECK, "the Lease can't be read", &error),
        };
        let patient = begin.elapsed() < PATIENCE;
        if let Some(found) = judge(first.as_ref(), now.as_ref(), patient, installation) {
            return found;
        }
        first = first.or(now);
        tokio::time::sleep(PAUSE).await;
    }
}

/// None: look again.
fn judge(
    first: Option<&LeaseSpec>,
    now: Option<&LeaseSpec>,
    patient: bool,
    installation: &Installation<'_>,
) -> Option<Found> {
    let namespace = installation.namespace;
    let Some(now) = now else {
        let message = format!("there is no Lease {namespace}/{LEASE}: no replica has ever acted");
        return Some(Found::wrong(CHECK, message, installation.look()));
    };
    let holder = now.holder_identity.as_deref().unwrap_or_default();
    if holder.is_empty() {
        let message = format!("nobody holds the Lease {namespace}/{LEASE}: no replica acts");
        return Some(Found::wrong(CHECK, message, installation.look()));
    }
    match first {
        Some(first) if first != now => Some(Found::ok(
            CHECK,
            format!("{holder} acts, and renews the Lease {namespace}/{LEASE}"),
        )),
        _ if patient => None,
        _ => {
            let message = format!(
                "{holder} holds the Lease {namespace}/{LEASE} and has not renewed it for {} s: no replica acts",
                PATIENCE.as_secs()
            );
            Some(Found::wrong(CHECK, message, installation.look()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_leader_is_who_renews() {
        let installation = Installation {
            namespace: "system",
            service_account: "holdfast",
            webhook_configuration: None,
            watch_namespaces: vec![],
        };
        let lease = |holder: &str, transitions: i32| LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        };
        let (one, two) = (lease("a", 1), lease("a", 2));
        for (first, now, patient, verdict) in [
            (None, None, true, Some(Verdict::Wrong)),
            (None, Some(&lease("", 1)), true, Some(Verdict::Wrong)),
            (None, Some(&one), true, None),
            (Some(&one), Some(&one), true, None),
            (Some(&one), Some(&two), true, Some(Verdict::Ok)),
            (Some(&one), Some(&two), false, Some(Verdict::Ok)),
            (Some(&one), Some(&one), false, Some(Verdict::Wrong)),
        ] {
            let found = judge(first, now, patient, &installation).map(|found| found.verdict);
            assert_eq!(found, verdict, "{first:?} {now:?} {patient}");
        }
    }
}
