//! What was measured, for machines and for people.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::Plan;
use super::starts::Start;
use super::writes::Writes;
use crate::measure::median;

const MIB: f64 = 1024.0 * 1024.0;

/// All figures, in the order in which they were taken.
pub struct Report {
    head: Value,
    figures: Vec<Figure>,
    requests: u64,
}

/// One thing, measured once or many times.
struct Figure {
    measure: String,
    /// What went on meanwhile.
    phase: &'static str,
    unit: &'static str,
    samples: Vec<f64>,
}

impl Figure {
    /// Median and both ends.
    fn spread(&self) -> (f64, f64, f64) {
        let samples = self.samples.iter().copied();
        let least = samples.clone().fold(f64::INFINITY, f64::min);
        let most = samples.fold(f64::NEG_INFINITY, f64::max);
        (median(&self.samples), least, most)
    }
}

impl Report {
    /// Of nothing yet.
    pub fn new(plan: &Plan) -> Self {
        Self {
            head: json!({
                "archives": plan.archives, "sidecars": plan.archives * plan.sidecars,
                "backups": plan.archives * plan.backups, "starts": plan.starts,
                "windowSeconds": plan.window.as_secs(), "program": plan.program,
            }),
            figures: Vec::new(),
            requests: 0,
        }
    }

    fn add(&mut self, measure: &str, phase: &'static str, unit: &'static str, samples: Vec<f64>) {
        let measure = measure.to_owned();
        self.figures.push(Figure {
            measure,
            phase,
            unit,
            samples,
        });
    }

    /// Resident memory of the operator, in bytes.
    pub fn memory(&mut self, phase: &'static str, samples: &[u64]) {
        let samples = samples.iter().map(|bytes| *bytes as f64).collect();
        self.add("resident memory", phase, "bytes", samples);
    }

    /// The largest that its resident memory was.
    pub fn peak(&mut self, phase: &'static str, bytes: u64) {
        self.add("peak memory", phase, "bytes", vec![bytes as f64]);
    }

    /// A stretch of time.
    pub fn seconds(&mut self, measure: &str, phase: &'static str, took: Duration) {
        self.add(measure, phase, "seconds", vec![took.as_secs_f64()]);
    }

    /// A single number.
    pub fn count(&mut self, measure: &str, phase: &'static str, count: f64) {
        self.add(measure, phase, "", vec![count]);
    }

    /// What was written by anybody, within a stretch of time.
    pub fn writes(&mut self, phase: &'static str, took: Duration, writes: &Writes) {
        self.seconds("window", phase, took);
        for (what, count) in &writes.0 {
            self.add(what, phase, "requests", vec![*count as f64]);
        }
    }

    /// Backups that were applied.
    pub fn starts(&mut self, starts: &[Start]) {
        let mut add = |measure, of: fn(&Start) -> f64| {
            let samples = starts.iter().map(of).collect();
            self.add(measure, "backups", "seconds", samples);
        };
        add("kubectl apply to Started", |start| start.from_call);
        add("object to Started", |start| start.from_object);
        add("kubectl apply alone", |start| start.kubectl);
    }

    /// Requests that the sidecars answered in all.
    pub fn requests(&mut self, requests: u64) {
        self.requests = requests;
    }

    /// Writes the JSON file.
    pub fn write(&self, path: &Path) -> Result<()> {
        let figures: Vec<Value> = self
            .figures
            .iter()
            .map(|figure| {
                let (median, least, most) = figure.spread();
                json!({
                    "measure": figure.measure, "phase": figure.phase, "unit": figure.unit,
                    "median": median, "least": least, "most": most, "samples": figure.samples,
                })
            })
            .collect();
        let report = json!({
            "time": jiff::Timestamp::now(),
            "processors": std::thread::available_parallelism().map(usize::from).unwrap_or(0),
            "scale": self.head, "sidecarRequests": self.requests, "results": figures,
        });
        std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n")
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Prints the table.
    pub fn print(&self) {
        println!(
            "{:22} {:48} {:>10} {:>10} {:>10} unit",
            "while", "what", "median", "least", "most"
        );
        for figure in &self.figures {
            let (median, least, most) = figure.spread();
            let (unit, scale) = match figure.unit {
                "bytes" => ("MiB", MIB),
                other => (other, 1.0),
            };
            let shown = |value: f64| match unit {
                "requests" => format!("{value:.0}"),
                _ => format!("{:.3}", value / scale),
            };
            println!(
                "{:22} {:48} {:>10} {:>10} {:>10} {unit}",
                figure.phase,
                figure.measure,
                shown(median),
                shown(least),
                shown(most)
            );
        }
    }
}
