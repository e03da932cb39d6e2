//! One request to the sidecar's WAL socket: a line there, lines back, and for RESTORE the bytes.
//!
//! It needs no standard library, no libc and no allocator: `holdfast-wal` speaks so, and the archive library inside of
//! PostgreSQL.
#![no_std]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that cannot go on fails")
)]

#[cfg(test)]
extern crate std;

mod connection;
mod directory;
mod line;
mod shutdown;

pub use connection::{Connection, Failed, now};
pub use directory::working_directory;
pub use line::{LONGEST_LINE, Line};
pub use shutdown::{Patience, is_under_way};

use core::ffi::CStr;
use core::time::Duration;

/// [`DEFAULT_SOCKET`], for C.
pub const DEFAULT_SOCKET_C: &CStr = c"/holdfast/run/wal.sock";
/// Where the sidecar's socket is, where nothing else is said.
pub const DEFAULT_SOCKET: &str = match DEFAULT_SOCKET_C.to_str() {
    Ok(path) => path,
    Err(_) => panic!("it is text"),
};
/// A sidecar that says nothing for so long counts as hung.
pub const SILENCE: Duration = Duration::from_secs(20);
/// No call takes longer than this, whatever the sidecar says.
pub const OVERALL: Duration = Duration::from_secs(15 * 60);
/// A server that is shutting down waits no longer than this for its archiver.
pub const AT_A_SHUTDOWN: Duration = Duration::from_secs(10);
/// What it is told then.
pub const NOT_IN_TIME: &str = "the server is shutting down, and nothing is archived in time: the rest is archived once it has stopped, or runs again";
/// How often whoever waits looks around.
pub const LOOK: Duration = Duration::from_millis(500);
/// `sun_path` holds 108 bytes, the last of them zero.
pub const LONGEST_SOCKET_PATH: usize = 107;
