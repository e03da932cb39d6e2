//! A restore that is planned and checked, so that only writing is left.

use super::apply::{Work, apply};
use super::check::{Wish, check};
use super::destination::{self, Destination};
use super::recovery::{self, Action, Recovery};
use super::stored::Stored;
use super::write::WriteError;
use crate::config::{Repository, Settings};
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
use holdfast_repository::reach::{self, Plan, Refusal, Request};
use indicatif::HumanBytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// A restore that is asked for.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// Where it is read from.
    pub repository: &'a Repository,
    /// Its name there, `namespace/name`.
    pub archive: &'a str,
    /// Where recovery stops.
    pub request: Request,
    /// What Postgres does there.
    pub action: Action,
    /// The data directory to make.
    pub to: &'a Path,
    /// Whether directories above it that are missing are made, too: in a pod, where the volume is mounted above them.
    pub parents: bool,
    /// Places of tablespaces by their OID; the others go where they were.
    pub tablespaces: &'a [(u32, PathBuf)],
    /// Where `pg_wal` leads to as a link; none: a directory, or the link that is there.
    pub wal_directory: Option<&'a Path>,
    /// Whether a database that is there may be replaced.
    pub overwrite: bool,
    /// Whether nothing will be written, and so nothing read for long.
    pub dry_run: bool,
    /// The order in the settings that this carries out.
    pub order: Option<&'a str>,
}

/// A restore that can begin.
pub struct Prepared {
    reader: Reader,
    work: Work,
    /// `Restore.status`, as far as it has come.
    pub status: RestoreStatus,
}

/// Plans it and checks all that can be known to go wrong. Writes nothing.
pub async fn prepare(settings: &Settings, wanted: &Wanted<'_>) -> Result<Prepared, Failure> {
    let id = wanted.request.backup.as_deref().map(str::parse);
    let id: Option<BackupId> = id.transpose().map_err(Failure::usage)?;
    let archive = open::named(wanted.repository, wanted.archive, open::Create::Never).await?;
    let incarnations = archive.incarnations().await;
    let stored = Stored {
        archive,
        incarnations: incarnations.map_err(|e| open::open_failure(&e))?,
        wanted: id,
    };
    let (archive, systems) = (&stored.archive, stored.systems());
    let mut reader = if wanted.dry_run {
        Reader::silent(archive, &systems).await?
    } else {
        let what = format!("a restore into {}", wanted.to.display());
        Reader::begin(archive, &systems, &what).await?
    };
    match plan(settings, wanted, &stored, &mut reader).await {
        Ok((work, status)) => Ok(Prepared {
            reader,
            work,
            status,
        }),
        Err(failure) => {
            reader.end().await;
            Err(failure)
        }
    }
}

async fn plan(
    settings: &Settings,
    wanted: &Wanted<'_>,
    stored: &Stored,
    reader: &mut Reader,
) -> Result<(Work, RestoreStatus), Failure> {
    let (system, wal, catalogue) = stored.incarnation(reader).await?;
    let plan = reach::plan(&catalogue, &wal, &wanted.request).await;
    let plan = plan.map_err(|e| refused(&e, !reader.announced(system).is_empty()))?;
    let id: BackupId = plan.backup.id.parse().map_err(Failure::failed)?;
    reader.only(system, &id).await;
    let root = absolute(wanted.to)?;
    let destination = Destination {
        seen: destination::seen(&root),
        root,
        tablespaces: tablespaces(wanted.tablespaces, &plan.backup)?,
        wal: wanted.wal_directory.map(absolute).transpose()?,
    };
    let served = same_place(&destination.root, &settings.postgres.data_directory);
    let named: Vec<u32> = wanted.tablespaces.iter().map(|(oid, _)| *oid).collect();
    let wish = Wish {
        overwrite: wanted.overwrite,
        named: &named,
        in_place: served,
        parents: wanted.parents,
    };
    check(settings, &wish, &plan.backup, &destination).map_err(Failure::refused)?;
    let backup = stored.open_backup(system, &id).await?;
    let status = planned(wanted, &plan);
    let archive = &stored.archive;
    let order = RestoreOrder::new(
        wanted.repository.name.clone(),
        wanted.archive.to_owned(),
        archive.id(),
        system,
        &plan.lineage,
        plan.end,
    );
    // The settings' own directory goes on with the settings' own archive; all else is a copy.
    let goes_on = served && wanted.archive == settings.archive;
    let copy_of = (!goes_on).then(|| Source {
        archive_id: archive.id(),
        place: archive.store().description().to_owned(),
        system_identifier: system,
    });
    let work = Work {
        reader: Arc::new(backup),
        destination,
        recovery: Recovery {
            target: plan.recovery_settings.clone(),
            timeline: plan.timeline.0,
            action: wanted.action,
            restore_command: restore_command(settings, served).await?,
            minimum: plan.minimum_settings,
        },
        order,
        copy_of,
        carried_out: wanted.order.map(str::to_owned),
        parallelism: settings.parallelism,
    };
    Ok((work, status))
}

