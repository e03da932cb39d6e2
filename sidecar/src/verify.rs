//! `holdfast verify`: reads every byte that a restore would use, backups and WAL, and names what is not good.

mod wal;

use crate::cli::VerifyArgs;
use crate::commands;
use crate::config::Settings;
use crate::exit::{ExitClass, Failure};
use crate::open::{self, ArchiveError};
use crate::progress::{Counters, Progress};
use crate::reading::Reader;
use crate::status::{Damage, VerifiedBackup, VerifyResult, VerifyStatus};
use holdfast_postgres::{SegmentName, SystemIdentifier};
use holdfast_repository::backup::{self, BackupId, BackupReader};
use holdfast_repository::facts::BackupFacts;
use holdfast_repository::wal::WalStore;
use holdfast_repository::{Archive, ObjectError, OpenError, layout, verify};
use std::collections::BTreeMap;
use std::sync::Arc;
use wal::Needed;

/// Runs the command; damage is a failure, what could not be read is unknown.
pub async fn run(settings: &Settings, args: &VerifyArgs) -> Result<(), Failure> {
    let wanted: Option<BackupId> = args
        .backup
        .as_deref()
        .map(str::parse)
        .transpose()
        .map_err(Failure::usage)?;
    let repository = settings
        .first_repository()
        .ok_or_else(|| Failure::refused("the settings name no repository"))?;
    let archive = match open::named(repository, &settings.archive, open::Create::Never).await {
        Err(ArchiveError::Open(e)) if is_damage(&e) => return closed(args, &e),
        other => other?,
    };
    let counters = Arc::new(Counters::default());
    let progress = {
        let counters = counters.clone();
        Progress::show(args.json, "verifying", move || counters.figures())
    };
    let mut verification = Verification {
        archive,
        parallelism: settings.parallelism,
        counters,
        status: VerifyStatus::default(),
        unknown: Vec::new(),
    };
    let found = verification.all(wanted.as_ref()).await?;
    drop(progress);
    if let (Some(id), false) = (&wanted, found) {
        return Err(Failure::refused(format!(
            "there is no backup {id}: `holdfast info` lists the backups"
        )));
    }
    let Verification {
        mut status,
        unknown,
        ..
    } = verification;
    status
        .damage
        .sort_by(|a, b| (&a.object, &a.file).cmp(&(&b.object, &b.file)));
    if args.json {
        commands::print_json(&status)?
    } else {
        commands::print(&told(&status))?
    }
    conclude(&status, &unknown)
}

/// Whether what keeps an archive closed is damage, as opposed to settings or an outage.
fn is_damage(error: &OpenError) -> bool {
    matches!(error, OpenError::Damaged { .. } | OpenError::KeysGone(_))
}

/// Nothing of a damaged archive can be verified, and that is damage.
fn closed(args: &VerifyArgs, error: &OpenError) -> Result<(), Failure> {
    let object = match error {
        OpenError::Damaged { object, .. } => object.clone(),
        _ => layout::KEYS.to_owned(),
    };
    let status = VerifyStatus {
        backups: Vec::new(),
        damage: vec![Damage {
            object,
            file: None,
            reason: error.to_string(),
        }],
    };
    if args.json {
        commands::print_json(&status)?
    } else {
        commands::print(&told(&status))?
    }
    conclude(&status, &[])
}

/// The command's outcome. Pure.
fn conclude(status: &VerifyStatus, unknown: &[String]) -> Result<(), Failure> {
    let damaged = status.damage.len();
    if damaged > 0 {
        let first = status
            .damage
            .first()
            .map(|d| format!("{}: {}", d.object, d.reason))
            .unwrap_or_default();
        return Err(Failure::failed(format!(
            "{damaged} damaged; the first is {first}"
        )));
    }
    match unknown.first() {
        Some(first) => Err(Failure::unknown(format!(
            "{} could not be verified; the first: {first}",
            unknown.len()
        ))),
        None => Ok(()),
    }
}

struct Verification {
    archive: Archive,
    parallelism: usize,
    counters: Arc<Counters>,
    status: VerifyStatus,
    unknown: Vec<String>,
}

impl Verification {
    /// Whether the wanted backup, if one is, was found.
    async fn all(&mut self, wanted: Option<&BackupId>) -> Result<bool, Failure> {
        let incarnations = match self.archive.incarnations().await {
            Err(e) if is_damage(&e) => {
                let object = if let OpenError::Damaged { object, .. } = &e {
                    object.clone()
                } else {
                    String::new()
                };
                self.status.damage.push(Damage {
                    object,
                    file: None,
                    reason: e.to_string(),
                });
                return Ok(true);
            }
            other => other.map_err(|e| open::open_failure(&e))?,
        };
        let systems: Vec<_> = incarnations.iter().map(|(system, _)| *system).collect();
        let mut reader = Reader::begin(&self.archive, &systems, "a verification").await?;
        let verified = async {
            let mut found = false;
            for (system, identity) in incarnations {
                let wal = WalStore::of_identity(self.archive.clone(), system, &identity)
                    .map_err(Failure::failed)?;
                found |= self.incarnation(&mut reader, &wal, wanted).await?;
            }
            Ok(found)
        }
        .await;
        reader.end().await;
        verified
    }

