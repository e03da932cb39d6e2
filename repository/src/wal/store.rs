//! A handle on the WAL of one incarnation.

use crate::archive::{Archive, Identity};
use holdfast_postgres::{SegmentSize, SegmentSizeError, SystemIdentifier};

/// The WAL of one incarnation of an archive. Cheap to clone.
///
/// Memory: storing a file takes at most [`WalStore::PUT_MEMORY`] besides what the segment's index needs (4 bytes for
/// each transaction in it), reading one at most [`WalStore::READ_MEMORY`], whatever the segment size, except for
/// [`WalStore::segment`], which hands out the whole of up to [`super::LARGEST_IN_MEMORY`].
#[derive(Debug, Clone)]
pub struct WalStore {
    pub(super) archive: Archive,
    pub(super) system: SystemIdentifier,
    pub(super) segment_size: SegmentSize,
    pub(super) major: u32,
}

impl WalStore {
    /// What one [`WalStore::put`] holds at once, in bytes: of 16 MiB, in turn, as they are in the file and packed; packed
    /// and as an object; as an object and one that is read back to compare.
    pub const PUT_MEMORY: u64 = 34 << 20;
    /// What one reading holds at once, in bytes: an object as stored, and its data.
    pub const READ_MEMORY: u64 = 34 << 20;

    /// Of the incarnation `system`, with segments of that size, written by a server of that major.
    pub fn new(
        archive: Archive,
        system: SystemIdentifier,
        segment_size: SegmentSize,
        major: u32,
    ) -> Self {
        Self {
            archive,
            system,
            segment_size,
            major,
        }
    }

    /// As the incarnation's identity says.
    pub fn of_identity(
        archive: Archive,
        system: SystemIdentifier,
        identity: &Identity,
    ) -> Result<Self, SegmentSizeError> {
        Ok(Self::new(
            archive,
            system,
            SegmentSize::new(identity.segment_size)?,
            identity.postgres_major,
        ))
    }

    /// Its archive.
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Its incarnation.
    pub fn system(&self) -> SystemIdentifier {
        self.system
    }

    /// Of every segment.
    pub fn segment_size(&self) -> SegmentSize {
        self.segment_size
    }

    /// Of the server that wrote it.
    pub fn major(&self) -> u32 {
        self.major
    }
}
