//! Where the log goes, and how much of it.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts the log: to stderr, readable on a terminal, JSON elsewhere. HOLDFAST_LOG, else RUST_LOG, says how much;
/// without them `default` does, such as `info`. The store's client stays quiet: it logs addresses and headers.
pub fn start(default: &str) {
    let wish = ["HOLDFAST_LOG", "RUST_LOG"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let quiet = format!("{default},object_store=warn,hyper=warn,reqwest=warn,rustls=warn");
    let (filter, bad) = match wish.as_deref().map(EnvFilter::try_new) {
        None => (EnvFilter::new(quiet), None),
        Some(Ok(filter)) => (filter, None),
        Some(Err(error)) => (EnvFilter::new(quiet), Some(error)),
    };
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // An error means that a log is there already, as in tests.
    let _ = if std::io::stderr().is_terminal() {
        log.with_target(false).try_init()
    } else {
        log.json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init()
    };
    if let Some(error) = bad {
        tracing::warn!(%error, "HOLDFAST_LOG or RUST_LOG can't be understood: write for instance HOLDFAST_LOG=debug");
    }
}
