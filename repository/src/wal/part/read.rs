//! Reading an unfinished segment back from its parts: nothing is handed out before it was verified.

use super::super::{FRAME_BYTES, WalStore};
use super::name::{PartName, longest_run};
use super::object;
use crate::blocking::blocking;
use crate::layout;
use crate::object::ObjectError;
use crate::store::{LARGEST_WHOLE_OBJECT, StoreError};
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use holdfast_postgres::wal::{SegmentIndex, SegmentScanner};
use holdfast_postgres::{Lsn, SegmentName, SegmentNumber, TimelineId};
use std::collections::{BTreeMap, VecDeque};

/// What is stored of an unfinished segment, from its first byte on and without a hole.
#[derive(Debug)]
pub struct PartialSegment {
    store: WalStore,
    segment: SegmentName,
    end: Lsn,
    ready: VecDeque<Bytes>,
    /// Not fetched yet, in order.
    left: VecDeque<PartName>,
    /// Of what was fetched.
    hasher: blake3::Hasher,
    /// What was handed out, in bytes.
    at: u64,
}

impl WalStore {
    /// The longest run of parts of a segment that one writer stored from its first byte on, without a hole; none where
    /// there is no such part. Whether the whole segment is stored is not looked at.
    ///
    /// # Errors
    /// A run with a damaged part: there is never a shorter answer instead. Of several parts those after the first are
    /// read later, see [`PartialSegment::next`].
    pub async fn part(&self, segment: SegmentName) -> Result<Option<PartialSegment>, ObjectError> {
        let folder = layout::parts_of(self.system, segment);
        let mut names = Vec::new();
        let mut listing = self.archive.store().list(&folder);
        while let Some(object) = listing.try_next().await? {
            names.extend(PartName::parse(self.system, self.segment_size, &object.key));
        }
        let run = longest_run(&names);
        let (Some(last), Ok(number)) = (run.last(), segment.number(self.segment_size)) else {
            return Ok(None);
        };
        let mut partial = PartialSegment {
            store: self.clone(),
            segment,
            end: Lsn(number.start(self.segment_size).0 + u64::from(last.to)),
            ready: VecDeque::new(),
            left: run.into(),
            hasher: self.archive.hasher(),
            at: 0,
        };
        partial.fetch().await?;
        Ok(Some(partial))
    }
}

impl WalStore {
    /// The segments of a timeline of which there are parts, whole or not, and where [`WalStore::part`] ends: an offset
    /// in the segment, in bytes.
    pub async fn parts(
        &self,
        timeline: TimelineId,
    ) -> Result<BTreeMap<SegmentNumber, u32>, StoreError> {
        let folder = layout::parts_of_timeline(self.system, timeline);
        let mut names: BTreeMap<SegmentNumber, Vec<PartName>> = BTreeMap::new();
        let mut listing = self.archive.store().list(&folder);
        while let Some(object) = listing.try_next().await? {
            let name = PartName::parse(self.system, self.segment_size, &object.key);
            if let Some(name) = name
                && let Ok(number) = name.segment.number(self.segment_size)
            {
                names.entry(number).or_default().push(name);
            }
        }
        let end = |names: Vec<PartName>| longest_run(&names).last().map(|last| last.to);
        Ok(names
            .into_iter()
            .filter_map(|(number, names)| Some((number, end(names)?)))
            .collect())
    }
}

impl PartialSegment {
    /// The end of what is stored: as a rule that of a complete record.
    pub fn end(&self) -> Lsn {
        self.end
    }

    /// Of the segment with its zeros, in bytes.
    pub fn length(&self) -> u64 {
        u64::from(self.store.segment_size.bytes())
    }

    /// The next piece, of at most 1 MiB, of the segment with zeros from [`PartialSegment::end`] on; none at its end.
    /// Each part is verified before any of it is handed out, and that it follows what was handed out before: an error
    /// means that nothing of the segment counts. After it there is nothing more to ask for.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ObjectError> {
        if self.ready.is_empty() {
            self.fetch().await?;
        }
        let piece = match self.ready.pop_front() {
            Some(piece) => piece,
            None => {
                let missing = self.length().saturating_sub(self.at);
                if missing == 0 {
                    return Ok(None);
                }
                vec![0; missing.min(FRAME_BYTES as u64) as usize].into()
            }
        };
        self.at += piece.len() as u64;
        Ok(Some(piece))
    }

    /// The same as a stream.
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes, ObjectError>> {
        Box::pin(futures::stream::try_unfold(self, |mut part| async move {
            Ok(part.next().await?.map(|piece| (piece, part)))
        }))
    }

    /// What its records say. All of it is read.
    pub async fn index(mut self) -> Result<SegmentIndex, ObjectError> {
        let (size, major) = (self.store.segment_size, self.store.major);
        let mut scanner = SegmentScanner::new(self.segment, size, major);
        while let Some(piece) = self.next().await? {
            scanner.feed(&piece);
        }
        Ok(scanner.finish().index)
    }

    /// Makes the next part's pieces ready, if there is one.
    async fn fetch(&mut self) -> Result<(), ObjectError> {
        let Some(name) = self.left.pop_front() else {
            return Ok(());
        };
        let key = name.key(self.store.system);
        let object = self
            .store
            .archive
            .store()
            .get(&key, LARGEST_WHOLE_OBJECT)
            .await;
        // It was listed: that it is gone since does not make the segment absent.
        let object = object.map_err(|e| {
            if e.is_not_found() {
                ObjectError::damaged(&key, "it was there a moment ago, and is missing")
            } else {
                e.into()
            }
        })?;
        let (store, mut hasher) = (self.store.clone(), self.hasher.clone());
        let (pieces, hasher) = blocking::<Result<_, ObjectError>>(move || {
            let (sums, pieces) = object::open(&store.archive, &key, &name, &object)?;
            if hasher.finalize().as_bytes() != &sums.before {
                return Err(ObjectError::damaged(
                    &key,
                    "it does not follow the parts before it",
                ));
            }
            pieces.iter().for_each(|piece| {
                hasher.update(piece);
            });
            Ok((pieces, hasher))
        })
        .await?;
        self.hasher = hasher;
        self.ready = pieces.into();
        Ok(())
    }
}
