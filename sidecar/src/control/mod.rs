//! The control API's server and client; [`holdfast_protocol::control`] describes it.

mod backups;
pub mod client;
mod server;
pub mod tls;

pub use backups::{BackupFigures, Backups, Completed, TakeBackup};
pub use server::{Caller, Unix, router};

use crate::status::BackupStatus;
use holdfast_postgres::Lsn;
use holdfast_protocol::control::{BackupOrder, Drain, InstanceReport, Outside};
use std::future::Future;

/// Why an order is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OrderError {
    /// Not now: one runs, or the server does not answer.
    Busy(String),
    /// It is for another pod.
    OtherPod(String),
    /// It can't be carried out at all.
    Refused(String),
}

/// Takes backups for the control API.
pub trait BackupService: Send + Sync + 'static {
    /// Starts a backup and returns its id. An id that is known already is returned as it is.
    fn start(&self, order: BackupOrder) -> impl Future<Output = Result<String, OrderError>> + Send;

    /// A backup's status, or none if the id is not known to this process.
    fn backup(&self, id: &str) -> impl Future<Output = Option<BackupStatus>> + Send;

    /// Has a backup end, if it runs. False: the id is not known.
    fn cancel(&self, id: &str) -> impl Future<Output = bool> + Send;

    /// Ends a backup that runs, and returns when it has ended.
    fn stop(&self) -> impl Future<Output = ()> + Send;
}

/// The server beside this program, for the control API.
pub trait Instance: Send + Sync + 'static {
    /// The pod that this is; none outside Kubernetes.
    fn pod_uid(&self) -> Option<&str>;

    /// What is known, within some five seconds.
    fn report(&self) -> impl Future<Output = InstanceReport> + Send;

    /// [`InstanceReport::mark`], now. Costs nothing.
    fn mark(&self) -> String;

    /// Closes the segment that is being written; where its WAL ends.
    fn switch_wal(&self) -> impl Future<Output = Result<Lsn, OrderError>> + Send;

    /// Which of these the server would not find if its configuration named them.
    fn lacking(
        &self,
        outside: Vec<Outside>,
    ) -> impl Future<Output = Result<Vec<Outside>, OrderError>> + Send;

    /// Archives what the data directory has and the archive lacks; how far that is.
    fn drain(&self) -> impl Future<Output = Drain> + Send;

    /// Lets the restore in place go that the settings hold.
    fn go(&self, order: &str) -> Result<(), OrderError>;
}

#[cfg(test)]
mod tests;
