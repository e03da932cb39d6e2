//! Follows what the primary beside this program writes, by its replication protocol, and has it stored within about a second.
//!
//! Only what is flushed counts, and only the server knows what is: the protocol tells it at once, and an idle server costs
//! nothing. The bytes themselves are read from pg_wal, where they lie unchanged from then on; so nothing has to be kept in
//! memory while a store is slow, and what comes over the connection is dropped. There is no slot: nothing here holds WAL back.

mod refused;

use crate::archive::{Archiver, NotArchived, Stored, Streaming, Writers};
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
const APPLICATION_NAME: &str = "holdfast";
/// How often is looked whether there is a primary.
const LOOK: Duration = Duration::from_secs(1);
/// After a session that failed; doubled, up to the longest, where the server refuses it.
const PAUSE: Duration = Duration::from_secs(5);
const LONGEST_REFUSED: Duration = Duration::from_secs(60);
/// What was flushed last is stored for so long after a session's end, at most.
const AT_THE_END: Duration = Duration::from_secs(10);
/// After a store that failed, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// So often the server hears of us even if it does not ask: it gives up by itself after `wal_sender_timeout`.
const TELL: Duration = Duration::from_secs(10);
/// A server that says nothing for so long is gone, for it is asked to answer.
const SILENCE: Duration = Duration::from_secs(30);

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

impl NotFollowed {
    /// Whether somebody has to change something at the server. Not while it starts or stops.
    fn is_refused(&self) -> bool {
        let Self::Replication(error, _) = self else {
            return false;
        };
        error.code().is_some() && !error.is_not_now()
    }
}

/// Whether the server would let us follow it, or what to do; none where it can't be asked.
pub async fn may_follow(settings: &Settings) -> Option<Result<(), String>> {
    let options = settings.postgres.connect_options(APPLICATION_NAME).ok()?;
    let asked = async { Replication::connect(&options).await?.identify().await };
    match asked.await {
        Ok(_) => Some(Ok(())),
        Err(ReplicationError::Connection { .. } | ReplicationError::Silent { .. }) => None,
        Err(error) if error.is_not_now() => None,
        Err(error) => Some(Err(refused::told(&error, settings))),
    }
}

/// Follows the server for as long as it is a primary, and again when it is. Never ends; safe to drop.
pub async fn run(live: Live, archiver: Arc<Archiver>) {
    let mut pause = PAUSE;
    loop {
        let settings = live.get();
        let Some(control) = primary(&settings).await else {
            archiver.set_streaming(Streaming::Off);
            sleep(LOOK).await;
            continue;
        };
        match follow(&live, &settings, &control, &archiver).await {
            Ok(()) => {
                pause = PAUSE;
                sleep(LOOK).await;
            }
            Err(error) => {
                pause = match error.is_refused() {
                    true => (pause * 2).min(LONGEST_REFUSED),
                    false => PAUSE,
                };
                let why = error.to_string();
                if archiver.set_streaming(Streaming::Fails(why.clone())) {
                    tracing::warn!(
                        error = why,
                        "what is being written is not followed, and stored as whole segments alone"
                    );
                }
                sleep(pause).await;
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
    let (flushed, seen) = watch::channel(system.flushed);
    let mut writers = Writers::default();
    let interval_of = settings.streaming.unwrap_or(LOOK);
    let store = async {
        let (mut pause, mut good) = (Duration::ZERO, Instant::now());
        let patience = 3 * interval_of + AT_THE_END;
        let mut ticks = interval(interval_of);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while Arc::ptr_eq(settings, &live.get()) {
            ticks.tick().await;
            let (as_of, to) = (Timestamp::now(), *seen.borrow());
            let storing =
                archiver.store_written(settings, &mut writers, (system.timeline, to), as_of);
            let done = told_if_late(archiver, storing, patience).await;
            // Between one segment and the next it waits for a moment.
            if let Ok(Stored::Waits(before)) = done
                && good.elapsed() < patience
            {
                tracing::debug!(?before, "waits");
                continue;
            }
            if let Ok(Stored::All) = done {
                good = Instant::now();
            }
            pause = settle(archiver, done, pause);
            sleep(pause).await;
        }
    };
    let ended = tokio::select! {
        ended = receive(stream, system.flushed, &flushed) => ended.map_err(refused),
        () = store => return Ok(()),
    };
    // The server is gone, and waits for nobody: what it told last is still there.
    let to = (system.timeline, *seen.borrow());
    let last = archiver.store_written(settings, &mut writers, to, Timestamp::now());
    if let Ok(Err(error)) = timeout(AT_THE_END, last).await {
        tracing::info!(%error, "what was written last is not stored");
    }
    ended
}

/// Waits for it, and says meanwhile that it takes long.
async fn told_if_late<T>(
    archiver: &Archiver,
    storing: impl Future<Output = T>,
    patience: Duration,
) -> T {
    let mut storing = std::pin::pin!(storing);
    match timeout(patience, &mut storing).await {
        Ok(done) => done,
        Err(_) => {
            let why = format!("the store has not answered within {patience:?}");
            tracing::warn!(error = why, "what is being written is not stored yet");
            archiver.set_streaming(Streaming::Fails(why));
            storing.await
        }
    }
}

/// Tells how storing went, and for how long to leave it.
fn settle(archiver: &Archiver, done: Result<Stored, NotArchived>, before: Duration) -> Duration {
    let why = match done {
        Ok(Stored::All) => {
            archiver.set_streaming(Streaming::Follows);
            return Duration::ZERO;
        }
        Ok(Stored::Waits(Some(before))) => {
            let why = format!(
                "it begins once {before} is archived: behind a segment that is not, nothing can be recovered"
            );
            archiver.set_streaming(Streaming::Fails(why));
            return Duration::ZERO;
        }
        Ok(Stored::Waits(None)) => "it can't be told which segment comes before".to_owned(),
        Err(error) => error.to_string(),
    };
    if archiver.set_streaming(Streaming::Fails(why.clone())) {
        tracing::warn!(
            error = why,
            "what is being written is not stored: tried again"
        );
    }
    (before * 2).clamp(LOOK, LONGEST_PAUSE)
}

/// Takes in all that comes, whatever becomes of storing it: a server that shuts down waits until we have it.
async fn receive(
    mut stream: WalStream,
    from: Lsn,
    flushed: &watch::Sender<Lsn>,
) -> Result<(), ReplicationError> {
    let (mut received, mut told) = (from, Instant::now());
    let mut heard = Instant::now();
    loop {
        let mut reply_now = false;
        // Nothing is lost where it is dropped.
        match timeout(TELL, stream.next()).await {
            Err(_) if heard.elapsed() >= SILENCE => return Err(stream.silent(SILENCE)),
            Err(_) => {}
            Ok(event) => {
                heard = Instant::now();
                match event? {
                    Event::Wal { start, bytes } => {
                        received = received.max(Lsn(start.0 + bytes.len() as u64));
                        flushed.send_replace(received);
                    }
                    Event::Keepalive { reply_now: now, .. } => reply_now = now,
                    Event::Ended => return Ok(()),
                }
            }
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
