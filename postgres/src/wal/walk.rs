//! Pages and records, one after the other: what `xlogreader.c` does, over bytes that stream by.
//!
//! Most records lie whole within a page and are checked where they are. What crosses pages is collected: its
//! header, its first [`HEAD_LIMIT`] bytes, and its checksum as it goes.

use crate::bytes;
use crate::crc::{Crc32c, crc32c_seeded};
use crate::lsn::Lsn;
use crate::segment::SegmentSize;
use crate::timeline::{SystemIdentifier, TimelineId};
use crate::version;

use super::align;
use super::header::{HeaderError, PageHeader, SegmentHeader};
use super::index::Unfinished;
use super::reader::WalError;
use super::record::{HEAD_LIMIT, HEADER, PREPARED_HEAD_LIMIT, Record, RecordHeader, RecordKind};

/// Who is told what the walk sees.
pub(super) trait Sink {
    /// A segment's first page, before anything on it.
    fn segment(&mut self, header: &SegmentHeader);
    /// Bytes of a record that began before the walk did; `remaining` counts them and what follows.
    fn continued(&mut self, remaining: u32, bytes: &[u8]);
    /// Nothing follows of the record that began before the walk did: a crash cut it off, and it never happened.
    fn abandoned(&mut self);
    /// A complete record.
    fn record(&mut self, record: Record);
}

/// No server makes a longer record: `MaxAllocSize` up to 15, `XLogRecordMaxSize` (less) from 16 on.
const MAX_RECORD: u32 = 0x3FFF_FFFF;

#[derive(Debug, Clone)]
enum State {
    /// Nothing was read yet: the first page may begin with the rest of a record.
    Start,
    /// That rest is being skipped.
    Tail { remaining: u32 },
    /// A record may begin at the next aligned byte.
    Between,
    /// [`Walk::pending`] goes on.
    Within,
    /// The rest of the segment is empty.
    Switched { at: Lsn },
    /// Nothing more is read. Zeros are how WAL ends; anything else is damage, or an older use of the file.
    Stopped { error: WalError, by_zeros: bool },
}

/// A record that began on an earlier page.
#[derive(Debug, Clone, Default)]
struct Pending {
    lsn: Lsn,
    total: u32,
    got: u32,
    crc: Crc32c,
    head: Vec<u8>,
    limit: usize,
}

#[derive(Debug, Clone)]
pub(super) struct Walk {
    size: SegmentSize,
    major: u32,
    magic: u16,
    /// Bytes of a WAL page; 0 until the first header was read.
    block: usize,
    /// The address of the next page.
    position: Lsn,
    /// A page's bytes until it is whole.
    partial: Vec<u8>,
    system_identifier: Option<SystemIdentifier>,
    /// Pages of later timelines do not belong here.
    newest: Option<TimelineId>,
    timeline: TimelineId,
    previous: Option<Lsn>,
    valid_through: Lsn,
    state: State,
    pending: Pending,
}

impl Walk {
    pub(super) fn new(
        start: Lsn,
        size: SegmentSize,
        major: u32,
        newest: Option<TimelineId>,
    ) -> Self {
        Self {
            size,
            major,
            magic: version::wal_magic(major).unwrap_or(0),
            block: 0,
            position: start,
            partial: Vec::new(),
            system_identifier: None,
            newest,
            timeline: TimelineId(0),
            previous: None,
            valid_through: start,
            state: State::Start,
            pending: Pending::default(),
        }
    }

    /// The end of the last complete record.
    pub(super) fn valid_through(&self) -> Lsn {
        self.valid_through
    }

    /// Why nothing more is read, and whether that is how WAL ends.
    pub(super) fn stopped(&self) -> Option<(&WalError, bool)> {
        match &self.state {
            State::Stopped { error, by_zeros } => Some((error, *by_zeros)),
            _ => None,
        }
    }

    /// The switch after which the rest of this segment is skipped.
    pub(super) fn switched_at(&self) -> Option<Lsn> {
        match self.state {
            State::Switched { at } => Some(at),
            _ => None,
        }
    }

    /// The record that has begun and not ended.
    pub(super) fn unfinished(&self) -> Option<Unfinished> {
        matches!(self.state, State::Within).then(|| Unfinished {
            lsn: self.pending.lsn,
            total_length: self.pending.total,
            present: self.pending.got,
            head: self.pending.head.iter().take(HEAD_LIMIT).copied().collect(),
        })
    }

