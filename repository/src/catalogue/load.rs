//! Reading what an archive holds, from listings, history files and the roots of manifests.

use super::{Catalogue, Timeline};
use crate::archive::{Archive, OpenError};
use crate::backup;
use crate::layout;
use crate::object::ObjectError;
use crate::store::StoreError;
use crate::wal::{PartName, WalStore, longest_run};
use futures::TryStreamExt;
use holdfast_postgres::{SegmentName, SegmentSizeError, SystemIdentifier, TimelineId, WalFileName};
use jiff::Timestamp;
use std::collections::BTreeMap;
use thiserror::Error;

/// An archive whose content can't be told.
#[derive(Debug, Error)]
pub enum CatalogueError {
    /// No such incarnation.
    #[error("the archive at {place} holds nothing of system identifier {system}")]
    NoIncarnation {
        /// The store.
        place: String,
        /// The incarnation.
        system: SystemIdentifier,
    },
    /// The archive's descriptions.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An object.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// identity.json says what can't be.
    #[error(transparent)]
    SegmentSize(#[from] SegmentSizeError),
}

impl From<StoreError> for CatalogueError {
    fn from(error: StoreError) -> Self {
        Self::Object(error.into())
    }
}

impl CatalogueError {
    /// Whether trying again can't help without somebody changing something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::NoIncarnation { .. } | Self::SegmentSize(_) => true,
            Self::Open(e) => e.is_permanent(),
            Self::Object(ObjectError::Store(e)) => e.is_permanent(),
            Self::Object(_) => true,
        }
    }
}

impl Catalogue {
    /// Lists what is there. Memory grows with timelines, holes and backups, not with segments.
    ///
    /// A damaged history file or manifest costs that timeline or backup alone, and is told; an outage is an error.
    pub async fn load(archive: &Archive, system: SystemIdentifier) -> Result<Self, CatalogueError> {
        let place = || archive.store().description().to_owned();
        let identity =
            archive
                .identity(system)
                .await?
                .ok_or_else(|| CatalogueError::NoIncarnation {
                    place: place(),
                    system,
                })?;
        let wal = WalStore::of_identity(archive.clone(), system, &identity)?;
        let (timelines, listing) = futures::future::try_join(timelines(&wal), async {
            Ok(backup::list(archive, system).await?)
        })
        .await?;
        let mut catalogue = Self::new(
            system,
            wal.segment_size(),
            wal.major(),
            timelines,
            listing.backups,
        );
        catalogue.unfinished = listing.unfinished.iter().map(ToString::to_string).collect();
        catalogue.unreadable = listing
            .unreadable
            .iter()
            .map(|broken| (broken.id.to_string(), broken.why.to_string()))
            .collect();
        Ok(catalogue)
    }
}

/// The timelines with what is listed of their WAL. Memory grows with the parts of segments that are not whole, too.
pub(crate) async fn timelines(wal: &WalStore) -> Result<Vec<Timeline>, CatalogueError> {
    let mut timelines: BTreeMap<TimelineId, Timeline> = BTreeMap::new();
    for id in wal.history_timelines().await? {
        let mut timeline = Timeline {
            id,
            ..Timeline::default()
        };
        match wal.history(id).await {
            Ok(history) => timeline.history = Some(history),
            Err(error) if error.is_damage() => timeline.damaged_history = Some(error.to_string()),
            Err(error) => return Err(error.into()),
        }
        timelines.insert(id, timeline);
    }
    // Before the segments: what is a part now may be whole a moment later, and never the other way round; and a part of a
    // segment is there only once those before it are whole.
    let parts = parts(wal).await?;
    // One listing for all: the folders of timelines lie under it.
    let folder = layout::wal(wal.system());
    let store = wal.archive().store();
    let mut listing = store.list(&folder);
    while let Some(object) = listing.try_next().await? {
        if let Some(timeline) = history_of(wal.system(), &object.key) {
            if let Some(timeline) = timelines.get_mut(&timeline) {
                timeline.began = object.modified;
            }
            continue;
        }
        let Some(name) = segment_of(wal.system(), &object.key) else {
            continue;
        };
        let Ok(number) = name.number(wal.segment_size()) else {
            continue;
        };
        let timeline = timelines.entry(name.timeline).or_insert_with(|| Timeline {
            id: name.timeline,
            ..Timeline::default()
        });
        timeline.runs.insert(number);
        timeline.stored_bytes = timeline.stored_bytes.saturating_add(object.size);
        timeline.newest = timeline.newest.max(object.modified);
    }
    add_parts(wal, &mut timelines, parts);
    Ok(timelines.into_values().collect())
}

/// Each with when it was stored.
type Parts = Vec<(PartName, Timestamp)>;

async fn parts(wal: &WalStore) -> Result<Parts, StoreError> {
    let (system, size) = (wal.system(), wal.segment_size());
    let mut parts = Vec::new();
    let folder = layout::parts(system);
    let store = wal.archive().store();
    let mut listing = store.list(&folder);
    while let Some(object) = listing.try_next().await? {
        if let Some(part) = PartName::parse(system, size, &object.key) {
            parts.push((part, object.modified));
        }
    }
    Ok(parts)
}

fn add_parts(wal: &WalStore, timelines: &mut BTreeMap<TimelineId, Timeline>, parts: Parts) {
    let size = wal.segment_size();
    let mut unfinished: BTreeMap<SegmentName, Vec<PartName>> = BTreeMap::new();
    for (part, modified) in parts {
        let Ok(number) = part.segment.number(size) else {
            continue;
        };
        let id = part.segment.timeline;
        let timeline = timelines.entry(id).or_insert_with(|| Timeline {
            id,
            ..Timeline::default()
        });
        timeline.with_parts.insert(number);
        timeline.newest = timeline.newest.max(modified);
        if timeline.runs.holding(number).is_none() {
            unfinished.entry(part.segment).or_default().push(part);
        }
    }
    for (segment, parts) in unfinished {
        if let (Some(timeline), Ok(number), Some(last)) = (
            timelines.get_mut(&segment.timeline),
            segment.number(size),
            longest_run(&parts).last(),
        ) {
            timeline.parts.insert(number, last.to);
        }
    }
}

/// The timeline, if the object is a history file.
fn history_of(system: SystemIdentifier, key: &str) -> Option<TimelineId> {
    let name = key
        .strip_prefix(&layout::histories(system))?
        .strip_prefix('/')?;
    match name.parse() {
        Ok(WalFileName::History(timeline)) => Some(timeline),
        _ => None,
    }
}

/// Only a name that parses strictly, in the folder where it belongs, counts.
fn segment_of(system: SystemIdentifier, key: &str) -> Option<SegmentName> {
    let name: SegmentName = key.rsplit_once('/')?.1.parse().ok()?;
    (layout::segment(system, name) == key).then_some(name)
}
