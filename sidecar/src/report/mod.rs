//! What a sidecar tells of itself and of the server beside it: [`InstanceReport`].
//!
//! The figures are looked up (in the data directory, and by SQL on a session of their own), and then put together by
//! plain functions. Neither needs the store.

mod assemble;
mod growth;
mod lag;
mod look;

pub use look::{Answer, Found, NoAnswer, on_the_server};

use crate::archive::Archiver;
use crate::bootstrap;
use crate::config::Live;
use crate::control::{BackupFigures, Backups, Instance, OrderError, TakeBackup};
use crate::environment::Pod;
use crate::histories::Histories;
use crate::orders::Orders;
use growth::Growth;
use holdfast_postgres::Lsn;
use holdfast_protocol::control::{Drain, InstanceReport, Outside, WalVolume};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What was found is told again for so long, however many ask.
const FRESH: Duration = Duration::from_secs(1);

/// Tells how a sidecar and its server are. Shared by all that ask.
pub struct Reporter<T> {
    settings: Live,
    pod: Pod,
    archiver: Arc<Archiver>,
    backups: Arc<Backups<T>>,
    orders: Arc<Orders>,
    histories: Histories,
    /// Held while somebody looks: whoever asks meanwhile waits for the same answer.
    found: tokio::sync::Mutex<Option<(Instant, Arc<Found>)>>,
    growth: Mutex<Growth>,
    /// Why this program has not set up archiving itself, where it was to.
    not_configured: Mutex<Option<String>>,
}

impl<T: TakeBackup> Reporter<T> {
    /// Looks at nothing yet.
    pub fn new(
        settings: Live,
        pod: Pod,
        archiver: Arc<Archiver>,
        backups: Arc<Backups<T>>,
        orders: Arc<Orders>,
    ) -> Self {
        let histories = Histories::beside(&settings.get().socket);
        Self {
            settings,
            pod,
            archiver,
            backups,
            orders,
            histories,
            found: tokio::sync::Mutex::default(),
            growth: Mutex::default(),
            not_configured: Mutex::default(),
        }
    }

    /// What the data directory and the server say, within some five seconds; at most two seconds old.
    pub async fn found(&self) -> Arc<Found> {
        let mut found = self.found.lock().await;
        if let Some((when, found)) = found.as_ref()
            && when.elapsed() < FRESH
        {
            return found.clone();
        }
        let new = Arc::new(look::look(&self.settings.get()).await);
        *found = Some((Instant::now(), new.clone()));
        new
    }

    /// What was found before is out of date.
    pub async fn forget(&self) {
        *self.found.lock().await = None;
    }

    /// How backups go.
    pub fn backups(&self) -> BackupFigures {
        self.backups.figures()
    }

    /// Says why archiving is not set up by this program; none: nothing stands in the way.
    pub fn set_not_configured(&self, why: Option<String>) {
        let mut not_configured = self
            .not_configured
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *not_configured = why;
    }

    fn not_configured(&self) -> Option<String> {
        let not_configured = self
            .not_configured
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        not_configured.clone()
    }
}

impl<T: TakeBackup> Instance for Reporter<T> {
    fn pod_uid(&self) -> Option<&str> {
        self.pod.uid.as_deref()
    }

    async fn report(&self) -> InstanceReport {
        let found = self.found().await;
        let settings = self.settings.get();
        let histories = match &found.control {
            Ok(control) => self.histories.seen(control.system_identifier),
            Err(_) => Vec::new(),
        };
        let (progress, now) = (self.archiver.progress(), jiff::Timestamp::now());
        let mut report = assemble::report(assemble::Parts {
            settings: &settings,
            trouble: self.settings.trouble(),
            pod: &self.pod,
            found: &found,
            not_configured: self.not_configured(),
            progress: progress.clone(),
            histories,
            running_backup: self.backups.figures().running,
            bootstrap: bootstrap::reported(&settings.socket),
            now,
        });
        let mut growth = self.growth.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bytes) = assemble::waiting(&report.wal, &found, &progress, now) {
            growth.note(Instant::now(), bytes);
        }
        let rate = growth.rate();
        report.wal.volume = found.wal_available.map(|free| WalVolume::new(free, rate));
        report
    }

    fn mark(&self) -> String {
        assemble::mark(
            &self.archiver.progress(),
            self.settings.get().generation,
            self.settings.trouble().as_deref(),
            self.not_configured().as_deref(),
        )
    }

    async fn switch_wal(&self) -> Result<Lsn, OrderError> {
        let switched = look::switch_wal(&self.settings.get()).await;
        self.forget().await;
        switched
    }

    async fn lacking(&self, outside: Vec<Outside>) -> Result<Vec<Outside>, OrderError> {
        look::lacking(&self.settings.get(), outside).await
    }

    async fn drain(&self) -> Drain {
        self.orders.drain().await
    }

    fn go(&self, order: &str) -> Result<(), OrderError> {
        self.orders.go(order)
    }
}
