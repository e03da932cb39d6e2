//! Follows what the primary beside this program writes, by its replication protocol, and has it stored within about a second.
//!
//! Only what is flushed counts, and only the server knows what is: the protocol tells it at once, and an idle server costs
//! nothing. The bytes themselves are read from pg_wal, where they lie unchanged from then on; so nothing has to be kept in
//! memory while a store is slow, and what comes over the connection is dropped. There is no slot: nothing here holds WAL back.

mod refused;

use crate::archive::{Archiver, NotArchived, Streaming, Writers};
use crate::config::{Live, SecretError, Settings};
use crate::data_directory::{self, Recovery};
use holdfast_postgres::replication::{Event, Position, Replication, ReplicationError, WalStream};
use holdfast_postgres::{ClusterState, ControlFile, Lsn, SystemIdentifier};
use holdfast_repository::blocking;
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// How our session is named in `pg_stat_replication`.
pub const APPLICATION_NAME: &str = "holdfast";
/// How often is looked whether there is a primary.
const LOOK: Duration = Duration::from_secs(1);
/// After a session that failed.
const PAUSE: Duration = Duration::from_secs(5);
/// After a store that failed, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// So often the server hears of us even if it does not ask: it gives up by itself after `wal_sender_timeout`.
const TELL: Duration = Duration::from_secs(10);

/// Why what is written is not followed.
#[derive(Debug, thiserror::Error)]
enum NotFollowed {
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("{}", refused::told(.0, .1))]
    Replication(#[source] ReplicationError, Arc<Settings>),
    #[error(
        "the server that answers has system identifier {found}, and the data directory {ours}: correct postgres.host and postgres.port"
    )]
    Other {
        found: SystemIdentifier,
        ours: SystemIdentifier,
    },
}

/// Whether the server would let us follow it, or what to do; none where it can't be asked.
pub async fn may_follow(settings: &Settings) -> Option<Result<(), String>> {
    let options = settings.postgres.connect_options(APPLICATION_NAME).ok()?;
    let asked = async { Replication::connect(&options).await?.identify().await };
    match asked.await {
        Ok(_) => Some(Ok(())),
        Err(ReplicationError::Connection { .. } | ReplicationError::Silent { .. }) => None,
        // It is starting or stopping.
        Err(error) if error.code().is_some_and(|code| code.starts_with("57")) => None,
        Err(error) => Some(Err(refused::told(&error, settings))),
    }
}

/// Follows the server for as long as it is a primary, and again when it is. Never ends; safe to drop.
pub async fn run(live: Live, archiver: Arc<Archiver>) {
    loop {
        let settings = live.get();
        let Some(control) = primary(&settings).await else {
            archiver.set_streaming(Streaming::Off);
            sleep(LOOK).await;
            continue;
        };
        match follow(&live, &settings, &control, &archiver).await {
            Ok(()) => sleep(LOOK).await,
            Err(error) => {
                let why = error.to_string();
                if archiver.set_streaming(Streaming::Fails(why.clone())) {
                    tracing::warn!(
                        error = why,
                        "what is being written is not followed, and stored as whole segments alone"
                    );
                }
                sleep(PAUSE).await;
            }
        }
    }
}

/// What pg_control says, where a server that is to be followed may run.
async fn primary(settings: &Arc<Settings>) -> Option<ControlFile> {
    settings.streaming?;
    let settings = settings.clone();
    blocking(move || {
        let directory = &settings.postgres.data_directory;
        let control = data_directory::control_file(directory).ok()?;
        let is_primary = control.state == ClusterState::InProduction
            && data_directory::recovery(directory) == Recovery::None;
        is_primary.then_some(control)
    })
    .await
}

/// Until the session ends, or other settings are in use.
async fn follow(
    live: &Live,
    settings: &Arc<Settings>,
    control: &ControlFile,
    archiver: &Archiver,
) -> Result<(), NotFollowed> {
    let refused = |error| NotFollowed::Replication(error, settings.clone());
    let options = settings.postgres.connect_options(APPLICATION_NAME)?;
    let mut session = Replication::connect(&options).await.map_err(refused)?;
    let system = session.identify().await.map_err(refused)?;
    if system.identifier != control.system_identifier {
        return Err(NotFollowed::Other {
            found: system.identifier,
            ours: control.system_identifier,
        });
    }
    let stream = session
        .start(system.flushed, system.timeline)
        .await
        .map_err(refused)?;
    tracing::info!(from = %system.flushed, timeline = %system.timeline, "following what is written");
    archiver.set_streaming(Streaming::Follows);
    let (flushed, seen) = watch::channel(system.flushed);
    let store = async {
        let mut writers = Writers::default();
        let mut pause = Duration::ZERO;
        let mut ticks = interval(settings.streaming.unwrap_or(LOOK));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Arc::ptr_eq(settings, &live.get()) {
            ticks.tick().await;
            let (as_of, to) = (Timestamp::now(), *seen.borrow());
            let done = archiver
                .store_written(settings, &mut writers, (system.timeline, to), as_of)
                .await;
            pause = settle(archiver, done, pause);
            sleep(pause).await;
        }
    };
    tokio::select! {
        ended = receive(stream, system.flushed, &flushed) => ended.map_err(refused),
        () = store => Ok(()),
    }
}

/// Tells how storing went, and for how long to leave it.
fn settle(archiver: &Archiver, done: Result<(), NotArchived>, before: Duration) -> Duration {
    match done {
        Ok(()) => {
            archiver.set_streaming(Streaming::Follows);
            Duration::ZERO
        }
        Err(error) => {
            let why = error.to_string();
            if archiver.set_streaming(Streaming::Fails(why.clone())) {
                tracing::warn!(
                    error = why,
                    "what is being written is not stored: tried again"
                );
            }
            (before * 2).clamp(LOOK, LONGEST_PAUSE)
        }
    }
}

/// Takes in all that comes, whatever becomes of storing it: a server that shuts down waits until we have it.
async fn receive(
    mut stream: WalStream,
    from: Lsn,
    flushed: &watch::Sender<Lsn>,
) -> Result<(), ReplicationError> {
    let (mut received, mut told) = (from, Instant::now());
    loop {
        let mut reply_now = false;
        // Nothing is lost where it is dropped.
        match timeout(TELL, stream.next()).await {
            Err(_) => {}
            Ok(event) => match event? {
                Event::Wal { start, bytes } => {
                    received = received.max(Lsn(start.0 + bytes.len() as u64));
                    flushed.send_replace(received);
                }
                Event::Keepalive { reply_now: now, .. } => reply_now = now,
                Event::Ended => return Ok(()),
            },
        }
        if reply_now || told.elapsed() >= TELL {
            let position = Position {
                written: received,
                // Nobody's commit waits for us.
                flushed: Lsn::INVALID,
            };
            stream.tell(position).await?;
            told = Instant::now();
        }
    }
}
