//! The `holdfast-operator` program.

use clap::Parser;
use holdfast_operator::cli::{Cli, Command};
use holdfast_operator::{check, logging, retire, run};
use std::process::ExitCode;

// The memory of many short-lived buffers goes back to the system, where glibc's arenas keep it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<ExitCode> {
    // Otherwise whole huge pages are resident, and count against the limit, for the few KiB in them that are in use.
    // An error leaves it so.
    let _ = nix::sys::prctl::set_thp_disable(true);
    // One for all that speaks TLS in this process; nobody can have been faster.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    match Cli::parse().command {
        Command::Crds(args) => run::definitions(&args)?,
        Command::Run(args) => {
            logging::start();
            runtime()?.block_on(run::operator(args))?;
        }
        Command::Check(args) => return Ok(runtime()?.block_on(check::run(args))),
        Command::Retire(args) => {
            logging::start();
            runtime()?.block_on(retire::run(args))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Runtime::new()
}
