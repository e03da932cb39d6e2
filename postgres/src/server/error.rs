//! What a server refuses, in its own words.

use std::fmt;

/// What went wrong between Holdfast and Postgres.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// No session.
    #[error("can't connect to Postgres at {address}: {reason}")]
    Connect {
        /// User, host, port and database.
        address: String,
        /// In Postgres' words, or the system's.
        reason: Box<Reason>,
        /// The cause.
        #[source]
        source: tokio_postgres::Error,
    },
    /// Another major.
    #[error("Postgres at {address} is version {version}: Holdfast supports 14 to 18")]
    Unsupported {
        /// `server_version_num`.
        version: u32,
        /// User, host, port and database.
        address: String,
    },
    /// A statement failed.
    #[error("Postgres at {address} would not {what}: {reason}")]
    Query {
        /// What was asked.
        what: &'static str,
        /// User, host, port and database.
        address: String,
        /// In Postgres' words.
        reason: Box<Reason>,
        /// The cause.
        #[source]
        source: tokio_postgres::Error,
    },
    /// An answer that makes no sense.
    #[error("Postgres at {address} answered '{answer}' when asked to {what}")]
    Answer {
        /// What was asked.
        what: &'static str,
        /// User, host, port and database.
        address: String,
        /// The answer.
        answer: String,
    },
}

/// Postgres' message, detail and hint; or the system's error where Postgres said nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reason {
    /// The message.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<String>,
    /// The five characters of its SQLSTATE.
    pub code: Option<String>,
}

impl Reason {
    fn of(error: &tokio_postgres::Error) -> Self {
        if let Some(db) = error.as_db_error() {
            return Self {
                message: db.message().to_owned(),
                detail: db.detail().map(str::to_owned),
                hint: db.hint().map(str::to_owned),
                code: Some(db.code().code().to_owned()),
            };
        }
        // The outer message only names the stage ("error connecting to server"); the cause says why.
        let mut message = error.to_string();
        let mut cause = std::error::Error::source(error);
        while let Some(inner) = cause {
            let text = inner.to_string();
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = inner.source();
        }
        Self {
            message,
            ..Self::default()
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, " ({detail})")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, " Hint: {hint}")?;
        }
        Ok(())
    }
}

impl ServerError {
    pub(super) fn connect(address: &str, source: tokio_postgres::Error) -> Self {
        Self::Connect {
            address: address.to_owned(),
            reason: Box::new(Reason::of(&source)),
            source,
        }
    }

    pub(super) fn query(what: &'static str, address: &str, source: tokio_postgres::Error) -> Self {
        Self::Query {
            what,
            address: address.to_owned(),
            reason: Box::new(Reason::of(&source)),
            source,
        }
    }

    /// What Postgres said, if it was asked at all.
    #[must_use]
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Connect { reason, .. } | Self::Query { reason, .. } => Some(reason),
            Self::Unsupported { .. } | Self::Answer { .. } => None,
        }
    }

    /// Whether asking again can't help: Postgres answered, and not with "not now".
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Unsupported { .. } | Self::Answer { .. } => true,
            Self::Connect { reason, .. } | Self::Query { reason, .. } => {
                reason.code.as_deref().is_some_and(|code| {
                    // Connection, resources, in use, shutting down or starting up, the system.
                    !["08", "53", "55006", "55P03", "57", "58"]
                        .iter()
                        .any(|class| code.starts_with(class))
                })
            }
        }
    }
}
