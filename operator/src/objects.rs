//! What the operator watches, in memory: one watch for each kind (and namespace, where it is told to keep to some).
//!
//! An object that can't be read (made by a newer version, or past the rules) is told in an event, counted, and left
//! alone: what was last known of it stays.

use crate::events::Events;
use crate::metrics::Metrics;
use crate::names::Key;
use futures::TryStreamExt;
use kube::api::Api;
use kube::core::{DeserializeGuard, NamespaceResourceScope};
use kube::runtime::WatchStreamExt;
use kube::runtime::reflector::store::Writer;
use kube::runtime::reflector::{ObjectRef, Store};
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use std::collections::HashMap;
use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A kind that can be watched.
pub trait Watched:
    Resource<DynamicType = (), Scope = NamespaceResourceScope>
    + Clone
    + Debug
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// The objects of one kind as last seen. Cheap to clone.
#[derive(Debug)]
pub struct Objects<K: Watched> {
    sources: Arc<[Source<K>]>,
}

#[derive(Debug)]
struct Source<K: Watched> {
    /// None: all.
    namespace: Option<String>,
    store: Store<K>,
}

impl<K: Watched> Clone for Objects<K> {
    fn clone(&self) -> Self {
        Self {
            sources: self.sources.clone(),
        }
    }
}

impl<K: Watched> Objects<K> {
    /// One of them.
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        let reference = ObjectRef::new(&key.name).within(&key.namespace);
        self.of(&key.namespace)?.store.get(&reference)
    }

    /// Those of a namespace that fulfil a condition, in no order.
    pub fn filter(&self, namespace: &str, condition: impl Fn(&K) -> bool) -> Vec<Arc<K>> {
        match self.of(namespace) {
            Some(source) => source.store.state_filter(|object| {
                object.meta().namespace.as_deref() == Some(namespace) && condition(object)
            }),
            None => Vec::new(),
        }
    }

    /// All of them, in no order.
    pub fn all(&self) -> Vec<Arc<K>> {
        let states = self.sources.iter().map(|source| source.store.state());
        states.flatten().collect()
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sources.iter().map(|source| source.store.len()).sum()
    }

    /// Returns once everything was seen that was there at the start.
    pub async fn ready(&self) {
        for source in self.sources.iter() {
            // An error says that the watch has ended: so has the program.
            let _ = source.store.wait_until_ready().await;
        }
    }

    fn of(&self, namespace: &str) -> Option<&Source<K>> {
        self.sources.iter().find(|source| {
            source
                .namespace
                .as_deref()
                .is_none_or(|own| own == namespace)
        })
    }

    /// Of objects that are given, for tests.
    #[cfg(test)]
    pub fn fixed(objects: impl IntoIterator<Item = K>) -> Self {
        let mut writer = Writer::new(());
        writer.apply_watcher_event(&Event::Init);
        for object in objects {
            writer.apply_watcher_event(&Event::InitApply(object));
        }
        writer.apply_watcher_event(&Event::InitDone);
        let store = writer.as_reader();
        let sources = vec![Source {
            namespace: None,
            store,
        }];
        Self {
            sources: sources.into(),
        }
    }
}

/// How watches are begun.
pub struct Watches<'a> {
    /// To the API server.
    pub client: Client,
    /// Empty: all.
    pub namespaces: &'a [String],
    /// For objects that can't be read.
    pub events: Events,
    /// Counts them.
    pub metrics: Arc<Metrics>,
    /// Holds the watches.
    pub tasks: &'a TaskTracker,
    /// Ends them.
    pub stop: CancellationToken,
}