    pub(super) fn feed(&mut self, mut input: &[u8], sink: &mut impl Sink) {
        while !input.is_empty() && self.stopped().is_none() {
            let wanted = if self.block == 0 {
                SegmentHeader::SIZE
            } else {
                self.block
            };
            if self.partial.is_empty() && input.len() >= wanted {
                if self.block == 0 {
                    self.begin(input);
                    continue;
                }
                let (page, rest) = input.split_at(wanted);
                self.page(page, sink);
                input = rest;
            } else {
                let (more, rest) =
                    input.split_at(input.len().min(wanted.saturating_sub(self.partial.len())));
                self.partial.extend_from_slice(more);
                input = rest;
                if self.partial.len() == wanted {
                    self.take_partial(sink);
                }
            }
        }
    }

    /// Reads what there is of a last page: `missing` says what is wrong about the rest.
    pub(super) fn cut_short(&mut self, missing: String, sink: &mut impl Sink) {
        if !self.partial.is_empty() && self.block != 0 && self.stopped().is_none() {
            self.partial.resize(self.block, 0);
            self.take_partial(sink);
        }
        // Where the page stopped making sense is of no interest: the file ends there.
        self.stop(self.position, missing, false);
    }

    fn take_partial(&mut self, sink: &mut impl Sink) {
        let mut page = std::mem::take(&mut self.partial);
        if self.block == 0 {
            self.begin(&page);
            self.partial = page;
            return;
        }
        self.page(&page, sink);
        page.clear();
        self.partial = page;
    }

    fn stop(&mut self, at: Lsn, why: String, by_zeros: bool) {
        let error = WalError {
            at,
            valid_through: self.valid_through,
            why,
        };
        self.state = State::Stopped { error, by_zeros };
    }

    /// Learns the page size from the first header.
    fn begin(&mut self, first: &[u8]) {
        match SegmentHeader::parse(first) {
            Ok(header) => self.block = header.block_size as usize,
            Err(error) => self.stop(self.position, error.to_string(), error == HeaderError::Zero),
        }
    }

    fn page(&mut self, page: &[u8], sink: &mut impl Sink) {
        let begins_segment = self.position.segment_offset(self.size) == 0;
        if begins_segment && matches!(self.state, State::Switched { .. }) {
            self.state = State::Between;
        }
        if !matches!(self.state, State::Switched { .. } | State::Stopped { .. })
            && let Err((at, why, by_zeros)) = self.read_page(page, begins_segment, sink)
        {
            self.stop(at, why, by_zeros);
        }
        self.position = Lsn(self.position.0.saturating_add(page.len() as u64));
    }

    fn read_page(
        &mut self,
        page: &[u8],
        begins_segment: bool,
        sink: &mut impl Sink,
    ) -> Result<(), Stop> {
        let at = self.position;
        let header = PageHeader::parse(page).ok_or_else(|| stop(at, "the page has no header"))?;
        self.check_page(page, header, begins_segment, sink)
            .map_err(|why| {
                // A page that was never written is how WAL ends; but not one in the middle of a record.
                let by_zeros = header.magic == 0 && page.iter().all(|byte| *byte == 0);
                (
                    at,
                    why,
                    by_zeros && matches!(self.state, State::Start | State::Between),
                )
            })?;
        self.timeline = header.timeline;
        if matches!(self.state, State::Tail { .. }) && header.overwrites_record() {
            sink.abandoned();
        }
        self.resume(header).map_err(|why| (at, why, false))?;

        let mut offset = header.size();
        while offset < page.len() {
            let rest = page.get(offset..).unwrap_or_default();
            match &mut self.state {
                State::Tail { remaining } => {
                    let here = rest.len().min(*remaining as usize);
                    sink.continued(*remaining, rest.get(..here).unwrap_or_default());
                    *remaining -= here as u32;
                    if *remaining == 0 {
                        self.state = State::Between;
                        self.valid_through = Lsn(at.0 + align(offset + here) as u64);
                    }
                    offset = align(offset + here);
                }
                State::Within => {
                    let here = rest
                        .len()
                        .min((self.pending.total - self.pending.got) as usize);
                    self.collect(rest.get(..here).unwrap_or_default())?;
                    offset = align(offset + here);
                    if self.pending.got == self.pending.total {
                        self.complete_pending(at, offset, sink)?;
                    }
                }
                State::Between => {
                    let lsn = Lsn(at.0 + offset as u64);
                    let total = bytes::u32_at(rest, 0).unwrap_or(0);
                    if total == 0 {
                        return Err((
                            lsn,
                            "no record follows: the rest was never written".into(),
                            true,
                        ));
                    }
                    if !(HEADER as u32..=MAX_RECORD).contains(&total) {
                        return Err((lsn, format!("there is no record of {total} bytes"), false));
                    }
                    if let Some(record) = rest.get(..total as usize) {
                        offset = align(offset + record.len());
                        self.whole_record(lsn, record, Lsn(at.0 + offset as u64), sink)?;
                    } else {
                        self.pending.begin(lsn, total);
                        self.state = State::Within;
                    }
                }
                State::Start | State::Switched { .. } | State::Stopped { .. } => return Ok(()),
            }
        }
        Ok(())
    }

