//! The `holdfast` program.

use holdfast::cli::{self, Command, Parsed};
use holdfast::exit::{ExitClass, Failure};
use holdfast::{bootstrap, commands, logging};
use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

// The memory of many short-lived buffers goes back to the system, where glibc's arenas keep it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As a restore_command, all that is not "restored" or "proven absent": Postgres stops instead of ending recovery.
const RECOVERY_TROUBLE: u8 = 200;

fn main() -> ExitCode {
    // Otherwise whole huge pages are resident, and count against the limit, for the few KiB in them that are in use.
    // An error leaves it so.
    let _ = nix::sys::prctl::set_thp_disable(true);
    let words: Vec<OsString> = std::env::args_os().collect();
    let is_restore_command = words.iter().any(|word| word == cli::WAL_RESTORE);
    // In a thread of its own, so that even a bug ends in a code that Postgres reads as trouble.
    let ended = std::thread::spawn(|| run(words)).join();
    let code = match ended {
        // Help in the place of a file.
        Ok(Ok(None)) if is_restore_command => RECOVERY_TROUBLE,
        Ok(Ok(None)) => ExitClass::Done.code(),
        Ok(Ok(Some(code))) => code,
        Ok(Err(failure)) => {
            // A closed stderr must not hide the code.
            let _ = std::io::stderr().write_all(failure.lines().as_bytes());
            if is_restore_command {
                RECOVERY_TROUBLE
            } else {
                failure.class.code()
            }
        }
        Err(_) if is_restore_command => RECOVERY_TROUBLE,
        Err(_) => ExitClass::Failed.code(),
    };
    code.into()
}

/// The exit code; none where only help was wanted.
fn run(words: Vec<OsString>) -> Result<Option<u8>, Failure> {
    let cli = match cli::parse(words)? {
        Parsed::Run(cli) => *cli,
        Parsed::Print(text) => {
            commands::print(&text)?;
            return Ok(None);
        }
    };
    let serves = matches!(cli.command, Command::Sidecar(_));
    // One provider of cryptography, whoever asks for it. An error means that it is set already.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    logging::start(if serves { "info" } else { "warn" });
    let file = || cli::config_file(cli.config.clone(), std::env::var_os("HOLDFAST_CONFIG"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("the program's threads can't be started: {e}")))?;
    if matches!(cli.command, Command::Bootstrap) {
        runtime.block_on(bootstrap::run(file))?;
        return Ok(Some(ExitClass::Done.code()));
    }
    runtime
        .block_on(commands::run(&file()?, cli.command))
        .map(Some)
}
