//! A backup as it is stored: packs first, then the manifest, a tree whose root is the commit.
//!
//! [`BackupWriter`] takes frames in order of path and region and keeps at most a pack and what is being sent in
//! memory. [`BackupReader`] gives back leaves and fetches their frames. Neither ever holds a whole manifest's leaves.

mod abort;
mod entry;
mod id;
mod list;
mod pack;
mod reader;
mod region;
mod root;
#[cfg(any(test, feature = "conformance"))]
pub mod sample;
mod scan;
mod writer;

#[allow(missing_docs, unreachable_pub, clippy::all)]
pub(crate) mod proto {
    include!(concat!(env!("OUT_DIR"), "/holdfast.backup.rs"));
}

pub use abort::abort;
pub use entry::{Entry, Frame, Leaf};
pub use id::BackupId;
pub(crate) use list::{Found, manifests};
pub use list::{Listing, Unreadable, list};
pub(crate) use reader::read_manifest;
pub use reader::{BackupReader, Fetched, Group, Run, Slice};
pub use region::{Again, Layer, Pages, Region};
pub(crate) use root::Manifest;
pub use root::{Aborted, BadPage, PackRef, Root};
pub use scan::{ScanSettings, Visit, scan};
pub use writer::{
    BackupWriter, FileFacts, Item, PackedFrame, PackedLayer, PackedRegion, WriterSettings,
};

/// A region's length, in bytes: 128 pages.
pub const REGION_BYTES: u64 = 1 << 20;

/// The length of a layer's digest, in bytes.
pub const DIGEST_BYTES: usize = 16;

/// A layer's digest.
pub type Digest = [u8; DIGEST_BYTES];

/// How files and directories are ordered: a directory before what is in it, and that before what comes after it.
pub fn path_order(one: &str, other: &str) -> std::cmp::Ordering {
    one.split('/').cmp(other.split('/'))
}

/// The digest of a layer, or of a leaf.
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
