//! What was measured, for machines and for people.

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Plan;
use super::samples::{Key, Measure, Program, Series, Table};
use crate::measure::median;

/// The best peer's median over ours: above 1, ours is faster.
fn over_best_peer(table: &Table, key: &Key) -> Option<f64> {
    if key.program.is_peer() || key.program.is_bound() {
        return None;
    }
    let peers = table.0.iter().filter(|(other, _)| {
        other.program.is_peer()
            && Key {
                program: key.program,
                ..**other
            } == *key
    });
    let best = peers
        .map(|(_, series)| series.median())
        .min_by(f64::total_cmp)?;
    Some(best / table.0.get(key)?.median())
}

/// This median over the bound's: 1 is as fast as it can be.
fn over_bound(table: &Table, key: &Key) -> Option<f64> {
    let program = match key.measure {
        Measure::Drain => Program::Compressor,
        Measure::Fetch => Program::Copy,
        _ => return None,
    };
    let bound = table.0.get(&Key { program, ..*key })?;
    (key.program != program).then(|| Some(table.0.get(key)?.median() / bound.median()))?
}

/// The longest: of calls, or of runs for each segment.
fn worst(series: &Series) -> f64 {
    series.seconds.iter().copied().fold(0.0, f64::max) / series.segments.max(1) as f64
}

fn processor_seconds(series: &Series) -> Option<f64> {
    let each = median(&series.processor_seconds) / series.segments.max(1) as f64;
    (!series.processor_seconds.is_empty()).then_some(each)
}

/// The store's, for each segment.
fn requests(series: &Series) -> Option<f64> {
    let counts: Vec<f64> = series.requests.iter().map(|run| run.all() as f64).collect();
    let each = median(&counts) / series.segments.max(1) as f64;
    (each > 0.0).then_some(each)
}

/// Writes the JSON file.
pub fn write(path: &str, plan: Plan, table: &Table) -> Result<()> {
    let results: Vec<Value> = table
        .0
        .iter()
        .map(|(key, series)| {
            json!({
                "latencyMilliseconds": key.latency, "compression": key.compression,
                "measure": key.measure.name(), "program": key.program.name(),
                "segments": series.segments, "seconds": series.seconds,
                "medianSecondsPerSegment": series.median(), "worstSecondsPerSegment": worst(series),
                "processorSeconds": series.processor_seconds, "storeRequests": series.requests.iter().map(|run| &run.0).collect::<Vec<_>>(),
                "peakMemoryBytes": series.peak_memory,
                "bestPeerOverThis": over_best_peer(table, key), "thisOverBound": over_bound(table, key),
            })
        })
        .collect();
    let report = json!({
        "time": jiff::Timestamp::now(),
        "processors": std::thread::available_parallelism().map(usize::from).unwrap_or(0),
        "scale": super::SCALE, "plan": plan.json(), "results": results,
    });
    std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")
        .with_context(|| format!("writing {path}"))
}

/// Prints a table for each latency and compression.
pub fn print(table: &Table) {
    let mut group = None;
    for (key, series) in &table.0 {
        if group != Some((key.latency, key.compression)) {
            group = Some((key.latency, key.compression));
            println!(
                "\n{} ms to the store, {}\n{:6} {:16} {:>7} {:>9} {:>9} {:>8} {:>8} {:>8} {:>9} {:>7}",
                key.latency,
                key.compression,
                "what",
                "who",
                "samples",
                "median ms",
                "worst ms",
                "cpu ms",
                "peak MiB",
                "requests",
                "best peer",
                "bound"
            );
        }
        let some = |value: Option<f64>, digits: usize| {
            value.map_or("-".to_owned(), |value| format!("{value:.digits$}"))
        };
        let peak = Some(series.peak_memory >> 20).filter(|mib| *mib > 0 && !key.program.is_bound());
        println!(
            "{:6} {:16} {:>7} {:9.1} {:9.1} {:>8} {:>8} {:>8} {:>9} {:>7}",
            key.measure.name(),
            key.program.name(),
            series.seconds.len(),
            series.median() * 1e3,
            worst(series) * 1e3,
            some(processor_seconds(series).map(|seconds| seconds * 1e3), 1),
            peak.map_or("-".to_owned(), |mib| mib.to_string()),
            some(requests(series), 1),
            some(over_best_peer(table, key), 2),
            some(over_bound(table, key), 2),
        );
    }
    println!(
        "\nall for one segment; of drain and fetch the mean of a run, of which the median and the worst are told"
    );
    println!(
        "best peer: its median over this, so above 1 this is faster; bound: this over the bound's median"
    );
}
