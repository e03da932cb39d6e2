//! `holdfast restore`: plan, check, and only then write.

use super::apply::{Work, apply};
use super::check::{Wish, check};
use super::destination::Destination;
use super::recovery::{self, Recovery};
use super::stored::Stored;
use super::write::WriteError;
use crate::cli::{self, RestoreArgs};
use crate::commands;
use crate::config::Settings;
use crate::exit::{ExitClass, Failure};
use crate::open;
use crate::origin::{RestoreOrder, Source};
use crate::progress::{Counters, Progress};
use crate::reading::Reader;
use crate::socket;
use crate::status::{Condition, ConditionStatus, RestoreDurations, RestorePlan, RestoreStatus};
use crate::wal_command::WalCommand;
use holdfast_repository::backup::BackupId;
use holdfast_repository::facts::BackupFacts;
use holdfast_repository::reach::{self, Plan, Refusal, Request, Target, TimelineChoice};
use indicatif::HumanBytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// Plans and restores, and prints what it did.
pub async fn run(settings: Arc<Settings>, args: &RestoreArgs) -> Result<(), Failure> {
    let wanted: Option<BackupId> = args
        .backup
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(Failure::usage)?;
    let (repository, archive) = open::first(&settings, open::Create::Never).await?;
    let incarnations = archive.incarnations().await;
    let stored = Stored {
        repository,
        archive,
        incarnations: incarnations.map_err(|e| open::open_failure(&e))?,
        wanted,
    };
    let (archive, systems) = (&stored.archive, stored.systems());
    let mut reader = if args.dry_run {
        Reader::silent(archive, &systems).await?
    } else {
        let what = format!("a restore into {}", args.to.display());
        Reader::begin(archive, &systems, &what).await?
    };
    let restored = restore(&settings, args, &stored, &mut reader).await;
    reader.end().await;
    restored
}

async fn restore(
    settings: &Settings,
    args: &RestoreArgs,
    stored: &Stored,
    reader: &mut Reader,
) -> Result<(), Failure> {
    let (system, wal, catalogue) = stored.incarnation(reader).await?;
    let plan = reach::plan(&catalogue, &wal, &request(args)).await;
    let plan = plan.map_err(|e| refused(&e, !reader.announced(system).is_empty()))?;
    let id: BackupId = plan.backup.id.parse().map_err(Failure::failed)?;
    reader.only(system, &id).await;
    let root = absolute(&args.to)?;
    let destination = Destination {
        root,
        tablespaces: tablespaces(args, &plan.backup)?,
    };
    let in_place = same_place(&destination.root, &settings.postgres.data_directory);
    let named: Vec<u32> = args.tablespaces.iter().map(|(oid, _)| *oid).collect();
    let wish = Wish {
        overwrite: args.overwrite,
        named: &named,
        in_place,
    };
    check(settings, &wish, &plan.backup, &destination).map_err(Failure::refused)?;
    let backup = stored.open_backup(system, &id).await?;
    let mut status = planned(&stored.repository, args, &plan);
    if args.dry_run {
        return print(
            args,
            &status,
            &format!(
                "{}\nnothing was written (--dry-run)\n",
                told(&status, &destination)
            ),
        );
    }
    if !args.json {
        eprint!("{}", told(&status, &destination));
    }
    let recovery = Recovery {
        target: plan.recovery_settings.clone(),
        timeline: plan.timeline.0,
        action: match args.action {
            cli::Action::Promote => recovery::Action::Promote,
            cli::Action::Pause => recovery::Action::Pause,
            cli::Action::Shutdown => recovery::Action::Shutdown,
        },
        restore_command: restore_command(settings, in_place).await?,
        minimum: plan.minimum_settings,
    };
    let archive = &stored.archive;
    let order = RestoreOrder::new(
        stored.repository.clone(),
        settings.archive.clone(),
        archive.id(),
        system,
        &plan.lineage,
        plan.end,
    );
    let place = archive.store().description().to_owned();
    let copy_of = (!in_place).then(|| Source {
        archive_id: archive.id(),
        place,
        system_identifier: system,
    });
    let counters = Arc::new(Counters::default());
    counters.set_total(plan.backup.database_bytes);
    let progress = {
        let counters = counters.clone();
        Progress::show(args.json, "restoring", move || counters.figures())
    };
    let begun = Instant::now();
    let work = Work {
        reader: Arc::new(backup),
        destination: destination.clone(),
        recovery,
        order,
        copy_of,
        parallelism: settings.parallelism,
    };
    apply(work, &counters)
        .await
        .map_err(|e| failed(&e, &destination))?;
    drop(progress);
    let seconds = begun.elapsed().as_secs_f64();
    status.durations = RestoreDurations {
        restore_seconds: Some(seconds),
        replay_seconds: None,
    };
    status.conditions.push(Condition::new(
        "Started",
        ConditionStatus::True,
        "Started",
        "",
    ));
    let message = "the data directory is whole; Postgres recovers when it is started on it";
    status.conditions.push(Condition::new(
        "Restored",
        ConditionStatus::True,
        "Restored",
        message,
    ));
    let rate = plan.backup.database_bytes as f64 / seconds.max(0.001);
    let text = format!(
        "restored {} to {} in {seconds:.1} s ({}/s); start Postgres on it, and it stops recovery {}\n",
        HumanBytes(plan.backup.database_bytes),
        destination.root.display(),
        HumanBytes(rate as u64),
        plan.stop.words,
    );
    print(args, &status, &text)
}

fn print(args: &RestoreArgs, status: &RestoreStatus, text: &str) -> Result<(), Failure> {
    if args.json {
        commands::print_json(status)
    } else {
        commands::print(text)
    }
}

