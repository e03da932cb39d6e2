//! What was measured, for machines and for people.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::database::Database;
use crate::measure::{Key, Samples, Series, median};

fn spread(series: &Series) -> (f64, f64, f64) {
    let least = series.seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let most = series.seconds.iter().copied().fold(0.0, f64::max);
    (median(&series.seconds), least, most)
}

/// pgBackRest's median over Holdfast's: above 1, Holdfast is faster.
fn ratio(samples: &Samples, key: &Key) -> Option<f64> {
    let other = Key {
        program: "pgbackrest",
        ..key.clone()
    };
    let (ours, theirs) = (samples.0.get(key)?, samples.0.get(&other)?);
    (key.program == "holdfast").then(|| median(&theirs.seconds) / median(&ours.seconds))
}

/// Writes the JSON file.
pub fn write(
    path: &str,
    scale: u32,
    rounds: u32,
    database: &Database,
    samples: &Samples,
) -> Result<()> {
    let results: Vec<Value> = samples
        .0
        .iter()
        .map(|(key, series)| {
            let (median, least, most) = spread(series);
            json!({
                "measure": key.measure, "variant": key.variant, "program": key.program,
                "medianSeconds": median, "leastSeconds": least, "mostSeconds": most, "seconds": series.seconds,
                "processorSeconds": crate::measure::median(&series.processor_seconds),
                "peakMemoryBytes": series.peak_memory, "storedBytes": series.stored_bytes,
                "pgbackrestOverHoldfast": ratio(samples, key),
            })
        })
        .collect();
    let report = json!({
        "time": jiff::Timestamp::now(),
        "processors": std::thread::available_parallelism().map(usize::from).unwrap_or(0),
        "scale": scale, "rounds": rounds, "databaseBytes": database.bytes, "results": results,
    });
    std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("writing {path}"))
}

/// Prints the table.
pub fn print(samples: &Samples) {
    println!(
        "{:8} {:7} {:15} {:>9} {:>9} {:>9} {:>7} {:>9} {:>9} {:>7}",
        "what",
        "how",
        "who",
        "median s",
        "least",
        "most",
        "cpu s",
        "peak MiB",
        "stored MB",
        "ratio"
    );
    for (key, series) in &samples.0 {
        let (median, least, most) = spread(series);
        let some = |value: u64, unit: u64| match value {
            0 => "-".to_owned(),
            value => (value / unit).to_string(),
        };
        println!(
            "{:8} {:7} {:15} {median:9.3} {least:9.3} {most:9.3} {:7.2} {:>9} {:>9} {:>7}",
            key.measure,
            key.variant,
            key.program,
            crate::measure::median(&series.processor_seconds),
            some(series.peak_memory, 1 << 20),
            some(series.stored_bytes, 1_000_000),
            ratio(samples, key).map_or("-".to_owned(), |ratio| format!("{ratio:.2}")),
        );
    }
    println!("ratio: pgBackRest's median over Holdfast's, so above 1 Holdfast is faster");
}
