//! The command line and the environment.

use crate::outcome::Outcome;
use holdfast_wal_socket::{DEFAULT_SOCKET, SILENCE};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `--help`
pub(crate) const USAGE: &str = "\
holdfast-wal [--socket PATH] archive NAME PATH     for archive_command = 'holdfast-wal archive %f %p'
holdfast-wal [--socket PATH] restore NAME PATH     for restore_command = 'holdfast-wal restore %f %p'

The socket is the sidecar's: --socket, else HOLDFAST_SOCKET, else /holdfast/run/wal.sock.
HOLDFAST_WAL_SILENCE_SECONDS (20): a sidecar that says nothing for so long counts as hung.
HOLDFAST_WAL_RETRY_SECONDS (30): how long restore waits for a sidecar that is down or restarting.

archive exits with 0 when the file is durable in every required repository, else with 1; and with 200 while the server is
shutting down, after 10 seconds at most, which ends its archiver.
restore exits with 0 when the file is restored, 1 when it is proven absent, else with 200, which stops the recovery.
Where the data directory holds standby.signal, restore exits with 1 instead of 200, after 5 seconds at most.
";

/// Where the sidecar is and how long it is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) socket: PathBuf,
    pub(crate) silence: Duration,
    pub(crate) retry: Duration,
}

/// A call by PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Arguments {
    Archive {
        limits: Limits,
        name: String,
        /// As given: the sidecar may see the data directory elsewhere.
        path: String,
    },
    Restore {
        limits: Limits,
        name: String,
        path: PathBuf,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Print(String),
    Run(Arguments),
}

/// A call that can't be carried out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) outcome: Outcome,
    pub(crate) message: String,
}

impl Arguments {
    pub(crate) fn restores(&self) -> bool {
        matches!(self, Self::Restore { .. })
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Self::Archive { path, .. } => Path::new(path),
            Self::Restore { path, .. } => path,
        }
    }

    pub(crate) fn limits(&self) -> &Limits {
        match self {
            Self::Archive { limits, .. } | Self::Restore { limits, .. } => limits,
        }
    }

    pub(crate) fn trouble(&self, standby: bool) -> Outcome {
        match self {
            Self::Archive { .. } => Outcome::ArchiveTrouble,
            Self::Restore { .. } if standby => Outcome::StandbyTrouble,
            Self::Restore { .. } => Outcome::RecoveryTrouble,
        }
    }
}

/// Reads the words after the program's name. A mistake in a `restore` call must not look like "absent".
pub(crate) fn parse(
    words: &[OsString],
    setting: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Command, Usage> {
    let outcome = if words.iter().any(|word| word == "restore") {
        Outcome::RecoveryTrouble
    } else {
        Outcome::Usage
    };
    // Only alone: `restore --help` must not end with the code of a restored file.
    if let [word] = words {
        if word == "--help" || word == "-h" {
            return Ok(Command::Print(USAGE.to_owned()));
        }
        if word == "--version" || word == "-V" {
            return Ok(Command::Print(format!(
                "holdfast-wal {}\n",
                env!("CARGO_PKG_VERSION")
            )));
        }
    }
    arguments(words, setting)
        .map(Command::Run)
        .map_err(|message| Usage { outcome, message })
}

fn arguments(
    words: &[OsString],
    setting: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Arguments, String> {
    let mut socket = None;
    let mut rest = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--socket" {
            socket = Some(words.next().ok_or("--socket needs a path")?.clone());
        } else if let Some(path) = word.to_str().and_then(|w| w.strip_prefix("--socket=")) {
            socket = Some(path.into());
        } else {
            rest.push(word);
        }
    }
    let [verb, name, path] = rest.as_slice() else {
        return Err(
            "write: holdfast-wal [--socket PATH] archive NAME PATH, or restore NAME PATH"
                .to_owned(),
        );
    };
    let limits = Limits {
        socket: socket
            .or_else(|| setting("HOLDFAST_SOCKET").filter(|s| !s.is_empty()))
            .unwrap_or_else(|| DEFAULT_SOCKET.into())
            .into(),
        silence: seconds(setting, "HOLDFAST_WAL_SILENCE_SECONDS", SILENCE.as_secs())?,
        retry: seconds(setting, "HOLDFAST_WAL_RETRY_SECONDS", 30)?,
    };
    let name = plain(name, "the name", |c| c.is_whitespace() || c.is_control())?;
    match verb.to_str() {
        Some("archive") => Ok(Arguments::Archive {
            limits,
            name,
            path: plain(path, "the path", char::is_control)?,
        }),
        Some("restore") if path.is_empty() => Err("the path is empty".to_owned()),
        Some("restore") => Ok(Arguments::Restore {
            limits,
            name,
            path: path.into(),
        }),
        _ => Err(format!(
            "{verb:?} is neither archive nor restore; see holdfast-wal --help"
        )),
    }
}

