//! Holdfast, with its sidecar, by its archive_command and by its archive module.

use anyhow::Result;
use holdfast_e2e::{Bucket, Holdfast, parts};

use super::Bench;
use super::calls::TARGET;
use super::samples::Program;
use crate::trust;

/// Drains and fetches, and pushes into another archive; the module only drains, for nothing else can call it.
pub async fn measure(bench: &mut Bench<'_>, program: Program, round: u32) -> Result<()> {
    let (world, store) = (bench.world, bench.store);
    let name = match program {
        Program::Module => "module",
        _ => "command",
    };
    let name = format!("{name}-{}-{}-{round}", bench.variant.name, store.latency);
    let bucket = store.bucket(&name)?;
    let postgres = &bench.database.postgres;
    let holdfast = world
        .holdfast("bench/orders", postgres)
        .s3(&bucket)
        .wal_compression(bench.variant.algorithm, bench.variant.level)
        .line("limits: {memory: 256Mi}")
        .build()?;
    trust(&holdfast, store.minio)?;
    let settings = match program {
        Program::Module => {
            let module = world.reachable(&parts::archive_module()?)?;
            [
                ("archive_command", String::new()),
                ("archive_library", module.display().to_string()),
                ("holdfast.socket", holdfast.socket().display().to_string()),
            ]
        }
        _ => [
            ("archive_command", holdfast.archive_command()?),
            ("archive_library", String::new()),
            ("holdfast.socket", String::new()),
        ],
    };
    let settings: Vec<(&str, &str)> = settings.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let sidecar = holdfast.sidecar().await?;
    bench.drain(program, &settings).await?;
    sidecar.stop().await?;
    if program != Program::Module {
        fetch(bench, &holdfast).await?;
        push(bench, &holdfast, &format!("{name}-push")).await?;
    }
    forget(bench, &bucket)
}

async fn fetch(bench: &mut Bench<'_>, archived: &Holdfast) -> Result<()> {
    let directory = bench.recovering()?;
    let settings = archived.settings().instance("waiting");
    let holdfast = settings.data_directory(&directory).build()?;
    trust(&holdfast, bench.store.minio)?;
    // Another process, so that the peak memory is its own.
    let sidecar = holdfast.sidecar().await?;
    bench
        .fetch(&directory, Program::Command, |name| {
            holdfast.wal_command(&["restore", name, TARGET])
        })
        .await?;
    sidecar.stop().await?;
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}

async fn push(bench: &mut Bench<'_>, archived: &Holdfast, name: &str) -> Result<()> {
    let directory = bench.waiting()?;
    let bucket = bench.store.bucket(name)?;
    let settings = archived.settings().instance("waiting").s3(&bucket);
    let holdfast = settings.data_directory(&directory).build()?;
    trust(&holdfast, bench.store.minio)?;
    let sidecar = holdfast.sidecar().await?;
    bench
        .push(&directory, Program::Command, |name| {
            holdfast.wal_command(&["archive", name, &format!("pg_wal/{name}")])
        })
        .await?;
    sidecar.stop().await?;
    std::fs::remove_dir_all(&directory)?;
    forget(bench, &bucket)
}

/// Behind MinIO's back: nothing asks for it again.
fn forget(bench: &Bench<'_>, bucket: &Bucket) -> Result<()> {
    std::fs::remove_dir_all(bench.store.minio.data().join(&bucket.name))?;
    Ok(())
}
