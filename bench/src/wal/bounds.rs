//! The same compressor alone on the same bytes and processors, and a plain copy.

use anyhow::Result;

use super::Bench;
use super::samples::{Measure, Program, Requests};
use crate::measure::timed;

/// Runs each once. Neither talks to a store.
pub async fn measure(bench: &mut Bench<'_>) -> Result<()> {
    let world = bench.world;
    let names: Vec<String> = bench
        .segments
        .iter()
        .map(|name| format!("pg_wal/{name}"))
        .collect();
    let names = names.join(" ");
    let compress = match bench.variant.algorithm {
        "zstd" => format!("zstd -q -{} -c", bench.variant.level),
        _ => "lz4 -q -c".to_owned(),
    };
    let copy = world.path("copied");
    for (measure, program, line) in [
        (
            Measure::Drain,
            Program::Compressor,
            format!("echo {names} | xargs -n 1 -P 2 {compress} >/dev/null"),
        ),
        (
            Measure::Fetch,
            Program::Copy,
            format!(
                "for file in {names}; do cp $file \"{}\"; done",
                copy.display()
            ),
        ),
    ] {
        let mut command = world.command("bash");
        command
            .args(["-e", "-o", "pipefail", "-c", &line])
            .current_dir(bench.database.postgres.dir());
        let (run, _) = timed(world, "none", command).await?;
        let key = bench.key(measure, program);
        let segments = bench.segments.len();
        bench.table.add(
            key,
            measure,
            segments,
            (run, Requests::default()),
            Vec::new(),
        );
    }
    std::fs::remove_file(copy)?;
    Ok(())
}
