//! One of the replicas acts: who holds the Lease `holdfast-operator`.
//!
//! As in client-go, nobody compares clocks with another machine: a Lease has run out if it did not change for its
//! duration by our own monotonic clock. An old leader may still write for moments; writes are safe anyway, by
//! `resourceVersion` and by create-only objects.

use crate::names::FIELD_MANAGER;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Client;
use kube::api::{Api, ObjectMeta, PostParams};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The Lease.
pub(crate) const LEASE: &str = "holdfast-operator";

/// Another may take over when so long nothing was heard of the leader.
const DURATION: Duration = Duration::from_secs(15);

/// A leader that could not renew for so long stops: before another may begin.
const DEADLINE: Duration = Duration::from_secs(10);

/// Between two renewals.
const RENEWAL: Duration = Duration::from_secs(4);

/// Between two attempts.
const RETRY: Duration = Duration::from_secs(2);

/// For one answer of the API server.
const ANSWER: Duration = Duration::from_secs(5);

/// What we saw of the Lease, and when its content last changed by our clock.
#[derive(Debug, Clone)]
struct Seen {
    lease: Lease,
    since: Instant,
}

/// What to do about a Lease.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    /// It is free, or ours: write this one.
    Write(Box<LeaseSpec>),
    /// Somebody else's: look again after so long.
    Wait(Duration),
}

/// Takes part in the election, until `stop`; then lets go of the Lease. `leads` tells whether this process leads.
///
/// Returns when the Lease was released, or lost: then `leads` is false, and the process had better end and begin anew,
/// so that nothing of what it was about to do is done.
///
/// Verbs on the Lease in the operator's namespace: get, create, update.
pub async fn run(
    client: Client,
    namespace: &str,
    identity: String,
    leads: &watch::Sender<bool>,
    stop: CancellationToken,
) {
    let election = Election {
        leases: Api::namespaced(client, namespace),
        identity,
    };
    let Some(mut seen) = election.acquire(&stop).await else {
        return;
    };
    tracing::info!(identity = election.identity, "leads");
    leads.send_replace(true);
    let mut renewed = Instant::now();
    loop {
        let pause = if renewed.elapsed() < RENEWAL {
            RENEWAL
        } else {
            RETRY
        };
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(pause) => {}
        }
        let begin = Instant::now();
        match election.attempt(Some(seen.clone())).await {
            Ok((next, true)) => {
                seen = next;
                renewed = begin;
            }
            Ok((next, false)) => {
                let holder = next.lease.spec.and_then(|spec| spec.holder_identity);
                tracing::error!(?holder, "another replica has taken the Lease");
                leads.send_replace(false);
                return;
            }
            Err(error) => tracing::warn!("can't renew the Lease: {error}"),
        }
        if renewed.elapsed() >= DEADLINE {
            tracing::error!("the Lease could not be renewed in time");
            leads.send_replace(false);
            return;
        }
    }
    leads.send_replace(false);
    election.release(&seen).await;
}

struct Election {
    leases: Api<Lease>,
    identity: String,
}

impl Election {
    /// Waits until the Lease is ours; none if `stop` came first.
    async fn acquire(&self, stop: &CancellationToken) -> Option<Seen> {
        let mut seen = None;
        loop {
            let pause = match self.attempt(seen.clone()).await {
                Ok((now, true)) => return Some(now),
                Ok((now, false)) => {
                    seen = Some(now);
                    RETRY
                }
                Err(error) => {
                    tracing::warn!("can't read or take the Lease: {error}");
                    RETRY
                }
            };
            tokio::select! {
                () = stop.cancelled() => return None,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Looks, and writes where that may be done. Whether the Lease is ours now.
    async fn attempt(&self, before: Option<Seen>) -> Result<(Seen, bool), kube::Error> {
        let work = async {
            let Some(lease) = self.leases.get_opt(LEASE).await? else {
                let spec = taken(&LeaseSpec::default(), &self.identity, Timestamp::now());
                let made = self.write(None, spec).await?;
                return Ok((seen(None, made), true));
            };
            let seen_now = seen(before, lease);
            match step(&seen_now, &self.identity, Instant::now(), Timestamp::now()) {
                Step::Wait(_) => Ok((seen_now, false)),
                Step::Write(spec) => {
                    let version = seen_now.lease.metadata.resource_version.clone();
                    let written = self.write(version, *spec).await?;
                    Ok((seen(Some(seen_now), written), true))
                }
            }
        };
        match tokio::time::timeout(ANSWER, work).await {
            Ok(done) => done,
            Err(late) => Err(kube::Error::Service(late.into())),
        }
    }

    /// Creates, or replaces exactly the version that was seen.
    async fn write(&self, version: Option<String>, spec: LeaseSpec) -> Result<Lease, kube::Error> {
        let parameters = PostParams {
            field_manager: Some(FIELD_MANAGER.to_owned()),
            ..PostParams::default()
        };
        let replaces = version.is_some();
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.to_owned()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            spec: Some(spec),
        };
        if replaces {
            self.leases.replace(LEASE, &parameters, &lease).await
        } else {
            self.leases.create(&parameters, &lease).await
        }
    }

    /// So that another need not wait.
    async fn release(&self, seen: &Seen) {
        let spec = LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(Timestamp::now())),
            ..seen.lease.spec.clone().unwrap_or_default()
        };
        let version = seen.lease.metadata.resource_version.clone();
        match tokio::time::timeout(ANSWER, self.write(version, spec)).await {
            Ok(Ok(_)) => tracing::info!("released the Lease"),
            Ok(Err(error)) => tracing::warn!("can't release the Lease: {error}"),
            Err(_) => tracing::warn!("can't release the Lease: no answer"),
        }
    }
}

