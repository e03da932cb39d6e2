//! The socket that `holdfast-wal` speaks to.
//!
//! A line protocol that `nc -U` can speak, one request a connection:
//!
//! ```text
//! ARCHIVE <name> <path>    OK …  |  ERROR <why>
//! RESTORE <name>           OK <length> and then so many bytes  |  ABSENT  |  ERROR <why>
//! STATUS                   OK <JSON>
//! ORDER                    OK <JSON>: which restore in place may begin
//! ```
//!
//! Before its answer the server says `WAIT <why>` every few seconds, so that a client can tell work from a hang.

mod bind;
mod client;
mod protocol;
mod server;
mod service;

pub use bind::{BoundSocket, SocketError, bind, is_served};
pub use client::ask;
pub use protocol::{LONGEST_REQUEST, Request, RequestError};
pub use server::{Limits, serve};
pub use service::{RestoreAnswer, WalService};
