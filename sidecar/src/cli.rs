//! The command line.

use crate::exit::Failure;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand, ValueEnum};
use holdfast_postgres::Lsn;
use holdfast_protocol::control::BackupKind;
use holdfast_repository::reach::text::{
    may_be_exclusive, parse_name, parse_time, parse_timeline, parse_xid,
};
use holdfast_repository::reach::{Request, Target, TimelineChoice};
use jiff::Timestamp;
use std::ffi::OsString;
use std::path::PathBuf;

/// The command whose every exit code is read by Postgres.
pub const WAL_RESTORE: &str = "wal-restore";

/// Keeps a PostgreSQL recoverable.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, disable_help_subcommand = true)]
pub struct Cli {
    /// The settings; else the file that HOLDFAST_CONFIG names.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the WAL socket and the control API until SIGTERM, which drains first.
    Sidecar(SidecarArgs),
    /// Runs before Postgres: says what data directory there is, and restores an empty one if the settings say so.
    Bootstrap,
    /// Look at the settings, the store, the key and Postgres: what is wrong, and the line that mends it.
    Check,
    /// Take a backup.
    Backup(BackupArgs),
    /// Restore a backup and have Postgres recover to a moment.
    Restore(Box<RestoreArgs>),
    /// Show backups, the recovery window, and WAL by timeline.
    Info(InfoArgs),
    /// Read and compare every byte that a restore would use.
    Verify(VerifyArgs),
    /// The restore_command of a restored directory that no sidecar serves.
    #[command(name = WAL_RESTORE, hide = true)]
    WalRestore {
        /// `%f`
        name: String,
        /// `%p`
        path: PathBuf,
    },
}

/// `holdfast sidecar`
#[derive(Debug, Args)]
pub struct SidecarArgs {
    /// First put holdfast-wal, which lies beside this program, into DIR/bin, and make DIR/run for the sockets.
    #[arg(long, value_name = "DIR")]
    pub install: Option<PathBuf>,
}

/// `holdfast backup`
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// full: everything is stored; incremental: what differs from the newest backup, if there is one; auto: incremental.
    #[arg(long = "type", value_parser = backup_kind(), default_value = "auto", value_name = "KIND")]
    pub kind: BackupKind,
    /// Print Backup.status.
    #[arg(long)]
    pub json: bool,
}

/// The protocol's kinds, in this program's spelling.
fn backup_kind() -> impl TypedValueParser<Value = BackupKind> {
    PossibleValuesParser::new(["full", "incremental", "auto"]).map(|kind| match kind.as_str() {
        "full" => BackupKind::Full,
        "incremental" => BackupKind::Incremental,
        _ => BackupKind::Auto,
    })
}

/// `holdfast info`
#[derive(Debug, Args)]
pub struct InfoArgs {
    /// Print Archive.status.
    #[arg(long)]
    pub json: bool,
}

/// `holdfast verify`
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Only this backup; else all of them.
    #[arg(long, value_name = "ID")]
    pub backup: Option<String>,
    /// Print what was verified and what is damaged.
    #[arg(long)]
    pub json: bool,
}

/// The words that `--target` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TargetWord {
    /// The end of what is archived.
    Latest,
    /// The first moment at which the backup is consistent.
    Immediate,
}

/// What Postgres does at the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Action {
    /// Ends recovery on a new timeline.
    #[default]
    Promote,
    /// Waits, readable.
    Pause,
    /// Shuts down.
    Shutdown,
}

/// `holdfast restore`
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The data directory to make.
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,
    #[command(flatten)]
    target: TargetArgs,
    /// End just before the target, not just after it.
    #[arg(long)]
    pub exclusive: bool,
    /// The timeline to follow: a number, latest, or current (the backup's own).
    #[arg(long, value_name = "N|latest|current", default_value = "latest", value_parser = parse_timeline)]
    pub timeline: TimelineChoice,
    /// Start from this backup; else from the newest one that reaches the target.
    #[arg(long, value_name = "ID")]
    pub backup: Option<String>,
    /// What Postgres does at the target.
    #[arg(long, value_enum, default_value = "promote")]
    pub action: Action,
    /// Put a tablespace here; else where it was.
    #[arg(long = "tablespace", value_name = "OID=DIR", value_parser = parse_tablespace)]
    pub tablespaces: Vec<(u32, PathBuf)>,
    /// Put WAL here, and make pg_wal a link to it.
    #[arg(long, value_name = "DIR", value_parser = parse_absolute)]
    pub waldir: Option<PathBuf>,
    /// Replace what is in the directories.
    #[arg(long)]
    pub overwrite: bool,
    /// Check that the target can be reached, and stop.
    #[arg(long)]
    pub dry_run: bool,
    /// Print Restore.status.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
