//! What Prometheus is told. What is not known is left out rather than told as 0.

use crate::control::BackupFigures;
use holdfast_protocol::control::{InstanceReport, Role};
use holdfast_repository::store::{Operation, requests};
use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, text};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

/// All metrics of this process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    figures: Arc<Figures>,
}

/// As of the page that is being made.
#[derive(Debug, Default)]
struct Figures(Mutex<(InstanceReport, BackupFigures)>);

impl Metrics {
    /// `archive_seconds` is counted elsewhere.
    pub fn new(archive_seconds: Histogram) -> Self {
        let mut registry = Registry::with_prefix("holdfast");
        registry.register(
            "build",
            "The version of this program",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "wal_archive_seconds",
            "Time from the server's request to archive a WAL file to the answer that it is durable",
            archive_seconds,
        );
        let figures = Arc::new(Figures::default());
        registry.register_collector(Box::new(figures.clone()));
        Self { registry, figures }
    }

    /// The page with these figures.
    ///
    /// # Errors
    /// Those of formatting, which don't happen.
    pub fn text(
        &self,
        report: InstanceReport,
        backups: BackupFigures,
    ) -> Result<String, fmt::Error> {
        let mut figures = self
            .figures
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *figures = (report, backups);
        drop(figures);
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let figures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (report, backups) = &*figures;
        let mut page = Page(encoder);
        wal(&mut page, report)?;
        backup(&mut page, backups)?;
        store(&mut page)?;
        server(&mut page, report)
    }
}

fn wal(page: &mut Page<'_>, report: &InstanceReport) -> fmt::Result {
    let wal = &report.wal;
    page.counter(
        "wal_archived",
        "WAL files that are durable in every required repository, since the start",
        wal.archived_count,
    )?;
    page.counter(
        "wal_archive_failures",
        "Requests to archive a WAL file that were answered with an error, since the start",
        wal.failed_count,
    )?;
    page.gauge(
        "wal_ready_files",
        "WAL files that wait to be archived, as far as 10000",
        wal.ready_count.map(|n| n as f64),
    )?;
    let lag = wal.lag.unwrap_or_default();
    page.gauge(
        "wal_lag_bytes",
        "WAL that is written and not stored",
        lag.bytes.map(|n| n as f64),
    )?;
    page.gauge(
        "wal_lag_seconds",
        "Age of the oldest WAL that is written and not stored",
        lag.seconds.map(|n| n as f64),
    )?;
    page.gauge(
        "wal_streaming",
        "Whether what is committed is stored within about a second",
        wal.streaming
            .as_ref()
            .map(|streaming| f64::from(u8::from(streaming.active))),
    )?;
    page.family(
        "wal_best_effort_waiting_files",
        "WAL files that the required repositories hold and this best-effort one lacks, as far as 10000",
        "repository",
        wal.best_effort.iter().map(|repository| {
            let waiting = repository.waiting_count as f64;
            (repository.name.as_str(), ConstGauge::new(waiting))
        }),
    )?;
    page.gauge(
        "wal_volume_available_bytes",
        "What Postgres may still fill of the volume of pg_wal",
        wal.volume.map(|volume| volume.available_bytes as f64),
    )?;
    page.gauge(
        "wal_volume_full_seconds",
        "Time until it is full if the WAL that waits goes on to grow; left out where it does not grow",
        wal.volume
            .and_then(|volume| volume.full_in_seconds)
            .map(|seconds| seconds as f64),
    )?;
    page.gauge(
        "last_archived_timestamp_seconds",
        "When the store last confirmed a WAL file",
        wal.last_archived.as_ref().map(|last| unix(last.time)),
    )
}

fn backup(page: &mut Page<'_>, backups: &BackupFigures) -> fmt::Result {
    page.gauge(
        "backup_running",
        "1 while this sidecar takes a backup",
        Some(flag(backups.running.is_some())),
    )?;
    page.counter(
        "backup_failures",
        "Backups of this sidecar that have failed, since the start",
        backups.failures,
    )?;
    let last = backups.completed.as_ref();
    page.gauge(
        "backup_last_success_timestamp_seconds",
        "When the last backup of this sidecar was complete",
        last.map(|last| unix(last.time)),
    )?;
    page.gauge(
        "backup_duration_seconds",
        "How long the last complete backup took",
        last.map(|last| last.duration.as_secs_f64()),
    )?;
    let Some(last) = last else { return Ok(()) };
    page.family(
        "backup_size_bytes",
        "Sizes of the last complete backup: of the database, and of what it added to the store",
        "of",
        [
            ("database", last.size.database),
            ("stored", last.size.stored),
        ]
        .map(|(of, bytes)| (of, ConstGauge::new(bytes as f64))),
    )
}

fn store(page: &mut Page<'_>) -> fmt::Result {
    let requests = requests();
    page.family(
        "store_requests",
        "Requests to object stores, tries of one request counted as one",
        "operation",
        Operation::ALL.map(|o| (o.name(), ConstCounter::new(requests.made(o)))),
    )?;
    page.family(
        "store_request_errors",
        "Requests to object stores that have failed after all tries",
        "operation",
        Operation::ALL.map(|o| (o.name(), ConstCounter::new(requests.failed(o)))),
    )
}

fn server(page: &mut Page<'_>, report: &InstanceReport) -> fmt::Result {
    let postgres = &report.postgres;
    page.gauge(
        "postgres_up",
        "1 if the server answers",
        Some(flag(postgres.unreachable.is_none())),
    )?;
    page.gauge(
        "postgres_primary",
        "1 if the server is a primary, 0 if it recovers",
        postgres.role.map(|role| flag(role == Role::Primary)),
    )?;
    page.gauge(
        "postgres_archiving",
        "1 if the server's settings hand its WAL to this sidecar",
        postgres
            .unreachable
            .is_none()
            .then(|| flag(postgres.archiving_off.is_none())),
    )?;
    page.gauge(
        "configuration_generation",
        "Of the settings that are in use",
        report.configuration_generation.map(|n| n as f64),
    )?;
    page.gauge(
        "configuration_error",
        "1 if newer settings, or some of what they name, can't be used",
        Some(flag(report.configuration_error.is_some())),
    )
}

fn flag(is: bool) -> f64 {
    f64::from(u8::from(is))
}

fn unix(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

/// As the registry ends those that it knows beforehand.
fn sentence(help: &str) -> String {
    format!("{help}.")
}

/// Writes metrics that are known only now.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn gauge(&mut self, name: &str, help: &str, value: Option<f64>) -> fmt::Result {
        match value {
            Some(value) => self.one(name, help, &ConstGauge::new(value)),
            None => Ok(()),
        }
    }

    /// The name without `_total`, which is added.
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.one(name, help, &ConstCounter::new(value))
    }

    fn one(&mut self, name: &str, help: &str, metric: &impl EncodeMetric) -> fmt::Result {
        let encoder =
            self.0
                .encode_descriptor(name, &sentence(help), None, metric.metric_type())?;
        metric.encode(encoder)
    }

    /// One metric for each value of a label.
    fn family<'v, M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        label: &'static str,
        metrics: impl IntoIterator<Item = (&'v str, M)>,
    ) -> fmt::Result {
        let metrics: Vec<(&str, M)> = metrics.into_iter().collect();
        let Some((_, first)) = metrics.first() else {
            return Ok(());
        };
        let mut encoder =
            self.0
                .encode_descriptor(name, &sentence(help), None, first.metric_type())?;
        for (value, metric) in &metrics {
            metric.encode(encoder.encode_family(&[(label, *value)])?)?;
        }
        Ok(())
    }
}
