//! `exposure`: for how long what is flushed is on the server alone, and what a commit costs that waits until it is not.
//!
//! Seen from outside: the server tells how far it has flushed, every few milliseconds, and MinIO's own files say when
//! which part or segment was there.

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Minio, Postgres, World, eventually};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep};

use crate::measure::median;
use crate::{number, trust};

const SEGMENT: u64 = 16 << 20;
/// Between two looks at the server.
const LOOK: Duration = Duration::from_millis(5);

/// As Holdfast is set up.
const MODES: [(&str, &str); 2] = [
    ("every second", "wal: {streaming: {intervalSeconds: 1}}"),
    ("synchronous", "wal: {streaming: {synchronous: true}}"),
];

/// Files are dated by the kernel's coarse clock: so much too early at worst, where it ticks 100 times a second.
const FILE_CLOCK: Duration = Duration::from_millis(10);

/// What the server said, and when: by then it had flushed so far.
struct Flushed {
    at: SystemTime,
    lsn: u64,
}

/// Runs everything once.
pub async fn run() -> Result<()> {
    let seconds = number("BENCH_SECONDS", 30)?;
    let out = std::env::var("BENCH_EXPOSURE_OUT")
        .context("BENCH_EXPOSURE_OUT names no file: start this with bench/run")?;
    let mut exposures = Vec::new();
    let mut commits = Vec::new();
    for (mode, line) in MODES {
        let mut results = None;
        World::scenario("bench-exposure", async |world| {
            results = Some(measure(world, mode, line, seconds).await?);
            Ok(())
        })
        .await?;
        let (exposure, commit) = results.context("it was measured")?;
        exposures.extend(exposure);
        commits.extend(commit);
    }
    println!(
        "{:13} {:10} {:>7} {:>9} {:>9} {:>9}",
        "exposure", "load", "samples", "median s", "99 % s", "worst s"
    );
    for one in &exposures {
        println!(
            "{:13} {:10} {:>7} {:9.3} {:9.3} {:9.3}",
            text(one, "mode"),
            text(one, "load"),
            one["samples"],
            float(one, "medianSeconds"),
            float(one, "percentile99Seconds"),
            float(one, "worstSeconds")
        );
    }
    println!(
        "\n{:13} {:>7} {:>12} {:>9}",
        "commits", "clients", "mean ms", "a second"
    );
    for one in &commits {
        println!(
            "{:13} {:>7} {:12.2} {:9.0}",
            text(one, "mode"),
            one["clients"],
            float(one, "meanMilliseconds"),
            float(one, "aSecond")
        );
    }
    let report = json!({
        "time": jiff::Timestamp::now(),
        "processors": std::thread::available_parallelism().map(usize::from).unwrap_or(0),
        "seconds": seconds, "exposure": exposures, "commits": commits,
    });
    std::fs::write(&out, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("writing {out}"))?;
    println!("\n{out}");
    Ok(())
}

fn text<'a>(one: &'a Value, field: &str) -> &'a str {
    one[field].as_str().unwrap_or_default()
}

fn float(one: &Value, field: &str) -> f64 {
    one[field].as_f64().unwrap_or(f64::NAN)
}

async fn measure(
    world: &World,
    mode: &'static str,
    line: &str,
    seconds: u32,
) -> Result<(Vec<Value>, Vec<Value>)> {
    eprintln!("bench: {mode}");
    let minio = Minio::start_tls(world).await?;
    let postgres = world
        .postgres("primary", 17)
        .segment_mib(16)
        .set("shared_buffers", "256MB")
        .set("max_wal_size", "8GB")
        .set("checkpoint_timeout", "1h")
        .create()
        .await?;
    postgres.pgbench(&["-i", "-q", "-s", "16"]).await?;
    let bucket = minio.bucket("exposure")?;
    let holdfast = world
        .holdfast("bench/orders", &postgres)
        .s3(&bucket)
        .line(line)
        .line("limits: {memory: 256Mi}")
        .build()?;
    trust(&holdfast, &minio)?;
    let sidecar = holdfast.sidecar().await?;
    postgres.archive_with(&holdfast).await?;
    // The first segment is begun once the one before it is stored.
    postgres.archive_all().await?;
    holdfast.backup().await?;
    postgres
        .execute("CREATE TABLE ticks (at timestamptz)")
        .await?;
    let stored = minio.data().join(&bucket.name);
    all_is_stored(&postgres, &stored).await?;

    let mut commits = Vec::new();
    if mode == "synchronous" {
        // Side by side: the same server, the same sidecar beside it, and nobody who waits for it.
        for clients in [1, 16] {
            commits.push(commit(&postgres, "not waiting", clients, seconds).await?);
        }
        postgres.wait_for_sidecar().await?;
        for clients in [1, 16] {
            commits.push(commit(&postgres, "waiting", clients, seconds).await?);
        }
    }
    let mut exposures = Vec::new();
    let idle = async {
        let until = Instant::now() + Duration::from_secs(seconds.into());
        while Instant::now() < until {
            postgres.execute("INSERT INTO ticks VALUES (now())").await?;
            sleep(Duration::from_millis(1700)).await;
        }
        Ok(())
    };
    exposures.push(exposure(&postgres, &stored, (mode, "idle"), idle).await?);
    let duration = seconds.to_string();
    let arguments = ["-n", "-c", "8", "-j", "2", "-T", &duration];
    let full = async { postgres.pgbench(&arguments).await.map(drop) };
    exposures.push(exposure(&postgres, &stored, (mode, "pgbench"), full).await?);
    sidecar.stop().await?;
    Ok((exposures, commits))
}

