//! Follows what the primary beside this program writes, by its replication protocol, and has it stored within about a second.
//!
//! Only what is flushed counts, and only the server knows what is: the protocol tells it at once, and an idle server costs
//! nothing. The bytes themselves are read from pg_wal, where they lie unchanged from then on; so nothing has to be kept in
//! memory while a store is slow, and what comes over the connection is dropped. There is no slot: nothing here holds WAL back.
//!
//! In `synchronous` mode what is flushed is stored at once, and the server is told what every required repository holds: its
//! commits may wait for that. Else it is told what was received, and nobody waits.

mod refused;

use crate::archive::{Archiver, NotArchived, Stored, Streaming, Writers};
use crate::config::{Live, SecretError, Settings, Streaming as Mode};
use crate::data_directory::{self, Recovery};
use holdfast_postgres::replication::{Event, Position, Replication, ReplicationError, WalStream};
use holdfast_postgres::{ClusterState, ControlFile, Lsn, SystemIdentifier};
use holdfast_repository::blocking;
use jiff::Timestamp;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

/// How our session is named in `pg_stat_replication`.
pub(crate) const APPLICATION_NAME: &str = "holdfast";
/// A server that starts listens within so long; one that can't be reached for longer is somewhere else than the settings say, or
/// gone, and what it commits is not followed.
const STARTS: Duration = Duration::from_secs(60);
/// How often is looked whether there is a primary.
const LOOK: Duration = Duration::from_secs(1);
/// After a session that failed; doubled, up to the longest, where the server refuses it.
const PAUSE: Duration = Duration::from_secs(5);
/// What was flushed last is stored for so long after a session's end, at most.
const AT_THE_END: Duration = Duration::from_secs(10);
/// A server that is shutting down asks again as soon as it is answered: so often it is, where nothing has changed.
const ANSWER: Duration = Duration::from_millis(100);
/// After a store that failed, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// After what somebody has to mend, at most.
const LONGEST_REFUSED: Duration = Duration::from_secs(60);
/// So often the server hears of us even if it does not ask: it gives up by itself after `wal_sender_timeout`.
const TELL: Duration = Duration::from_secs(4);
/// A server's shutdown waits for what is not stored for so long at most (`WalSndDone`).
const AT_A_SHUTDOWN: Duration = Duration::from_secs(10);
/// In `synchronous` mode, how long is waited for a segment to be stored, at first: doubled, up to `LOOK`.
const FIRST_WAIT: Duration = Duration::from_millis(10);
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
    /// Whether no server runs, or none that can be asked yet.
    fn is_away(&self) -> bool {
        match self {
            Self::Replication(ReplicationError::Connection { source, .. }, _) => matches!(
                source.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
            ),
            Self::Replication(error, _) => error.is_not_now(),
            Self::Secret(_) | Self::Other { .. } => false,
        }
    }

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
    let mut away = None;
    loop {
        let settings = live.get();
        let Some((mode, control)) = primary(&settings).await else {
            away = None;
            archiver.set_streaming(Streaming::Off);
            sleep(LOOK).await;
            continue;
        };
        let followed = follow(&live, &settings, mode, &control, &archiver).await;
        away = match &followed {
            Err(error) if error.is_away() => away.or_else(|| Some(Instant::now())),
            _ => None,
        };
        match followed {
            Ok(()) => {
                pause = PAUSE;
                sleep(LOOK).await;
            }
            Err(error) if away.is_some_and(|since| since.elapsed() < STARTS) => {
                tracing::info!(%error, "there is no server to follow yet");
                archiver.set_streaming(Streaming::Off);
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
async fn primary(settings: &Arc<Settings>) -> Option<(Mode, ControlFile)> {
    let mode = settings.streaming?;
    let settings = settings.clone();
    blocking(move || {
        let directory = &settings.postgres.data_directory;
        let control = data_directory::control_file(directory).ok()?;
        let is_primary = control.state == ClusterState::InProduction
            && data_directory::recovery(directory) == Recovery::None;
        is_primary.then_some((mode, control))
    })
    .await
}

/// Until the session ends, or other settings are in use.
async fn follow(
    live: &Live,
    settings: &Arc<Settings>,
    mode: Mode,
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
    tracing::info!(
        from = %system.flushed, timeline = %system.timeline, synchronous = mode.synchronous,
        "following what is written"
    );
    let follower = Follower {
        settings,
        mode,
        archiver,
        flushed: watch::Sender::new(system.flushed),
        stored: watch::Sender::new(Lsn::INVALID),
    };
    let mut writers = Writers::new(system.timeline, control.segment_size);
    let ended = tokio::select! {
        ended = follower.receive(stream) => ended.map_err(refused),
        () = follower.store(&mut writers) => return Ok(()),
        () = follower.is_replaced(live) => return Ok(()),
    };
    // The server is gone, and waits for nobody: what it told last is still there.
    let last = follower.store_once(&mut writers);
    if let Ok(Err(error)) = timeout(AT_THE_END, last).await {
        tracing::info!(%error, "what was written last is not stored");
    }
    ended
}

/// A session that streams.
struct Follower<'a> {
    settings: &'a Arc<Settings>,
    mode: Mode,
    archiver: &'a Archiver,
    /// By the server, as far as is known.
    flushed: watch::Sender<Lsn>,
    /// In every required repository; invalid before it is known.
    stored: watch::Sender<Lsn>,
}

impl Follower<'_> {
    /// Returns once other settings are in use.
    async fn is_replaced(&self, live: &Live) {
        while Arc::ptr_eq(self.settings, &live.get()) {
            sleep(LOOK).await;
        }
    }

    /// Stores what the server has flushed, for ever.
    async fn store(&self, writers: &mut Writers) {
        let (mut pause, mut wait) = (Duration::ZERO, FIRST_WAIT);
        let mut good = Instant::now();
        let patience = 3 * self.mode.interval + AT_THE_END;
        let mut ticks = interval(self.mode.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.is_more(), if self.mode.synchronous => {}
            }
            let before = *self.stored.borrow();
            let done = told_if_late(self.archiver, self.store_once(writers), patience).await;
            if matches!(done, Ok(Stored::All)) || *self.stored.borrow() > before {
                (good, wait) = (Instant::now(), FIRST_WAIT);
            }
            let waits = matches!(done, Ok(Stored::Waits(_)));
            // Between one segment and the next it waits for a moment.
            if !waits {
                pause = settle(self.archiver, done, pause);
            } else if good.elapsed() >= patience {
                pause = settle(self.archiver, done, pause);
                // That one may never be stored, and a later one is begun where all since the newest backup is.
                writers.begin_anew();
            } else {
                pause = Duration::ZERO;
            }
            if waits && self.mode.synchronous {
                pause = wait;
                wait = (wait * 2).min(LOOK);
            }
            sleep(pause).await;
        }
    }

    async fn store_once(&self, writers: &mut Writers) -> Result<Stored, NotArchived> {
        let (as_of, to) = (Timestamp::now(), *self.flushed.borrow());
        let done = self
            .archiver
            .store_written(self.settings, writers, to, as_of)
            .await;
        // Also of what did not come to its end.
        if let Some(through) = writers.through() {
            raise(&self.stored, through);
        }
        done
    }

    /// Returns once the server has flushed more than is stored.
    async fn is_more(&self) {
        let mut flushed = self.flushed.subscribe();
        let stored = *self.stored.borrow();
        // Its sender is ours.
        let _ = flushed.wait_for(|flushed| *flushed != stored).await;
    }

    /// Takes in all that comes, whatever becomes of storing it: a server that shuts down waits until we have it.
    async fn receive(&self, mut stream: WalStream) -> Result<(), ReplicationError> {
        let (mut told, mut heard) = (Instant::now(), Instant::now());
        let mut stored = self.stored.subscribe();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut stopping: Option<Instant> = None;
        let (mut last, mut due) = (None, false);
        loop {
            let mut reply_now = false;
            tokio::select! {
                // Nothing is lost where it is dropped.
                event = stream.next() => {
                    heard = Instant::now();
                    match event? {
                        Event::Wal { start, bytes } => {
                            raise(&self.flushed, Lsn(start.0 + bytes.len() as u64));
                        }
                        Event::Keepalive { reply_now: now, .. } => reply_now = now,
                        Event::Ended => return Ok(()),
                    }
                }
                // Its sender is ours.
                _ = stored.changed() => reply_now = self.mode.synchronous,
                _ = looks.tick() => {
                    if heard.elapsed() >= SILENCE {
                        return Err(stream.silent(SILENCE));
                    }
                    if !self.holds_up_a_shutdown().await {
                        stopping = None;
                    } else if stopping.get_or_insert_with(Instant::now).elapsed() >= AT_A_SHUTDOWN {
                        tracing::warn!(
                            flushed = %*self.flushed.borrow(), stored = %*self.stored.borrow(),
                            "the server shuts down, and does not wait any longer for what is not stored"
                        );
                        return Ok(());
                    }
                }
            }
            due |= reply_now || told.elapsed() >= TELL;
            let position = self.position();
            if due && (last != Some(position) || told.elapsed() >= ANSWER) {
                stream.tell(position).await?;
                (told, last, due) = (Instant::now(), Some(position), false);
            }
        }
    }

    /// What the server is told.
    fn position(&self) -> Position {
        match self.mode.synchronous {
            // `remote_write` waits for what is written, and is to mean no less.
            true => Position {
                written: *self.stored.borrow(),
                flushed: *self.stored.borrow(),
            },
            // Nobody's commit waits for us.
            false => Position {
                written: *self.flushed.borrow(),
                flushed: Lsn::INVALID,
            },
        }
    }

    /// Whether a server that is shutting down waits for what is not stored yet.
    async fn holds_up_a_shutdown(&self) -> bool {
        if !self.mode.synchronous || *self.stored.borrow() == *self.flushed.borrow() {
            return false;
        }
        let settings = self.settings.clone();
        let control =
            blocking(move || data_directory::control_file(&settings.postgres.data_directory)).await;
        // A server whose state can't be read is not held up for it.
        control.map_or(true, |control| control.state != ClusterState::InProduction)
    }
}

/// Tells it where it is more than was known.
fn raise(known: &watch::Sender<Lsn>, to: Lsn) {
    known.send_if_modified(|known| {
        let is_more = to > *known;
        *known = to.max(*known);
        is_more
    });
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
    let longest = match &done {
        // All of the archive is listed to see it.
        Err(NotArchived::Broken { .. }) => LONGEST_REFUSED,
        Err(error) if error.is_permanent() => LONGEST_REFUSED,
        _ => LONGEST_PAUSE,
    };
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
    (before * 2).clamp(LOOK, longest)
}
