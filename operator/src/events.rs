//! Events: what people read under `kubectl describe`.

use crate::conditions::{Finding, Tone};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The API server takes no longer note, in bytes.
const LONGEST_NOTE: usize = 1024;

/// What is said again within that time is counted.
const COUNTED: SignedDuration = SignedDuration::from_mins(6);

/// Publishes events. Cheap to clone; all clones know what was published, so that what is said again within minutes is
/// counted and not repeated. What is said in other words is another event, unlike with kube's own recorder, which would leave
/// people with the words that were said first.
///
/// Verbs on events.k8s.io: create, patch.
#[derive(Clone)]
pub struct Events {
    client: Client,
    instance: String,
    said: Arc<Mutex<Said>>,
}

impl Events {
    /// In the name of this replica.
    pub fn new(client: Client, instance: String) -> Self {
        Self {
            client,
            instance,
            said: Arc::default(),
        }
    }

    /// Tells what turned. An event that can't be published is logged: the conditions say the same.
    pub async fn tell(&self, about: &ObjectReference, news: &[Finding]) {
        for finding in news {
            let note = match finding.message.is_empty() {
                true => format!("{} is {:?}", finding.kind, finding.status),
                false => finding.message.clone(),
            };
            match finding.tone {
                Tone::Bad => self.warn(about, &finding.reason, finding.kind, &note).await,
                Tone::Good | Tone::Open => {
                    self.note(about, &finding.reason, finding.kind, &note).await;
                }
            }
        }
    }

    /// Somebody has to do something. `reason` and `action` are words in CamelCase.
    pub async fn warn(&self, about: &ObjectReference, reason: &str, action: &str, note: &str) {
        self.publish(about, "Warning", reason, action, note).await;
    }

    /// Something has happened as it should.
    pub async fn note(&self, about: &ObjectReference, reason: &str, action: &str, note: &str) {
        self.publish(about, "Normal", reason, action, note).await;
    }

    async fn publish(
        &self,
        about: &ObjectReference,
        kind: &str,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let now = Timestamp::now();
        let name = about.name.as_deref().unwrap_or_default();
        let mut event = Event {
            action: Some(action.to_owned()),
            reason: Some(reason.to_owned()),
            note: Some(cut(note).to_owned()),
            type_: Some(kind.to_owned()),
            regarding: Some(about.clone()),
            reporting_controller: Some("holdfast-operator".to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        };
        let words = [kind, reason, action, cut(note)].map(str::to_owned);
        let words = (about.uid.clone().unwrap_or_default(), words);
        let (named, count) = self.said().again(words.clone(), name, now);
        let namespace = about.namespace.as_deref().unwrap_or("default");
        let events = Api::<Event>::namespaced(self.client.clone(), namespace);
        let series = EventSeries {
            count,
            last_observed_time: MicroTime(now),
        };
        let counted = Patch::Merge(json!({"series": series}));
        let known = match count {
            1 => None,
            _ => match events
                .patch(&named, &PatchParams::default(), &counted)
                .await
            {
                // Somebody has deleted it, or it was too old.
                Err(kube::Error::Api(status)) if status.is_not_found() => None,
                other => Some(other),
            },
        };
        let published = match known {
            Some(known) => known,
            None => {
                event.metadata.name = Some(named);
                event.event_time = Some(MicroTime(now));
                events.create(&PostParams::default(), &event).await
            }
        };
        if let Err(error) = published {
            self.said().0.remove(&words);
            tracing::warn!(name, reason, "can't publish an event: {error}");
        }
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        // Entries are whole or not there.
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// About which object, by its UID, and in which words.
type Words = (String, [String; 4]);

/// What was said of late: the event's name, how often, and when for the last time.
#[derive(Debug, Default)]
struct Said(HashMap<Words, (String, i32, Timestamp)>);

impl Said {
    /// It is said of the object of this name: by which event, and how often by now.
    fn again(&mut self, words: Words, about: &str, now: Timestamp) -> (String, i32) {
        self.0
            .retain(|_, (_, _, last)| now.duration_since(*last) < COUNTED);
        let new = || (format!("{about}.{:x}", now.as_nanosecond()), 0, now);
        let (name, count, last) = self.0.entry(words).or_insert_with(new);
        *count += 1;
        *last = now;
        (name.clone(), *count)
    }
}

/// No more than the API server takes, and no half character.
fn cut(note: &str) -> &str {
    note.get(..note.floor_char_boundary(LONGEST_NOTE))
        .unwrap_or(note)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_again_is_counted_and_other_words_are_another_event() {
        let mut said = Said::default();
        let mut say = |uid: &str, note: &str, minutes: i64| {
            let words = ["Warning", "StreamingFails", "Streaming", note].map(str::to_owned);
            let now = Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes);
            let (name, count) = said.again((uid.to_owned(), words), "orders", now);
            assert!(name.starts_with("orders."), "{name}");
            (name, count)
        };
        let (first, count) = say("u", "refused", 0);
        assert_eq!(count, 1);
        let (other, count) = say("u", "the bucket is gone", 1);
        assert!(count == 1 && other != first);
        assert_eq!(say("u", "refused", 5), (first.clone(), 2));
        assert_eq!(say("u", "refused", 10), (first.clone(), 3));
        assert_eq!(say("v", "refused", 11).1, 1);
        // It was long ago.
        let (later, count) = say("u", "refused", 16);
        assert!(count == 1 && later != first);
    }

    #[test]
    fn a_note_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = format!("a{}", "ä".repeat(600));
        assert_eq!(cut(&long).len(), 1023);
    }
}