struct TargetArgs {
    /// The end of what is archived (this is the default), or as soon as the backup is consistent.
    #[arg(long = "target", value_enum, value_name = "latest|immediate")]
    word: Option<TargetWord>,
    /// A moment, with its zone: 2026-11-20T10:00:00Z, or 2026-11-20 10:00:00+01.
    #[arg(long = "target-time", value_name = "T", value_parser = parse_time)]
    time: Option<Timestamp>,
    /// A position, such as 16/B374D848.
    #[arg(long = "target-lsn", value_name = "L")]
    lsn: Option<Lsn>,
    /// A transaction, as pg_current_xact_id() prints it.
    #[arg(long = "target-xid", value_name = "X", value_parser = parse_xid)]
    xid: Option<u32>,
    /// A restore point that pg_create_restore_point() made.
    #[arg(long = "target-name", value_name = "N", value_parser = parse_name)]
    name: Option<String>,
}

impl RestoreArgs {
    /// Where recovery shall stop, and on which way.
    pub fn request(&self) -> Request {
        Request {
            target: self.target(),
            exclusive: self.exclusive,
            timeline: self.timeline,
            backup: self.backup.clone(),
        }
    }

    /// The one target that was given, or the end.
    fn target(&self) -> Target {
        let TargetArgs {
            word,
            time,
            lsn,
            xid,
            name,
        } = &self.target;
        match (word, time, lsn, xid, name) {
            (Some(TargetWord::Immediate), ..) => Target::Immediate,
            (_, Some(time), ..) => Target::Time(*time),
            (_, _, Some(lsn), ..) => Target::Lsn(*lsn),
            (_, _, _, Some(xid), _) => Target::Xid(*xid),
            (_, _, _, _, Some(name)) => Target::Name(name.clone()),
            _ => Target::Latest,
        }
    }

    /// What clap's own rules don't say.
    fn check(&self) -> Result<(), String> {
        if self.exclusive && !may_be_exclusive(&self.target()) {
            return Err(
                "--exclusive means something only with --target-time, --target-lsn or --target-xid"
                    .into(),
            );
        }
        let mut oids: Vec<u32> = self.tablespaces.iter().map(|(oid, _)| *oid).collect();
        oids.sort_unstable();
        match oids.windows(2).find(|pair| pair.first() == pair.last()) {
            Some(pair) => Err(format!(
                "--tablespace is given twice for {}",
                pair.first().unwrap_or(&0)
            )),
            None => Ok(()),
        }
    }
}

fn parse_tablespace(text: &str) -> Result<(u32, PathBuf), String> {
    text.split_once('=')
        .and_then(|(oid, folder)| Some((oid.parse().ok()?, PathBuf::from(folder))))
        .filter(|(oid, folder)| *oid > 0 && folder.is_absolute())
        .ok_or_else(|| "write OID=DIR with an absolute path, such as 16401=/data/fast".to_owned())
}

fn parse_absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    path.is_absolute()
        .then_some(path)
        .ok_or_else(|| "write an absolute path, such as /wal/pg_wal".to_owned())
}

/// What the command line asks for.
#[derive(Debug)]
pub enum Parsed {
    /// Something to do.
    Run(Box<Cli>),
    /// Help or version, to print.
    Print(String),
}

/// Reads the command line, the program's name first. Failures are usage errors of one line.
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Parsed, Failure> {
    let cli = match Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
                    Ok(Parsed::Print(error.to_string()))
                }
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                | ErrorKind::MissingSubcommand => Err(Failure::usage(
                    "give a command: sidecar, bootstrap, check, backup, restore, info or verify; see holdfast --help",
                )),
                _ => Err(Failure::usage(one_line(&error.to_string()))),
            };
        }
    };
    if let Command::Restore(restore) = &cli.command {
        restore.check().map_err(Failure::usage)?;
    }
    Ok(Parsed::Run(Box::new(cli)))
}

/// clap's message without its usage and its pointer to the help.
fn one_line(message: &str) -> String {
    let paragraphs = message
        .split("\n\n")
        .map(|p| p.split_whitespace().collect::<Vec<_>>().join(" "));
    let kept: Vec<String> = paragraphs
        .filter(|p| {
            !p.is_empty() && !p.starts_with("Usage:") && !p.starts_with("For more information")
        })
        .map(|p| p.trim_start_matches("error: ").to_owned())
        .collect();
    kept.join("; ")
}

