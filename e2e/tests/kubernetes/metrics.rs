//! What Prometheus is told: the series that `docs/monitoring.md` lists and no others, named by Prometheus' rules, with
//! values that move.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::fixtures::{Database, archive, backed_up, repository, told};
use anyhow::{Context, Result, ensure};
use holdfast_e2e::cluster::SYSTEM;
use holdfast_e2e::{Space, eventually};

/// A page in the text format.
#[derive(Debug, Default)]
pub struct Page {
    /// By family: its type.
    types: BTreeMap<String, String>,
    /// By family: what it says it is.
    helps: BTreeMap<String, String>,
    /// By name and labels, as written.
    samples: BTreeMap<String, f64>,
}

impl Page {
    fn read(&mut self, text: &str) -> Result<()> {
        let content = text
            .strip_suffix("# EOF\n")
            .context("the page has no end")?;
        for line in content.lines() {
            match line.split_once(' ') {
                Some(("#", rest)) => {
                    let mut words = rest.splitn(3, ' ');
                    let (what, family) = (words.next(), words.next().context("a family")?);
                    let value = words.next().unwrap_or_default().to_owned();
                    match what {
                        Some("TYPE") => self.types.insert(family.to_owned(), value),
                        Some("HELP") => self.helps.insert(family.to_owned(), value),
                        _ => None,
                    };
                }
                _ => {
                    let (name, value) = line.rsplit_once(' ').context("a sample")?;
                    let value: f64 = value.parse().with_context(|| line.to_owned())?;
                    *self.samples.entry(name.to_owned()).or_default() += value;
                }
            }
        }
        Ok(())
    }

    /// The sum of a metric's samples that carry these labels.
    pub fn value(&self, name: &str, labels: &[&str]) -> Option<f64> {
        let of_name = |sample: &str| sample == name || sample.starts_with(&format!("{name}{{"));
        let mut found = self
            .samples
            .iter()
            .filter(|(sample, _)| of_name(sample) && labels.iter().all(|l| sample.contains(l)))
            .map(|(_, value)| *value)
            .peekable();
        found.peek()?;
        Some(found.sum())
    }

    /// As the documentation names them: with the labels, without what histograms add.
    fn names(&self) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (family, kind) in &self.types {
            let (name, sample) = match kind.as_str() {
                "counter" => (format!("{family}_total"), format!("{family}_total")),
                "info" => (format!("{family}_info"), format!("{family}_info")),
                "histogram" => (family.clone(), format!("{family}_count")),
                _ => (family.clone(), family.clone()),
            };
            let labelled = format!("{sample}{{");
            let labels = self
                .samples
                .keys()
                .find_map(|written| written.strip_prefix(&labelled))
                .map(label_names)
                .filter(|labels| !labels.is_empty());
            names.insert(match labels {
                Some(labels) => format!("{name}{{{labels}}}"),
                None => name,
            });
        }
        names
    }

    /// <https://prometheus.io/docs/practices/naming/>, and what promtool looks for.
    fn follows_the_rules(&self) -> Result<()> {
        for (family, kind) in &self.types {
            let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
            ensure!(
                family.starts_with("holdfast_") && family.chars().all(letters),
                "{family}"
            );
            let help = self.helps.get(family).map_or("", String::as_str);
            ensure!(help.len() > 10, "{family} has no help: {help:?}");
            for kind in [
                "counter",
                "gauge",
                "histogram",
                "summary",
                "total",
                "count",
                "sum",
            ] {
                ensure!(
                    !family.ends_with(&format!("_{kind}")),
                    "{family} ends with what its type says"
                );
            }
            for unit in [
                "milliseconds",
                "ms",
                "minutes",
                "hours",
                "days",
                "kilobytes",
                "mib",
                "percent",
            ] {
                ensure!(
                    !family.split('_').any(|word| word == unit),
                    "{family}: no base unit"
                );
            }
            for (about, unit) in [
                ("duration", "_seconds"),
                ("timestamp", "_seconds"),
                ("size", "_bytes"),
                ("lag", ""),
            ] {
                let speaks_of_it = family.split('_').any(|word| word == about);
                ensure!(
                    !speaks_of_it || family.ends_with(unit),
                    "{family} lacks {unit}"
                );
            }
            let ending = match kind.as_str() {
                "counter" => "_total",
                "info" => "_info",
                "histogram" => "_bucket",
                _ => "",
            };
            let full = format!("{family}{ending}");
            ensure!(
                self.value(&full, &[]).is_some(),
                "{family}: no sample {full}"
            );
        }
        Ok(())
    }
}

