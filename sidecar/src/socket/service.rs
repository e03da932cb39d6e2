//! What stands behind the socket.

use bytes::Bytes;
use futures::stream::BoxStream;
use std::fmt;
use std::future::Future;
use std::io;

/// The answer to `RESTORE`.
pub enum RestoreAnswer {
    /// The file, whole and verified by the time the stream ends without an error.
    Found {
        /// In bytes.
        length: u64,
        /// Exactly `length` bytes. The last piece is handed on only after the stream has ended without an error, so
        /// a digest may be checked at the very end.
        body: BoxStream<'static, io::Result<Bytes>>,
    },
    /// Proven absent; ends an archive recovery.
    Absent,
    /// Anything else, in one sentence.
    Trouble(String),
}

impl fmt::Debug for RestoreAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Found { length, .. } => write!(f, "Found({length} bytes)"),
            Self::Absent => f.write_str("Absent"),
            Self::Trouble(why) => write!(f, "Trouble({why:?})"),
        }
    }
}

/// Archives and restores WAL files for the socket.
///
/// A call is dropped where it stands when its client has gone or the drain's time is over, so each must be safe to
/// drop and to repeat. Names come from the socket and are anything but trusted.
pub trait WalService: Send + Sync + 'static {
    /// `Ok` only when the file is durable in every required repository; its text follows the `OK`. `path` is as
    /// PostgreSQL gave it: absolute, or relative to the data directory.
    fn archive(
        &self,
        name: &str,
        path: &str,
    ) -> impl Future<Output = Result<String, String>> + Send;

    /// Looks for the file in the archive that this data directory is restored from.
    fn restore(&self, name: &str) -> impl Future<Output = RestoreAnswer> + Send;

    /// How it goes; answered without the store.
    fn status(&self) -> impl Future<Output = serde_json::Value> + Send;

    /// Which restore in place may begin: see [`crate::orders::LetGo`].
    fn let_go(&self) -> serde_json::Value;
}
