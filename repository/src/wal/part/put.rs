//! Storing what there is of an unfinished segment: create-only, and only up to its last valid record.

use super::super::put::for_each_piece;
use super::super::{CHUNK_BYTES, PutError, WalStore};
use super::name::PartName;
use super::object::{self, Sums};
use crate::blocking::blocking;
use crate::compression::Compression;
use crate::object::ObjectError;
use crate::store::Created;
use bytes::Bytes;
use holdfast_postgres::wal::{SegmentEnd, SegmentHeader, SegmentScanner};
use holdfast_postgres::{Lsn, SegmentName, WalFileName};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// What became of a segment that was to be stored as a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartOutcome {
    /// It is a whole segment, and nothing was done: [`WalStore::put`] stores such a one.
    Whole,
    /// It has no valid record at all, and nothing was stored.
    Empty,
    /// All of it up to `end` is stored, some of it now.
    Stored {
        /// The end of its last valid record.
        end: Lsn,
    },
    /// All of it up to `end` was stored before: the same as parts, or as the beginning of the whole segment. Where an
    /// object's bytes are the same too, as they are without encryption, this may be told as [`PartOutcome::Stored`].
    AlreadyThere {
        /// The end of its last valid record.
        end: Lsn,
    },
}

/// What the first readings of a file give.
enum Prepared {
    Whole,
    Empty,
    Stretch {
        end: Lsn,
        parts: Vec<(PartName, Sums)>,
    },
}

impl WalStore {
    /// Stores what `source`, the unfinished segment of that name, holds up to the end of its last valid record.
    ///
    /// Returns only when the store holds all of it, and what was there before was read back and is the same. After an
    /// error some of it may be stored, which is the beginning of the same. Safe to drop and to repeat. Memory: as
    /// for [`WalStore::put`].
    ///
    /// # Errors
    /// As for [`WalStore::put`]: a file of another length, another cluster's, or one that goes another way than the
    /// whole segment that is stored.
    pub async fn put_part(
        &self,
        segment: SegmentName,
        source: Arc<File>,
        compression: Compression,
    ) -> Result<PartOutcome, PutError> {
        let prepared = {
            let (this, source) = (self.clone(), source.clone());
            blocking::<Result<_, PutError>>(move || this.prepare_parts(segment, &source)).await?
        };
        let (end, parts) = match prepared {
            Prepared::Whole => return Ok(PartOutcome::Whole),
            Prepared::Empty => return Ok(PartOutcome::Empty),
            Prepared::Stretch { end, parts } => (end, parts),
        };
        if self.is_beginning_of_stored(segment, &source, end).await? {
            return Ok(PartOutcome::AlreadyThere { end });
        }
        let mut all_there = true;
        // In order, so that what is there has no hole whenever this ends.
        for (name, sums) in parts {
            all_there &= self.put_one(name, sums, &source, compression).await?;
        }
        Ok(if all_there {
            PartOutcome::AlreadyThere { end }
        } else {
            PartOutcome::Stored { end }
        })
    }

    fn prepare_parts(&self, segment: SegmentName, source: &File) -> Result<Prepared, PutError> {
        let name = WalFileName::Segment(segment);
        let read = |source| PutError::Read { name, source };
        let start = segment.number(self.segment_size)?.start(self.segment_size);
        let expected = u64::from(self.segment_size.bytes());
        let found = source.metadata().map_err(read)?.len();
        if found != expected {
            return Err(PutError::Length {
                name,
                found,
                expected,
            });
        }
        let mut header = [0; SegmentHeader::SIZE];
        source.read_exact_at(&mut header, 0).map_err(read)?;
        // Made, and not written to yet: it is nobody else's.
        if header.iter().all(|byte| *byte == 0) {
            return Ok(Prepared::Empty);
        }
        self.check_owner(&name, segment, source)?;
        let mut scanner = SegmentScanner::new(segment, self.segment_size, self.major);
        for_each_piece(&name, source, expected, |piece| scanner.feed(piece))?;
        let SegmentEnd::Incomplete {
            valid_through: end, ..
        } = scanner.finish().end
        else {
            return Ok(Prepared::Whole);
        };
        if end <= start {
            return Ok(Prepared::Empty);
        }
        let parts = self.cut(segment, source, end.0 - start.0, end)?;
        Ok(Prepared::Stretch { end, parts })
    }

