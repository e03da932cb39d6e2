//! What Prometheus is told.

use crate::names::Key;
use holdfast_protocol::status::{Condition, ConditionStatus};
use holdfast_repository::store::{Operation, Requests, requests};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// In seconds: most looks find nothing to do, a few wait for a store.
const BUCKETS: [f64; 9] = [0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 5.0, 15.0, 60.0];

/// What people write, and may write in a shape that can't be read.
const WRITTEN: [&str; 5] = [
    "Repository",
    "Archive",
    "Backup",
    "ScheduledBackup",
    "Restore",
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    kind: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    kind: &'static str,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    request: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, EncodeLabelSet)]
struct ConditionLabels {
    kind: &'static str,
    condition: String,
    status: &'static str,
}

/// The operator's figures. Handed around by `Arc`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    reconciliations: Family<ResultLabels, Counter>,
    durations: Family<KindLabels, Histogram, fn() -> Histogram>,
    queued: Family<QueueLabels, Gauge>,
    requests: Family<RequestLabels, Counter>,
    writes: Family<KindLabels, Counter>,
    invalid: Family<KindLabels, Counter>,
    leader: Gauge,
    conditions: Arc<Tally>,
    webhook: crate::webhook::Metrics,
}

impl Metrics {
    /// All zero.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("holdfast_operator");
        let durations: fn() -> Histogram = || Histogram::new(BUCKETS);
        let metrics = Self {
            reconciliations: Family::default(),
            durations: Family::new_with_constructor(durations),
            queued: Family::default(),
            requests: Family::default(),
            writes: Family::default(),
            invalid: Family::default(),
            leader: Gauge::default(),
            conditions: Arc::default(),
            webhook: crate::webhook::Metrics::register(&mut registry),
            registry: Registry::default(),
        };
        registry.register(
            "build",
            "The program",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "reconciliations",
            "Looks at objects, by kind and result (success, conflict, error)",
            metrics.reconciliations.clone(),
        );
        registry.register_with_unit(
            "reconciliation_duration",
            "How long a look at an object took",
            Unit::Seconds,
            metrics.durations.clone(),
        );
        registry.register(
            "queue_objects",
            "Objects that wait for their next look, and that are looked at",
            metrics.queued.clone(),
        );
        registry.register(
            "sidecar_requests",
            "Requests to sidecars, by result (answered, refused, unreachable, protocol)",
            metrics.requests.clone(),
        );
        registry.register(
            "writes",
            "Objects written through the API server, by kind",
            metrics.writes.clone(),
        );
        registry.register(
            "invalid_objects",
            "Objects seen that could not be read and were left alone, by kind",
            metrics.invalid.clone(),
        );
        // From the first on, an increase is seen.
        for kind in WRITTEN {
            drop(metrics.invalid.get_or_create(&KindLabels { kind }));
        }
        registry.register(
            "leader",
            "1 on the replica that acts",
            metrics.leader.clone(),
        );
        registry.register_collector(Box::new(Counted(metrics.conditions.clone())));
        registry.register_collector(Box::new(StoreRequests));
        Self {
            registry,
            ..metrics
        }
    }

    /// One look at an object.
    pub fn reconciled(&self, kind: &'static str, result: &'static str, took: Duration) {
        self.reconciliations
            .get_or_create(&ResultLabels { kind, result })
            .inc();
        self.durations
            .get_or_create(&KindLabels { kind })
            .observe(took.as_secs_f64());
    }

    /// What a controller has before it.
    pub fn queue(&self, kind: &'static str, waiting: usize, running: usize) {
        for (state, count) in [("waiting", waiting), ("running", running)] {
            self.queued
                .get_or_create(&QueueLabels { kind, state })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    /// One request to a sidecar.
    pub fn sidecar_request(&self, request: &'static str, result: &'static str) {
        self.requests
            .get_or_create(&RequestLabels { request, result })
            .inc();
    }

    /// One object that was written, such as `Secret` or `Archive`.
    pub fn written(&self, kind: &'static str) {
        self.writes.get_or_create(&KindLabels { kind }).inc();
    }

    /// One object that can't be read.
    pub fn invalid(&self, kind: &'static str) {
        self.invalid.get_or_create(&KindLabels { kind }).inc();
    }

    /// Whether this replica acts.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// The conditions of an object as they stand now; none once it is gone.
    pub fn conditions(&self, kind: &'static str, key: &Key, conditions: &[Condition]) {
        self.conditions.set(kind, key, conditions);
    }

    /// Those of the webhook.
    pub fn webhook(&self) -> crate::webhook::Metrics {
        self.webhook.clone()
    }

    /// In the text format of Prometheus.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A condition's type and status.
type Aspect = (String, ConditionStatus);

/// How many objects have which conditions, counted when somebody asks.
#[derive(Debug, Default)]
struct Tally {
    objects: Mutex<HashMap<(&'static str, Key), Vec<Aspect>>>,
}

impl Tally {
    fn set(&self, kind: &'static str, key: &Key, conditions: &[Condition]) {
        let mut objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (kind, key.clone());
        if conditions.is_empty() {
            objects.remove(&place);
            return;
        }
        let aspects = conditions
            .iter()
            .map(|condition| (condition.r#type.clone(), condition.status))
            .collect();
        objects.insert(place, aspects);
    }

    fn counts(&self) -> BTreeMap<ConditionLabels, u64> {
        let objects = self.objects.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = BTreeMap::new();
        for ((kind, _), aspects) in objects.iter() {
            for (condition, status) in aspects {
                let labels = ConditionLabels {
                    kind,
                    condition: condition.clone(),
                    status: match status {
                        ConditionStatus::True => "True",
                        ConditionStatus::False => "False",
                        ConditionStatus::Unknown => "Unknown",
                    },
                };
                *counts.entry(labels).or_default() += 1;
            }
        }
        counts
    }
}

/// Counts at the moment it is asked.
#[derive(Debug)]
struct Counted(Arc<Tally>);

impl Collector for Counted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let counts = self.0.counts();
        let gauge = ConstGauge::new(0u64);
        let mut encoder = encoder.encode_descriptor(
            "objects",
            "Objects by kind, condition and its status.",
            None,
            gauge.metric_type(),
        )?;
        for (labels, count) in counts {
            let one = encoder.encode_family(&labels)?;
            ConstGauge::new(count).encode(one)?;
        }
        Ok(())
    }
}

/// This process' requests to object stores, counted where they are made.
#[derive(Debug)]
struct StoreRequests;

impl Collector for StoreRequests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let requests = requests();
        let families: [(_, _, fn(&_, _) -> u64); 2] = [
            (
                "store_requests",
                "Requests to object stores, tries of one request counted as one.",
                Requests::made,
            ),
            (
                "store_request_errors",
                "Requests to object stores that have failed after all tries.",
                Requests::failed,
            ),
        ];
        for (name, help, count) in families {
            let kind = ConstCounter::new(0u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, None, kind)?;
            for operation in Operation::ALL {
                let labels = [("operation", operation.name())];
                let one = family.encode_family(&labels)?;
                ConstCounter::new(count(requests, operation)).encode(one)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conditions::{Finding, settle};

    #[test]
    fn names_follow_the_rules_of_prometheus() {
        let metrics = Metrics::new();
        metrics.reconciled("Archive", "success", Duration::from_millis(3));
        metrics.queue("Archive", 7, 1);
        metrics.sidecar_request("status", "answered");
        metrics.written("Archive");
        metrics.invalid("Backup");
        metrics.leads(true);
        let ready = Finding::good("Ready", "A", "");
        let key = Key::new("shop", "orders");
        let conditions = settle(&[], vec![ready], None, jiff::Timestamp::now()).conditions;
        metrics.conditions("Archive", &key, &conditions);
        metrics.conditions("Archive", &Key::new("shop", "gone"), &conditions);
        metrics.conditions("Archive", &Key::new("shop", "gone"), &[]);
        let text = metrics.text().unwrap();
        for line in [
            r#"holdfast_operator_reconciliations_total{kind="Archive",result="success"} 1"#,
            r#"holdfast_operator_reconciliation_duration_seconds_bucket{le="0.005",kind="Archive"} 1"#,
            r#"holdfast_operator_queue_objects{kind="Archive",state="waiting"} 7"#,
            r#"holdfast_operator_sidecar_requests_total{request="status",result="answered"} 1"#,
            r#"holdfast_operator_writes_total{kind="Archive"} 1"#,
            r#"holdfast_operator_invalid_objects_total{kind="Backup"} 1"#,
            "holdfast_operator_leader 1",
            r#"holdfast_operator_objects{kind="Archive",condition="Ready",status="True"} 1"#,
            "holdfast_operator_build_info",
            r#"holdfast_operator_invalid_objects_total{kind="Archive"} 0"#,
            r#"holdfast_operator_store_requests_total{operation="list"}"#,
            r#"holdfast_operator_store_request_errors_total{operation="list"}"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
