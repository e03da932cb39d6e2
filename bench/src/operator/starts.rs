//! From `kubectl apply` of a Backup to its start.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::TryStreamExt;
use holdfast_crds::Backup;
use holdfast_protocol::status::is_true;
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc;

use super::cluster::Cluster;

/// On the Backups that are timed.
const LABEL: &str = "holdfast.dev/bench";
/// For one of them.
const PATIENCE: Duration = Duration::from_secs(120);

/// One Backup, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// All that `kubectl apply` took.
    pub kubectl: f64,
    /// From when kubectl was called, until a watch showed the condition Started.
    pub from_call: f64,
    /// From when that watch showed the object.
    pub from_object: f64,
}

/// A Backup was seen, and whether it has started.
struct Seen {
    name: String,
    started: bool,
    at: Instant,
}

/// Applies Backups one after another, each of another Archive as far as there are enough.
pub async fn measure(
    cluster: &Cluster,
    archives: &[(String, String)],
    count: u32,
) -> Result<Vec<Start>> {
    let (ready, is_ready) = tokio::sync::oneshot::channel();
    let (sender, mut seen) = mpsc::unbounded_channel();
    let watching = tokio::spawn(watch(cluster.client().clone(), sender, ready));
    is_ready.await.context("watching Backups")?;
    let mut starts = Vec::new();
    // Spread over all namespaces.
    let step = (archives.len() / count as usize).max(1);
    for number in 0..count as usize {
        let place = (number * step) % archives.len();
        let (namespace, archive) = archives.get(place).context("there are Archives")?;
        let name = format!("{archive}-timed-{number}");
        let yaml = format!(
            "apiVersion: holdfast.dev/v1alpha1
kind: Backup
metadata: {{namespace: {namespace}, name: {name}, labels: {{{LABEL}: start}}}}
spec: {{archiveRef: {{name: {archive}}}}}
"
        );
        let called = Instant::now();
        cluster.kubectl(&["apply", "-f", "-"], &yaml).await?;
        let kubectl = called.elapsed().as_secs_f64();
        let started = started(&mut seen, &name);
        let (shown, started) = tokio::time::timeout(PATIENCE, started)
            .await
            .with_context(|| format!("the Backup {namespace}/{name} does not start"))??;
        starts.push(Start {
            kubectl,
            from_call: started.duration_since(called).as_secs_f64(),
            from_object: started.duration_since(shown).as_secs_f64(),
        });
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    watching.abort();
    Ok(starts)
}

/// Removes them, after they have ended.
pub async fn remove(cluster: &Cluster) -> Result<()> {
    let words = ["delete", "backups", "--all-namespaces", "--selector", LABEL];
    cluster.kubectl(&words, "").await.map(drop)
}

/// When it was there, and when it had started.
async fn started(
    seen: &mut mpsc::UnboundedReceiver<Seen>,
    name: &str,
) -> Result<(Instant, Instant)> {
    let mut first: HashMap<String, Instant> = HashMap::new();
    loop {
        let one = seen.recv().await.context("the watch has ended")?;
        let shown = *first.entry(one.name.clone()).or_insert(one.at);
        if one.started && one.name == name {
            return Ok((shown, one.at));
        }
    }
}

async fn watch(
    client: Client,
    sender: mpsc::UnboundedSender<Seen>,
    ready: tokio::sync::oneshot::Sender<()>,
) {
    let config = watcher::Config::default().labels(LABEL);
    let mut events = std::pin::pin!(watcher::watcher(Api::<Backup>::all(client), config));
    let mut ready = Some(ready);
    loop {
        match events.try_next().await {
            Ok(Some(Event::InitDone)) => {
                if let Some(ready) = ready.take() {
                    let _ = ready.send(());
                }
            }
            Ok(Some(Event::Apply(backup) | Event::InitApply(backup))) => {
                let conditions = backup.status.as_ref().map(|status| &status.conditions);
                let seen = Seen {
                    started: conditions.is_some_and(|all| is_true(all, "Started")),
                    name: backup.name_any(),
                    at: Instant::now(),
                };
                if sender.send(seen).is_err() {
                    return;
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(error) => eprintln!("bench: watching Backups: {error}"),
        }
    }
}
