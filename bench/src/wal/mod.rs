//! `wal`: how fast WAL that waits is archived, and fetched again, beside the store and further away from it.
//!
//! `drain` and its calls are a real server's archiver ([`archiver`]); `push` and `fetch` are calls one by one ([`calls`]), for
//! what recovery does besides would be the same for all.

mod archiver;
mod bounds;
mod calls;
mod ours;
mod report;
mod samples;
mod theirs;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Minio, World};
pub use samples::Requests;
use samples::{Program, Table};
use serde_json::{Value, json};
use theirs::Peer;

use crate::database::{self, Database};
use crate::distance::Distance;
use crate::{Store, VARIANTS, Variant, number};

/// pgbench's scale.
const SCALE: u32 = 16;

/// How much is done.
#[derive(Clone, Copy, Debug)]
struct Plan {
    segments: u32,
    pushes: u32,
    rounds: u32,
    latency: u32,
    far_segments: u32,
    far_rounds: u32,
    barman_segments: u32,
}

impl Plan {
    fn read() -> Result<Self> {
        let segments = number("BENCH_SEGMENTS", 60)?;
        Ok(Self {
            segments,
            pushes: number("BENCH_PUSHES", 20)?,
            rounds: number("BENCH_ROUNDS", 3)?,
            latency: number("BENCH_LATENCY_MS", 50)?,
            far_segments: number("BENCH_LATENCY_SEGMENTS", segments)?,
            far_rounds: number("BENCH_LATENCY_ROUNDS", 1)?,
            barman_segments: number("BENCH_BARMAN_SEGMENTS", 10)?,
        })
    }

    fn json(self) -> Value {
        json!({
            "segments": self.segments, "pushes": self.pushes, "rounds": self.rounds,
            "latencyMilliseconds": self.latency, "latencySegments": self.far_segments,
            "latencyRounds": self.far_rounds, "barmanSegments": self.barman_segments,
        })
    }
}

/// One round of one latency and compression.
struct Bench<'a> {
    world: &'a World,
    store: &'a Store<'a>,
    database: &'a mut Database,
    variant: Variant,
    table: &'a mut Table,
    /// Those that wait, oldest first.
    segments: Vec<String>,
    pushes: usize,
}

/// Runs the rounds.
pub async fn run() -> Result<()> {
    let plan = Plan::read()?;
    let out = std::env::var("BENCH_WAL_OUT")
        .context("BENCH_WAL_OUT names no file: start this with bench/run")?;
    World::scenario("bench-wal", async |world| {
        let minio = Minio::start_tls(world).await?;
        let segments = plan.segments.max(plan.far_segments);
        let mut database = database::create(world, SCALE, segments).await?;
        let mut table = Table::default();
        let beside = Store::beside(&minio);
        rounds(world, &beside, &mut database, plan, &out, &mut table).await?;
        if plan.latency > 0 {
            let round_trip = Duration::from_millis(plan.latency.into());
            let distance = Distance::before(&minio.endpoint(), round_trip).await?;
            let far = Store {
                minio: &minio,
                endpoint: distance.endpoint().to_owned(),
                latency: plan.latency,
            };
            rounds(world, &far, &mut database, plan, &out, &mut table).await?;
        }
        report::print(&table);
        println!("\n{out}");
        Ok(())
    })
    .await
}

async fn rounds(
    world: &World,
    store: &Store<'_>,
    database: &mut Database,
    plan: Plan,
    out: &str,
    table: &mut Table,
) -> Result<()> {
    let (count, times) = match store.latency {
        0 => (plan.segments, plan.rounds),
        _ => (plan.far_segments, plan.far_rounds),
    };
    let mut peers = Vec::new();
    for variant in VARIANTS {
        for program in [Program::Async, Program::Sync, Program::Barman] {
            peers.push(Peer::create(world, store, database, variant, program).await?);
        }
    }
    let mut segments = database.segments.clone();
    segments.truncate(count as usize);
    ensure!(segments.len() == count as usize, "too few WAL segments");
    for round in 1..=times {
        eprintln!(
            "bench: {} ms to the store, round {round} of {times}, {count} segments",
            store.latency
        );
        for variant in VARIANTS {
            let mut bench = Bench {
                world,
                store,
                database,
                variant,
                table,
                segments: segments.clone(),
                pushes: plan.pushes.min(count) as usize,
            };
            bounds::measure(&mut bench).await?;
            for program in [Program::Module, Program::Command] {
                ours::measure(&mut bench, program, round).await?;
            }
            for peer in peers.iter().filter(|peer| peer.variant == variant.name) {
                if peer.program == Program::Barman {
                    // Each of its calls is one by itself, and long. It is the last.
                    bench.segments.truncate(plan.barman_segments as usize);
                    if round > 1 {
                        continue;
                    }
                }
                theirs::measure(&mut bench, peer).await?;
            }
        }
        // After each round, so that an interrupted run has told something.
        report::write(out, plan, table)?;
    }
    Ok(())
}
