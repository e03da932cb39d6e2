//! One archive's upkeep: ownership, expiry, and what is stored.

use super::sync::Stored;
use crate::context::Context;
use crate::names::Key;
use crate::repository::{Access, OpenFailure, open_archive};
use crate::restore;
use crate::text;
use holdfast_crds::{AccessMode, Archive, Backup, BackupKeep, Retention};
use holdfast_repository::Archive as StoredArchive;
use holdfast_repository::catalogue::CatalogueError;
use holdfast_repository::expiry::{self, ExpiryError, Pass, Progress, pass};
use holdfast_repository::owner::{self, Ownership, TakeOverError};
use holdfast_repository::retention::{Observed, Policy, Wishes};
use kube::Resource;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What was seen of an archive.
#[derive(Debug, Default)]
pub struct Upkeep {
    /// By id: every backup in any of its repositories.
    pub stored: BTreeMap<String, Stored>,
    /// Whether this installation owns it, in every repository that has it.
    pub is_owner: bool,
    /// Whether every repository was read.
    pub all_read: bool,
    /// Whether anything is stored anywhere.
    pub is_there: bool,
    /// What went wrong, and may pass by itself.
    pub trouble: Option<String>,
    /// Why nothing is deleted, where somebody has to do something about it.
    pub blocked: Vec<String>,
}

