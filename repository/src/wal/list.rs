//! What is there, by listings. Only names that parse strictly, in the folder where they belong, count.

use super::store::WalStore;
use crate::layout;
use crate::object::ObjectError;
use crate::store::StoreError;
use futures::TryStreamExt;
use holdfast_postgres::{
    Lineage, SegmentName, SegmentNumber, TimelineHistory, TimelineId, WalFileName,
};
use std::collections::BTreeSet;

impl WalStore {
    /// Every timeline that has a history file, and where it came from, oldest first.
    pub async fn histories(&self) -> Result<Vec<TimelineHistory>, ObjectError> {
        let mut histories = Vec::new();
        for timeline in self.history_timelines().await? {
            histories.push(self.history(timeline).await?);
        }
        Ok(histories)
    }

    /// Every timeline that has a history file, oldest first.
    pub async fn history_timelines(&self) -> Result<Vec<TimelineId>, StoreError> {
        let folder = layout::histories(self.system);
        let mut timelines = Vec::new();
        let mut listing = self.archive.store().list(&folder);
        while let Some(object) = listing.try_next().await? {
            if let Some(Ok(WalFileName::History(timeline))) = object
                .key
                .strip_prefix(&folder)
                .and_then(|k| k.strip_prefix('/'))
                .map(str::parse)
            {
                timelines.push(timeline);
            }
        }
        timelines.sort();
        Ok(timelines)
    }

    /// Every timeline that has a whole segment or a part (or anything else in its folders), oldest first.
    pub async fn timelines(&self) -> Result<Vec<TimelineId>, StoreError> {
        let mut timelines = BTreeSet::new();
        for folder in [layout::wal(self.system), layout::parts(self.system)] {
            let folders = self.archive.store().list_folders(&folder).await?;
            timelines.extend(folders.iter().filter_map(|f| hex_word(f)).map(TimelineId));
        }
        Ok(timelines.into_iter().collect())
    }

    /// The whole segments of a timeline, sorted.
    pub async fn segments(&self, timeline: TimelineId) -> Result<Vec<SegmentNumber>, StoreError> {
        let folder = layout::wal_timeline(self.system, timeline);
        let mut numbers = Vec::new();
        let mut listing = self.archive.store().list(&folder);
        while let Some(object) = listing.try_next().await? {
            numbers.extend(self.segment_of_key(timeline, &folder, &object.key));
        }
        numbers.sort();
        Ok(numbers)
    }

    /// Whether this whole segment is stored.
    pub async fn has(&self, segment: SegmentName) -> Result<bool, StoreError> {
        let key = layout::segment(self.system, segment);
        match self.archive.store().head(&key).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn segment_of_key(
        &self,
        timeline: TimelineId,
        folder: &str,
        key: &str,
    ) -> Option<SegmentNumber> {
        let (log, file) = key
            .strip_prefix(folder)?
            .strip_prefix('/')?
            .split_once('/')?;
        let name: SegmentName = file.parse().ok()?;
        (name.timeline == timeline && hex_word(log) == Some(name.log)).then_some(())?;
        name.number(self.segment_size).ok()
    }

    /// The lowest whole segment on `lineage` with a number of at least `from`.
    ///
    /// On the lineage lie, of each timeline, the segments that hold any of what it contributes: of a parent none past
    /// the one with its switch point.
    pub async fn first_from(
        &self,
        lineage: &Lineage,
        from: SegmentNumber,
    ) -> Result<Option<SegmentName>, StoreError> {
        for span in lineage.spans() {
            if span.end.is_some_and(|end| end <= span.begin) {
                continue;
            }
            let first = span.begin.segment(self.segment_size).max(from);
            let last = span.end.map(|end| end.segment_before(self.segment_size));
            if last.is_some_and(|last| last < first) {
                continue;
            }
            let low = SegmentName::new(span.timeline, first, self.segment_size);
            let folder = layout::wal_timeline(self.system, span.timeline);
            let mut logs: Vec<u32> = self
                .archive
                .store()
                .list_folders(&folder)
                .await?
                .iter()
                .filter_map(|f| hex_word(f))
                .collect();
            logs.retain(|log| *log >= low.log);
            logs.sort_unstable();
            for log in logs {
                let mut lowest = None;
                let inner = format!("{folder}/{log:08X}");
                let mut listing = self.archive.store().list(&inner);
                while let Some(object) = listing.try_next().await? {
                    let number = self.segment_of_key(span.timeline, &folder, &object.key);
                    if let Some(number) =
                        number.filter(|n| *n >= first && last.is_none_or(|last| *n <= last))
                    {
                        lowest = Some(lowest.map_or(number, |l: SegmentNumber| l.min(number)));
                    }
                }
                if let Some(number) = lowest {
                    return Ok(Some(SegmentName::new(
                        span.timeline,
                        number,
                        self.segment_size,
                    )));
                }
            }
        }
        Ok(None)
    }

    /// Whether any whole segment lies on `lineage` after `number`: if one does and `number` is missing, that is a gap.
    pub async fn later_than(
        &self,
        lineage: &Lineage,
        number: SegmentNumber,
    ) -> Result<bool, StoreError> {
        Ok(self.first_from(lineage, number.next()).await?.is_some())
    }
}

/// A folder's name: eight upper-case hexadecimal digits.
fn hex_word(text: &str) -> Option<u32> {
    let well_formed = text.len() == 8
        && text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b));
    well_formed
        .then(|| u32::from_str_radix(text, 16).ok())
        .flatten()
}
