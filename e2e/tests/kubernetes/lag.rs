//! How far the store is behind is true wherever it is told, and what turns is told in words.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fixtures::{Database, archive, repository, told};
use crate::metrics::sidecar;
use crate::outages::told_as;
use crate::store::Store;
use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Space, eventually};
use serde_json::Value;

/// What is told may be so old, in seconds.
const LATE: f64 = 2.0;
/// So soon a condition follows what a sidecar knows, in seconds, on a busy machine; whoever asks from time to time is later.
const SOON: f64 = 10.0;
/// A server that nobody writes to is quiet once it has told where its transactions are, which it does each 15 seconds.
const QUIET: Duration = Duration::from_secs(17);

fn now() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

/// What was told of the lag, and when, at the earliest and the latest.
#[derive(Debug)]
struct Told {
    asked: f64,
    answered: f64,
    bytes: f64,
    seconds: f64,
}

impl Told {
    /// What the server wrote at this moment is the oldest that is not stored.
    fn is_true(&self, oldest: f64) -> Result<()> {
        let (least, most) = (self.asked - oldest - LATE, self.answered - oldest + LATE);
        ensure!(
            self.bytes > 0.0 && (least..=most).contains(&self.seconds),
            "not between {least:.1} s and {most:.1} s: {self:?}"
        );
        Ok(())
    }

    fn is_none(&self) -> Result<()> {
        ensure!(self.bytes == 0.0 && self.seconds == 0.0, "{self:?}");
        Ok(())
    }
}

/// `holdfast info` in the sidecar's container, also where it can't ask the store.
async fn info(space: &Space) -> Result<(Value, Told)> {
    let words = [
        "exec", "orders-0", "-c", "holdfast", "--", "holdfast", "info", "--json",
    ];
    let asked = now()?;
    let said = space.kubectl(&words).await?;
    let info: Value = serde_json::from_str(&said.out).with_context(|| said.err)?;
    let figure = |name: &str| {
        info["lag"][name]
            .as_f64()
            .with_context(|| format!("{info:#}"))
    };
    let told = Told {
        asked,
        answered: now()?,
        bytes: figure("bytes")?,
        seconds: figure("seconds")?,
    };
    Ok((info, told))
}

async fn metrics(space: &Space) -> Result<Told> {
    let asked = now()?;
    let page = sidecar(space, "orders-0").await?;
    let figure = |name: &str| {
        page.value(name, &[])
            .with_context(|| format!("{name}: {page:#?}"))
    };
    Ok(Told {
        asked,
        answered: now()?,
        bytes: figure("holdfast_wal_lag_bytes")?,
        seconds: figure("holdfast_wal_lag_seconds")?,
    })
}

/// Where the server's WAL ends.
async fn flushed(space: &Space) -> Result<String> {
    space
        .sql("orders-0", "SELECT pg_current_wal_flush_lsn()")
        .await
}

/// Waits until the server writes nothing by itself any more, and all that it has written is stored.
async fn quiet(space: &Space) -> Result<String> {
    let end = eventually("the server is quiet", async || {
        let before = flushed(space).await?;
        tokio::time::sleep(QUIET).await;
        let after = flushed(space).await?;
        ensure!(before == after, "{before}, then {after}");
        Ok(after)
    })
    .await?;
    metrics(space).await?.is_none()?;
    info(space).await?.1.is_none()?;
    Ok(end)
}

/// Commits, and returns the moment.
async fn commit(space: &Space) -> Result<f64> {
    let statement = "INSERT INTO rows VALUES (1); SELECT extract(epoch FROM clock_timestamp())";
    Ok(space.sql("orders-0", statement).await?.parse()?)
}

/// How often an event of the Archive was told with this reason and these words.
async fn times(space: &Space, reason: &str, says: &[&str]) -> Result<u64> {
    let words = ["get", "events.v1.events.k8s.io", "-o", "json"];
    let events: Value = serde_json::from_str(&space.kubectl(&words).await?.success()?)?;
    let events = events["items"].as_array().context("a list")?.iter();
    let mut times = 0;
    for event in events.filter(|event| event["regarding"]["kind"] == "Archive") {
        let note = event["note"].as_str().unwrap_or_default();
        // Nothing that only the program's authors read.
        for raw in [
            "Some(", "None", "Err(", "Error {", "kind:", "::", "\\n", "\n", "\\\"",
        ] {
            ensure!(!note.contains(raw), "{raw:?}: {note}");
        }
        if event["reason"] == reason && says.iter().all(|word| note.contains(word)) {
            times += event["series"]["count"].as_u64().unwrap_or(1);
        }
    }
    Ok(times)
}

/// Waits until an event was told so often.
async fn told_times(space: &Space, reason: &str, says: &[&str], expected: u64) -> Result<()> {
    eventually(&format!("{reason} is told"), async || {
        let times = times(space, reason, says).await?;
        ensure!(times >= expected, "{times} times");
        Ok(())
    })
    .await?;
    let times = times(space, reason, says).await?;
    ensure!(
        times == expected,
        "{reason} {says:?}: {times} times, not {expected}"
    );
    Ok(())
}