    /// `XLogReaderValidatePageHeader`.
    fn check_page(
        &mut self,
        page: &[u8],
        header: PageHeader,
        begins_segment: bool,
        sink: &mut impl Sink,
    ) -> Result<(), String> {
        if header.magic != self.magic {
            return Err(match version::major_of_wal_magic(header.magic) {
                Some(other) => format!(
                    "the page was written by PostgreSQL {other}, not {}",
                    self.major
                ),
                None if header.magic == 0 => "the page was never written".into(),
                None => format!(
                    "the page has magic {:04X} instead of {:04X}",
                    header.magic, self.magic
                ),
            });
        }
        if !header.flags_are_known() {
            return Err(format!("the page has unknown flags {:04X}", header.info));
        }
        if header.address != self.position {
            return Err(format!(
                "the page says it stands at {}: it is left from an older use of the file",
                header.address
            ));
        }
        if begins_segment {
            let long = SegmentHeader::parse(page).map_err(|error| error.to_string())?;
            if long.segment_size != self.size {
                return Err(format!(
                    "the segment has {} instead of {}",
                    long.segment_size, self.size
                ));
            }
            if long.block_size as usize != self.block {
                return Err(format!(
                    "the segment has pages of {} bytes instead of {}",
                    long.block_size, self.block
                ));
            }
            let expected = *self.system_identifier.get_or_insert(long.system_identifier);
            if long.system_identifier != expected {
                return Err(format!(
                    "the segment is of system {}, not {expected}",
                    long.system_identifier
                ));
            }
            sink.segment(&long);
        }
        if header.timeline < self.timeline {
            return Err(format!(
                "the page is of timeline {}, after one of {}",
                header.timeline, self.timeline
            ));
        }
        match self.newest {
            Some(newest) if header.timeline > newest => Err(format!(
                "the page is of timeline {} in a segment of timeline {newest}",
                header.timeline
            )),
            _ => Ok(()),
        }
    }

    /// Whether the page goes on where the last one ended.
    fn resume(&mut self, header: PageHeader) -> Result<(), String> {
        let remaining = match self.state {
            State::Start => header.continues_record().then_some(header.remaining),
            State::Tail { remaining } => Some(remaining),
            State::Within => Some(self.pending.total - self.pending.got),
            State::Between | State::Switched { .. } | State::Stopped { .. } => None,
        };
        match remaining {
            // The server crashed before it had written the rest, and says so: the record never happened.
            Some(_) if header.overwrites_record() => self.state = State::Between,
            Some(0) => return Err("the page goes on with a record that has no more bytes".into()),
            Some(rest) if !header.continues_record() || header.remaining != rest => {
                return Err(format!(
                    "the page should go on with {rest} bytes of a record, but {}",
                    if header.continues_record() {
                        format!("goes on with {}", header.remaining)
                    } else {
                        "does not".to_owned()
                    }
                ));
            }
            Some(rest) if matches!(self.state, State::Start) => {
                self.state = State::Tail { remaining: rest }
            }
            Some(_) => {}
            None if header.continues_record() => {
                return Err("the page goes on with a record where none runs over".into());
            }
            None => self.state = State::Between,
        }
        Ok(())
    }