impl Prepared {
    /// What will be done, in some lines.
    pub fn told(&self) -> String {
        let Some(plan) = &self.status.plan else {
            return String::new();
        };
        let destination = &self.work.destination;
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
        if let Some(path) = &destination.wal {
            text.push_str(&format!("pg_wal       in {}\n", path.display()));
        }
        text
    }

    /// It will not be carried out.
    pub async fn end(self) {
        self.reader.end().await;
    }

    /// Writes it and shows how far it is, and tells what was done: as a status and in one line. `json`: see
    /// [`Progress::show`].
    pub async fn carry_out(
        self,
        json: bool,
        counters: &Arc<Counters>,
    ) -> Result<(RestoreStatus, String), Failure> {
        let Self {
            reader,
            work,
            mut status,
        } = self;
        let bytes = work.reader.root().facts.database_bytes;
        counters.set_total(bytes);
        let progress = {
            let counters = counters.clone();
            Progress::show(json, "restoring", move || counters.figures())
        };
        let destination = work.destination.clone();
        let begun = Instant::now();
        let applied = apply(work, counters).await;
        drop(progress);
        reader.end().await;
        applied.map_err(|e| failed(&e, &destination))?;
        let seconds = begun.elapsed().as_secs_f64();
        status.durations = RestoreDurations {
            restore_seconds: Some(seconds),
            replay_seconds: None,
        };
        let mut add = |r#type: &str, message: &str| {
            let condition = Condition::new(r#type, ConditionStatus::True, r#type, message);
            status.conditions.push(condition);
        };
        add("Started", "");
        add(
            "Restored",
            "the data directory is whole; Postgres recovers when it is started on it",
        );
        let text = format!(
            "restored {} to {} in {seconds:.1} s ({}/s); start Postgres on it, and it stops recovery {}\n",
            HumanBytes(bytes),
            destination.root.display(),
            HumanBytes((bytes as f64 / seconds.max(0.001)) as u64),
            status.plan.as_ref().map_or("", |plan| &plan.target),
        );
        Ok((status, text))
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

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|e| Failure::refused(format!("{}: {e}", path.display())))
}

/// Where each of the backup's tablespaces goes.
fn tablespaces(
    named: &[(u32, PathBuf)],
    backup: &BackupFacts,
) -> Result<BTreeMap<u32, PathBuf>, Failure> {
    if let Some((oid, _)) = named
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
    let place = |oid: u32, was: &str| match named.iter().find(|(o, _)| *o == oid) {
        Some((_, path)) => absolute(path),
        None => Ok(PathBuf::from(was)),
    };
    backup
        .tablespaces
        .iter()
        .map(|t| Ok((t.oid, place(t.oid, &t.location)?)))
        .collect()
}

/// Whether the restored directory is the one that the settings speak of.
fn same_place(to: &Path, configured: &Path) -> bool {
    match (std::fs::canonicalize(to), std::fs::canonicalize(configured)) {
        (Ok(a), Ok(b)) => a == b,
        _ => std::path::absolute(to).ok() == std::path::absolute(configured).ok(),
    }
}

/// The client where a sidecar serves this directory, else this program with the same settings.
async fn restore_command(settings: &Settings, served: bool) -> Result<String, Failure> {
    let program = std::env::current_exe()
        .map_err(|e| Failure::failed(format!("can't tell where this program is: {e}")))?;
    let word = |path: &Path| recovery::shell_word(&path.to_string_lossy());
    let installed = WalCommand::installed(&settings.socket);
    let client = installed
        .filter(|client| client.exists())
        .unwrap_or_else(|| program.with_file_name("holdfast-wal"));
    if served && client.exists() && socket::is_served(&settings.socket).await {
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

fn planned(wanted: &Wanted<'_>, plan: &Plan) -> RestoreStatus {
    let backup = &plan.backup;
    RestoreStatus {
        backup: Some(backup.id.clone()),
        plan: Some(RestorePlan {
            repository: wanted.repository.name.clone(),
            backup: backup.id.clone(),
            timeline: plan.timeline.0,
            target: plan.stop.words.clone(),
            action: format!("{:?}", wanted.action),
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