impl Watches<'_> {
    /// Begins to watch a kind. `slim` takes out of each object what is not needed; `touched` hears of each object that
    /// has come, changed or gone (then as it was), after it can be found in what is returned.
    ///
    /// Verbs: list, watch.
    pub fn begin<K: Watched>(
        &self,
        config: watcher::Config,
        slim: fn(&mut K),
        touched: impl Fn(&K) + Clone + Send + Sync + 'static,
    ) -> Objects<K> {
        let namespaces: Vec<Option<String>> = match self.namespaces {
            [] => vec![None],
            some => some.iter().cloned().map(Some).collect(),
        };
        let sources: Vec<Source<K>> = namespaces
            .into_iter()
            .map(|namespace| {
                let api = match &namespace {
                    None => Api::all(self.client.clone()),
                    Some(namespace) => Api::namespaced(self.client.clone(), namespace),
                };
                let writer = Writer::new(());
                let store = writer.as_reader();
                let follower = Follower {
                    writer,
                    store: store.clone(),
                    slim,
                    touched: touched.clone(),
                    events: self.events.clone(),
                    metrics: self.metrics.clone(),
                };
                self.tasks
                    .spawn(follower.follow(api, config.clone(), self.stop.clone()));
                Source { namespace, store }
            })
            .collect();
        Objects {
            sources: sources.into(),
        }
    }
}

struct Follower<K: Watched, F> {
    writer: Writer<K>,
    store: Store<K>,
    slim: fn(&mut K),
    touched: F,
    events: Events,
    metrics: Arc<Metrics>,
}

impl<K: Watched, F: Fn(&K) + Send> Follower<K, F> {
    async fn follow(
        mut self,
        api: Api<DeserializeGuard<K>>,
        config: watcher::Config,
        stop: CancellationToken,
    ) {
        let mut stream = pin!(watcher::watcher(api, config).default_backoff());
        loop {
            let event = tokio::select! {
                () = stop.cancelled() => return,
                event = stream.try_next() => event,
            };
            match event {
                Ok(Some(event)) => self.take(event).await,
                Ok(None) => return,
                // Every watch ends so after a while, and is begun anew.
                Err(watcher::Error::WatchError(status)) if status.code == 410 => {}
                Err(error) => {
                    let kind = K::kind(&());
                    tracing::warn!(%kind, "can't watch: {error}");
                }
            }
        }
    }

    async fn take(&mut self, event: Event<DeserializeGuard<K>>) {
        match event {
            Event::Init => self.writer.apply_watcher_event(&Event::Init),
            Event::InitApply(guarded) => {
                if let Some(object) = self.open(guarded).await {
                    self.writer.apply_watcher_event(&Event::InitApply(object));
                }
            }
            Event::InitDone => {
                let before = self.versions();
                self.writer.apply_watcher_event(&Event::InitDone);
                self.tell_differences(before);
            }
            Event::Apply(guarded) => {
                if let Some(object) = self.open(guarded).await {
                    let touched = object.clone();
                    self.writer.apply_watcher_event(&Event::Apply(object));
                    (self.touched)(&touched);
                }
            }
            Event::Delete(guarded) => {
                let known = Key::of(&guarded).and_then(|key| {
                    self.store
                        .get(&ObjectRef::new(&key.name).within(&key.namespace))
                });
                if let Some(gone) = known {
                    let event = Event::Delete(gone.as_ref().clone());
                    self.writer.apply_watcher_event(&event);
                    (self.touched)(&gone);
                }
            }
        }
    }

    async fn open(&self, guarded: DeserializeGuard<K>) -> Option<K> {
        match guarded.0 {
            Ok(mut object) => {
                // An empty list would keep the room of what was in it.
                object.meta_mut().managed_fields = None;
                (self.slim)(&mut object);
                Some(object)
            }
            Err(invalid) => {
                let kind = kind_word::<K>();
                self.metrics.invalid(kind);
                let name = invalid.metadata.name.clone().unwrap_or_default();
                tracing::warn!(kind, name, "can't read an object: {}", invalid.error);
                let about = DeserializeGuard::<K>(Err(invalid.clone())).object_ref(&());
                let note = format!(
                    "this program can't read it and leaves it as it is: {}; does the CustomResourceDefinition belong to another version?",
                    invalid.error
                );
                self.events.warn(&about, "Unreadable", "Read", &note).await;
                None
            }
        }
    }

    fn versions(&self) -> HashMap<Key, Arc<K>> {
        let objects = self.store.state().into_iter();
        objects
            .filter_map(|object| Some((Key::of(object.as_ref())?, object)))
            .collect()
    }

    /// After a list: who has come or changed, and who has gone meanwhile.
    fn tell_differences(&self, mut before: HashMap<Key, Arc<K>>) {
        for object in self.store.state() {
            let known = Key::of(object.as_ref()).and_then(|key| before.remove(&key));
            let changed =
                known.is_none_or(|known| known.resource_version() != object.resource_version());
            if changed {
                (self.touched)(&object);
            }
        }
        for gone in before.values() {
            (self.touched)(gone);
        }
    }
}

