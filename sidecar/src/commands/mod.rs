//! What each command does, in terms of the modules that do it.

mod serve;

use crate::cli::Command;
use crate::config;
use crate::exit::{ExitClass, Failure};
use crate::{backup, check, info, restore, restore_wal, verify};
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// Carries out a command with the settings of `file`, and returns the exit code.
pub async fn run(file: &Path, command: Command) -> Result<u8, Failure> {
    match &command {
        // Wrong settings are what it looks for.
        Command::Check => return Ok(check::run(file).await?.code()),
        Command::WalRestore { name, path } => {
            return Ok(restore_wal::restore_one(file, name, path).await);
        }
        _ => {}
    }
    let settings = Arc::new(config::load(file).map_err(Failure::refused)?);
    match command {
        Command::Check | Command::WalRestore { .. } | Command::Bootstrap => {}
        Command::Sidecar(arguments) => serve::run(settings, &arguments).await?,
        Command::Backup(arguments) => backup::command::run(settings, &arguments).await?,
        Command::Restore(arguments) => restore::command::run(settings, &arguments).await?,
        Command::Info(arguments) => info::run(&settings, &arguments).await?,
        Command::Verify(arguments) => verify::run(&settings, &arguments).await?,
    }
    Ok(ExitClass::Done.code())
}

/// Prints to stdout. A reader that has left is a failure: it has not got what it asked for.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| Failure::failed(format!("the answer can't be printed: {e}")))
}

/// Prints one JSON document to stdout.
pub fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value).map_err(Failure::failed)?;
    print(&format!("{text}\n"))
}
