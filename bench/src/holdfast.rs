//! Holdfast, with its sidecar, as it is used.

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Minio, World};

use crate::database::Database;
use crate::measure::{Run, Samples, folder_bytes, timed};
use crate::{Variant, trust};

const NAME: &str = "holdfast";

/// Archives, backs up and restores, into an archive of its own, which is gone afterwards.
pub async fn measure(
    world: &World,
    minio: &Minio,
    database: &Database,
    variant: Variant,
    round: u32,
    segments: &[&String],
    samples: &mut Samples,
) -> Result<()> {
    let postgres = &database.postgres;
    let bucket = minio.bucket(&format!("holdfast-{}-{round}", variant.name))?;
    let holdfast = world
        .holdfast("bench/orders", postgres)
        .s3(&bucket)
        .backup_compression(variant.algorithm, variant.level)
        .wal_compression(variant.algorithm, variant.level)
        .line("limits: {memory: 256Mi}")
        .build()?;
    trust(&holdfast, minio)?;
    let sidecar = holdfast.sidecar().await?;
    for segment in segments {
        let command = holdfast.wal_command(&["archive", segment, &format!("pg_wal/{segment}")])?;
        let (mut run, _) = timed(world, NAME, command).await?;
        run.peak_memory = sidecar.daemon.peak_memory()?;
        samples.add("archive", variant.name, NAME, run);
    }
    postgres.archive_with(&holdfast).await?;
    postgres.execute("CHECKPOINT").await?;
    let (run, output) = timed(
        world,
        NAME,
        holdfast.command(&["backup", "--type", "full", "--json"])?,
    )
    .await?;
    let stored_bytes = output
        .json()?
        .pointer("/size/stored")
        .and_then(serde_json::Value::as_u64)
        .context("Backup.status tells its size")?;
    // Of the sidecar, which does the work, since it began; the command only asks it.
    let peak_memory = sidecar.daemon.peak_memory()?;
    samples.add(
        "backup",
        variant.name,
        NAME,
        Run {
            stored_bytes,
            peak_memory,
            ..run
        },
    );
    postgres
        .configure(&[("archive_command", "/bin/true")])
        .await?;

    // So that the peak memory of the restore is its own.
    sidecar.stop().await?;
    let to = world.path("restored");
    let target = to.to_string_lossy();
    let (run, _) = timed(
        world,
        NAME,
        holdfast.command(&["restore", "--to", &target])?,
    )
    .await?;
    samples.add("restore", variant.name, NAME, run);
    ensure!(
        folder_bytes(&to) >= database.bytes / 100 * 99,
        "Holdfast restored {} bytes of {}",
        folder_bytes(&to),
        database.bytes
    );
    std::fs::remove_dir_all(&to)?;
    // Behind MinIO's back: nothing asks for it again.
    std::fs::remove_dir_all(minio.data().join(&bucket.name))?;
    Ok(())
}
