//! `holdfast sidecar`: what stands behind the sockets.

use crate::archive::Archiver;
use crate::backup::command::Taker;
use crate::config::Settings;
use crate::exit::{ExitClass, Failure};
use crate::restore_wal::Restorer;
use crate::sidecar;
use crate::socket::{RestoreAnswer, WalService};
use serde_json::{Value, json};
use std::sync::Arc;

/// Runs the command.
pub(super) async fn run(settings: Arc<Settings>) -> Result<(), Failure> {
    let wal = Wal {
        archiver: Archiver::new(settings.clone()),
        restorer: Restorer::new(settings.clone()),
        settings: settings.clone(),
    };
    sidecar::run(&settings, Arc::new(wal), Taker(settings.clone())).await
}

/// Archives and restores the WAL of one data directory.
struct Wal {
    settings: Arc<Settings>,
    archiver: Archiver,
    restorer: Restorer,
}

impl WalService for Wal {
    async fn archive(&self, name: &str, path: &str) -> Result<String, String> {
        let archived = self.archiver.archive(name, path).await;
        archived.map_err(|e| Failure::from_error(ExitClass::Failed, &e).message)
    }

    async fn restore(&self, name: &str) -> RestoreAnswer {
        self.restorer.restore(name).await
    }

    async fn status(&self) -> Value {
        let progress = self.archiver.progress();
        let last_archived = progress
            .last_archived
            .map(|(name, time)| json!({"name": name, "time": time}));
        let last_failure = progress
            .last_failure
            .map(|(name, reason, time)| json!({"name": name, "reason": reason, "time": time}));
        json!({
            "archive": self.settings.archive,
            "sidecarVersion": env!("CARGO_PKG_VERSION"),
            "archivedCount": progress.archived,
            "failedCount": progress.failed,
            "lastArchived": last_archived,
            "lastFailure": last_failure,
        })
    }
}