/// The settings file: `--config`, else what the environment names.
pub fn config_file(
    given: Option<PathBuf>,
    environment: Option<OsString>,
) -> Result<PathBuf, Failure> {
    given
        .or_else(|| {
            environment
                .filter(|file| !file.is_empty())
                .map(PathBuf::from)
        })
        .ok_or_else(|| Failure::usage("no settings: give --config FILE, or set HOLDFAST_CONFIG"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::ExitClass;
    use holdfast_postgres::TimelineId;

    fn run(line: &str) -> Result<Parsed, Failure> {
        parse(
            std::iter::once("holdfast")
                .chain(line.split_whitespace())
                .map(OsString::from),
        )
    }

    fn restore(line: &str) -> RestoreArgs {
        match run(&format!("--config f restore --to /d {line}")) {
            Ok(Parsed::Run(cli)) => match cli.command {
                Command::Restore(restore) => *restore,
                other => panic!("{other:?}"),
            },
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn targets() {
        for (line, expected) in [
            ("", Target::Latest),
            ("--target latest", Target::Latest),
            ("--target immediate", Target::Immediate),
            (
                "--target-time 2026-11-20T10:00:00Z",
                Target::Time("2026-11-20T10:00:00Z".parse().unwrap()),
            ),
            ("--target-lsn 16/B374D848", Target::Lsn(Lsn(0x16_B374_D848))),
            ("--target-xid 741", Target::Xid(741)),
            ("--target-xid 4294968037", Target::Xid(741)),
            (
                "--target-name before_the_accident",
                Target::Name("before_the_accident".into()),
            ),
        ] {
            assert_eq!(restore(line).target(), expected, "{line}");
        }
    }

    #[test]
    fn the_rest_of_restore() {
        let all = restore(
            "--target-lsn 0/1 --exclusive --timeline 2 --backup b --action pause --tablespace 16401=/a --tablespace 16402=/b --waldir /w --overwrite --dry-run --json",
        );
        assert!(all.exclusive && all.overwrite && all.dry_run && all.json);
        assert_eq!(all.timeline, TimelineChoice::Number(TimelineId(2)));
        assert_eq!(all.action, Action::Pause);
        assert_eq!(
            all.tablespaces,
            [(16401, PathBuf::from("/a")), (16402, PathBuf::from("/b"))]
        );
        assert_eq!(all.waldir, Some(PathBuf::from("/w")));
        let plain = restore("");
        assert_eq!(
            (plain.timeline, plain.action),
            (TimelineChoice::Latest, Action::Promote)
        );
        assert_eq!(
            restore("--timeline current").timeline,
            TimelineChoice::Current
        );
    }

    #[test]
    fn mistakes_are_usage_errors_of_one_line() {
        for (line, parts) in [
            ("", ["give a command", "restore"].as_slice()),
            ("restre", &["restre", "restore"]),
            ("restore", &["--to"]),
            (
                "restore --to /d --target-time 2026-11-20T10:00:00Z --target-lsn 0/1",
                &["--target-time", "--target-lsn"],
            ),
            (
                "restore --to /d --target latest --target-name x",
                &["--target ", "--target-name"],
            ),
            (
                "restore --to /d --target-time 2026-11-20T10:00:00",
                &["no time zone", "2026-11-20T10:00:00Z"],
            ),
            ("restore --to /d --target-lsn x", &["--target-lsn"]),
            ("restore --to /d --target-xid 2", &["from 3"]),
            (
                "restore --to /d --exclusive",
                &["--exclusive", "--target-time"],
            ),
            (
                "restore --to /d --target-name x --exclusive",
                &["--exclusive"],
            ),
            ("restore --to /d --timeline 0", &["from 1"]),
            ("restore --to /d --tablespace 16401", &["OID=DIR"]),
            ("restore --to /d --waldir wal", &["absolute path"]),
            (
                "restore --to /d --tablespace 1=/a --tablespace 1=/b",
                &["twice for 1"],
            ),
            ("restore --to /d --action explode", &["explode", "promote"]),
            ("backup --type sometimes", &["sometimes", "incremental"]),
            ("info --jsn", &["--jsn", "--json"]),
            ("wal-restore x", &["<PATH>"]),
        ] {
            let failure = run(line).unwrap_err();
            assert_eq!(failure.class, ExitClass::Usage, "{line}");
            assert_eq!(failure.lines().lines().count(), 1, "{}", failure.message);
            for part in parts {
                assert!(
                    failure.message.contains(part),
                    "{line}: {}",
                    failure.message
                );
            }
        }
    }

    #[test]
    fn help_and_version_are_no_failures() {
        for line in ["--help", "--version", "restore --help"] {
            assert!(matches!(run(line), Ok(Parsed::Print(_))), "{line}");
        }
    }

    #[test]
    fn settings_come_from_the_flag_or_the_environment() {
        assert_eq!(
            config_file(Some("a".into()), Some("b".into())).unwrap(),
            PathBuf::from("a")
        );
        assert_eq!(
            config_file(None, Some("b".into())).unwrap(),
            PathBuf::from("b")
        );
        assert_eq!(
            config_file(None, Some("".into())).unwrap_err().class,
            ExitClass::Usage
        );
        for line in ["--config f info", "info --config f"] {
            assert!(matches!(run(line), Ok(Parsed::Run(cli)) if cli.config == Some("f".into())));
        }
    }
}
