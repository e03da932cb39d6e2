//! A model of archived WAL, for tests: records without page headers, on timelines that branch.

use super::Indexes;
use crate::catalogue::{Catalogue, Timeline};
use crate::facts::{BackupFacts, RecoverySettings};
use crate::object::ObjectError;
use holdfast_postgres::wal::{
    HEAD_LIMIT, ParameterChange, Record, RecordKind, RestorePoint, SegmentIndex, Unfinished,
};
use holdfast_postgres::{
    Ancestor, Lineage, Lsn, PgTimestamp, SegmentName, SegmentNumber, SegmentSize, SystemIdentifier,
    TimelineHistory, TimelineId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn size() -> SegmentSize {
    SegmentSize::new(1 << 20).unwrap()
}

pub(crate) fn at(microseconds: i64) -> jiff::Timestamp {
    PgTimestamp(microseconds).to_jiff()
}

pub(crate) fn backup(
    id: &str,
    timeline: TimelineId,
    start: Lsn,
    stop: Lsn,
    segment_size: SegmentSize,
) -> BackupFacts {
    BackupFacts {
        id: id.into(),
        system: SystemIdentifier(7),
        timeline,
        start,
        stop,
        start_time: at(0),
        stop_time: at(0),
        postgres_major: 17,
        segment_size,
        from_standby: false,
        database_bytes: 0,
        stored_bytes: 0,
        files: 0,
        data_checksums: true,
        page_errors: 0,
        tablespaces: vec![],
        settings: RecoverySettings::default(),
        outside: Vec::new(),
        reference: None,
        changed_bytes: 0,
    }
}

/// Archived WAL.
#[derive(Debug, Default)]
pub(crate) struct Model {
    /// By timeline: its history and what it wrote itself.
    pub(crate) timelines: BTreeMap<TimelineId, (TimelineHistory, Vec<Record>)>,
    pub(crate) files: BTreeSet<SegmentName>,
    /// Where the parts of unfinished segments end, as offsets in them.
    pub(crate) parts: BTreeMap<SegmentName, u32>,
    pub(crate) backups: Vec<BackupFacts>,
    /// How many indexes and how many segments' records were read.
    pub(crate) indexes_read: AtomicUsize,
    pub(crate) segments_read: AtomicUsize,
}

impl Model {
    /// Appends records to a timeline that begins at `from`, each right after the one before.
    pub(crate) fn write(
        &mut self,
        timeline: u32,
        from: Lsn,
        records: impl IntoIterator<Item = (u64, RecordKind)>,
    ) -> Vec<Lsn> {
        let (_, written) = self
            .timelines
            .entry(TimelineId(timeline))
            .or_insert_with(|| (TimelineHistory::root(TimelineId(timeline)), Vec::new()));
        let mut lsn = written.last().map_or(from, |record| record.end);
        let mut starts = Vec::new();
        for (length, kind) in records {
            let total = length.max(26 + parts(&kind).3.len() as u64);
            let end = Lsn(lsn.0 + total.next_multiple_of(8));
            let kind = match kind {
                RecordKind::ParameterChange(change) => {
                    RecordKind::ParameterChange(ParameterChange { lsn, ..change })
                }
                other => other,
            };
            let prev = written.last().map_or(Lsn(0), |record| record.lsn);
            written.push(Record {
                lsn,
                end,
                prev,
                rmid: 0,
                info: 0,
                xid: 0,
                total_length: total as u32,
                kind,
            });
            starts.push(lsn);
            lsn = end;
        }
        starts
    }

    /// Where a timeline's next record starts.
    pub(crate) fn position(&self, timeline: u32) -> Lsn {
        self.timelines
            .get(&TimelineId(timeline))
            .and_then(|(_, records)| records.last())
            .map_or(Lsn(0), |record| record.end)
    }

    /// Records of nothing in particular up to `end`.
    pub(crate) fn fill(&mut self, timeline: u32, end: Lsn) {
        let length = end.0 - self.position(timeline).0;
        if length > 0 {
            self.write(timeline, Lsn(0), [(length, RecordKind::Other)]);
        }
    }

    /// A timeline that leaves `parent` at `switch`.
    pub(crate) fn branch(&mut self, timeline: u32, parent: u32, switch: Lsn) {
        let mut ancestors = self
            .timelines
            .get(&TimelineId(parent))
            .map(|(history, _)| history.ancestors.clone())
            .unwrap_or_default();
        ancestors.push(Ancestor {
            timeline: TimelineId(parent),
            switch,
            reason: String::new(),
        });
        self.timelines.insert(
            TimelineId(timeline),
            (
                TimelineHistory {
                    timeline: TimelineId(timeline),
                    ancestors,
                },
                Vec::new(),
            ),
        );
    }

    pub(crate) fn archive(&mut self, timeline: u32, segments: impl IntoIterator<Item = u64>) {
        self.files.extend(
            segments
                .into_iter()
                .map(|n| SegmentName::new(TimelineId(timeline), SegmentNumber(n), size())),
        );
    }

    /// What is there of a segment, up to `end`, as a part.
    pub(crate) fn archive_part(&mut self, timeline: u32, end: Lsn) {
        let name = SegmentName::new(TimelineId(timeline), end.segment_before(size()), size());
        self.parts.insert(name, end.segment_offset(size()));
    }

    /// Where what is stored of a segment ends.
    fn stored_through(&self, name: SegmentName) -> Lsn {
        let number = name.number(size()).unwrap();
        if self.files.contains(&name) {
            return number.end(size());
        }
        let part = self.parts.get(&name);
        let stored = part.unwrap_or_else(|| panic!("{name} is not archived"));
        Lsn(number.start(size()).0 + u64::from(*stored))
    }

    pub(crate) fn back_up(
        &mut self,
        id: &str,
        timeline: u32,
        start: Lsn,
        stop: Lsn,
        stop_time: i64,
    ) {
        self.backups.push(BackupFacts {
            stop_time: at(stop_time),
            ..backup(id, TimelineId(timeline), start, stop, size())
        });
    }

    pub(crate) fn catalogue(&self) -> Catalogue {
        let mut timelines: BTreeMap<TimelineId, Timeline> = BTreeMap::new();
        for (id, (history, _)) in &self.timelines {
            let history = (!history.ancestors.is_empty()).then(|| history.clone());
            timelines.insert(
                *id,
                Timeline {
                    id: *id,
                    history,
                    ..Timeline::default()
                },
            );
        }
        for name in &self.files {
            if let Some(timeline) = timelines.get_mut(&name.timeline) {
                timeline.runs.insert(name.number(size()).unwrap());
            }
        }
        for (name, end) in &self.parts {
            if let Some(timeline) = timelines.get_mut(&name.timeline) {
                let number = name.number(size()).unwrap();
                timeline.with_parts.insert(number);
                if !self.files.contains(name) {
                    timeline.parts.insert(number, *end);
                }
            }
        }
        Catalogue::new(
            SystemIdentifier(7),
            size(),
            17,
            timelines.into_values().collect(),
            self.backups.clone(),
        )
    }

    /// What the line of a timeline says, oldest first; its own without end.
    pub(crate) fn line(&self, timeline: TimelineId) -> Vec<&Record> {
        let Some((history, _)) = self.timelines.get(&timeline) else {
            return vec![];
        };
        let spans = Lineage::from(history).spans().to_vec();
        spans
            .into_iter()
            .filter_map(|span| Some((span, &self.timelines.get(&span.timeline)?.1)))
            .flat_map(|(span, records)| {
                records.iter().filter(move |record| {
                    record.lsn >= span.begin && span.end.is_none_or(|end| record.lsn < end)
                })
            })
            .collect()
    }
}

impl Indexes for Model {
    async fn index(&self, name: SegmentName) -> Result<SegmentIndex, ObjectError> {
        self.indexes_read.fetch_add(1, Ordering::Relaxed);
        let through = self.stored_through(name);
        let number = name.number(size()).unwrap();
        let (start, end) = (number.start(size()), number.end(size()));
        let mut index = SegmentIndex {
            end: start,
            ..SegmentIndex::default()
        };
        let line = self.line(name.timeline).into_iter();
        for record in line.filter(|record| through == end || record.end <= through) {
            if record.lsn < start && record.end > start {
                let present = (start.0 - record.lsn.0) as usize;
                index.continued_length = record.total_length - present as u32;
                index.continued = bytes_of(
                    record,
                    present,
                    (index.continued_length as usize).min(HEAD_LIMIT),
                );
                if record.end <= end {
                    index.end = record.end;
                }
            }
            if record.lsn < start || record.lsn >= end {
                continue;
            }
            index.first_record.get_or_insert(record.lsn);
            index.last_record = Some(record.lsn);
            if record.end > end {
                let present = (end.0 - record.lsn.0) as usize;
                let head = bytes_of(record, 0, present.min(HEAD_LIMIT));
                index.unfinished = Some(Unfinished {
                    lsn: record.lsn,
                    total_length: record.total_length,
                    present: present as u32,
                    head,
                });
                index.end = record.lsn;
                continue;
            }
            index.end = record.end;
            add(&mut index, record);
        }
        Ok(index)
    }

    async fn records(
        &self,
        name: SegmentName,
        following: &[SegmentName],
        mut each: impl FnMut(Record) -> ControlFlow<()> + Send,
    ) -> Result<(), ObjectError> {
        self.segments_read.fetch_add(1, Ordering::Relaxed);
        let number = name.number(size()).unwrap();
        let (start, end) = (number.start(size()), number.end(size()));
        let readable = self.stored_through(following.last().copied().unwrap_or(name));
        for record in self.line(name.timeline) {
            if record.lsn >= start
                && record.lsn < end
                && record.end <= readable
                && each(record.clone()).is_break()
            {
                break;
            }
        }
        Ok(())
    }

    fn major(&self) -> u32 {
        17
    }
}

fn add(index: &mut SegmentIndex, record: &Record) {
    let widen = |range: Option<(PgTimestamp, PgTimestamp)>, time: PgTimestamp| {
        Some(range.map_or((time, time), |(low, high)| (low.min(time), high.max(time))))
    };
    let time = match &record.kind {
        RecordKind::Commit { xid, time } => {
            index.xids.push(*xid);
            index.commit_times = widen(index.commit_times, *time);
            *time
        }
        RecordKind::Abort { xid, time } => {
            index.xids.push(*xid);
            index.abort_times = widen(index.abort_times, *time);
            *time
        }
        RecordKind::RestorePoint { name, time } => {
            index.restore_points.push(RestorePoint {
                lsn: record.lsn,
                name: name.clone(),
                time: *time,
            });
            *time
        }
        RecordKind::Checkpoint { time_unix, .. } => PgTimestamp::from_unix_seconds(*time_unix),
        RecordKind::ParameterChange(change) => return index.parameter_changes.push(*change),
        _ => return,
    };
    index.latest_time = index.latest_time.max(Some(time));
}

/// Resource manager, info, transaction and the least main data of a record.
fn parts(kind: &RecordKind) -> (u8, u8, u32, Vec<u8>) {
    match kind {
        RecordKind::Commit { xid, time } => (1, 0x00, *xid, time.0.to_le_bytes().to_vec()),
        RecordKind::Abort { xid, time } => (1, 0x20, *xid, time.0.to_le_bytes().to_vec()),
        RecordKind::RestorePoint { name, time } => {
            let mut main = time.0.to_le_bytes().to_vec();
            main.extend(name.as_bytes());
            main.resize(72, 0);
            (0, 0x70, 0, main)
        }
        _ => (10, 0, 0, vec![0; 8]),
    }
}

/// Some bytes of a record as it stands in WAL: what is joined across segments is read from bytes.
fn bytes_of(record: &Record, skip: usize, count: usize) -> Vec<u8> {
    let (rmid, info, xid, main) = parts(&record.kind);
    let total = record.total_length;
    let mut bytes = Vec::new();
    bytes.extend(total.to_le_bytes());
    bytes.extend(xid.to_le_bytes());
    bytes.extend(record.prev.0.to_le_bytes());
    bytes.extend([info, rmid, 0, 0, 0, 0, 0, 0]);
    match total - 26 {
        short @ 0..=255 => bytes.extend([255, short as u8]),
        _ => {
            bytes.push(254);
            bytes.extend((total - 29).to_le_bytes());
        }
    }
    bytes.extend(main);
    bytes
        .into_iter()
        .chain(std::iter::repeat(0))
        .skip(skip)
        .take(count)
        .collect()
}

pub(crate) fn commit(xid: u32, time: i64) -> (u64, RecordKind) {
    (
        0,
        RecordKind::Commit {
            xid,
            time: PgTimestamp(time),
        },
    )
}

pub(crate) fn abort(xid: u32, time: i64) -> (u64, RecordKind) {
    (
        0,
        RecordKind::Abort {
            xid,
            time: PgTimestamp(time),
        },
    )
}

pub(crate) fn restore_point(name: &str, time: i64) -> (u64, RecordKind) {
    (
        0,
        RecordKind::RestorePoint {
            name: name.into(),
            time: PgTimestamp(time),
        },
    )
}

pub(crate) fn other(length: u64) -> (u64, RecordKind) {
    (length, RecordKind::Other)
}
