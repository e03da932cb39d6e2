//! What plain tools need for the same files: bounds, not peers. None of them talks to a store.

use anyhow::Result;
use holdfast_e2e::World;

use crate::database::Database;
use crate::measure::{Samples, timed};

/// What a backup leaves out as well.
const FILES: &str = "--exclude=./pg_wal --exclude=./postmaster.* --warning=no-file-changed";

/// Runs each once.
pub async fn measure(world: &World, database: &Database, samples: &mut Samples) -> Result<()> {
    let copy = world.path("plain-copy");
    for (measure, variant, program, line) in [
        (
            "backup",
            "",
            "cat",
            "find . -path ./pg_wal -prune -o -type f -print0 | xargs -0 cat >/dev/null".to_owned(),
        ),
        (
            "backup",
            "zstd-3",
            "tar | zstd -T2",
            format!("tar -cf - {FILES} . | zstd -q -T2 -3 >/dev/null"),
        ),
        (
            "backup",
            "lz4",
            "tar | lz4",
            format!("tar -cf - {FILES} . | lz4 -q >/dev/null"),
        ),
        (
            "restore",
            "",
            "tar | tar",
            format!("tar -cf - {FILES} . | tar -C \"{}\" -xf -", copy.display()),
        ),
    ] {
        world.make_dir("plain-copy")?;
        let mut command = world.command("bash");
        command
            .args(["-o", "pipefail", "-c", &line])
            .current_dir(database.postgres.dir());
        // The tools' own memory is not of interest.
        let (mut run, _) = timed(world, "none", command).await?;
        run.peak_memory = 0;
        samples.add(measure, variant, program, run);
        std::fs::remove_dir_all(&copy)?;
    }
    Ok(())
}