/// The clock starts anew only where somebody wrote.
fn seen(before: Option<Seen>, lease: Lease) -> Seen {
    match before {
        Some(before) if before.lease.spec == lease.spec => Seen {
            lease,
            since: before.since,
        },
        _ => Seen {
            lease,
            since: Instant::now(),
        },
    }
}

fn step(seen: &Seen, identity: &str, now: Instant, time: Timestamp) -> Step {
    let spec = seen.lease.spec.clone().unwrap_or_default();
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder == identity {
        return Step::Write(Box::new(LeaseSpec {
            renew_time: Some(MicroTime(time)),
            ..spec
        }));
    }
    // What stands there was written by anybody: no more than a day is waited for it.
    let seconds = spec.lease_duration_seconds.unwrap_or_default();
    let duration = Duration::from_secs(u64::from(seconds.clamp(0, 86_400).unsigned_abs()));
    let rest = duration.saturating_sub(now.duration_since(seen.since));
    if holder.is_empty() || rest.is_zero() {
        Step::Write(Box::new(taken(&spec, identity, time)))
    } else {
        Step::Wait(rest)
    }
}

fn taken(before: &LeaseSpec, identity: &str, time: Timestamp) -> LeaseSpec {
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
        acquire_time: Some(MicroTime(time)),
        renew_time: Some(MicroTime(time)),
        lease_transitions: Some(before.lease_transitions.unwrap_or(0).saturating_add(1)),
        ..LeaseSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>, seconds: Option<i32>) -> Lease {
        Lease {
            spec: Some(LeaseSpec {
                holder_identity: holder.map(str::to_owned),
                lease_duration_seconds: seconds,
                lease_transitions: Some(7),
                ..LeaseSpec::default()
            }),
            ..Lease::default()
        }
    }

    #[test]
    fn a_lease_is_taken_only_when_it_is_free_or_did_not_change_for_its_duration() {
        let now = Instant::now();
        let at: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        for (holder, seconds, age, transitions) in [
            (None, None, 0, Some(8)),
            (Some(""), Some(15), 0, Some(8)),
            (Some("me"), Some(15), 0, Some(7)),
            (Some("me"), Some(15), 99, Some(7)),
            (Some("other"), Some(15), 0, None),
            (Some("other"), Some(15), 14, None),
            (Some("other"), Some(15), 15, Some(8)),
            (Some("other"), Some(-5), 0, Some(8)),
            (Some("other"), None, 0, Some(8)),
            (Some("other"), Some(i32::MAX), 86_399, None),
            (Some("other"), Some(i32::MAX), 86_400, Some(8)),
        ] {
            let seen = Seen {
                lease: lease(holder, seconds),
                since: now,
            };
            let step = step(&seen, "me", now + Duration::from_secs(age), at);
            match (step, transitions) {
                (Step::Write(spec), Some(transitions)) => {
                    assert_eq!(spec.holder_identity.as_deref(), Some("me"));
                    assert_eq!(spec.renew_time, Some(MicroTime(at)));
                    assert_eq!(
                        spec.lease_transitions,
                        Some(transitions),
                        "{holder:?} {age}"
                    );
                }
                (Step::Wait(rest), None) => assert!(!rest.is_zero()),
                (step, _) => panic!("{holder:?} {seconds:?} {age}: {step:?}"),
            }
        }
    }

    #[test]
    fn only_a_change_of_the_lease_starts_the_clock_anew() {
        let first = Seen {
            lease: lease(Some("other"), Some(15)),
            since: Instant::now() - Duration::from_secs(5),
        };
        let mut touched = first.lease.clone();
        touched.metadata.resource_version = Some("9".into());
        assert_eq!(seen(Some(first.clone()), touched).since, first.since);
        let mut renewed = first.lease.clone();
        renewed.spec.as_mut().unwrap().renew_time = Some(MicroTime(Timestamp::now()));
        assert!(seen(Some(first.clone()), renewed).since > first.since);
    }
}
