//! `holdfast verify`: reads every byte that a restore would use, backups and WAL, and names what is not good.

use crate::cli::VerifyArgs;
use crate::commands;
use crate::config::Settings;
use crate::exit::{ExitClass, Failure};
use crate::open::{self, ArchiveError};
use crate::progress::{Counters, Progress};
use crate::status::{Damage, VerifiedBackup, VerifyResult, VerifyStatus};
use holdfast_postgres::{
    Lsn, SegmentName, SegmentNumber, SegmentSize, SystemIdentifier, TimelineId, WalFileName,
};
use holdfast_repository::backup::{self, BackupId, BackupReader};
use holdfast_repository::facts::BackupFacts;
use holdfast_repository::wal::WalStore;
use holdfast_repository::{Archive, ObjectError, OpenError, layout, verify};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

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
        let mut found = false;
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
        for (system, identity) in incarnations {
            let wal = WalStore::of_identity(self.archive.clone(), system, &identity)
                .map_err(Failure::failed)?;
            found |= self.incarnation(system, &wal, wanted).await?;
        }
        Ok(found)
    }

    async fn incarnation(
        &mut self,
        system: SystemIdentifier,
        wal: &WalStore,
        wanted: Option<&BackupId>,
    ) -> Result<bool, Failure> {
        let listing = backup::list(&self.archive, system)
            .await
            .map_err(|e| could_not(&e))?;
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
        let backups: Vec<BackupFacts> = listing
            .backups
            .into_iter()
            .filter(|b| is_wanted(&b.id))
            .collect();
        found |= !backups.is_empty();
        self.counters.set_total(
            self.counters.figures().bytes_total
                + backups.iter().map(|b| b.database_bytes).sum::<u64>(),
        );
        let bad_segments = self.wal(wal, &backups, wanted.is_none()).await?;
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
        for number in crate::backup::segments_between(facts.start, facts.stop, facts.segment_size) {
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
                let bytes = Arc::new(AtomicU64::new(0));
                let feed = feed(bytes.clone(), self.counters.clone());
                let findings = verify::verify(Arc::new(reader), self.parallelism, bytes).await;
                feed.abort();
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

    /// Reads the WAL that restores of these backups would use: on each one's timeline and on those that came after it,
    /// from its start on. `whole`: and every history file.
    async fn wal(
        &mut self,
        wal: &WalStore,
        backups: &[BackupFacts],
        whole: bool,
    ) -> Result<BTreeMap<SegmentName, VerifyResult>, Failure> {
        let size = wal.segment_size();
        let mut results = BTreeMap::new();
        let Some(first) = backups.iter().map(|b| b.start).min() else {
            return Ok(results);
        };
        let histories = wal
            .history_timelines()
            .await
            .map_err(|e| could_not(&e.into()))?;
        for &timeline in &histories {
            match wal.history(timeline).await {
                Ok(_) => {}
                Err(e) if e.is_damage() => self.damage(
                    &layout::wal_file(wal.system(), &WalFileName::History(timeline))
                        .unwrap_or_default(),
                    None,
                    &e,
                ),
                Err(e) => self.unknown.push(e.to_string()),
            }
        }
        for timeline in wal.timelines().await.map_err(|e| could_not(&e.into()))? {
            // Segments follow their history file, so it was there.
            if timeline > TimelineId(1) && !histories.contains(&timeline) {
                self.status.damage.push(Damage {
                    object: layout::wal_file(wal.system(), &WalFileName::History(timeline))
                        .unwrap_or_default(),
                    file: None,
                    reason: format!(
                        "it is missing, and timeline {timeline} can't be reached without it"
                    ),
                });
            }
            let Some(from) = backups
                .iter()
                .filter(|b| b.timeline <= timeline)
                .map(|b| b.start)
                .min()
            else {
                continue;
            };
            let listed = wal
                .segments(timeline)
                .await
                .map_err(|e| could_not(&e.into()))?;
            let from = if whole { first } else { from };
            for missing in holes(&listed, timeline, backups, from, size) {
                let name = SegmentName::new(timeline, missing, size);
                results.insert(name, VerifyResult::Damaged);
                let reason =
                    "it is missing, and later WAL of its timeline or a backup needs it".to_owned();
                self.status.damage.push(Damage {
                    object: layout::segment(wal.system(), name),
                    file: None,
                    reason,
                });
            }
            for number in listed.into_iter().filter(|n| *n >= from.segment(size)) {
                let name = SegmentName::new(timeline, number, size);
                let result = match wal.visit(name, |_| {}).await {
                    Ok(()) => VerifyResult::Good,
                    Err(e) if e.is_damage() || e.is_not_found() => {
                        self.damage(&layout::segment(wal.system(), name), None, &e);
                        VerifyResult::Damaged
                    }
                    Err(e) => {
                        self.unknown.push(e.to_string());
                        VerifyResult::Unknown
                    }
                };
                results.insert(name, result);
            }
        }
        Ok(results)
    }

    fn damage(&mut self, object: &str, file: Option<String>, why: &ObjectError) {
        self.status.damage.push(Damage {
            object: object.to_owned(),
            file,
            reason: why.to_string(),
        });
    }
}

/// What is missing of a timeline from `from` on: between its segments, and what its backups need. Pure.
fn holes(
    listed: &[SegmentNumber],
    timeline: TimelineId,
    backups: &[BackupFacts],
    from: Lsn,
    size: SegmentSize,
) -> Vec<SegmentNumber> {
    let there: std::collections::BTreeSet<u64> = listed
        .iter()
        .map(|n| n.0)
        .filter(|n| *n >= from.segment(size).0)
        .collect();
    let mut missing = std::collections::BTreeSet::new();
    for (a, b) in there.iter().zip(there.iter().skip(1)) {
        // A damaged listing can't make this endless.
        missing.extend((a + 1..*b).take(10_000));
    }
    for facts in backups.iter().filter(|b| b.timeline == timeline) {
        missing.extend(
            crate::backup::segments_between(facts.start, facts.stop, size)
                .map(|n| n.0)
                .filter(|n| !there.contains(n))
                .take(10_000),
        );
    }
    missing.into_iter().map(SegmentNumber).collect()
}

/// Adds what one verification counts to what is shown.
fn feed(bytes: Arc<AtomicU64>, counters: Arc<Counters>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut seen = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let now = bytes.load(Ordering::Relaxed);
            counters.add_bytes(now - seen);
            seen = now;
        }
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_seen_between_segments_but_not_past_the_end() {
        let size = SegmentSize::new(16 << 20).unwrap();
        let numbers = |list: &[u64]| list.iter().copied().map(SegmentNumber).collect::<Vec<_>>();
        for (listed, from, want) in [
            (&[1, 2, 3][..], 0, &[][..]),
            (&[1, 4], 0, &[2, 3]),
            (&[1, 4, 6], 4, &[5]),
            (&[], 0, &[]),
        ] {
            let from = SegmentNumber(from).start(size);
            assert_eq!(
                holes(&numbers(listed), TimelineId(1), &[], from, size),
                numbers(want),
                "{listed:?}"
            );
        }
    }
}
