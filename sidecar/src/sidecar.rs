//! `holdfast sidecar`: serves the WAL socket, the control API and what monitors it, until it is told to end.

use crate::archive::Archiver;
use crate::config::Live;
use crate::control::tls::{Identity, Tls};
use crate::control::{self, BackupService, Backups, Caller, TakeBackup, Unix};
use crate::exit::{ExitClass, Failure};
use crate::http::{self, Limits, Plain};
use crate::monitoring::{self, Heartbeat, Metrics};
use crate::reload::Watcher;
use crate::report::Reporter;
use crate::socket::{self, SocketError, WalService};
use crate::{configure, drain, stream};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Postgres runs as the same user, or shares its group.
const WAL_MODE: u32 = 0o660;
/// Orders come from the same user alone.
const CONTROL_MODE: u32 = 0o600;

/// What is served, and by whom.
pub struct Parts<W, T> {
    /// In use, and watched.
    pub settings: Live,
    /// Behind the WAL socket.
    pub wal: Arc<W>,
    /// Archives what a stopped server has left behind.
    pub archiver: Arc<Archiver>,
    /// Takes backups.
    pub backups: Arc<Backups<T>>,
    /// Tells how it goes.
    pub reporter: Arc<Reporter<T>>,
    /// For the control API over TLS.
    pub identity: Arc<Identity>,
    /// Looks for new settings.
    pub watcher: Watcher,
    /// Whether archiving is set up in SQL.
    pub alter_system: bool,
    /// How long WAL that is left behind is archived at the end; none: until this program is killed.
    pub grace: Option<Duration>,
}

/// Serves until SIGTERM or SIGINT, then takes no more requests, ends a backup that runs, finishes what WAL is under
/// way (for a minute at most), archives what a server that has stopped has left behind (see [`drain`]), and removes the
/// sockets. A second signal ends it at once.
///
/// Needs neither the store nor the database to begin.
pub async fn run<W: WalService, T: TakeBackup>(parts: Parts<W, T>) -> Result<(), Failure> {
    let Parts {
        settings: live,
        wal,
        archiver,
        backups,
        reporter,
        identity,
        watcher,
        alter_system,
        grace,
    } = parts;
    let settings = live.get();
    let mut signals = Signals::new().map_err(Failure::failed)?;
    let wal_socket = bind(&settings.socket, WAL_MODE).await?;
    let control_socket = bind(&settings.control_socket(), CONTROL_MODE).await?;
    let control_port = match &settings.control {
        Some(control) => Some(listen("control.listen", control.listen).await?),
        None => None,
    };
    let monitoring_port = match settings.monitoring {
        Some(address) => Some(listen("monitoring.listen", address).await?),
        None => None,
    };
    tracing::info!(
        archive = settings.archive,
        socket = %settings.socket.display(),
        version = env!("CARGO_PKG_VERSION"),
        generation = settings.generation,
        "serving"
    );
    let (stop, stopped) = watch::channel(false);
    let until_stopped = || {
        let mut stopped = stopped.clone();
        async move {
            // An error means that the sender is gone, which is as good as a stop.
            let _ = stopped.wait_for(|stop| *stop).await;
        }
    };
    let mut controls = JoinSet::new();
    let api = |from| control::router(backups.clone(), reporter.clone(), from);
    controls.spawn(http::serve(
        Unix::new(control_socket),
        api(Caller::Local),
        Limits::default(),
        until_stopped(),
    ));
    if let Some(listener) = control_port {
        controls.spawn(http::serve(
            Tls::new(listener, identity),
            api(Caller::Remote),
            Limits::default(),
            until_stopped(),
        ));
    }
    // To the very end: what is aborted with the set.
    let mut background = JoinSet::new();
    let heartbeat = Heartbeat::default();
    background.spawn(heartbeat.clone().run());
    background.spawn(watcher.run());
    let ahead = archiver.clone();
    background.spawn(async move { ahead.run_ahead().await });
    background.spawn(stream::run(live.clone(), archiver.clone()));
    let member = archiver.clone();
    background.spawn(async move { member.run_member().await });
    let best_effort = archiver.clone();
    background.spawn(async move { best_effort.run_best_effort().await });
    if alter_system {
        background.spawn(configure::run(live.clone(), reporter.clone()));
    }
    if let Some(listener) = monitoring_port {
        let pages = monitoring::router(reporter, Metrics::new(archiver.seconds()), heartbeat);
        background.spawn(http::serve(
            Plain(listener),
            pages,
            Limits::default(),
            std::future::pending(),
        ));
    }
    let served = tokio::spawn(socket::serve(
        wal_socket,
        wal,
        socket::Limits::default(),
        until_stopped(),
    ));
    let signal = signals.next().await;
    tracing::info!(signal, "ending: requests under way are finished first");
    stop.send_replace(true);
    let drain = async {
        backups.stop().await;
        let cut_off = served.await.map_err(Failure::failed)?;
        while controls.join_next().await.is_some() {}
        if cut_off > 0 {
            tracing::warn!(cut_off, "requests were still under way after a minute");
        }
        drain::run(&live.get(), &archiver, grace).await;
        Ok::<(), Failure>(())
    };
    tokio::select! {
        drained = drain => drained?,
        signal = signals.next() => tracing::warn!(signal, "ending at once"),
    }
    background.shutdown().await;
    tracing::info!("ended");
    Ok(())
}

async fn bind(path: &Path, mode: u32) -> Result<socket::BoundSocket, Failure> {
    socket::bind(path, mode).await.map_err(|error| match error {
        SocketError::Io { .. } => Failure::from_error(ExitClass::Failed, &error),
        SocketError::TooLong { .. }
        | SocketError::Served { .. }
        | SocketError::NotASocket { .. } => Failure::refused(error),
    })
}

async fn listen(field: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    let listener = http::listen(address).await.map_err(|error| {
        Failure::failed(format!(
            "can't listen on {address}: {error}; correct {field}, or end what listens there"
        ))
    })?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, field, "listening");
    }
    Ok(listener)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
