//! `wal`: how fast WAL that waits is archived, and fetched again: call by call, as Postgres does it.
//!
//! Postgres itself does not run: its archiver is a loop that runs a command, waits, and renames a mark, and recovery is one
//! that runs a command and reads the file. What replay takes would be the same for all.

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Minio, World};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::Command;

use crate::database::{self, Database};
use crate::measure::{Run, Samples, timed, watched};
use crate::pgbackrest::PgBackRest;
use crate::{VARIANTS, Variant, number, report, trust};

/// Runs the rounds.
pub async fn run() -> Result<()> {
    let (rounds, segments) = (number("BENCH_ROUNDS", 3)?, number("BENCH_SEGMENTS", 60)?);
    let out = std::env::var("BENCH_WAL_OUT")
        .context("BENCH_WAL_OUT names no file: start this with bench/run")?;
    World::scenario("bench-wal", async |world| {
        let minio = Minio::start_tls(world).await?;
        let scale = 16;
        let database = database::create(world, scale, segments).await?;
        let segments: Vec<&String> = database.segments.iter().take(segments as usize).collect();
        let mut samples = Samples::default();
        let mut peers = Vec::new();
        for variant in VARIANTS {
            for asynchronous in [false, true] {
                let peer = PgBackRest::create(world, &minio, &database, variant, asynchronous);
                peers.push((variant, asynchronous, peer.await?));
            }
        }
        for round in 1..=rounds {
            eprintln!(
                "bench: round {round} of {rounds}, {} segments",
                segments.len()
            );
            for variant in VARIANTS {
                bound(world, &database, variant, &segments, &mut samples).await?;
                ours(
                    world,
                    &minio,
                    &database,
                    variant,
                    round,
                    &segments,
                    &mut samples,
                )
                .await?;
                for (of, asynchronous, peer) in &peers {
                    if of.name == variant.name {
                        let program = if *asynchronous {
                            "pgbackrest async"
                        } else {
                            "pgbackrest"
                        };
                        theirs(
                            world,
                            &database,
                            peer,
                            (variant.name, program),
                            &segments,
                            &mut samples,
                        )
                        .await?;
                    }
                }
            }
            report::write(&out, scale, round, &database, &samples)?;
        }
        report::print(&samples);
        println!("\n{out}");
        Ok(())
    })
    .await
}

/// A data directory whose WAL waits: pg_control of the server that runs, and its segments under other links.
fn left(world: &World, database: &Database, segments: &[&String]) -> Result<PathBuf> {
    let (from, to) = (database.postgres.dir(), world.path("waiting/data"));
    for folder in ["global", "pg_wal/archive_status"] {
        std::fs::create_dir_all(to.join(folder))?;
    }
    for file in ["global/pg_control", "PG_VERSION"] {
        std::fs::copy(from.join(file), to.join(file))?;
    }
    for name in segments {
        std::fs::hard_link(from.join("pg_wal").join(name), to.join("pg_wal").join(name))?;
        std::fs::write(to.join(format!("pg_wal/archive_status/{name}.ready")), "")?;
    }
    world.own_tree(&world.path("waiting"))?;
    Ok(to)
}

/// One that recovers, with no WAL of its own.
fn recovering(world: &World, waiting: &Path) -> Result<()> {
    std::fs::remove_dir_all(waiting.join("pg_wal"))?;
    std::fs::create_dir_all(waiting.join("pg_wal/archive_status"))?;
    std::fs::write(waiting.join("recovery.signal"), "")?;
    world.own_tree(waiting)
}

/// Hands over all that waits, one by one.
async fn drain(
    world: &World,
    waiting: &Path,
    key: (&'static str, &'static str),
    segments: &[&String],
    samples: &mut Samples,
    call: impl Fn(&str) -> Result<Command>,
) -> Result<()> {
    let status = waiting.join("pg_wal/archive_status");
    let marked = |name: &str| {
        let mark = |end: &str| status.join(format!("{name}.{end}"));
        std::fs::rename(mark("ready"), mark("done"))?;
        Ok(Duration::ZERO)
    };
    one_by_one(
        world,
        ("drain", "push"),
        key,
        segments,
        samples,
        call,
        marked,
    )
    .await
}

/// Fetches them again, one by one, and holds each against what it was.
async fn fetch(
    world: &World,
    (waiting, original): (&Path, &Path),
    key: (&'static str, &'static str),
    segments: &[&String],
    samples: &mut Samples,
    call: impl Fn(&str) -> Result<Command>,
) -> Result<()> {
    let target = waiting.join("pg_wal/RECOVERYXLOG");
    let compared = |name: &str| {
        let begun = Instant::now();
        let same = std::fs::read(&target)? == std::fs::read(original.join("pg_wal").join(name))?;
        ensure!(same, "{} fetched another {name}", key.1);
        std::fs::remove_file(&target)?;
        Ok(begun.elapsed())
    };
    one_by_one(
        world,
        ("fetch", "get"),
        key,
        segments,
        samples,
        call,
        compared,
    )
    .await
}