/// The kind, as a label of metrics.
pub(crate) fn kind_word<K: Watched>() -> &'static str {
    match K::kind(&()).as_ref() {
        "Archive" => "Archive",
        "Repository" => "Repository",
        "Backup" => "Backup",
        "ScheduledBackup" => "ScheduledBackup",
        "Restore" => "Restore",
        "PersistentVolumeClaim" => "PersistentVolumeClaim",
        "Job" => "Job",
        "Secret" => "Secret",
        "Pod" => "Pod",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;
    use std::sync::Mutex;

    fn map(name: &str, version: &str) -> ConfigMap {
        serde_json::from_value(json!({
            "metadata": {"namespace": "n", "name": name, "resourceVersion": version}
        }))
        .unwrap()
    }

    #[allow(clippy::type_complexity, reason = "told by its parts")]
    fn follower() -> (
        Follower<ConfigMap, impl Fn(&ConfigMap) + Send>,
        Arc<Mutex<Vec<String>>>,
    ) {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let touched = {
            let seen = seen.clone();
            move |map: &ConfigMap| {
                let version = map.resource_version().unwrap_or_default();
                seen.lock()
                    .unwrap()
                    .push(format!("{}@{version}", map.name_any()));
            }
        };
        let writer = Writer::new(());
        let (client, _) = tower_test_client();
        let follower = Follower {
            store: writer.as_reader(),
            writer,
            slim: (|_| {}) as fn(&mut ConfigMap),
            touched,
            events: Events::new(client, "test".into()),
            metrics: Arc::new(Metrics::new()),
        };
        (follower, seen)
    }

    /// Nobody answers.
    fn tower_test_client() -> (Client, ()) {
        let service = tower::service_fn(|_: hyper::Request<kube::client::Body>| async {
            Err::<hyper::Response<kube::client::Body>, _>(std::io::Error::other("nobody"))
        });
        (Client::new(service, "n"), ())
    }

    #[tokio::test]
    async fn after_a_new_list_only_differences_are_told_and_what_has_gone() {
        let (mut follower, seen) = follower();
        let good = |name: &str, version: &str| DeserializeGuard(Ok(map(name, version)));
        let take = || std::mem::take(&mut *seen.lock().unwrap());
        follower.take(Event::Init).await;
        follower.take(Event::InitApply(good("a", "1"))).await;
        follower.take(Event::InitApply(good("b", "1"))).await;
        assert!(take().is_empty(), "nothing can be found yet");
        follower.take(Event::InitDone).await;
        let mut told = take();
        told.sort();
        assert_eq!(told, ["a@1", "b@1"]);
        follower.take(Event::Apply(good("a", "2"))).await;
        assert_eq!(take(), ["a@2"]);
        follower.take(Event::Init).await;
        follower.take(Event::InitApply(good("a", "2"))).await;
        follower.take(Event::InitDone).await;
        assert_eq!(take(), ["b@1"]);
        follower.take(Event::Delete(good("a", "3"))).await;
        assert_eq!(take(), ["a@2"]);
        assert!(follower.store.is_empty());
    }

    #[tokio::test]
    async fn what_cant_be_read_is_left_as_it_was() {
        let (mut follower, seen) = follower();
        let unreadable = || {
            let value = json!({"metadata": {"namespace": "n", "name": "a", "resourceVersion": "2"}, "data": 7});
            serde_json::from_value::<DeserializeGuard<ConfigMap>>(value).unwrap()
        };
        follower.take(Event::Init).await;
        follower
            .take(Event::InitApply(DeserializeGuard(Ok(map("a", "1")))))
            .await;
        follower.take(Event::InitDone).await;
        seen.lock().unwrap().clear();
        follower.take(Event::Apply(unreadable())).await;
        assert!(seen.lock().unwrap().is_empty());
        let kept = follower.store.state();
        assert_eq!(kept[0].resource_version().as_deref(), Some("1"));
        follower.take(Event::Delete(unreadable())).await;
        assert_eq!(*seen.lock().unwrap(), ["a@1"]);
    }
}