/// `left_out`: something was left out that is announced to go.
fn refused(refusal: &Refusal, left_out: bool) -> Failure {
    let class = if refusal.could_not_tell() {
        ExitClass::Unknown
    } else {
        ExitClass::Refused
    };
    let mut failure = Failure::from_error(class, refusal);
    if left_out {
        failure
            .message
            .push_str("; what is about to be deleted was left out of account");
    }
    failure
}

fn request(args: &RestoreArgs) -> Request {
    Request {
        target: match args.target() {
            cli::Target::Latest => Target::Latest,
            cli::Target::Immediate => Target::Immediate,
            cli::Target::Time(time) => Target::Time(time),
            cli::Target::Lsn(lsn) => Target::Lsn(lsn),
            cli::Target::Xid(xid) => Target::Xid(xid),
            cli::Target::Name(name) => Target::Name(name),
        },
        exclusive: args.exclusive,
        timeline: match args.timeline {
            cli::TimelineChoice::Latest => TimelineChoice::Latest,
            cli::TimelineChoice::Current => TimelineChoice::Current,
            cli::TimelineChoice::Number(n) => TimelineChoice::Number(n),
        },
        backup: args.backup.clone(),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::refused(format!("{}: {e}", path.display())))
}

/// Where each of the backup's tablespaces goes.
fn tablespaces(
    args: &RestoreArgs,
    backup: &BackupFacts,
) -> Result<BTreeMap<u32, PathBuf>, Failure> {
    if let Some((oid, _)) = args
        .tablespaces
        .iter()
        .find(|(oid, _)| backup.tablespaces.iter().all(|t| t.oid != *oid))
    {
        let known: Vec<String> = backup
            .tablespaces
            .iter()
            .map(|t| format!("{} (was {})", t.oid, t.location))
            .collect();
        let known = if known.is_empty() {
            "none".to_owned()
        } else {
            known.join(", ")
        };
        return Err(Failure::refused(format!(
            "backup {} has no tablespace {oid}; it has {known}",
            backup.id
        )));
    }
    let place = |oid: u32, was: &str| match args.tablespaces.iter().find(|(o, _)| *o == oid) {
        Some((_, path)) => absolute(path),
        None => Ok(PathBuf::from(was)),
    };
    backup
        .tablespaces
        .iter()
        .map(|t| Ok((t.oid, place(t.oid, &t.location)?)))
        .collect()
}

/// Whether the restored directory is the one that the settings speak of, and goes on with the archive.
fn same_place(to: &Path, configured: &Path) -> bool {
    match (std::fs::canonicalize(to), std::fs::canonicalize(configured)) {
        (Ok(a), Ok(b)) => a == b,
        _ => std::path::absolute(to).ok() == std::path::absolute(configured).ok(),
    }
}

/// The client where a sidecar serves this directory, else this program with the same settings.
async fn restore_command(settings: &Settings, in_place: bool) -> Result<String, Failure> {
    let program = std::env::current_exe()
        .map_err(|e| Failure::failed(format!("can't tell where this program is: {e}")))?;
    let word = |path: &Path| recovery::shell_word(&path.to_string_lossy());
    let installed = WalCommand::installed(&settings.socket);
    let client = installed
        .filter(|client| client.exists())
        .unwrap_or_else(|| program.with_file_name("holdfast-wal"));
    if in_place && client.exists() && socket::is_served(&settings.socket).await {
        return Ok(format!(
            "{} --socket {} restore %f %p",
            word(&client),
            word(&settings.socket)
        ));
    }
    let file = std::path::absolute(&settings.file).map_err(Failure::failed)?;
    Ok(format!(
        "{} --config {} wal-restore %f %p",
        word(&program),
        word(&file)
    ))
}

fn failed(error: &WriteError, destination: &Destination) -> Failure {
    let root = destination.root.display();
    let state = if destination.root.join("global/pg_control").exists() {
        format!("{root} still has its pg_control: look at what it holds before it is started")
    } else {
        format!(
            "{root} is unfinished and can't be started: mend the cause and run the same command again"
        )
    };
    Failure::failed(format!("{error}; {state}"))
}

fn planned(repository: &str, args: &RestoreArgs, plan: &Plan) -> RestoreStatus {
    let backup = &plan.backup;
    RestoreStatus {
        backup: Some(backup.id.clone()),
        plan: Some(RestorePlan {
            repository: repository.to_owned(),
            backup: backup.id.clone(),
            timeline: plan.timeline.0,
            target: plan.stop.words.clone(),
            action: format!("{:?}", args.action),
            start_lsn: backup.start.to_string(),
            end_lsn: Some(plan.stop.lsn.to_string()),
            end_time: plan.stop.time,
            files: backup.files,
            bytes: backup.database_bytes,
            wal_segments: plan.wal_segments,
        }),
        conditions: vec![Condition::new(
            "Checked",
            ConditionStatus::True,
            "Reachable",
            format!("recovery stops {}", plan.stop.words),
        )],
        ..RestoreStatus::default()
    }
}

fn told(status: &RestoreStatus, destination: &Destination) -> String {
    let Some(plan) = &status.plan else {
        return String::new();
    };
    let mut text = format!(
        "backup       {} ({}, {} files)\nreplays      {} WAL segments from {}\nstops        {}\nthen         {}\ninto         {}\n",
        plan.backup,
        HumanBytes(plan.bytes),
        plan.files,
        plan.wal_segments,
        plan.start_lsn,
        plan.target,
        plan.action.to_lowercase(),
        destination.root.display(),
    );
    for (oid, path) in &destination.tablespaces {
        text.push_str(&format!("tablespace   {oid} into {}\n", path.display()));
    }
    text
}
