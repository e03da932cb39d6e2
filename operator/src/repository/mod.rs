//! Reconciles Repository: is it reachable, and can it do what is needed.
//!
//! Observe (the Secrets that it names), validate ([`resolve`]), look at the store ([`probe()`]), plan ([`Look`]), write
//! status. The store is looked at again every ten minutes, sooner while it is not good, and at once when the Repository
//! or a Secret has changed.

mod credentials;
mod open;
mod place;
mod plan;
mod probe;
mod resolve;

pub use credentials::{AccessKey, StoreKey};
pub use open::{Access, OpenFailure, open_archive, open_archive_of, resolved};
pub use place::Place;
pub use plan::{CONDITIONAL_WRITES, Look, READY, lines};
pub use probe::{Probe, Trouble, probe};
pub use resolve::{KeySet, Lack, Resolved, one_entry, resolve, secrets};

use crate::conditions::settle;
use crate::context::Context;
use crate::controller::{Controller, Outcome, ReconcileError};
use crate::names::Key;
use crate::secrets::Found;
use crate::status::StatusWriter;
use holdfast_crds::{Repository, RepositoryStatus};
use jiff::Timestamp;
use kube::ResourceExt;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Users' Secrets are not watched: they are fetched this often, and the store is looked at anew if one has changed.
const SECRETS: Duration = Duration::from_secs(60);

/// The controller.
pub struct Repositories {
    context: Arc<Context>,
    status: StatusWriter<RepositoryStatus>,
    known: Mutex<HashMap<Key, Known>>,
}

/// The last look at a Repository.
#[derive(Clone)]
struct Known {
    /// What it was a look at: changes when the Repository or what its Secrets hold does.
    of: [u8; 32],
    look: Look,
    /// Looks in a row that were not good.
    failures: u32,
    due: Instant,
}

impl Repositories {
    /// Nothing is known yet.
    pub fn new(context: Arc<Context>) -> Self {
        Self {
            status: context.status_writer(),
            context,
            known: Mutex::default(),
        }
    }

    /// What is known, if it is of the present Repository and recent enough; else a new look.
    async fn look(
        &self,
        key: &Key,
        repository: &Repository,
    ) -> Result<(Look, Duration), ReconcileError> {
        let known = self.lock().get(key).cloned();
        let now = Instant::now();
        let is_due = known.as_ref().is_none_or(|known| now >= known.due);
        let names = secrets(&repository.spec);
        let found = match is_due {
            true => self.context.secrets.get_now(&key.namespace, names).await?,
            false => self.context.secrets.get(&key.namespace, names).await?,
        };
        let of = identity(repository, &found);
        let same = known.filter(|known| known.of == of);
        if let Some(known) = same.as_ref().filter(|_| !is_due) {
            return Ok((known.look.clone(), known.due.duration_since(now)));
        }
        let look = match resolve(&repository.spec, &found) {
            Err(lacks) => Look::Lacking(lacks),
            Ok(resolved) => match resolved.store() {
                None => Look::NoCredentials,
                Some(store) => {
                    let uid = repository.uid().unwrap_or_default();
                    let credentials = repository.spec.credentials.as_ref();
                    let secret = credentials.map(|c| c.secret_ref.name.as_str());
                    Look::Probed(probe(&resolved, &store, &uid, secret).await, resolved.mode)
                }
            },
        };
        let failures = match look.is_good() {
            true => 0,
            false => same.map_or(0, |known| known.failures).saturating_add(1),
        };
        let pause = look.pause(failures);
        let known = Known {
            of,
            look: look.clone(),
            failures,
            due: Instant::now() + pause,
        };
        self.lock().insert(key.clone(), known);
        Ok((look, pause))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Known>> {
        // A look is whole or not there.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Controller for Repositories {
    const KIND: &'static str = "Repository";
    const CONCURRENCY: usize = 8;

    async fn reconcile(&self, key: &Key) -> Result<Outcome, ReconcileError> {
        let Some(repository) = self.context.watched.repositories.get(key) else {
            self.lock().remove(key);
            self.context.metrics.conditions(Self::KIND, key, &[]);
            return Ok(Outcome::Done);
        };
        let (look, pause) = self.look(key, &repository).await?;
        let known = self
            .status
            .known(repository.as_ref(), repository.status.as_ref());
        let before = known.as_ref().map_or(&[][..], |status| &status.conditions);
        let generation = repository.metadata.generation;
        let settled = settle(before, look.findings(), generation, Timestamp::now());
        self.context
            .metrics
            .conditions(Self::KIND, key, &settled.conditions);
        let status = RepositoryStatus {
            conditions: settled.conditions,
        };
        self.status
            .write(repository.as_ref(), known.as_ref(), status, &settled.news)
            .await?;
        Ok(Outcome::Again(pause.min(SECRETS)))
    }
}

fn identity(repository: &Repository, found: &Found) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(repository.uid().unwrap_or_default());
    hash.update(repository.metadata.generation.unwrap_or(0).to_le_bytes());
    for (name, data) in found {
        hash.update(name);
        hash.update(data.as_ref().map_or([0; 32], |data| data.digest()));
    }
    hash.finalize().into()
}
