//! The log: for people on a terminal, JSON else. `RUST_LOG` says what is in it.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

const DEFAULT: &str = "info,kube=warn,kube_runtime=warn,kube_client=warn,object_store=warn";

/// Begins to log, to stderr. Does nothing the second time.
pub fn start() {
    // What is tried again below us is told here once it has failed for good.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT));
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = if std::io::stderr().is_terminal() {
        lines.try_init()
    } else {
        lines.json().flatten_event(true).try_init()
    };
    // Somebody else logs already, as in tests.
    let _ = started;
}