    /// A record that lies whole within the page.
    fn whole_record(
        &mut self,
        lsn: Lsn,
        record: &[u8],
        end: Lsn,
        sink: &mut impl Sink,
    ) -> Result<(), Stop> {
        let header = self.checked_header(lsn, record)?;
        let (prefix, data) = record
            .split_at_checked(HEADER)
            .ok_or_else(|| stop(lsn, "the record has no header"))?;
        let computed = header.crc_of(prefix, crc32c_seeded(0, data));
        self.finish_record(header, computed, record, lsn, end, sink)
    }

    /// Takes more of the record that crosses pages.
    fn collect(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let had_header = self.pending.got as usize >= HEADER;
        self.pending.add(bytes);
        if !had_header && self.pending.got as usize >= HEADER {
            let header = self.checked_header(self.pending.lsn, &self.pending.head)?;
            if header.is_prepared_end() {
                self.pending.limit = PREPARED_HEAD_LIMIT;
            }
        }
        Ok(())
    }

    fn complete_pending(
        &mut self,
        page: Lsn,
        offset: usize,
        sink: &mut impl Sink,
    ) -> Result<(), Stop> {
        let pending = std::mem::take(&mut self.pending);
        let (lsn, end) = (pending.lsn, Lsn(page.0 + offset as u64));
        let header = self.checked_header(lsn, &pending.head)?;
        let computed = header.crc_of(&pending.head, pending.crc.value());
        self.state = State::Between;
        self.finish_record(header, computed, &pending.head, lsn, end, sink)?;
        // Its buffer serves the next one.
        self.pending = pending;
        Ok(())
    }

    /// `ValidXLogRecordHeader`.
    fn checked_header(&self, lsn: Lsn, record: &[u8]) -> Result<RecordHeader, Stop> {
        let header =
            RecordHeader::parse(record).ok_or_else(|| stop(lsn, "the record has no header"))?;
        // From 15 on, extensions have resource managers 128 to 255.
        if header.rmid > 21 && (header.rmid < 128 || self.major < 15) {
            return Err((
                lsn,
                format!(
                    "the record is of resource manager {}, which does not exist",
                    header.rmid
                ),
                false,
            ));
        }
        match self.previous {
            Some(previous) if header.prev != previous => Err((
                lsn,
                format!(
                    "the record says that {} comes before it, but {previous} does",
                    header.prev
                ),
                false,
            )),
            None if header.prev >= lsn => Err((
                lsn,
                format!("the record says that {} comes before it", header.prev),
                false,
            )),
            _ => Ok(header),
        }
    }

    fn finish_record(
        &mut self,
        header: RecordHeader,
        computed: u32,
        head: &[u8],
        lsn: Lsn,
        end: Lsn,
        sink: &mut impl Sink,
    ) -> Result<(), Stop> {
        if header.crc != computed {
            return Err((
                lsn,
                format!(
                    "the record's checksum is {computed:08X}, not {:08X} as it says",
                    header.crc
                ),
                false,
            ));
        }
        let kind = header.interpret(lsn, head, self.major);
        let end = if kind == RecordKind::Switch {
            self.state = State::Switched { at: lsn };
            if end.segment_offset(self.size) == 0 {
                end
            } else {
                end.segment(self.size).end(self.size)
            }
        } else {
            end
        };
        self.previous = Some(lsn);
        self.valid_through = end;
        sink.record(Record {
            lsn,
            end,
            prev: header.prev,
            rmid: header.rmid,
            info: header.info,
            xid: header.xid,
            total_length: header.total,
            kind,
        });
        Ok(())
    }
}

impl Pending {
    fn begin(&mut self, lsn: Lsn, total: u32) {
        let mut head = std::mem::take(&mut self.head);
        head.clear();
        // One giant must not keep its memory for ever.
        head.shrink_to(HEAD_LIMIT);
        *self = Self {
            lsn,
            total,
            got: 0,
            crc: Crc32c::default(),
            head,
            limit: HEAD_LIMIT,
        };
    }

    fn add(&mut self, bytes: &[u8]) {
        let of_header = bytes.len().min(HEADER.saturating_sub(self.got as usize));
        self.crc.update(bytes.get(of_header..).unwrap_or_default());
        let room = self.limit.saturating_sub(self.head.len());
        self.head
            .extend_from_slice(bytes.get(..room.min(bytes.len())).unwrap_or_default());
        self.got += bytes.len() as u32;
    }
}

/// Where, why, and whether zeros are the reason.
type Stop = (Lsn, String, bool);

fn stop(at: Lsn, why: &str) -> Stop {
    (at, why.to_owned(), false)
}