/// pgbench's own figures.
async fn commit(
    postgres: &Postgres,
    mode: &'static str,
    clients: u32,
    seconds: u32,
) -> Result<Value> {
    let (number, duration) = (clients.to_string(), seconds.to_string());
    let threads = clients.min(2).to_string();
    // One small row each: what is measured is the commit.
    let arguments = [
        "-n",
        "-b",
        "simple-update",
        "-c",
        &number,
        "-j",
        &threads,
        "-T",
        &duration,
    ];
    let said = postgres.pgbench(&arguments).await?.stdout;
    let after = |word: &str| -> Result<f64> {
        let line = said.lines().find_map(|line| line.strip_prefix(word));
        let number = line.and_then(|line| line.split_whitespace().next());
        let number = number.with_context(|| format!("pgbench says no {word:?}:\n{said}"))?;
        Ok(number.parse()?)
    };
    Ok(json!({
        "mode": mode, "clients": clients,
        "meanMilliseconds": after("latency average = ")?, "aSecond": after("tps = ")?,
    }))
}

/// Watches the server while `load` runs, and holds what it said against what was stored when.
async fn exposure(
    postgres: &Postgres,
    stored: &Path,
    (mode, load): (&'static str, &'static str),
    work: impl Future<Output = Result<()>>,
) -> Result<Value> {
    let client = holdfast_e2e::ledger::Server::client(postgres).await?;
    let mut flushed: Vec<Flushed> = Vec::new();
    tokio::select! {
        done = work => done?,
        failed = watch(&client, &mut flushed) => return Err(failed),
    }
    all_is_stored(postgres, stored).await?;
    let there = there(stored)?;
    let mut seconds: Vec<f64> = Vec::new();
    for pair in flushed.windows(2) {
        let [before, now] = pair else { continue };
        if now.lsn == before.lsn {
            continue;
        }
        let durable = there
            .iter()
            .filter(|(_, end)| *end >= now.lsn)
            .map(|(at, _)| *at)
            .min()
            .context("all is stored")?;
        // It was flushed after the look before this one: no less than this.
        let exposed = (durable + FILE_CLOCK)
            .duration_since(before.at)
            .context("it was flushed before it was stored")?;
        seconds.push(exposed.as_secs_f64());
    }
    ensure!(!seconds.is_empty(), "nothing was flushed");
    seconds.sort_by(f64::total_cmp);
    let at = |share: usize| seconds.get((seconds.len() - 1) * share / 100).copied();
    Ok(json!({
        "mode": mode, "load": load, "samples": seconds.len(), "medianSeconds": median(&seconds),
        "percentile99Seconds": at(99), "worstSeconds": at(100),
    }))
}

/// Until it fails.
async fn watch(client: &tokio_postgres::Client, flushed: &mut Vec<Flushed>) -> anyhow::Error {
    loop {
        match flushed_lsn(client).await {
            Ok(lsn) => flushed.push(Flushed {
                at: SystemTime::now(),
                lsn,
            }),
            Err(error) => return error,
        }
        sleep(LOOK).await;
    }
}

async fn flushed_lsn(client: &tokio_postgres::Client) -> Result<u64> {
    let row = client
        .query_one(
            "SELECT (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint",
            &[],
        )
        .await?;
    Ok(row.get::<_, i64>(0) as u64)
}

async fn all_is_stored(postgres: &Postgres, stored: &Path) -> Result<()> {
    let client = holdfast_e2e::ledger::Server::client(postgres).await?;
    let wanted = flushed_lsn(&client).await?;
    eventually("all is stored", async || {
        let reached = there(stored)?.into_iter().map(|(_, end)| end).max();
        ensure!(
            reached >= Some(wanted),
            "{wanted:X}, and stored is {reached:X?}"
        );
        Ok(())
    })
    .await
}

/// When what was there, and up to where: parts and whole segments, which are stored in order.
fn there(folder: &Path) -> Result<Vec<(SystemTime, u64)>> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        // An object is a folder with `xl.meta` in it.
        let meta = folder.join("xl.meta");
        if let Ok(meta) = std::fs::metadata(&meta) {
            if let Some(end) = end_of(&folder) {
                all.push((meta.modified()?, end));
            }
            continue;
        }
        for entry in std::fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    Ok(all)
}

/// The end of a part or a segment, by its name; none for other objects.
fn end_of(object: &Path) -> Option<u64> {
    let name = object.file_name()?.to_str()?;
    let start = |segment: &str| {
        let hex = |from: usize| u64::from_str_radix(segment.get(from..from + 8)?, 16).ok();
        (segment.len() == 24).then_some(())?;
        Some((hex(8)? << 32) + hex(16)? * SEGMENT)
    };
    match name.split('-').collect::<Vec<_>>().as_slice() {
        [_, _, to] => {
            let segment = object.parent()?.file_name()?.to_str()?;
            Some(start(segment)? + u64::from_str_radix(to, 16).ok()?)
        }
        [segment] => Some(start(segment)? + SEGMENT),
        _ => None,
    }
}
