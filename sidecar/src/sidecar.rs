//! `holdfast sidecar`: serves the WAL socket and the control API until it is told to end.

use crate::config::Settings;
use crate::control::{self, BackupService, Backups, TakeBackup};
use crate::exit::{ExitClass, Failure};
use crate::socket::{self, SocketError, WalService};
use std::io;
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// Postgres runs as the same user, or shares its group.
const WAL_MODE: u32 = 0o660;
/// Orders come from the same user alone.
const CONTROL_MODE: u32 = 0o600;

/// Serves until SIGTERM or SIGINT, then takes no more requests, ends a backup that runs, finishes what WAL is under
/// way (for a minute at most; a second signal ends that) and removes the sockets.
///
/// Needs neither the store nor the database to begin.
pub async fn run<W: WalService, T: TakeBackup>(
    settings: &Settings,
    wal: Arc<W>,
    taker: T,
) -> Result<(), Failure> {
    let mut signals = Signals::new().map_err(Failure::failed)?;
    let wal_socket = bind(&settings.socket, WAL_MODE).await?;
    let control_socket = bind(&settings.control_socket(), CONTROL_MODE).await?;
    tracing::info!(
        archive = settings.archive,
        socket = %settings.socket.display(),
        version = env!("CARGO_PKG_VERSION"),
        "serving"
    );
    let (stop, stopped) = watch::channel(false);
    let until_stopped = |mut stopped: watch::Receiver<bool>| async move {
        // An error means that the sender is gone, which is as good as a stop.
        let _ = stopped.wait_for(|stop| *stop).await;
    };
    let backups = Arc::new(Backups::new(taker));
    let control = tokio::spawn(control::serve(
        control_socket,
        backups.clone(),
        wal.clone(),
        control::Limits::default(),
        until_stopped(stopped.clone()),
    ));
    let served = tokio::spawn(socket::serve(
        wal_socket,
        wal,
        socket::Limits::default(),
        until_stopped(stopped),
    ));
    let signal = signals.next().await;
    tracing::info!(signal, "ending: requests under way are finished first");
    stop.send_replace(true);
    let drain = async {
        backups.stop().await;
        let cut_off = served.await.map_err(Failure::failed)?;
        control.await.map_err(Failure::failed)?;
        if cut_off > 0 {
            tracing::warn!(cut_off, "requests were still under way after a minute");
        }
        Ok::<(), Failure>(())
    };
    tokio::select! {
        drained = drain => drained?,
        signal = signals.next() => tracing::warn!(signal, "ending at once"),
    }
    tracing::info!("ended");
    Ok(())
}

async fn bind(path: &std::path::Path, mode: u32) -> Result<socket::BoundSocket, Failure> {
    socket::bind(path, mode).await.map_err(|error| match error {
        SocketError::Io { .. } => Failure::from_error(ExitClass::Failed, &error),
        SocketError::TooLong { .. }
        | SocketError::Served { .. }
        | SocketError::NotASocket { .. } => Failure::refused(error),
    })
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
