//! The control API's server and client, over a Unix socket; [`holdfast_protocol::control`] describes it.

mod backups;
pub mod client;
mod server;

pub use backups::{Backups, TakeBackup};
pub use server::{Limits, serve};

use crate::status::BackupStatus;
use holdfast_protocol::control::BackupOrder;
use std::future::Future;

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