/// A repository that could not be kept.
#[derive(Debug, Error)]
enum Trouble {
    #[error(transparent)]
    Open(#[from] OpenFailure),
    #[error(transparent)]
    Catalogue(#[from] CatalogueError),
    #[error(transparent)]
    Expiry(#[from] ExpiryError),
    #[error(transparent)]
    TakeOver(#[from] TakeOverError),
}

impl From<holdfast_repository::OpenError> for Trouble {
    fn from(error: holdfast_repository::OpenError) -> Self {
        Self::Open(error.into())
    }
}

impl Trouble {
    fn is_permanent(&self) -> bool {
        match self {
            Self::Open(error) => error.is_permanent(),
            Self::Catalogue(error) => error.is_permanent(),
            Self::Expiry(error) => error.is_permanent(),
            Self::TakeOver(TakeOverError::OtherOwner { .. }) => true,
            Self::TakeOver(TakeOverError::Open(error)) => error.is_permanent(),
        }
    }
}

/// How far back and how many, of an Archive: for ever, where it does not say.
fn policy(retention: Option<&Retention>) -> Policy {
    match retention {
        Some(retention) => Policy {
            recovery_window: Some(Duration::from_secs(retention.recovery_window.seconds())),
            minimum_backups: retention.minimum_backups,
        },
        None => Policy {
            recovery_window: None,
            minimum_backups: 1,
        },
    }
}

/// What the objects want beside the policy.
fn wishes(backups: &[Arc<Backup>], needed: BTreeMap<String, String>) -> Wishes {
    let forever = backups
        .iter()
        .filter(|backup| backup.spec.keep == BackupKeep::Forever)
        .map(|backup| super::id_of(backup));
    Wishes {
        forever: forever.collect(),
        needed,
    }
}

/// Keeps an archive in each of its repositories: makes it ours where it is nobody's, expires what may go, and lists what
/// is stored. Each repository stands alone: trouble with one costs that one.
pub async fn maintain(
    context: &Context,
    key: &Key,
    archive: &Archive,
    backups: &[Arc<Backup>],
    grace: Duration,
) -> Upkeep {
    let mut upkeep = Upkeep {
        is_owner: true,
        all_read: true,
        ..Upkeep::default()
    };
    let wishes = wishes(backups, restore::needed(context, key));
    for repository in &archive.spec.repositories {
        let name = &repository.name;
        let one = Keeper {
            context,
            key,
            archive,
            repository: name,
            grace,
        };
        match one.keep(&wishes).await {
            Ok(None) => {}
            Ok(Some(kept)) => {
                upkeep.is_there = true;
                upkeep.is_owner &= kept.ownership == Ownership::Ours;
                upkeep.blocked.extend(kept.blocked);
                list(&mut upkeep.stored, &kept.observed, name);
            }
            Err(trouble) => {
                upkeep.all_read = false;
                let why = format!("the repository {name}: {trouble}");
                match trouble {
                    // The Archive's own conditions say so.
                    Trouble::Open(failure) if failure.is_permanent() => {}
                    trouble if trouble.is_permanent() => upkeep.blocked.push(why),
                    _ => {
                        upkeep.trouble.get_or_insert(why);
                    }
                }
            }
        }
    }
    upkeep
}

struct Keeper<'a> {
    context: &'a Context,
    key: &'a Key,
    archive: &'a Archive,
    repository: &'a str,
    grace: Duration,
}

/// What one repository has.
struct Kept {
    observed: Observed,
    ownership: Ownership,
    blocked: Option<String>,
}

impl Keeper<'_> {
    /// None where nothing is stored yet.
    async fn keep(&self, wishes: &Wishes) -> Result<Option<Kept>, Trouble> {
        let repository = self.key.beside(self.repository);
        let read_only = self
            .context
            .watched
            .repositories
            .get(&repository)
            .is_some_and(|repository| repository.spec.access_mode == AccessMode::ReadOnly);
        let access = if read_only {
            Access::Read
        } else {
            Access::Maintain
        };
        let opened = open_archive(self.context, self.key, self.repository, access).await;
        let stored = match opened {
            Err(failure) if failure.is_not_there() => return Ok(None),
            other => other?,
        };
        let kept = |observed, ownership, blocked| {
            Ok(Some(Kept {
                observed,
                ownership,
                blocked,
            }))
        };
        if read_only {
            return kept(expiry::look(&stored).await?, Ownership::None, None);
        }
        let ownership = self.own(&stored).await?;
        if ownership != Ownership::Ours {
            return kept(expiry::look(&stored).await?, ownership, None);
        }
        match self.expire(&stored, wishes).await {
            Ok(progress) => kept(progress.observed, ownership, None),
            // What is there can still be told.
            Err(error) if error.is_permanent() => {
                let blocked = format!("the repository {}: {error}", self.repository);
                kept(expiry::look(&stored).await?, ownership, Some(blocked))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes it ours where it is nobody's, or where somebody consents to replace who owns it.
    async fn own(&self, stored: &StoredArchive) -> Result<Ownership, Trouble> {
        let ours = &self.context.installation;
        let present = owner::present(stored).await?;
        let ownership = owner::ownership(present.as_ref(), ours);
        let consent = &self.archive.spec.take_over;
        let now = match &ownership {
            Ownership::Ours => return Ok(ownership),
            Ownership::None => owner::claim(stored, ours, VERSION).await?,
            Ownership::Other { .. } if consent.is_empty() => return Ok(ownership),
            Ownership::Other { id, .. } => {
                match owner::take_over(stored, ours, VERSION, consent).await {
                    Ok(()) => {
                        let note = format!("took over from {id} in {}", self.repository);
                        self.note("TookOver", "TakeOver", &note).await;
                        Ownership::Ours
                    }
                    // The condition Owner says whom to name.
                    Err(TakeOverError::OtherOwner { .. }) => return Ok(ownership),
                    Err(error) => return Err(error.into()),
                }
            }
        };
        self.context.stored.stale(self.context, self.key);
        Ok(now)
    }

    async fn expire(
        &self,
        stored: &StoredArchive,
        wishes: &Wishes,
    ) -> Result<Progress, ExpiryError> {
        let settings = Pass {
            installation: &self.context.installation,
            version: VERSION,
            policy: policy(self.archive.spec.retention.as_ref()),
            wishes: wishes.clone(),
            grace: self.grace,
        };
        let progress = pass(stored, &settings).await?;
        tracing::debug!(archive = %self.key, repository = self.repository, "\n{}", progress.plan);
        if !progress.given_up.is_empty() {
            let names = text::some(progress.given_up.iter().map(String::as_str));
            let note = format!(
                "gave up what is stored in {} of interrupted backups: {names}; the space comes back in a day",
                self.repository
            );
            self.note("InterruptedBackups", "Expire", &note).await;
        }
        if !progress.deleted.is_empty() {
            let names = text::some(progress.deleted.iter().map(String::as_str));
            let note = format!("deleted from {}: {names}", self.repository);
            self.note("Expired", "Expire", &note).await;
        }
        if progress.objects > 0 {
            self.context.stored.stale(self.context, self.key);
        }
        Ok(progress)
    }

    async fn note(&self, reason: &str, action: &str, note: &str) {
        tracing::info!(archive = %self.key, "{note}");
        let about = self.archive.object_ref(&());
        self.context.events.note(&about, reason, action, note).await;
    }
}

/// What one repository has, beside what the ones before have.
fn list(stored: &mut BTreeMap<String, Stored>, observed: &Observed, repository: &str) {
    for incarnation in &observed.incarnations {
        let doomed = &incarnation.doomed.backups;
        let asked = |id: &str| doomed.get(id).is_some_and(|request| request.by_person);
        let forever = |id: &str| incarnation.stored.get(id).is_some_and(|s| s.forever);
        for backup in &incarnation.catalogue.backups {
            let id = &backup.facts.id;
            let one = Stored {
                facts: Ok(Box::new(backup.facts.clone())),
                missing: backup.missing.map(|segment| segment.to_string()),
                forever: forever(id),
                asked_to_go: asked(id),
                repository: repository.to_owned(),
            };
            // A complete one before one that lacks something.
            match stored.get(id) {
                Some(known) if known.facts.is_ok() && known.missing.is_none() => {}
                _ => {
                    stored.insert(id.clone(), one);
                }
            }
        }
        for (id, why) in &incarnation.catalogue.unreadable {
            stored.entry(id.clone()).or_insert_with(|| Stored {
                facts: Err(text::line(why)),
                missing: None,
                forever: false,
                asked_to_go: asked(id),
                repository: repository.to_owned(),
            });
        }
    }
}
