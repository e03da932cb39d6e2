//! WAL made to measure, for tests: laid out as `XLogInsert` lays it out.

use crate::crc::{crc32c, crc32c_seeded};
use crate::lsn::Lsn;
use crate::segment::{SegmentNumber, SegmentSize};
use crate::timeline::TimelineId;
use crate::timestamp::PgTimestamp;
use crate::version;
use crate::wal_file_name::SegmentName;

use super::{HEAD_LIMIT, align};

const BLOCK: usize = 8192;

pub(super) struct Build {
    pub(super) major: u32,
    pub(super) size: SegmentSize,
    pub(super) timeline: TimelineId,
    pub(super) bytes: Vec<u8>,
    /// The records written, without abandoned ones.
    pub(super) records: Vec<(Lsn, Lsn)>,
    start: Lsn,
    previous: Lsn,
    overwrite: bool,
}

impl std::fmt::Debug for Build {
    /// Where records stand: the bytes are too many to look at.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgreSQL {} {:?}", self.major, self.records)
    }
}

impl Build {
    /// Begins at a segment of 1 MiB.
    pub(super) fn new(major: u32, first: u64) -> Self {
        let size = SegmentSize::new(1 << 20).expect("1 MiB");
        Self {
            major,
            size,
            timeline: TimelineId(1),
            bytes: Vec::new(),
            records: Vec::new(),
            start: SegmentNumber(first).start(size),
            previous: Lsn::INVALID,
            overwrite: false,
        }
    }

    pub(super) fn position(&self) -> Lsn {
        Lsn(self.start.0 + self.bytes.len() as u64)
    }

    /// Bytes left on this page.
    pub(super) fn room(&self) -> usize {
        BLOCK - self.bytes.len() % BLOCK
    }

    /// Bytes left in this segment.
    pub(super) fn segment_room(&self) -> usize {
        (self.size.bytes() - self.position().segment_offset(self.size)) as usize
    }

    fn page_header(&mut self, remaining: u32) {
        let address = self.position();
        let long = address.segment_offset(self.size) == 0;
        let mut info: u16 = if long { 0x0002 } else { 0 };
        if std::mem::take(&mut self.overwrite) {
            info |= 0x0008;
        } else if remaining > 0 {
            info |= 0x0001;
        }
        let magic = version::wal_magic(self.major).expect("a known major");
        self.bytes.extend(magic.to_le_bytes());
        self.bytes.extend(info.to_le_bytes());
        self.bytes.extend(self.timeline.0.to_le_bytes());
        self.bytes.extend(address.0.to_le_bytes());
        self.bytes.extend(remaining.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(77u64.to_le_bytes());
            self.bytes.extend(self.size.bytes().to_le_bytes());
            self.bytes.extend((BLOCK as u32).to_le_bytes());
        }
    }

    fn begin_record(&mut self) -> Lsn {
        self.bytes.resize(align(self.bytes.len()), 0);
        if self.room() == BLOCK {
            self.page_header(0);
        }
        self.position()
    }

    /// Writes `record` until done, or until `limit` bytes of it stand.
    fn put(&mut self, record: &[u8], limit: usize) {
        let mut rest = record;
        while !rest.is_empty() && record.len() - rest.len() < limit {
            if self.room() == BLOCK {
                self.page_header(rest.len() as u32);
            }
            let (here, more) = rest.split_at(rest.len().min(self.room()));
            self.bytes.extend(here);
            rest = more;
        }
    }