/// `a="x",b="y"} …`: the names, in order.
fn label_names(labels: &str) -> String {
    let names = labels
        .split("\",")
        .filter_map(|label| label.split_once('='))
        .map(|(name, _)| name)
        .filter(|name| *name != "le");
    names.collect::<Vec<_>>().join(",")
}

/// What the page lists: of the operator, or of the sidecar.
fn documented(of_operator: bool) -> Result<BTreeSet<String>> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/monitoring.md");
    let page = std::fs::read_to_string(page)?;
    let names = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `holdfast_")?.split_once('`'))
        .map(|(name, _)| format!("holdfast_{name}"))
        .filter(|name| name.starts_with("holdfast_operator_") == of_operator);
    Ok(names.collect())
}

fn the_same(documented: &BTreeSet<String>, found: &BTreeSet<String>) -> Result<()> {
    ensure!(
        documented == found,
        "docs/monitoring.md lists and nobody serves: {:?}; is served and not listed: {:?}",
        documented.difference(found).collect::<Vec<_>>(),
        found.difference(documented).collect::<Vec<_>>()
    );
    Ok(())
}

async fn page_of(
    space: &Space,
    namespace: &str,
    pod: &str,
    port: u16,
    page: &str,
) -> Result<String> {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}:{port}/proxy/{page}");
    let said = space.kubectl(&["get", "--raw", &path]).await?;
    said.success().with_context(|| path)
}

/// What a pod's sidecar serves.
pub async fn sidecar(space: &Space, pod: &str) -> Result<Page> {
    let mut page = Page::default();
    page.read(&page_of(space, &space.namespace, pod, 9644, "metrics").await?)?;
    Ok(page)
}

/// Of all replicas, added up: one acts, and the webhook's answers come from any.
async fn operator(space: &Space) -> Result<Page> {
    let words = [
        "--namespace",
        SYSTEM,
        "get",
        "pods",
        "-l",
        "app.kubernetes.io/name=holdfast",
        "--field-selector=status.phase=Running",
        "-o",
        "name",
    ];
    let pods = space.cluster().kubectl(&words).await?.success()?;
    let mut page = Page::default();
    for pod in pods.lines().filter_map(|name| name.strip_prefix("pod/")) {
        page.read(&page_of(space, SYSTEM, pod, 8080, "metrics").await?)?;
    }
    Ok(page)
}

