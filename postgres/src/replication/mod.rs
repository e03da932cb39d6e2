//! Physical replication: the WAL of a server as it flushes it, by its replication protocol ("Streaming Replication
//! Protocol" in Postgres' documentation). No slot is used: nothing here can hold WAL back.

mod error;
mod session;
mod wire;

pub use error::ReplicationError;
pub use session::Position;

use crate::server::ConnectOptions;
use crate::{Lsn, PgTimestamp, SystemIdentifier, TimelineId};
use bytes::Bytes;
use session::Session;
use std::time::Duration;
use tokio::time::timeout;
use wire::Incoming;

/// A replication session that streams nothing yet.
#[derive(Debug)]
pub struct Replication {
    session: Session,
    /// For each answer.
    within: Duration,
}

/// What a server says of itself before it streams (`IDENTIFY_SYSTEM`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct System {
    /// Whose WAL it is.
    pub identifier: SystemIdentifier,
    /// The timeline that it writes, or on a standby replays.
    pub timeline: TimelineId,
    /// How far it has flushed its WAL; a standby, received.
    pub flushed: Lsn,
}

/// A session that streams WAL.
#[derive(Debug)]
pub struct WalStream {
    session: Session,
}

/// What comes from the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// WAL that it has flushed, as it lies in its segments. At most 128 KiB, and never across a segment's end in 14 to 18
    /// (`XLogSendPhysical`); nothing here relies on that.
    Wal {
        /// Of the first byte.
        start: Lsn,
        /// Not empty.
        bytes: Bytes,
    },
    /// It lives.
    Keepalive {
        /// How far it has sent.
        sent: Lsn,
        /// It ends the session, or its shutdown waits, unless it hears of us soon.
        reply_now: bool,
    },
    /// There will be no more on this timeline: the server has left it, or shuts down.
    Ended,
}

impl Replication {
    /// Opens a session: over a Unix socket as it is, over TCP encrypted as `ssl_mode` says. The database is not used. The
    /// server ends it where it hears nothing for ten seconds (its `wal_sender_timeout`, which a session may set).
    ///
    /// # Errors
    /// [`ReplicationError::Refused`] in the server's own words; it also takes the role's attribute REPLICATION and an
    /// entry for `replication` in pg_hba.conf. After `connect_timeout` at most.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, ReplicationError> {
        let within = options.connect_timeout;
        match timeout(within, Session::connect(options)).await {
            Ok(session) => Ok(Self {
                session: session?,
                within,
            }),
            Err(_) => Err(ReplicationError::Silent {
                address: format!("{}@{}:{}", options.user, options.host, options.port),
                within,
            }),
        }
    }

    /// Asks the server who it is.
    ///
    /// # Errors
    /// The server's, or if it answers nonsense.
    pub async fn identify(&mut self) -> Result<System, ReplicationError> {
        let asked = timeout(self.within, self.session.row("IDENTIFY_SYSTEM")).await;
        let row = match asked {
            Ok(row) => row?,
            Err(_) => return Err(self.session.silent(self.within)),
        };
        let column = |number: usize| row.get(number).cloned().flatten().unwrap_or_default();
        let system = || {
            Some(System {
                identifier: column(0).parse().ok()?,
                timeline: TimelineId(column(1).parse().ok()?),
                flushed: column(2).parse().ok()?,
            })
        };
        system().ok_or_else(|| {
            self.session
                .nonsense(format!("answered IDENTIFY_SYSTEM with {row:?}"))
        })
    }

    /// Begins to stream the WAL of that timeline from `start` on.
    ///
    /// # Errors
    /// The server's: it has removed that WAL already, or its timeline is another.
    pub async fn start(
        mut self,
        start: Lsn,
        timeline: TimelineId,
    ) -> Result<WalStream, ReplicationError> {
        let command = format!("START_REPLICATION PHYSICAL {start} TIMELINE {}", timeline.0);
        match timeout(self.within, self.session.copy_both(&command)).await {
            Ok(begun) => begun?,
            Err(_) => return Err(self.session.silent(self.within)),
        }
        Ok(WalStream {
            session: self.session,
        })
    }
}

impl WalStream {
    /// The error of a server that has said nothing for so long.
    pub fn silent(&self, within: Duration) -> ReplicationError {
        self.session.silent(within)
    }

    /// The next that comes. Safe to drop: nothing is lost.
    ///
    /// # Errors
    /// The connection's, the server's, or if what it says makes no sense. Then there is nothing more to ask for.
    pub async fn next(&mut self) -> Result<Event, ReplicationError> {
        loop {
            let data = match self.session.receive().await? {
                Incoming::CopyData(data) => data,
                Incoming::CopyDone | Incoming::CommandComplete | Incoming::Closed => {
                    return Ok(Event::Ended);
                }
                Incoming::Notice => continue,
                other => return Err(self.session.unexpected(&other, "streamed WAL")),
            };
            match wire::event(&data) {
                Some(Event::Wal { bytes, .. }) if bytes.is_empty() => {}
                Some(event) => return Ok(event),
                None => {
                    let first = data.first().copied().unwrap_or_default();
                    return Err(self.session.nonsense(format!(
                        "streamed a message of {} bytes that begins with {first:#04x}",
                        data.len()
                    )));
                }
            }
        }
    }

    /// Tells the server how far we are, and asks it for an answer. Its shutdown waits until what it has sent is flushed, or
    /// where no flush is told, written (`WalSndDone`).
    ///
    /// # Errors
    /// The connection's.
    pub async fn tell(&mut self, position: Position) -> Result<(), ReplicationError> {
        let now = PgTimestamp::from_jiff(jiff::Timestamp::now());
        self.session.send_status(position, now).await
    }
}
