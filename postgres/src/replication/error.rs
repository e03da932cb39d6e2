//! Why nothing is streamed.

use crate::server::Reason;
use std::io;
use std::time::Duration;

/// What went wrong between Holdfast and a server's walsender.
#[derive(Debug, thiserror::Error)]
pub enum ReplicationError {
    /// The network, the socket, or TLS.
    #[error("the replication connection to Postgres at {address} failed: {source}")]
    Connection {
        /// User, host and port.
        address: String,
        /// The cause.
        source: io::Error,
    },
    /// Nobody answers.
    #[error(
        "Postgres at {address} has said nothing over a replication connection within {within:?}"
    )]
    Silent {
        /// User, host and port.
        address: String,
        /// The limit.
        within: Duration,
    },
    /// The server would not.
    #[error("Postgres at {address} refuses replication: {reason}")]
    Refused {
        /// User, host and port.
        address: String,
        /// In Postgres' words.
        reason: Box<Reason>,
    },
    /// It asks for something that we have not, or says what makes no sense.
    #[error("Postgres at {address} {what}")]
    Protocol {
        /// User, host and port.
        address: String,
        /// What it did.
        what: String,
    },
}

impl ReplicationError {
    /// Whether the server is starting or stopping ("operator intervention", class 57), and may let us in later.
    #[must_use]
    pub fn is_not_now(&self) -> bool {
        self.code().is_some_and(|code| code.starts_with("57"))
    }

    /// The five characters of the SQLSTATE, where the server gave one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { reason, .. } => reason.code.as_deref(),
            _ => None,
        }
    }
}