    /// Cuts the first `length` bytes into parts. They must be what was found valid up to `end` before.
    fn cut(
        &self,
        segment: SegmentName,
        source: &File,
        length: u64,
        end: Lsn,
    ) -> Result<Vec<(PartName, Sums)>, PutError> {
        let name = WalFileName::Segment(segment);
        let mut scanner = SegmentScanner::new(segment, self.segment_size, self.major);
        let (mut whole, mut part) = (self.archive.hasher(), self.archive.hasher());
        let mut before = *whole.finalize().as_bytes();
        let mut parts = Vec::new();
        for_each_piece(&name, source, length, |piece| {
            scanner.feed(piece);
            whole.update(piece);
            part.update(piece);
            if part.count() == CHUNK_BYTES || whole.count() == length {
                let (from, to) = (whole.count() - part.count(), whole.count());
                let digest = *part.finalize().as_bytes();
                let name = PartName {
                    segment,
                    writer: 0,
                    from: from as u32,
                    to: to as u32,
                };
                parts.push((name, Sums { digest, before }));
                before = *whole.finalize().as_bytes();
                part.reset();
            }
        })?;
        match scanner.finish().end {
            SegmentEnd::Incomplete { valid_through, .. } if valid_through == end => {
                let digest = whole.finalize();
                let writer = digest.as_bytes().first_chunk().copied();
                let writer = writer.map_or(0, u64::from_be_bytes);
                parts.iter_mut().for_each(|(name, _)| name.writer = writer);
                Ok(parts)
            }
            _ => Err(PutError::Changed(name)),
        }
    }

    /// Creates one; true if it was there before, with the same content.
    async fn put_one(
        &self,
        part: PartName,
        sums: Sums,
        source: &Arc<File>,
        compression: Compression,
    ) -> Result<bool, PutError> {
        let name = WalFileName::Segment(part.segment);
        let key = part.key(self.system);
        let object = {
            let (this, source, key) = (self.clone(), source.clone(), key.clone());
            blocking::<Result<_, PutError>>(move || {
                let mut raw = vec![0; part.length() as usize];
                source
                    .read_exact_at(&mut raw, u64::from(part.from))
                    .map_err(|source| PutError::Read { name, source })?;
                if this.archive.digest(&raw) != sums.digest {
                    return Err(PutError::Changed(name));
                }
                let object = object::build(&this.archive, &key, &part, &sums, &raw, compression)?;
                Ok(object)
            })
            .await?
        };
        self.create_part(part, sums, object).await
    }

    /// Creates its object; true if it was there before, with the same content.
    pub(super) async fn create_part(
        &self,
        part: PartName,
        sums: Sums,
        object: Bytes,
    ) -> Result<bool, PutError> {
        let key = part.key(self.system);
        let stored = match self
            .archive
            .store()
            .create(&key, vec![object])
            .await
            .map_err(ObjectError::from)?
        {
            Created::New => return Ok(false),
            Created::Occupied(stored) => stored,
        };
        let there = {
            let (this, key) = (self.clone(), key.clone());
            blocking::<Result<_, PutError>>(move || {
                Ok(object::open(&this.archive, &key, &part, &stored)?.0)
            })
            .await?
        };
        if there == sums {
            return Ok(true);
        }
        Err(PutError::Differs {
            key,
            place: self.archive.store().description().to_owned(),
            name: WalFileName::Segment(part.segment),
            stored: hex::encode(there.digest),
            ours: hex::encode(sums.digest),
        })
    }
}