    async fn incarnation(
        &mut self,
        reader: &mut Reader,
        wal: &WalStore,
        wanted: Option<&BackupId>,
    ) -> Result<bool, Failure> {
        let system = wal.system();
        if let Some(wanted) = wanted {
            reader.may_read(system, wanted)?;
        }
        let announced = reader.announced(system);
        let listing = backup::list(&self.archive, system)
            .await
            .map_err(|e| could_not(&e))?;
        let newest = listing.backups.iter().max_by_key(|b| (b.timeline, b.start));
        let newest = newest.map(|b| b.id.clone()).unwrap_or_default();
        let is_wanted = |id: &str| wanted.is_none_or(|w| w.as_str() == id);
        let mut found = false;
        for bad in listing
            .unreadable
            .iter()
            .filter(|b| is_wanted(b.id.as_str()))
        {
            found = true;
            self.damage(&layout::manifest(system, bad.id.as_str()), None, &bad.why);
            self.status.backups.push(VerifiedBackup {
                id: bad.id.to_string(),
                result: VerifyResult::Damaged,
                files: 0,
                bytes: 0,
                wal_segments: 0,
                message: String::new(),
            });
        }
        // Nothing can be told of it, and it counts as no backup: but whoever made one should hear that it is none.
        for id in listing
            .unfinished
            .iter()
            .filter(|id| is_wanted(id.as_str()))
        {
            tracing::warn!(
                "backup {id} was begun and has no manifest: it runs still, was interrupted, or its manifest was lost; it can't be restored"
            );
        }
        let (going, backups): (Vec<_>, Vec<_>) = listing
            .backups
            .into_iter()
            .filter(|b| is_wanted(&b.id))
            .partition(|b| announced.backups.contains_key(&b.id));
        for BackupFacts { id, .. } in going {
            tracing::warn!("backup {id} is about to be deleted, and not looked at");
        }
        found |= !backups.is_empty();
        if let Some(wanted) = wanted.filter(|_| found) {
            reader.only(system, wanted).await;
        }
        self.counters.set_total(
            self.counters.figures().bytes_total
                + backups.iter().map(|b| b.database_bytes).sum::<u64>(),
        );
        let needed = Needed {
            backups: &backups,
            newest: &newest,
            whole: wanted.is_none(),
            going: &announced,
        };
        let bad_segments = self.wal(wal, &needed).await?;
        for facts in backups {
            self.backup(system, &facts, &bad_segments).await;
        }
        Ok(found)
    }

    async fn backup(
        &mut self,
        system: SystemIdentifier,
        facts: &BackupFacts,
        segments: &BTreeMap<SegmentName, VerifyResult>,
    ) {
        let damaged_before = self.status.damage.len();
        let mut entry = VerifiedBackup {
            id: facts.id.clone(),
            result: VerifyResult::Good,
            files: 0,
            bytes: 0,
            wal_segments: 0,
            message: String::new(),
        };
        for number in facts.segments() {
            match segments.get(&SegmentName::new(
                facts.timeline,
                number,
                facts.segment_size,
            )) {
                Some(VerifyResult::Good) => entry.wal_segments += 1,
                Some(VerifyResult::Damaged) => entry.result = VerifyResult::Damaged,
                Some(VerifyResult::Unknown) | None if entry.result == VerifyResult::Good => {
                    entry.result = VerifyResult::Unknown;
                }
                Some(VerifyResult::Unknown) | None => {}
            }
        }
        let Ok(id) = facts.id.parse::<BackupId>() else {
            return;
        };
        match BackupReader::open(self.archive.clone(), system, &id).await {
            Err(e) if e.is_damage() || e.is_not_found() => {
                self.damage(&layout::manifest(system, &facts.id), None, &e)
            }
            Err(e) => {
                entry.message = e.to_string();
                if entry.result == VerifyResult::Good {
                    entry.result = VerifyResult::Unknown;
                }
                self.unknown.push(e.to_string());
            }
            Ok(reader) => {
                let bytes = self.counters.bytes();
                let findings = verify::verify(Arc::new(reader), self.parallelism, bytes).await;
                entry.files = findings.files;
                entry.bytes = findings.bytes;
                let damage = findings.damage.into_iter().map(
                    |verify::Damage {
                         object,
                         file,
                         reason,
                     }| Damage {
                        object,
                        file,
                        reason,
                    },
                );
                self.status.damage.extend(damage);
                if let Some(first) = findings.unknown.first() {
                    entry.message.clone_from(first);
                    if entry.result == VerifyResult::Good {
                        entry.result = VerifyResult::Unknown;
                    }
                }
                self.unknown.extend(findings.unknown);
            }
        }
        if self.status.damage.len() > damaged_before {
            entry.result = VerifyResult::Damaged;
        }
        self.status.backups.push(entry);
    }

    fn damage(&mut self, object: &str, file: Option<String>, why: &ObjectError) {
        self.status.damage.push(Damage {
            object: object.to_owned(),
            file,
            reason: why.to_string(),
        });
    }
}

fn could_not(error: &ObjectError) -> Failure {
    Failure::from_error(ExitClass::Unknown, error)
}

fn told(status: &VerifyStatus) -> String {
    let mut text = String::new();
    for VerifiedBackup {
        id,
        result,
        files,
        bytes,
        wal_segments,
        message,
    } in &status.backups
    {
        let result = match result {
            VerifyResult::Good => "good",
            VerifyResult::Damaged => "DAMAGED",
            VerifyResult::Unknown => "could not be told",
        };
        text.push_str(&format!("backup {id}: {result}; {files} files, {}, {wal_segments} WAL segments of its own {message}\n", indicatif::HumanBytes(*bytes)));
    }
    for Damage {
        object,
        file,
        reason,
    } in &status.damage
    {
        text.push_str(&format!(
            "damaged: {object}{}: {reason}\n",
            file.as_ref().map(|f| format!(" ({f})")).unwrap_or_default()
        ));
    }
    if status.backups.is_empty() && status.damage.is_empty() {
        text.push_str("there is no backup to verify\n");
    }
    text
}
