//! Storing a segment while it is being written: what was added since the last time, as a part of its own.

use super::super::{CHUNK_BYTES, PutError, WalStore};
use super::name::PartName;
use super::object::{self, Sums};
use crate::blocking::blocking;
use crate::compression::Compression;
use bytes::Bytes;
use holdfast_postgres::wal::{RecordKind, RecordReader};
use holdfast_postgres::{Lsn, PgTimestamp, SegmentName, WalFileName};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Past so many parts one that holds them all is written: who reads them needs fewer requests.
const MERGE: u32 = 64;
/// No page of WAL is larger, in bytes: nothing is known of one that is not whole.
const LARGEST_PAGE: u32 = 64 << 10;

/// Stores what a server has flushed of the segment that it is writing.
///
/// The parts of one writer follow each other without a hole, see [`WalStore::part`]. After an error the same is tried again
/// by the next call. What is stored is held against its records' checksums first.
#[derive(Debug)]
pub struct PartWriter {
    store: WalStore,
    segment: SegmentName,
    writer: u64,
    compression: Compression,
    /// What is stored.
    stored: Stretch,
    /// Parts hold [`CHUNK_BYTES`] at most: where the next such block begins.
    block: Stretch,
    /// What merged parts hold of the block, and how many they are.
    merged: Stretch,
    merges: u32,
    /// Parts since the last merged one.
    single: u32,
    pub(super) merge: u32,
    last_commit: Option<PgTimestamp>,
    valid_through: Lsn,
}

/// The beginning of the segment, up to somewhere.
#[derive(Debug, Clone)]
struct Stretch {
    /// In bytes.
    length: u32,
    hasher: blake3::Hasher,
    reader: RecordReader,
}

/// A part that is ready to be stored, and what is stored after it.
struct Ready {
    name: PartName,
    sums: Sums,
    object: Bytes,
    after: Stretch,
    last_commit: Option<PgTimestamp>,
    valid_through: Lsn,
}

impl PartWriter {
    /// Of that segment, whose file is `source` and of which the server has flushed `to` bytes. Nothing is stored yet; but
    /// what others have stored of it is read, and must be the beginning of the same. None: the whole segment is stored, and
    /// begins with these bytes; its server has gone on meanwhile.
    ///
    /// # Errors
    /// [`PutError::OtherHistory`], [`PutError::Differs`], or if it can't be told.
    pub async fn begin(
        store: WalStore,
        segment: SegmentName,
        compression: Compression,
        source: &Arc<File>,
        to: u32,
    ) -> Result<Option<Self>, PutError> {
        let writer = Self::new(store, segment, compression)?;
        let store = &writer.store;
        let other = |stored: String| PutError::OtherHistory {
            place: store.archive.store().description().to_owned(),
            name: WalFileName::Segment(segment),
            stored,
        };
        let end = Lsn(writer.valid_through.0 + u64::from(to));
        if store.is_beginning_of_stored(segment, source, end).await? {
            return Ok(None);
        }
        let Some(mut part) = store.part(segment).await? else {
            return Ok(Some(writer));
        };
        let length = part.end().0 - writer.valid_through.0;
        let stored = format!("{length} bytes");
        if length > u64::from(to) {
            return Err(other(stored));
        }
        let mut at = 0;
        while at < length
            && let Some(piece) = part.next().await?
        {
            let mut ours = vec![0; piece.len().min((length - at) as usize)];
            source
                .read_exact_at(&mut ours, at)
                .map_err(|source| PutError::Read {
                    name: WalFileName::Segment(segment),
                    source,
                })?;
            if piece.get(..ours.len()) != Some(&*ours) {
                return Err(other(stored));
            }
            at += piece.len() as u64;
        }
        Ok(Some(writer))
    }

    pub(super) fn new(
        store: WalStore,
        segment: SegmentName,
        compression: Compression,
    ) -> Result<Self, PutError> {
        let start = segment
            .number(store.segment_size)?
            .start(store.segment_size);
        let nothing = Stretch {
            length: 0,
            hasher: store.archive.hasher(),
            reader: RecordReader::new(start, store.segment_size, store.major),
        };
        let writer = getrandom::u64().map_err(|error| PutError::Read {
            name: WalFileName::Segment(segment),
            source: std::io::Error::other(error),
        })?;
        Ok(Self {
            store,
            segment,
            writer,
            compression,
            stored: nothing.clone(),
            block: nothing.clone(),
            merged: nothing,
            merges: 0,
            single: 0,
            merge: MERGE,
            last_commit: None,
            valid_through: start,
        })
    }

    /// The segment.
    pub fn segment(&self) -> SegmentName {
        self.segment
    }

