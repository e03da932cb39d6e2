//! `holdfast-wal`: PostgreSQL's `archive_command` and `restore_command`.
//!
//! It hands the file's name to the sidecar's socket and turns the answer into the exit code that PostgreSQL acts on.
//! It links next to nothing, so that one static file runs in any image.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that cannot go on fails")
)]

mod arguments;
mod connection;
mod outcome;
mod restored_file;
mod standby;

use arguments::{Arguments, Command};
use connection::{Answer, Connection, Trouble};
use holdfast_wal_socket::{LOOK, NOT_IN_TIME, OVERALL, Patience, is_under_way, now};
use outcome::Outcome;
use std::io::Write;
use std::mem::MaybeUninit;
use std::process::ExitCode;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// A standby must hear of trouble within this time: it asks again by itself.
const STANDBY_PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to reach a sidecar that is restarting.
const PAUSE: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let setting = |name: &str| std::env::var_os(name);
    let (outcome, line) = match arguments::parse(&words, &setting) {
        Ok(Command::Print(text)) => {
            let done = std::io::stdout().write_all(text.as_bytes()).is_ok();
            return ExitCode::from(u8::from(!done));
        }
        Ok(Command::Run(arguments)) => run(arguments),
        Err(usage) => (usage.outcome, Some(usage.message)),
    };
    if let Some(line) = line {
        // A closed stderr must not turn into a panic, nor hide the code.
        let _ = writeln!(
            std::io::stderr(),
            "holdfast-wal: {}",
            outcome::one_line(&line)
        );
    }
    ExitCode::from(outcome.code())
}

/// Runs in a thread of its own, so that even a bug ends in a code that PostgreSQL reads as trouble.
fn run(arguments: Arguments) -> (Outcome, Option<String>) {
    let standby = arguments.restores() && standby::is_standby(arguments.path());
    let (on_panic, archives) = (arguments.trouble(standby), !arguments.restores());
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(call(&arguments, standby)));
    let mut patience = Patience::default();
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(done) => return done,
            Err(RecvTimeoutError::Disconnected) => return (on_panic, None),
            Err(RecvTimeoutError::Timeout) if archives && patience.is_over() => {
                return (Outcome::ArchiverEnds, Some(NOT_IN_TIME.to_owned()));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

fn call(arguments: &Arguments, standby: bool) -> (Outcome, Option<String>) {
    match arguments {
        Arguments::Archive { name, path, .. } => match archive(arguments, name, path) {
            Ok(()) => (Outcome::Done, None),
            Err(why) => {
                let outcome = match is_under_way() {
                    true => Outcome::ArchiverEnds,
                    false => Outcome::ArchiveTrouble,
                };
                (outcome, Some(format!("{name} is not archived: {why}")))
            }
        },
        Arguments::Restore { name, path, .. } if standby::is_absent_without_asking(name, path) => {
            (Outcome::Absent, None)
        }
        Arguments::Restore { name, .. } => match restore(arguments, name, standby) {
            Ok(true) => (Outcome::Done, None),
            Ok(false) => (Outcome::Absent, None),
            Err(why) => (
                arguments.trouble(standby),
                Some(format!("{name} is not restored: {why}")),
            ),
        },
    }
}

/// A sidecar that can't be reached is not waited for: PostgreSQL keeps the segment and asks again.
fn archive(arguments: &Arguments, name: &str, path: &str) -> Result<(), Trouble> {
    let limits = arguments.limits();
    let overall = now() + OVERALL;
    let mut connection = Connection::open(&limits.socket, limits.silence, overall)?;
    connection.send(&format!("ARCHIVE {name} {}\n", whole(path)), overall)?;
    match connection.answer(overall)? {
        Answer::Ok(_) => Ok(()),
        Answer::Error(why) => Err(Trouble::Refused(why)),
        Answer::Absent => Err(Trouble::Protocol("ABSENT, to ARCHIVE".to_owned())),
    }
}

/// The path from the root on: PostgreSQL gives it relative to its data directory, where it runs us. So a sidecar that
/// serves another directory sees that the file is not its own, where it would take its own of the same name.
fn whole(path: &str) -> String {
    let mut buffer = [const { MaybeUninit::uninit() }; 4096];
    match holdfast_wal_socket::working_directory(&mut buffer) {
        Some(directory) if !path.starts_with('/') => format!("{directory}/{path}"),
        _ => path.to_owned(),
    }
}

/// True: the file is there, whole and durable. False: proven absent. A restarting sidecar is waited for.
fn restore(arguments: &Arguments, name: &str, standby: bool) -> Result<bool, Trouble> {
    let limits = arguments.limits();
    let begun = now();
    let overall = begun + OVERALL;
    let (give_up, silence) = if standby {
        (
            begun + STANDBY_PATIENCE,
            limits.silence.min(STANDBY_PATIENCE),
        )
    } else {
        (begun + limits.retry, limits.silence)
    };
    loop {
        // On a standby the answer itself is due within its patience; bytes that flow may then take their time.
        let answer_due = if standby { give_up } else { overall };
        let attempt = restore_once(arguments, name, silence, answer_due, overall);
        match attempt {
            Err(trouble) if trouble.is_restart() && now() + PAUSE < give_up => {
                std::thread::sleep(PAUSE);
            }
            decided => return decided,
        }
    }
}

fn restore_once(
    arguments: &Arguments,
    name: &str,
    silence: Duration,
    answer_due: Duration,
    overall: Duration,
) -> Result<bool, Trouble> {
    let socket = &arguments.limits().socket;
    let mut connection = Connection::open(socket, silence, answer_due)?;
    connection.send(&format!("RESTORE {name}\n"), answer_due)?;
    match connection.answer(answer_due)? {
        Answer::Absent => Ok(false),
        Answer::Error(why) => Err(Trouble::Refused(why)),
        Answer::Ok(length) => {
            let length = length
                .parse()
                .map_err(|_| Trouble::Protocol(format!("OK {length}, where a length belongs")))?;
            restored_file::receive(&mut connection, length, arguments.path(), overall)?;
            Ok(true)
        }
    }
}