/// Makes the calls and measures the whole and each. What is done after each says how long of it does not count.
async fn one_by_one(
    world: &World,
    (whole, each): (&'static str, &'static str),
    (variant, program): (&'static str, &'static str),
    segments: &[&String],
    samples: &mut Samples,
    call: impl Fn(&str) -> Result<Command>,
    after: impl Fn(&str) -> Result<Duration>,
) -> Result<()> {
    let mut calls = Vec::new();
    let mut off = Duration::ZERO;
    let mut run = watched(world, words(program), async {
        for name in segments {
            let begun = Instant::now();
            world.run(call(name)?).await?.success()?;
            calls.push(begun.elapsed().as_secs_f64());
            off += after(name)?;
        }
        Ok(())
    })
    .await?;
    run.seconds -= off.as_secs_f64();
    samples.add(whole, variant, program, run);
    for seconds in calls {
        let run = Run {
            seconds,
            ..Run::default()
        };
        samples.add(each, variant, program, run);
    }
    Ok(())
}

fn words(program: &str) -> &'static [&'static str] {
    if program == "holdfast" {
        &["holdfast", "holdfast-wal"]
    } else {
        &["pgbackrest"]
    }
}

async fn ours(
    world: &World,
    minio: &Minio,
    database: &Database,
    variant: Variant,
    round: u32,
    segments: &[&String],
    samples: &mut Samples,
) -> Result<()> {
    let waiting = left(world, database, segments)?;
    let bucket = minio.bucket(&format!("wal-{}-{round}", variant.name))?;
    let holdfast = world
        .holdfast("bench/orders", &database.postgres)
        .data_directory(&waiting)
        .s3(&bucket)
        .wal_compression(variant.algorithm, variant.level)
        .line("limits: {memory: 256Mi}")
        .build()?;
    trust(&holdfast, minio)?;
    let (key, original) = ((variant.name, "holdfast"), database.postgres.dir());
    let sidecar = holdfast.sidecar().await?;
    drain(world, &waiting, key, segments, samples, |name| {
        holdfast.wal_command(&["archive", name, &format!("pg_wal/{name}")])
    })
    .await?;
    sidecar.stop().await?;
    // So that the peak memory is its own.
    recovering(world, &waiting)?;
    let sidecar = holdfast.sidecar().await?;
    fetch(
        world,
        (&waiting, original),
        key,
        segments,
        samples,
        |name| holdfast.wal_command(&["restore", name, "pg_wal/RECOVERYXLOG"]),
    )
    .await?;
    sidecar.stop().await?;
    std::fs::remove_dir_all(&waiting)?;
    // Behind MinIO's back: nothing asks for it again.
    std::fs::remove_dir_all(minio.data().join(&bucket.name))?;
    Ok(())
}

async fn theirs(
    world: &World,
    database: &Database,
    peer: &PgBackRest,
    key: (&'static str, &'static str),
    segments: &[&String],
    samples: &mut Samples,
) -> Result<()> {
    let waiting = left(world, database, segments)?;
    let original = database.postgres.dir();
    let command = |arguments: &[&str]| {
        let mut command = peer.command_for(world, &waiting, arguments);
        command.current_dir(&waiting);
        Ok(command)
    };
    drain(world, &waiting, key, segments, samples, |name| {
        command(&["archive-push", &format!("pg_wal/{name}")])
    })
    .await?;
    recovering(world, &waiting)?;
    fetch(
        world,
        (&waiting, original),
        key,
        segments,
        samples,
        |name| command(&["archive-get", name, "pg_wal/RECOVERYXLOG"]),
    )
    .await?;
    std::fs::remove_dir_all(&waiting)?;
    peer.forget_wal()
}

/// The same compressor alone on the same bytes and processors, and a plain copy.
async fn bound(
    world: &World,
    database: &Database,
    variant: Variant,
    segments: &[&String],
    samples: &mut Samples,
) -> Result<()> {
    let names: Vec<String> = segments
        .iter()
        .map(|name| format!("pg_wal/{name}"))
        .collect();
    let compress = match variant.algorithm {
        "zstd" => format!("zstd -q -{} -c", variant.level),
        _ => "lz4 -q -c".to_owned(),
    };
    let names = names.join(" ");
    for (measure, program, line) in [
        (
            "drain",
            "compressor",
            format!("echo {names} | xargs -n 1 -P 2 {compress} >/dev/null"),
        ),
        (
            "fetch",
            "cp",
            format!(
                "for file in {names}; do cp $file \"{}\"; done",
                world.path("copied").display()
            ),
        ),
    ] {
        let mut command = world.command("bash");
        command
            .args(["-e", "-o", "pipefail", "-c", &line])
            .current_dir(database.postgres.dir());
        let (run, _) = timed(world, "none", command).await?;
        samples.add(
            measure,
            variant.name,
            program,
            Run {
                peak_memory: 0,
                ..run
            },
        );
    }
    std::fs::remove_file(world.path("copied"))?;
    Ok(())
}
