//! `holdfast sidecar`: what stands behind the sockets.

use crate::archive::Archiver;
use crate::backup::command::Taker;
use crate::cli::SidecarArgs;
use crate::config::{Live, Overrides, Settings};
use crate::control::tls::Identity;
use crate::control::{Backups, Instance};
use crate::environment::{Configure, Environment};
use crate::exit::{ExitClass, Failure};
use crate::install;
use crate::orders::Orders;
use crate::reload::Watcher;
use crate::report::Reporter;
use crate::restore_wal::Restorer;
use crate::sidecar::{self, Parts};
use crate::socket::{RestoreAnswer, WalService};
use serde_json::Value;
use std::sync::Arc;

/// Runs the command.
pub(super) async fn run(settings: Arc<Settings>, args: &SidecarArgs) -> Result<(), Failure> {
    let Environment {
        pod,
        configure,
        grace,
    } = Environment::of_process().map_err(Failure::refused)?;
    if let Some(folder) = &args.install {
        install::install(folder)?;
    }
    let live = Live::from(settings);
    let identity = Arc::new(Identity::default());
    let mut watcher = Watcher::new(live.clone(), Overrides::of_process(), identity.clone());
    // What is wrong with the files that the settings name is told, and keeps nobody from serving.
    watcher.look();
    let archiver = Arc::new(Archiver::new(live.clone()));
    let backups = Arc::new(Backups::new(Taker(live.clone()), pod.name.clone()));
    let orders = Arc::new(Orders::new(live.clone(), archiver.clone()));
    let reporter = Arc::new(Reporter::new(
        live.clone(),
        pod,
        archiver.clone(),
        backups.clone(),
        orders.clone(),
    ));
    let wal = Wal {
        restorer: Restorer::new(live.clone(), archiver.budget()),
        archiver: archiver.clone(),
        reporter: reporter.clone(),
        orders,
    };
    sidecar::run(Parts {
        settings: live,
        wal: Arc::new(wal),
        archiver,
        backups,
        reporter,
        identity,
        watcher,
        alter_system: configure == Configure::AlterSystem,
        grace,
    })
    .await
}

/// Archives and restores the WAL of one data directory.
struct Wal {
    archiver: Arc<Archiver>,
    restorer: Restorer,
    reporter: Arc<Reporter<Taker>>,
    orders: Arc<Orders>,
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
        serde_json::to_value(self.reporter.report().await).unwrap_or_default()
    }

    fn let_go(&self) -> Value {
        serde_json::to_value(self.orders.let_go()).unwrap_or_default()
    }
}
