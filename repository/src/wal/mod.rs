//! WAL files as they are kept: whole segments under their exact names, history and backup history files beside them,
//! what a crashed server had written of an unfinished segment as parts, and anything else that is not whole aside.

mod descriptor;
mod index;
mod list;
mod part;
mod put;
mod read;
#[cfg(any(test, feature = "conformance"))]
pub mod sample;
mod store;
#[cfg(test)]
mod tests;

pub(crate) use part::{PartName, longest_run};
pub use part::{PartOutcome, PartWriter, PartialSegment};
pub use put::{Prepared, PutError, PutOutcome, StoredThrough};
pub use read::{WalFile, WalPieces};
pub use store::WalStore;

/// Data up to this stands in the WAL object itself, in bytes; more lies in chunks of so much each.
pub const CHUNK_BYTES: u64 = 16 << 20;
/// The data of one frame, in bytes.
pub(crate) const FRAME_BYTES: usize = 1 << 20;
/// Segments up to this are handed out as one piece of memory, in bytes.
pub const LARGEST_IN_MEMORY: u64 = 64 << 20;

pub(crate) mod proto {
    #![allow(
        missing_docs,
        unreachable_pub,
        reason = "generated; the .proto file is the documentation"
    )]
    include!(concat!(env!("OUT_DIR"), "/holdfast.wal.rs"));
}
