//! `peers`: Holdfast next to pgBackRest and next to what plain tools need, in one run. `wal`: WAL that waits, next to more
//! peers and with a store further away ([`wal`]). `exposure`: how long WAL is on the server alone ([`exposure`]). `idle`: what
//! sidecars cost where nothing is written ([`idle`]). `operator`: the operator with many Archives ([`operator`]).
//!
//! Rounds are interleaved, and who goes first alternates, so that what the machine does besides hits all alike. Nothing
//! is asserted about time.

mod barman;
mod database;
mod distance;
mod exposure;
mod holdfast;
mod idle;
mod measure;
mod operator;
mod pgbackrest;
mod plain;
mod report;
mod wal;

use anyhow::{Context, Result, bail, ensure};
use holdfast_e2e::{Bucket, Holdfast, Minio, World};
use measure::Samples;

/// How both programs compress.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    /// In reports.
    pub name: &'static str,
    /// Holdfast's `algorithm`.
    pub algorithm: &'static str,
    /// For zstd.
    pub level: i32,
    /// pgBackRest's `compress-type` and `compress-level`.
    pub pgbackrest: (&'static str, i32),
}

const VARIANTS: [Variant; 2] = [
    Variant {
        name: "zstd-3",
        algorithm: "zstd",
        level: 3,
        pgbackrest: ("zst", 3),
    },
    Variant {
        name: "lz4",
        algorithm: "lz4",
        level: 0,
        pgbackrest: ("lz4", 1),
    },
];

/// A MinIO over TLS, and the way to it.
#[derive(Debug)]
pub struct Store<'a> {
    /// The server.
    pub minio: &'a Minio,
    /// Where programs reach it.
    pub endpoint: String,
    /// What each request takes longer, in milliseconds.
    pub latency: u32,
}

impl<'a> Store<'a> {
    /// On the same machine, and not far away.
    fn beside(minio: &'a Minio) -> Self {
        Self {
            minio,
            endpoint: minio.endpoint(),
            latency: 0,
        }
    }

    /// Makes a bucket, or finds it.
    pub fn bucket(&self, name: &str) -> Result<Bucket> {
        Ok(Bucket {
            endpoint: self.endpoint.clone(),
            ..self.minio.bucket(name)?
        })
    }
}

struct Plan {
    scale: u32,
    rounds: u32,
    segments: u32,
    holdfast: bool,
    pgbackrest: bool,
    out: String,
}

fn number(name: &str, default: u32) -> Result<u32> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name} is {text:?}, and a number belongs there")),
        Err(_) => Ok(default),
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("peers") => peers().await,
        Some("wal") => wal::run().await,
        Some("exposure") => exposure::run().await,
        Some("idle") => idle::run().await,
        Some("operator") => operator::run().await,
        _ => {
            bail!("usage: holdfast-bench peers|wal|exposure|idle|operator; start it with bench/run")
        }
    }
}

async fn peers() -> Result<()> {
    let programs = std::env::var("BENCH_PROGRAMS").unwrap_or("holdfast pgbackrest".to_owned());
    let plan = Plan {
        holdfast: programs.contains("holdfast"),
        pgbackrest: programs.contains("pgbackrest"),
        scale: number("BENCH_SCALE", 160)?,
        rounds: number("BENCH_ROUNDS", 5)?,
        segments: number("BENCH_SEGMENTS", 10)?,
        out: std::env::var("BENCH_OUT")
            .context("BENCH_OUT names no file: start this with bench/run")?,
    };
    World::scenario("bench", async |world| bench(world, &plan).await).await
}

async fn bench(world: &World, plan: &Plan) -> Result<()> {
    measure::enough_space(world.dir(), plan.scale)?;
    let wal = plan.rounds * plan.segments * 2;
    eprintln!(
        "bench: a database of scale {}, and {wal} WAL segments",
        plan.scale
    );
    let minio = Minio::start_tls(world).await?;
    let store = Store::beside(&minio);
    let database = database::create(world, plan.scale, wal).await?;
    let mut samples = Samples::default();
    let mut segments = database.segments.iter();
    let peers: Vec<pgbackrest::PgBackRest> = {
        let mut peers = Vec::new();
        for variant in VARIANTS {
            let peer = pgbackrest::PgBackRest::create(world, &store, &database, variant, false);
            peers.push(peer.await?);
        }
        peers
    };
    for round in 1..=plan.rounds {
        eprintln!("bench: round {round} of {}", plan.rounds);
        plain::measure(world, &database, &mut samples).await?;
        for (variant, peer) in VARIANTS.into_iter().zip(&peers) {
            let segments: Vec<&String> = segments.by_ref().take(plan.segments as usize).collect();
            ensure!(
                segments.len() == plan.segments as usize,
                "too few WAL segments"
            );
            let turns = if round % 2 == 1 {
                [true, false]
            } else {
                [false, true]
            };
            for ours in turns {
                if ours && plan.holdfast {
                    holdfast::measure(
                        world,
                        &minio,
                        &database,
                        variant,
                        round,
                        &segments,
                        &mut samples,
                    )
                    .await?;
                } else if !ours && plan.pgbackrest {
                    peer.measure(world, &database, &segments, &mut samples)
                        .await?;
                }
            }
        }
        // After each round, so that an interrupted run has told something.
        report::write(&plan.out, plan.scale, round, &database, &samples)?;
    }
    report::print(&samples);
    println!("\n{}", plan.out);
    Ok(())
}

/// Has it trust MinIO's certificate.
fn trust(holdfast: &Holdfast, minio: &Minio) -> Result<()> {
    let certificate = minio.certificate().context("MinIO speaks TLS")?;
    let text = std::fs::read_to_string(holdfast.config())?;
    let trusting = format!("{{caFile: \"{}\", bucket:", certificate.display());
    std::fs::write(holdfast.config(), text.replace("{bucket:", &trusting))?;
    Ok(())
}
