//! What was written through the API server, by its own count.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::events::v1::Event as Events;
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};

use super::population::SYSTEM;

/// Requests so far that may have changed something, by verb and resource, such as `APPLY backups.holdfast.dev/status`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Writes(pub BTreeMap<String, u64>);

impl Writes {
    /// As the API server counts now.
    pub async fn now(client: &Client) -> Result<Self> {
        let request = hyper::Request::get("/metrics").body(Vec::new())?;
        let text = client
            .request_text(request)
            .await
            .context("the API server's metrics")?;
        Ok(Self::of(&text))
    }

    fn of(metrics: &str) -> Self {
        let mut counts = BTreeMap::new();
        for line in metrics.lines() {
            if let Some((what, count)) = count(line) {
                *counts.entry(what).or_default() += count;
            }
        }
        Self(counts)
    }

    /// What was added.
    pub fn since(&self, before: &Self) -> Self {
        let added = self.0.iter().filter_map(|(what, count)| {
            let added = count - before.0.get(what).copied().unwrap_or(0).min(*count);
            (added > 0).then(|| (what.clone(), added))
        });
        Self(added.collect())
    }
}

/// Of a line of the counter, unless it only reads.
fn count(line: &str) -> Option<(String, u64)> {
    let (labels, value) = line
        .strip_prefix("apiserver_request_total{")?
        .rsplit_once("} ")?;
    let label = |name: &str| {
        let labels = labels.split(',').filter_map(|label| label.split_once('='));
        let mut named = labels.filter(|(own, _)| *own == name);
        named
            .next()
            .map_or("", |(_, value)| value.trim_matches('"'))
    };
    let verb = label("verb");
    if !matches!(
        verb,
        "APPLY" | "DELETE" | "DELETECOLLECTION" | "PATCH" | "POST" | "PUT"
    ) {
        return None;
    }
    let mut what = format!("{verb} {}", label("resource"));
    for (mark, part) in [('.', label("group")), ('/', label("subresource"))] {
        if !part.is_empty() {
            what.push(mark);
            what.push_str(part);
        }
    }
    // Large ones have an exponent.
    let value: f64 = value.trim().parse().ok()?;
    Some((what, value as u64))
}

/// What the operator has told in events since then, with one of the notes: why it wrote.
pub async fn told(client: &Client, since: Timestamp) -> Result<BTreeMap<String, u64>> {
    let api: Api<Events> = Api::all(client.clone());
    let mut told = BTreeMap::new();
    let mut notes: BTreeMap<String, String> = BTreeMap::new();
    for event in api.list(&ListParams::default()).await? {
        let series = event.series.map(|series| series.last_observed_time);
        let last = series.or(event.event_time).map(|time| time.0);
        let ours = event.reporting_controller.as_deref() == Some("holdfast-operator");
        if ours && last.is_some_and(|last| last >= since) {
            let reason = event.reason.unwrap_or_default();
            notes
                .entry(reason.clone())
                .or_insert(event.note.unwrap_or_default());
            *told.entry(reason).or_default() += 1;
        }
    }
    for (reason, note) in notes {
        eprintln!("bench: the operator has told: {reason}: {note}");
    }
    Ok(told)
}

/// Counts the changes of the one Lease in the operator's namespace.
pub struct LeaseWatch {
    changes: Arc<AtomicU64>,
    watching: tokio::task::JoinHandle<()>,
}

impl LeaseWatch {
    /// From now on.
    pub async fn begin(client: &Client) -> Result<Self> {
        let api: Api<Lease> = Api::namespaced(client.clone(), SYSTEM);
        let changes = Arc::new(AtomicU64::new(0));
        let counter = changes.clone();
        let (ready, is_ready) = tokio::sync::oneshot::channel();
        let watching = tokio::spawn(async move {
            let mut ready = Some(ready);
            let mut events = std::pin::pin!(watcher::watcher(api, watcher::Config::default()));
            loop {
                match events.try_next().await {
                    Ok(Some(Event::InitDone)) => {
                        if let Some(ready) = ready.take() {
                            let _ = ready.send(());
                        }
                    }
                    Ok(Some(Event::Apply(_))) => {
                        counter.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(Some(_)) | Err(_) => {}
                    Ok(None) => return,
                }
            }
        });
        is_ready.await.context("watching the operator's Lease")?;
        Ok(Self { changes, watching })
    }

    /// How many there were.
    pub fn end(self) -> u64 {
        self.watching.abort();
        self.changes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_change_something_is_counted() {
        let text = r#"# HELP apiserver_request_total x
apiserver_request_total{code="200",component="apiserver",dry_run="",group="holdfast.dev",resource="backups",scope="resource",subresource="status",verb="APPLY",version="v1alpha1"} 7
apiserver_request_total{code="409",component="apiserver",dry_run="",group="holdfast.dev",resource="backups",scope="resource",subresource="status",verb="APPLY",version="v1alpha1"} 1
apiserver_request_total{code="200",component="apiserver",dry_run="",group="",resource="secrets",scope="resource",subresource="",verb="GET",version="v1"} 9
apiserver_request_total{code="201",component="apiserver",dry_run="",group="",resource="secrets",scope="resource",subresource="",verb="POST",version="v1"} 1.2e+06
apiserver_request_duration_seconds_count{verb="POST"} 3
"#;
        let after = Writes::of(text);
        let expected = [
            ("APPLY backups.holdfast.dev/status", 8),
            ("POST secrets", 1_200_000),
        ];
        let expected = expected.map(|(what, count)| (what.to_owned(), count));
        assert_eq!(after, Writes(BTreeMap::from(expected)));
        let mut before = after.clone();
        before
            .0
            .insert("APPLY backups.holdfast.dev/status".into(), 5);
        let added = BTreeMap::from([("APPLY backups.holdfast.dev/status".to_owned(), 3)]);
        assert_eq!(after.since(&before), Writes(added));
    }
}