#[tokio::test]
async fn how_far_the_store_is_behind_is_told_as_it_is() -> Result<()> {
    Space::scenario("lag", async |space| {
        let database = Database {
            // The server writes what it is told to, and nothing else.
            arguments: ["autovacuum=off", "checkpoint_timeout=1h"]
                .iter()
                .flat_map(|setting| ["-c".to_owned(), (*setting).to_owned()])
                .collect(),
            ..Database::new("orders", 17)
        };
        let store = Store::shop(space, &database).await?;
        let address = format!("store.{}.svc", space.namespace);
        database.archive_rows(space, 0).await?;
        space
            .wait_for("archive/orders", "condition=Streaming", 120)
            .await?;

        // A best-effort repository whose bucket is not there is behind, and nobody waits for it.
        let spare = repository(space)
            .replace("{name: s3}", "{name: spare}")
            .replace("bucket: holdfast", "bucket: spare")
            .replace("minio.minio.svc", &address);
        space.apply(&spare).await?;
        let both = archive("orders").replace(
            "[{name: s3}]",
            "[{name: s3}, {name: spare, mode: BestEffort}]",
        );
        space.apply(&both).await?;
        eventually("the sidecar knows of it", async || {
            let page = sidecar(space, "orders-0").await?;
            let waiting = page.value("holdfast_wal_best_effort_waiting_files", &["spare"]);
            ensure!(waiting.is_some());
            Ok(())
        })
        .await?;
        let behind = ("Archiving", "True", "BestEffortBehind");
        let says = [
            "the best-effort repository spare lacks some of it: ",
            "the bucket of s3://spare/",
        ];
        told_as(space, "archive/orders", behind, &says).await?;
        store.makes_bucket("spare").await?;
        let fine = ["is the primary, and its WAL is stored"];
        told(space, "archive/orders", "Archiving", "True", &fine).await?;
        told_times(space, "BestEffortBehind", &says, 1).await?;

        // A commit is stored, and told to be: until then, how old it is.
        quiet(space).await?;
        let committed = commit(space).await?;
        let end = flushed(space).await?;
        let covers = async || -> Result<()> {
            let of_metrics = metrics(space).await?;
            let (said, of_info) = info(space).await?;
            for told in [&of_metrics, &of_info] {
                let is_told = told.is_none().or(told.is_true(committed));
                // What was seen of the server may be older than the commit.
                ensure!(is_told.is_ok(), "{committed}: {told:?}");
            }
            if of_info.asked - committed > LATE && of_info.is_none().is_ok() {
                let through = said["archivedThrough"]["lsn"].as_str();
                ensure!(through == Some(&end), "{end}: {said:#}");
            }
            Ok(())
        };
        for _ in 0..10 {
            covers().await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }

        let before = quiet(space).await?;
        store.goes().await?;
        // Nobody has anything to store: the store is not asked.
        ensure!(
            before == flushed(space).await?,
            "the server has written by itself"
        );
        metrics(space).await?.is_none()?;
        let committed = commit(space).await?;
        let is_true = async |times: u32| -> Result<()> {
            for _ in 0..times {
                metrics(space).await?.is_true(committed)?;
                let (said, of_info) = info(space).await?;
                of_info.is_true(committed)?;
                ensure!(said["instances"][0]["role"] == "Primary", "{said:#}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            Ok(())
        };
        tokio::time::sleep(Duration::from_secs(2)).await;
        is_true(3).await?;
        let fails = ("Streaming", "False", "StreamingFails");
        eventually("the sidecar knows", async || {
            let follows = sidecar(space, "orders-0").await?;
            let follows = follows.value("holdfast_wal_streaming", &[]);
            ensure!(follows == Some(0.0), "{follows:?}");
            Ok(())
        })
        .await?;
        let known = now()?;
        told_as(space, "archive/orders", fails, &[&address]).await?;
        let later = now()? - known;
        ensure!(
            later < SOON,
            "the condition turned {later:.1} s after the sidecar knew"
        );
        // Nothing was tried that Postgres waits for.
        told(space, "archive/orders", "Archiving", "True", &[]).await?;
        let segment = space
            .sql("orders-0", "SELECT pg_walfile_name(pg_switch_wal())")
            .await?;
        is_true(3).await?;
        let fails = ("Archiving", "False", "ArchivingFails");
        told_as(space, "archive/orders", fails, &[&segment, &address]).await?;
        is_true(3).await?;
        let (said, _) = info(space).await?;
        ensure!(said["instances"][0]["streaming"] == false, "{said:#}");
        let streaming = [
            "what is committed on orders-0 is not stored at once",
            &address,
        ];
        told_times(space, "StreamingFails", &streaming, 1).await?;
        let archiving = ["orders-0 can't store", &segment, &address];
        told_times(space, "ArchivingFails", &archiving, 1).await?;
        let streams = ["what is committed on orders-0 is stored"];
        let archives = ["orders-0 is the primary, and its WAL is stored"];
        let before = [
            times(space, "Streaming", &streams).await?,
            times(space, "Archiving", &archives).await?,
        ];

        store.comes_back().await?;
        eventually("nothing is behind", async || {
            metrics(space).await?.is_none()?;
            info(space).await?.1.is_none()
        })
        .await?;
        for condition in ["Streaming", "Archiving", "Ready"] {
            let condition = format!("condition={condition}");
            space.wait_for("archive/orders", &condition, 120).await?;
        }
        told_times(space, "Streaming", &streams, before[0] + 1).await?;
        told_times(space, "Archiving", &archives, before[1] + 1).await?;
        // Each was told once, however often it was tried.
        told_times(space, "StreamingFails", &streaming, 1).await?;
        told_times(space, "ArchivingFails", &archiving, 1).await
    })
    .await
}
