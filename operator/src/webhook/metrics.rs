//! What Prometheus is told of the webhook.

use super::review::Answered;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

/// Counts answers, and how long they took.
#[derive(Debug, Clone)]
pub struct Metrics {
    answers: Family<Labels, Counter>,
    seconds: Histogram,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the names are the labels' values")]
enum Outcome {
    patched,
    unchanged,
    refused,
    invalid,
}

impl Metrics {
    /// Registers them with that registry, whose prefix they get.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            answers: Family::default(),
            seconds: Histogram::new([0.0005, 0.001, 0.005, 0.025, 0.1, 0.5, 2.5]),
        };
        registry.register(
            "webhook_answers",
            "Pods that the API server asked about, by what became of them",
            metrics.answers.clone(),
        );
        registry.register_with_unit(
            "webhook_answer",
            "How long an answer took, from the request's last byte",
            Unit::Seconds,
            metrics.seconds.clone(),
        );
        metrics
    }

    /// None for a request that was no review.
    pub(super) fn answered(&self, answered: Option<Answered>, took: Duration) {
        let outcome = match answered {
            Some(Answered::Patched) => Outcome::patched,
            Some(Answered::Unchanged) => Outcome::unchanged,
            Some(Answered::Refused) => Outcome::refused,
            None => Outcome::invalid,
        };
        self.answers.get_or_create(&Labels { outcome }).inc();
        self.seconds.observe(took.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted() {
        let mut registry = Registry::with_prefix("holdfast");
        let metrics = Metrics::register(&mut registry);
        metrics.answered(Some(Answered::Patched), Duration::from_millis(1));
        metrics.answered(None, Duration::from_millis(1));
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "holdfast_webhook_answers_total{outcome=\"patched\"} 1",
            "holdfast_webhook_answers_total{outcome=\"invalid\"} 1",
            "holdfast_webhook_answer_seconds_count 2",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }
}
