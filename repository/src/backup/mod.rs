//! A backup as it is stored: packs first, then the manifest, a tree whose root is the commit.
//!
//! [`BackupWriter`] takes frames in order of path and region and keeps at most a pack and what is being sent in
//! memory. [`BackupReader`] gives back leaves and fetches their frames. Neither ever holds a whole manifest's leaves.

mod abort;
mod entry;
mod id;
mod list;
mod reader;
mod root;
mod scan;
mod writer;

#[allow(missing_docs, unreachable_pub, clippy::all)]
pub(crate) mod proto {
    include!(concat!(env!("OUT_DIR"), "/holdfast.backup.rs"));
}

pub use abort::abort;
pub use entry::{Entry, Frame, Layer, Leaf, Region};
pub use id::BackupId;
pub(crate) use list::{Found, manifests};
pub use list::{Listing, Unreadable, list};
pub(crate) use reader::read_manifest;
pub use reader::{BackupReader, Run, Slice};
pub(crate) use root::Manifest;
pub use root::{Aborted, BadPage, PackRef, Root};
pub use scan::{ScanSettings, Visit, scan};
pub use writer::{BackupWriter, FileFacts, PackedFrame, PackedSlice, WriterSettings};

/// A region's length, in bytes: 128 pages.
pub const REGION_BYTES: u64 = 1 << 20;

/// The length of a region's digest, in bytes.
pub const DIGEST_BYTES: usize = 16;

/// A region's digest.
pub type Digest = [u8; DIGEST_BYTES];

/// The digest of a region's content.
pub fn digest(archive: &crate::Archive, content: &[u8]) -> Digest {
    let full = archive.digest(content);
    let mut cut = [0; DIGEST_BYTES];
    cut.copy_from_slice(&full[..DIGEST_BYTES]);
    cut
}

/// The sum of each page of a region, for comparison with another backup's.
pub fn page_sums(region: &[u8]) -> Vec<u64> {
    region
        .chunks(holdfast_postgres::page::SIZE)
        .map(twox_hash::XxHash3_64::oneshot)
        .collect()
}
