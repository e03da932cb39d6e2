//! Where indexes and records come from.

use crate::object::ObjectError;
use crate::wal::WalStore;
use bytes::Bytes;
use futures::TryStreamExt;
use futures::stream::BoxStream;
use holdfast_postgres::wal::{Record, RecordReader, SegmentIndex};
use holdfast_postgres::{SegmentName, WalFileName};
use std::future::Future;
use std::ops::ControlFlow;

/// What pre-flight reads: a [`WalStore`], or a model of one.
pub trait Indexes: Sync {
    /// The index of a segment, or of what is stored of an unfinished one.
    fn index(
        &self,
        segment: SegmentName,
    ) -> impl Future<Output = Result<SegmentIndex, ObjectError>> + Send;

    /// The complete records that start in `segment`, in order, until `each` breaks. The files that follow are read only
    /// as far as the last record runs over into them.
    fn records(
        &self,
        segment: SegmentName,
        following: &[SegmentName],
        each: impl FnMut(Record) -> ControlFlow<()> + Send,
    ) -> impl Future<Output = Result<(), ObjectError>> + Send;

    /// The major of the server that wrote them.
    fn major(&self) -> u32;
}

impl Indexes for WalStore {
    async fn index(&self, segment: SegmentName) -> Result<SegmentIndex, ObjectError> {
        match WalStore::index(self, segment).await {
            Err(e) if e.is_not_found() => match self.part(segment).await? {
                Some(part) => part.index().await,
                None => Err(e),
            },
            other => other,
        }
    }

    async fn records(
        &self,
        segment: SegmentName,
        following: &[SegmentName],
        mut each: impl FnMut(Record) -> ControlFlow<()> + Send,
    ) -> Result<(), ObjectError> {
        let size = self.segment_size();
        let number = segment
            .number(size)
            .map_err(|e| ObjectError::damaged(&segment.to_string(), e.to_string()))?;
        let end = number.end(size);
        let mut reader = RecordReader::new(number.start(size), size, WalStore::major(self));
        let mut done = false;
        for file in std::iter::once(&segment).chain(following) {
            let mut pieces = pieces(self, *file).await?;
            while let Some(piece) = pieces.try_next().await? {
                let fed = reader.feed(&piece, &mut |record: Record| {
                    done = done || record.lsn >= end || each(record).is_break();
                });
                // Where WAL stops being valid, replay ends as well.
                if done || fed.is_err() || reader.ended() {
                    return Ok(());
                }
            }
            if reader.valid_through() >= end {
                break;
            }
        }
        Ok(())
    }

    fn major(&self) -> u32 {
        WalStore::major(self)
    }
}

/// The whole segment; else what is stored of it, and zeros after that.
async fn pieces(
    wal: &WalStore,
    segment: SegmentName,
) -> Result<BoxStream<'static, Result<Bytes, ObjectError>>, ObjectError> {
    match wal.read_file(&WalFileName::Segment(segment)).await {
        Ok(file) => Ok(file.into_pieces().into_stream()),
        Err(e) if e.is_not_found() => match wal.part(segment).await? {
            Some(part) => Ok(part.into_stream()),
            None => Err(e),
        },
        Err(e) => Err(e),
    }
}