    pub(super) fn encode(&self, rmid: u8, info: u8, xid: u32, main: &[u8]) -> Vec<u8> {
        let mut data = Vec::new();
        match main.len() {
            0 => {}
            length @ 1..=255 => data.extend([255, length as u8]),
            length => {
                data.push(254);
                data.extend((length as u32).to_le_bytes());
            }
        }
        data.extend(main);
        let mut record = Vec::new();
        record.extend((24 + data.len() as u32).to_le_bytes());
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.0.to_le_bytes());
        record.extend([info, rmid, 0, 0]);
        record.extend(crc32c_seeded(crc32c(&data), &record).to_le_bytes());
        record.extend(data);
        record
    }

    pub(super) fn record(&mut self, rmid: u8, info: u8, xid: u32, main: &[u8]) -> Lsn {
        let lsn = self.begin_record();
        let record = self.encode(rmid, info, xid, main);
        self.put(&record, usize::MAX);
        self.previous = lsn;
        self.records
            .push((lsn, Lsn(self.start.0 + align(self.bytes.len()) as u64)));
        lsn
    }

    pub(super) fn commit(&mut self, xid: u32, time: i64) -> Lsn {
        self.record(1, 0x00, xid, &time.to_le_bytes())
    }

    pub(super) fn restore_point(&mut self, name: &str, time: i64) -> Lsn {
        let mut main = time.to_le_bytes().to_vec();
        main.extend(name.as_bytes());
        main.resize(72, 0);
        self.record(0, 0x70, 0, &main)
    }

    /// A heap record of `length` bytes of main data.
    pub(super) fn filler(&mut self, length: usize) -> Lsn {
        let main: Vec<u8> = (0..length).map(|index| (index % 251) as u8).collect();
        self.record(10, 0x20, 5, &main)
    }

    /// Fills with records until just `room` bytes are left on the page; must be a multiple of 8.
    pub(super) fn fill_page_to(&mut self, room: usize) {
        self.begin_record();
        while self.room() != room {
            match self.room().checked_sub(room) {
                // 24 of header and 2 of data header.
                Some(gap @ 32..=280) => self.filler(gap - 26),
                Some(gap @ 281..) if gap - 96 >= 32 => self.filler(96 - 26),
                _ => self.filler(30),
            };
            self.begin_record();
        }
    }

    pub(super) fn fill_segment_to(&mut self, room: usize) {
        self.begin_record();
        while self.segment_room() > BLOCK {
            self.fill_page_to(32);
            self.filler(6);
            self.begin_record();
        }
        self.fill_page_to(room);
    }

    /// Begins a record of `length` bytes of main data and crashes at the page's end: what follows overwrites it.
    pub(super) fn abandon(&mut self, length: usize) -> Lsn {
        self.abandon_after(0, self.encode(10, 0, 5, &vec![1; length]))
    }

    /// The same with a record as it is, after some more pages.
    pub(super) fn abandon_after(&mut self, pages: usize, record: Vec<u8>) -> Lsn {
        let lsn = self.begin_record();
        let limit = self.room() + pages * (BLOCK - 100);
        assert!(record.len() > limit, "it must not fit");
        self.put(&record, limit);
        self.overwrite = true;
        lsn
    }

    pub(super) fn switch(&mut self) -> Lsn {
        let lsn = self.record(0, 0x40, 0, &[]);
        let room = self.segment_room() % self.size.bytes() as usize;
        self.bytes.resize(self.bytes.len() + room, 0);
        lsn
    }

    /// The segments, the last one filled with zeros.
    pub(super) fn segments(&self) -> Vec<(SegmentName, Vec<u8>)> {
        let first = self.start.segment(self.size);
        self.bytes
            .chunks(self.size.bytes() as usize)
            .enumerate()
            .map(|(index, bytes)| {
                let mut bytes = bytes.to_vec();
                bytes.resize(self.size.bytes() as usize, 0);
                (
                    SegmentName::new(
                        self.timeline,
                        SegmentNumber(first.0 + index as u64),
                        self.size,
                    ),
                    bytes,
                )
            })
            .collect()
    }
}

/// The main data of a COMMIT PREPARED (info 0xB0) with lists before the transaction's id.
pub(super) fn commit_prepared(major: u32, time: i64, xid: u32, invalidations: u32) -> Vec<u8> {
    let stats_item = if major >= 18 { 16 } else { 12 };
    let mut xinfo: u32 = 0b1_1111;
    if major >= 15 {
        xinfo |= 1 << 8;
    }
    let mut main = time.to_le_bytes().to_vec();
    main.extend(xinfo.to_le_bytes());
    main.extend([9; 8]);
    for (count, item) in [(3u32, 4usize), (2, 12)] {
        main.extend(count.to_le_bytes());
        main.extend(vec![9; count as usize * item]);
    }
    if major >= 15 {
        main.extend(2u32.to_le_bytes());
        main.extend(vec![9; 2 * stats_item]);
    }
    main.extend(invalidations.to_le_bytes());
    main.extend(vec![9; invalidations as usize * 16]);
    main.extend(xid.to_le_bytes());
    main.extend(b"name\0");
    main
}

/// More than is kept of a record.
pub(super) const GIANT: usize = 3 * (1 << 20) + HEAD_LIMIT;

pub(super) fn at(micros: i64) -> PgTimestamp {
    PgTimestamp(micros)
}
