//! The `holdfast-operator` program.

use clap::Parser;
use holdfast_operator::cli::{Cli, Command};
use holdfast_operator::{logging, run};

// The memory of many short-lived buffers goes back to the system, where glibc's arenas keep it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    // One for all that speaks TLS in this process; nobody can have been faster.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match Cli::parse().command {
        Command::Crds(args) => run::definitions(&args),
        Command::Run(args) => {
            logging::start();
            tokio::runtime::Runtime::new()?.block_on(run::operator(args))
        }
    }
}
