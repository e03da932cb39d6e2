//! The control API: what `holdfast backup` says to a running sidecar, as HTTP and JSON over a Unix socket.
//!
//! ```text
//! GET  /v1/status          200 what the sidecar tells of itself
//! POST /v1/backups         {"type": "Full", "id": "…"}   202 {"id": "…"}   409 {"error": "…"}   422 {"error": "…"}
//! GET  /v1/backups/{id}    200 Backup.status   404
//! ```
//!
//! Ordering a backup twice with one id does it once.

mod backups;
pub mod client;
mod server;

pub use backups::{Backups, TakeBackup};
pub use server::{Limits, serve};

use crate::cli::BackupKind;
use crate::status::BackupStatus;
use serde::{Deserialize, Serialize};
use std::future::Future;

/// The body of `POST /v1/backups`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BackupOrder {
    /// Left out: auto.
    #[serde(default)]
    pub r#type: BackupKind,
    /// Chosen by who orders, so that ordering twice does nothing; left out: one is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
}

/// The answer to an accepted order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupAccepted {
    /// Asks for the status.
    pub id: String,
}

/// The body of every answer that is no success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// One sentence.
    pub error: String,
}

/// Why an order is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderError {
    /// One runs; says which and since when.
    Busy(String),
    /// It can't be carried out at all.
    Refused(String),
}

/// Carries out what the control API is asked for.
pub trait BackupService: Send + Sync + 'static {
    /// Starts a backup and returns its id. An id that is known already is returned as it is.
    fn start(&self, order: BackupOrder) -> impl Future<Output = Result<String, OrderError>> + Send;

    /// A backup's status, or none if the id is not known to this process.
    fn backup(&self, id: &str) -> impl Future<Output = Option<BackupStatus>> + Send;

    /// Ends a backup that runs, and returns when it has ended.
    fn stop(&self) -> impl Future<Output = ()> + Send;
}

#[cfg(test)]
mod tests;