fn plain(word: &OsStr, what: &str, forbidden: fn(char) -> bool) -> Result<String, String> {
    match word.to_str() {
        Some("") => Err(format!("{what} is empty")),
        Some(text) if !text.contains(forbidden) => Ok(text.to_owned()),
        _ => Err(format!(
            "{what} {word:?} holds characters that no WAL file's has"
        )),
    }
}

fn seconds(
    setting: &dyn Fn(&str) -> Option<OsString>,
    name: &str,
    default: u64,
) -> Result<Duration, String> {
    let Some(value) = setting(name) else {
        return Ok(Duration::from_secs(default));
    };
    match value.to_str().map(str::parse) {
        Some(Ok(seconds @ 1..=600)) => Ok(Duration::from_secs(seconds)),
        _ => Err(format!(
            "{name} is {value:?}; write whole seconds, 1 to 600"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_words(words: &[&str]) -> Result<Command, Usage> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        parse(&words, &|name| {
            (name == "HOLDFAST_SOCKET").then(|| OsString::from("/env.sock"))
        })
    }

    #[test]
    fn calls_as_postgres_makes_them() {
        let limits = |socket: &str| Limits {
            socket: socket.into(),
            silence: Duration::from_secs(20),
            retry: Duration::from_secs(30),
        };
        assert_eq!(
            parse_words(&[
                "archive",
                "000000010000000000000001",
                "pg_wal/000000010000000000000001"
            ]),
            Ok(Command::Run(Arguments::Archive {
                limits: limits("/env.sock"),
                name: "000000010000000000000001".into(),
                path: "pg_wal/000000010000000000000001".into()
            }))
        );
        for words in [
            [
                "--socket",
                "/s",
                "restore",
                "00000002.history",
                "pg_wal/RECOVERYHISTORY",
            ]
            .as_slice(),
            &[
                "restore",
                "00000002.history",
                "pg_wal/RECOVERYHISTORY",
                "--socket=/s",
            ],
        ] {
            assert_eq!(
                parse_words(words),
                Ok(Command::Run(Arguments::Restore {
                    limits: limits("/s"),
                    name: "00000002.history".into(),
                    path: "pg_wal/RECOVERYHISTORY".into()
                }))
            );
        }
    }

    #[test]
    fn mistakes_in_restore_never_look_like_absent() {
        for (words, outcome) in [
            ([].as_slice(), Outcome::Usage),
            (&["archive"], Outcome::Usage),
            (&["archive", "a", "b", "c"], Outcome::Usage),
            (&["archive", "a b", "c"], Outcome::Usage),
            (&["archive", "a", "c\nARCHIVE"], Outcome::Usage),
            (&["archive", "", "c"], Outcome::Usage),
            (&["fetch", "a", "b"], Outcome::Usage),
            (&["restore"], Outcome::RecoveryTrouble),
            (&["restore", "a"], Outcome::RecoveryTrouble),
            (&["restore", "a", ""], Outcome::RecoveryTrouble),
            (&["restore", "--help"], Outcome::RecoveryTrouble),
            (&["restore", "a\tb", "c"], Outcome::RecoveryTrouble),
            (&["--sokcet", "restore", "a", "b"], Outcome::RecoveryTrouble),
            (&["restore", "a", "b", "--socket"], Outcome::RecoveryTrouble),
        ] {
            match parse_words(words) {
                Err(usage) => assert_eq!(usage.outcome, outcome, "{words:?}"),
                Ok(command) => panic!("{words:?} gave {command:?}"),
            }
        }
    }

    #[test]
    fn a_bad_setting_is_told() {
        let words: Vec<OsString> = ["restore", "a", "b"].iter().map(OsString::from).collect();
        for bad in ["", "0", "-1", "1.5", "601", "x"] {
            let answer = parse(&words, &|name| {
                (name == "HOLDFAST_WAL_SILENCE_SECONDS").then(|| OsString::from(bad))
            });
            assert_eq!(answer.unwrap_err().outcome, Outcome::RecoveryTrouble);
        }
    }
}
