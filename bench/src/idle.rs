//! `idle`: what the sidecars of a primary and of its standby cost while nobody writes anything.

use anyhow::{Context, Result};
use holdfast_e2e::{Minio, Sidecar, World};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, sleep};

use crate::measure::look;
use crate::wal::Requests;
use crate::{Store, number, trust};

/// As Holdfast is set up.
const MODES: [(&str, &str); 3] = [
    ("segments only", "wal: {streaming: {intervalSeconds: 0}}"),
    ("every second", "wal: {streaming: {intervalSeconds: 1}}"),
    ("synchronous", "wal: {streaming: {synchronous: true}}"),
];

/// Runs everything once.
pub async fn run() -> Result<()> {
    let seconds = number("BENCH_IDLE_SECONDS", 300)?;
    let out = std::env::var("BENCH_IDLE_OUT")
        .context("BENCH_IDLE_OUT names no file: start this with bench/run")?;
    let mut all = Vec::new();
    for (mode, line) in MODES {
        World::scenario("bench-idle", async |world| {
            all.push(measure(world, mode, line, seconds).await?);
            Ok(())
        })
        .await?;
    }
    println!(
        "{:14} {:>9} {:>15} {:>17} {:>17}",
        "idle", "WAL bytes", "requests/hour", "primary CPU %", "standby CPU %"
    );
    for one in &all {
        println!(
            "{:14} {:>9} {:>15.0} {:>17.2} {:>17.2}",
            one["mode"].as_str().unwrap_or_default(),
            one["walBytes"],
            one["requestsPerHour"].as_f64().unwrap_or(f64::NAN),
            one["primaryPercent"].as_f64().unwrap_or(f64::NAN),
            one["standbyPercent"].as_f64().unwrap_or(f64::NAN),
        );
    }
    let report = json!({"time": jiff::Timestamp::now(), "seconds": seconds, "idle": all});
    std::fs::write(&out, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("writing {out}"))?;
    println!("\n{out}");
    Ok(())
}

async fn measure(world: &World, mode: &str, line: &str, seconds: u32) -> Result<Value> {
    eprintln!("bench: {mode}");
    let minio = Minio::start_tls(world).await?;
    let primary = world.postgres("primary", 17).create().await?;
    let bucket = minio.bucket("idle")?;
    let holdfast = world
        .holdfast("bench/orders", &primary)
        .s3(&bucket)
        .line(line)
        .build()?;
    trust(&holdfast, &minio)?;
    let sidecar = holdfast.sidecar().await?;
    primary.archive_with(&holdfast).await?;
    let standby = primary.standby("standby").await?;
    let second = holdfast.also_for(&standby).build()?;
    trust(&second, &minio)?;
    let second_sidecar = second.sidecar().await?;
    primary
        .execute("CREATE TABLE ticks AS SELECT 1; CHECKPOINT")
        .await?;
    primary.archive_all().await?;
    holdfast.backup().await?;
    // Until the last of it is stored, checkpointed and replayed.
    sleep(Duration::from_secs(30)).await;

    let store = Store::beside(&minio);
    let spent = |sidecar: &Sidecar| -> Result<f64> {
        let pid = sidecar.daemon.pid().context("the sidecar has a pid")?;
        let process = look(u32::try_from(pid)?).context("the sidecar runs")?;
        Ok(process.processor_seconds())
    };
    let (requests, wal) = (Requests::ask(world, &store).await?, primary.lsn().await?);
    let (first, other) = (spent(&sidecar)?, spent(&second_sidecar)?);
    let begun = Instant::now();
    sleep(Duration::from_secs(seconds.into())).await;
    let passed = begun.elapsed().as_secs_f64();
    let (first, other) = (spent(&sidecar)? - first, spent(&second_sidecar)? - other);
    let requests = requests.since(world, &store).await?;
    let written = primary
        .value(&format!(
            "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '{wal}')::bigint"
        ))
        .await?;
    second_sidecar.stop().await?;
    sidecar.stop().await?;
    Ok(json!({
        "mode": mode, "walBytes": written.parse::<u64>()?, "requests": requests.0,
        "requestsPerHour": requests.all() as f64 * 3600.0 / passed,
        "primaryPercent": first * 100.0 / passed, "standbyPercent": other * 100.0 / passed,
    }))
}