#[tokio::test]
async fn sidecar_and_operator_tell_what_the_page_lists() -> Result<()> {
    Space::scenario("metrics", async |space| {
        // Beside a good store one whose bucket is not there: what is asked of it fails, and nothing waits for it.
        space.apply(&repository(space)).await?;
        let broken = repository(space)
            .replace("{name: s3}", "{name: broken}")
            .replace("bucket: holdfast", "bucket: nowhere");
        space.apply(&broken).await?;
        let both = archive("orders").replace("[{name: s3}]", "[{name: s3}, {name: broken, mode: BestEffort}]");
        space.apply(&both).await?;
        let database = Database::new("orders", 17);
        database.begin(space).await?;
        told(space, "archive/orders", "Archiving", "True", &[]).await?;
        database.archive_rows(space, 0).await?;

        let page = async |page: &str| page_of(space, &space.namespace, "orders-0", 9644, page).await;
        for fine in ["startz", "livez", "readyz"] {
            page(fine).await?;
        }
        let before = sidecar(space, "orders-0").await?;
        database.archive_rows(space, 0).await?;
        let first = backed_up(space, "first", "orders", "").await?;
        let lost = "/holdfast/bin/holdfast-wal archive 0000000100000000000000FF pg_wal/0000000100000000000000FF";
        let words = ["exec", "orders-0", "-c", "postgres", "--", "bash", "-c", lost];
        space.kubectl(&words).await?.refused()?;
        // Who asks hears it, and no probe takes the database out of service for it.
        ensure!(page("readyz").await.is_err(), "{lost} was refused, and all is well");
        page("livez").await?;
        space.wait_for("pod/orders-0", "condition=Ready", 30).await?;
        space.sql("orders-0", "INSERT INTO rows SELECT generate_series(1, 1000)").await?;

        let after = eventually("the sidecar's figures move", async || {
            let after = sidecar(space, "orders-0").await?;
            for (name, labels) in [
                ("holdfast_wal_archived_total", &[][..]),
                ("holdfast_wal_archive_failures_total", &[]),
                ("holdfast_wal_archive_seconds_count", &[]),
                ("holdfast_last_archived_timestamp_seconds", &[]),
                ("holdfast_store_requests_total", &["write"]),
                ("holdfast_store_request_errors_total", &[]),
            ] {
                let (was, is) = (before.value(name, labels), after.value(name, labels));
                ensure!(is > was && is > Some(0.0), "{name}: {was:?}, then {is:?}");
            }
            for (name, labels, least) in [
                ("holdfast_wal_streaming", &[][..], 1.0),
                ("holdfast_backup_last_success_timestamp_seconds", &[], 1.7e9),
                ("holdfast_backup_duration_seconds", &[], 0.01),
                ("holdfast_backup_size_bytes", &["stored"], 1e4),
                ("holdfast_postgres_up", &[], 1.0),
                ("holdfast_postgres_primary", &[], 1.0),
                ("holdfast_postgres_archiving", &[], 1.0),
                ("holdfast_configuration_generation", &[], 1.0),
            ] {
                let is = after.value(name, labels);
                ensure!(is >= Some(least), "{name}: {is:?}");
            }
            Ok(after)
        })
        .await?;
        let size = first["status"]["size"]["database"].as_f64();
        ensure!(
            after.value("holdfast_backup_size_bytes", &["database"]) == size,
            "{size:?}, {after:#?}"
        );
        after.follows_the_rules()?;
        let mut listed = documented(false)?;
        // Told only while WAL piles up.
        ensure!(listed.remove("holdfast_wal_volume_full_seconds"), "{listed:?}");
        the_same(&listed, &after.names())?;

        let page = operator(space).await?;
        for (name, labels, least) in [
            ("holdfast_operator_reconciliations_total", &["kind=\"Archive\"", "success"][..], 1.0),
            ("holdfast_operator_reconciliation_duration_seconds_count", &["kind=\"Backup\""], 1.0),
            ("holdfast_operator_queue_objects", &["waiting"], 1.0),
            ("holdfast_operator_sidecar_requests_total", &["answered"], 1.0),
            ("holdfast_operator_writes_total", &["kind=\"Archive\""], 1.0),
            ("holdfast_operator_webhook_answers_total", &["patched"], 1.0),
            ("holdfast_operator_store_requests_total", &["list"], 1.0),
            ("holdfast_operator_store_request_errors_total", &[], 1.0),
            ("holdfast_operator_objects", &["Repository", "Ready", "False"], 1.0),
        ] {
            let is = page.value(name, labels);
            ensure!(is >= Some(least), "{name}{labels:?}: {is:?}");
        }
        ensure!(page.value("holdfast_operator_leader", &[]) == Some(1.0), "{page:#?}");
        page.follows_the_rules()?;
        the_same(&documented(true)?, &page.names())
    })
    .await
}
