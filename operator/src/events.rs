//! Events: what people read under `kubectl describe`.

use crate::conditions::{Finding, Tone};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};

/// The API server takes no longer note, in bytes.
const LONGEST_NOTE: usize = 1024;

/// Publishes events. Cheap to clone; all clones know what was published, so that what is said again within minutes is
/// counted and not repeated.
///
/// Verbs on events.k8s.io: create, patch.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// In the name of this replica.
    pub fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter {
            controller: "holdfast-operator".to_owned(),
            instance: Some(instance),
        };
        Self {
            recorder: Recorder::new(client, reporter),
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
        self.publish(about, EventType::Warning, reason, action, note)
            .await;
    }

    /// Something has happened as it should.
    pub async fn note(&self, about: &ObjectReference, reason: &str, action: &str, note: &str) {
        self.publish(about, EventType::Normal, reason, action, note)
            .await;
    }

    async fn publish(
        &self,
        about: &ObjectReference,
        type_: EventType,
        reason: &str,
        action: &str,
        note: &str,
    ) {
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(cut(note).to_owned()),
            action: action.to_owned(),
            secondary: None,
        };
        if let Err(error) = self.recorder.publish(&event, about).await {
            let name = about.name.as_deref().unwrap_or_default();
            tracing::warn!(name, reason, "can't publish an event: {error}");
        }
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
    fn a_note_is_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        let long = format!("a{}", "ä".repeat(600));
        assert_eq!(cut(&long).len(), 1023);
    }
}
