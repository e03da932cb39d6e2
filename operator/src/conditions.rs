//! Conditions by the Kubernetes API conventions: what was found becomes conditions, and what turned becomes events.

use holdfast_protocol::status::{Condition, ConditionStatus};
use jiff::Timestamp;
use std::borrow::Cow;

/// No message is longer, in characters: much of it is what strangers say.
const LONGEST: usize = 1000;

/// Whether people should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// As it should be.
    Good,
    /// Somebody has to do something.
    Bad,
    /// It can't be told, or it is on its way.
    Open,
}

/// What was found of one aspect of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The condition's type.
    pub kind: &'static str,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word in CamelCase, for programs.
    pub reason: Cow<'static, str>,
    /// One sentence, for people. Without figures that move: every other text is a write.
    pub message: String,
    /// Whether people should look.
    pub tone: Tone,
}

impl Finding {
    fn new(
        kind: &'static str,
        status: ConditionStatus,
        tone: Tone,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let mut message = message.into();
        if let Some((cut, _)) = message.char_indices().nth(LONGEST) {
            message.truncate(cut);
            message.push('…');
        }
        Self {
            kind,
            status,
            reason: Cow::Borrowed(reason),
            message,
            tone,
        }
    }

    /// What the standing condition of that type says: for where nothing could be found out yet.
    pub fn as_before(kind: &'static str, conditions: &[Condition]) -> Option<Self> {
        let known = find(conditions, kind)?;
        let tone = match known.status {
            ConditionStatus::True => Tone::Good,
            ConditionStatus::False => Tone::Bad,
            ConditionStatus::Unknown => Tone::Open,
        };
        Some(Self {
            reason: Cow::Owned(known.reason.clone()),
            ..Self::new(kind, known.status, tone, "", known.message.clone())
        })
    }

    /// It holds, and that is good.
    pub fn good(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(kind, ConditionStatus::True, Tone::Good, reason, message)
    }

    /// It does not hold, and somebody has to do something: the message says what.
    pub fn bad(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(kind, ConditionStatus::False, Tone::Bad, reason, message)
    }

    /// It does not hold yet.
    pub fn pending(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(kind, ConditionStatus::False, Tone::Open, reason, message)
    }

    /// It can't be told.
    pub fn unknown(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(kind, ConditionStatus::Unknown, Tone::Open, reason, message)
    }

    /// It holds, and that is bad: such as `Failed`.
    pub fn failed(kind: &'static str, reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(kind, ConditionStatus::True, Tone::Bad, reason, message)
    }
}

/// Conditions as they will stand, and which of them are news.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// In the order of the findings; others than theirs are gone.
    pub conditions: Vec<Condition>,
    /// Worth an event: what has become bad, or bad for another reason, and what has become good again.
    pub news: Vec<Finding>,
}

/// From what stands and what was found to what will stand. A status that stays keeps its time.
pub fn settle(
    known: &[Condition],
    findings: Vec<Finding>,
    generation: Option<i64>,
    now: Timestamp,
) -> Settled {
    // The API server keeps whole seconds; what it gives back has to compare equal.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mut news = Vec::new();
    let conditions = findings
        .into_iter()
        .map(|finding| {
            let before = known.iter().find(|c| c.r#type == finding.kind);
            let same = before.filter(|before| before.status == finding.status);
            let condition = Condition {
                r#type: finding.kind.to_owned(),
                status: finding.status,
                reason: finding.reason.to_string(),
                message: finding.message.clone(),
                last_transition_time: same.map_or(now, |before| before.last_transition_time),
                observed_generation: generation,
            };
            if is_news(before, &finding) {
                news.push(finding);
            }
            condition
        })
        .collect();
    Settled { conditions, news }
}

fn is_news(before: Option<&Condition>, finding: &Finding) -> bool {
    match (before, finding.tone) {
        (_, Tone::Open) => false,
        (None, Tone::Bad) => true,
        // The summary stands for all that was good from the beginning.
        (None, Tone::Good) => finding.kind == "Ready",
        (Some(before), Tone::Bad) => {
            before.status != finding.status || before.reason != finding.reason
        }
        (Some(before), Tone::Good) => before.status != finding.status,
    }
}

/// The condition of that type.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.r#type == kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_status_that_stays_keeps_its_time() {
        let first = at("2026-11-21T12:00:00.75Z");
        let bad = || Finding::bad("Ready", "BucketMissing", "make it");
        let one = settle(&[], vec![bad()], Some(1), first);
        assert_eq!(
            one.conditions[0].last_transition_time,
            at("2026-11-21T12:00:00Z")
        );
        let later = at("2026-11-21T13:00:00Z");
        let two = settle(&one.conditions, vec![bad()], Some(1), later);
        assert_eq!(two.conditions, one.conditions);
        let three = settle(&one.conditions, vec![bad()], Some(2), later);
        assert_eq!(three.conditions[0].observed_generation, Some(2));
        assert_eq!(
            three.conditions[0].last_transition_time,
            one.conditions[0].last_transition_time
        );
        let good = Finding::good("Ready", "Reachable", "");
        let four = settle(&one.conditions, vec![good], Some(2), later);
        assert_eq!(four.conditions[0].last_transition_time, later);
    }

    #[test]
    fn an_event_tells_what_turned() {
        let now = at("2026-11-21T12:00:00Z");
        let ready = |reason| Finding::good("Ready", reason, "");
        let bad = |reason| Finding::bad("Ready", reason, "");
        let open = || Finding::unknown("Ready", "Starting", "");
        let other = || Finding::good("Archiving", "Archiving", "");
        for (before, after, news) in [
            (None, ready("A"), true),
            (None, other(), false),
            (None, bad("A"), true),
            (None, open(), false),
            (Some(bad("A")), bad("A"), false),
            (Some(bad("A")), bad("B"), true),
            (Some(bad("A")), ready("A"), true),
            (Some(bad("A")), open(), false),
            (Some(open()), ready("A"), true),
            (Some(open()), bad("A"), true),
            (Some(ready("A")), ready("B"), false),
            (Some(ready("A")), bad("A"), true),
        ] {
            let known = settle(&[], before.clone().into_iter().collect(), None, now);
            let settled = settle(&known.conditions, vec![after.clone()], None, now);
            assert_eq!(!settled.news.is_empty(), news, "{before:?} {after:?}");
        }
    }

    #[test]
    fn messages_have_an_end() {
        let finding = Finding::bad("Ready", "X", "ä".repeat(5000));
        assert_eq!(finding.message.chars().count(), LONGEST + 1);
    }
}
