//! Parts: what a server had written of a segment that it never finished, up to the last valid record.
//!
//! A part is never the segment. It is told apart by its place, and only who knows that WAL ends within that segment
//! may read it so.

mod name;
mod object;
mod put;
mod read;
#[cfg(test)]
mod tests;
mod write;

pub(crate) use name::{PartName, longest_run};
pub use put::PartOutcome;
pub use read::PartialSegment;
pub use write::PartWriter;