    /// The end of the last complete record that is stored, or the segment's start.
    pub fn valid_through(&self) -> Lsn {
        self.valid_through
    }

    /// The time of the last commit that is stored.
    pub fn last_commit(&self) -> Option<PgTimestamp> {
        self.last_commit
    }

    /// Stores `source`, which is the segment's file, up to its byte `to`: the server must have flushed that.
    ///
    /// Returns once the store holds it. Memory: as for [`WalStore::put`].
    ///
    /// # Errors
    /// As for [`WalStore::put`]; [`PutError::Invalid`] where what was flushed can't be replayed. What is not stored then is
    /// tried again by the next call.
    pub async fn append(&mut self, source: &Arc<File>, to: u32) -> Result<(), PutError> {
        let to = to.min(self.store.segment_size.bytes());
        while self.stored.length < to {
            let end = to.min(self.block.length.saturating_add(CHUNK_BYTES as u32));
            let ready = self.prepare(source, self.stored.clone(), end).await?;
            self.store
                .create_part(ready.name, ready.sums, ready.object)
                .await?;
            self.stored = ready.after;
            self.last_commit = ready.last_commit.or(self.last_commit);
            self.valid_through = ready.valid_through;
            self.single += 1;
            let is_full = u64::from(self.stored.length - self.block.length) == CHUNK_BYTES;
            if is_full {
                self.block = self.stored.clone();
                (self.merged, self.merges) = (self.stored.clone(), 0);
                self.single = 0;
            } else if self.single > self.merge {
                self.merge(source).await?;
            }
        }
        Ok(())
    }

    /// Writes one part that holds all single ones, and now and then all merged ones, too.
    async fn merge(&mut self, source: &Arc<File>) -> Result<(), PutError> {
        let merges = (self.merges + 1) % self.merge;
        let from = match merges {
            0 => self.block.clone(),
            _ => self.merged.clone(),
        };
        let merged = self.prepare(source, from, self.stored.length).await?;
        if merged.after.hasher.finalize() != self.stored.hasher.finalize() {
            return Err(PutError::Changed(WalFileName::Segment(self.segment)));
        }
        self.store
            .create_part(merged.name, merged.sums, merged.object)
            .await?;
        (self.merged, self.merges) = (self.stored.clone(), merges);
        self.single = 0;
        Ok(())
    }

    /// Reads and checks what comes after `before`, up to `to`, and makes the object of it.
    async fn prepare(
        &self,
        source: &Arc<File>,
        before: Stretch,
        to: u32,
    ) -> Result<Ready, PutError> {
        let (store, source, compression) = (self.store.clone(), source.clone(), self.compression);
        let part = PartName {
            segment: self.segment,
            writer: self.writer,
            from: before.length,
            to,
        };
        blocking(move || prepare(&store, &source, part, before, compression)).await
    }
}

fn prepare(
    store: &WalStore,
    source: &File,
    part: PartName,
    before: Stretch,
    compression: Compression,
) -> Result<Ready, PutError> {
    let name = WalFileName::Segment(part.segment);
    if part.from == 0 {
        store.check_owner(&name, part.segment, source)?;
    }
    let mut raw = vec![0; part.length() as usize];
    source
        .read_exact_at(&mut raw, u64::from(part.from))
        .map_err(|source| PutError::Read { name, source })?;
    let sums = Sums {
        digest: store.archive.digest(&raw),
        before: *before.hasher.finalize().as_bytes(),
    };
    let mut after = Stretch {
        length: part.to,
        ..before
    };
    after.hasher.update(&raw);
    let mut last_commit = None;
    let mut each = |kind: &RecordKind| {
        if let RecordKind::Commit { time, .. } = kind {
            last_commit = Some(*time);
        }
    };
    let read = after.reader.feed(&raw, &mut |record| each(&record.kind));
    let invalid = |why: String| PutError::Invalid { name, why };
    read.map_err(|error| invalid(error.to_string()))?;
    if after.reader.ended() {
        let end = after.reader.valid_through();
        return Err(invalid(format!("its WAL ends at {end}")));
    }
    // What stands on the last page is known once that is whole: as if nothing came after it.
    let mut ahead = after.reader.clone();
    let rest = vec![0; (part.to.next_multiple_of(LARGEST_PAGE) - part.to) as usize];
    let _ = ahead.feed(&rest, &mut |record| each(&record.kind));
    let valid_through = ahead.valid_through();
    let object = object::build(
        &store.archive,
        &part.key(store.system),
        &part,
        &sums,
        &raw,
        compression,
    )?;
    Ok(Ready {
        name: part,
        sums,
        object,
        after,
        last_commit,
        valid_through,
    })
}
