//! Page headers (`XLogPageHeaderData`, `XLogLongPageHeaderData`).

use crate::bytes;
use crate::lsn::Lsn;
use crate::segment::{SegmentSize, SegmentSizeError};
use crate::timeline::{SystemIdentifier, TimelineId};
use crate::version;

/// The page begins with the rest of a record (`XLP_FIRST_IS_CONTRECORD`).
pub(crate) const FIRST_IS_CONTRECORD: u16 = 0x0001;
/// The header is a long one (`XLP_LONG_HEADER`).
pub(crate) const IS_LONG: u16 = 0x0002;
/// The rest of a record should stand here, but never will (`XLP_FIRST_IS_OVERWRITE_CONTRECORD`).
pub(crate) const FIRST_IS_OVERWRITE: u16 = 0x0008;
const ALL_FLAGS: u16 = 0x000F;

/// The header that begins a segment: it says whose WAL it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// `XLOG_PAGE_MAGIC`.
    pub magic: u16,
    /// The major that this magic stands for.
    pub major: u32,
    /// The timeline of the page; in the first segment of a timeline it may still be an ancestor's.
    pub timeline: TimelineId,
    /// The LSN of the page's first byte.
    pub page_address: Lsn,
    /// Whose cluster it is.
    pub system_identifier: SystemIdentifier,
    /// The size of the segment.
    pub segment_size: SegmentSize,
    /// The size of its pages in bytes.
    pub block_size: u32,
}

/// Bytes that do not begin a segment of a known server.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// Less than a header.
    #[error("the file has only {0} bytes: too short for a WAL segment")]
    TooShort(usize),
    /// Nothing was ever written.
    #[error("the file begins with zeros: no WAL was written to it")]
    Zero,
    /// Not WAL, or of a major that is not known.
    #[error("the first page has magic {0:04X}, which no PostgreSQL from 14 to 18 writes")]
    UnknownMagic(u16),
    /// A page, but not a segment's first.
    #[error("the first page's flags are {0:04X}: it does not begin a segment")]
    BadFlags(u16),
    /// The segment size.
    #[error("the first page's header: {0}")]
    SegmentSize(#[from] SegmentSizeError),
    /// The page size.
    #[error("the first page's header says WAL pages of {0} bytes, which is impossible")]
    BlockSize(u32),
    /// It does not stand at a segment's begin.
    #[error("the first page's address is {0}, where no segment begins")]
    Misplaced(Lsn),
}

impl SegmentHeader {
    /// How many of a segment's first bytes [`SegmentHeader::parse`] needs.
    pub const SIZE: usize = super::LONG_HEADER;

    /// Reads the header of a segment's first page from at least [`SegmentHeader::SIZE`] bytes.
    pub fn parse(segment: &[u8]) -> Result<Self, HeaderError> {
        let page = PageHeader::parse(segment).ok_or(HeaderError::TooShort(segment.len()))?;
        let long = bytes::u64_at(segment, 24)
            .zip(bytes::u32_at(segment, 32))
            .zip(bytes::u32_at(segment, 36));
        let ((system_identifier, segment_size), block_size) =
            long.ok_or(HeaderError::TooShort(segment.len()))?;
        if page.magic == 0 {
            return Err(HeaderError::Zero);
        }
        let major =
            version::major_of_wal_magic(page.magic).ok_or(HeaderError::UnknownMagic(page.magic))?;
        if !page.flags_are_known() || page.info & IS_LONG == 0 {
            return Err(HeaderError::BadFlags(page.info));
        }
        let segment_size = SegmentSize::new(segment_size)?;
        if !block_size.is_power_of_two() || !(1024..=65536).contains(&block_size) {
            return Err(HeaderError::BlockSize(block_size));
        }
        if page.address.segment_offset(segment_size) != 0 {
            return Err(HeaderError::Misplaced(page.address));
        }
        Ok(Self {
            magic: page.magic,
            major,
            timeline: page.timeline,
            page_address: page.address,
            system_identifier: SystemIdentifier(system_identifier),
            segment_size,
            block_size,
        })
    }
}

/// The header of any page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PageHeader {
    pub(crate) magic: u16,
    pub(crate) info: u16,
    pub(crate) timeline: TimelineId,
    pub(crate) address: Lsn,
    /// Bytes of the record begun earlier that stand here and on later pages.
    pub(crate) remaining: u32,
}

impl PageHeader {
    pub(crate) fn parse(page: &[u8]) -> Option<Self> {
        Some(Self {
            magic: bytes::u16_at(page, 0)?,
            info: bytes::u16_at(page, 2)?,
            timeline: TimelineId(bytes::u32_at(page, 4)?),
            address: Lsn(bytes::u64_at(page, 8)?),
            remaining: bytes::u32_at(page, 16)?,
        })
    }

    pub(crate) fn flags_are_known(self) -> bool {
        self.info & !ALL_FLAGS == 0
    }

    /// How many bytes the header takes.
    pub(crate) fn size(self) -> usize {
        if self.info & IS_LONG == 0 {
            super::SHORT_HEADER
        } else {
            super::LONG_HEADER
        }
    }

    pub(crate) fn continues_record(self) -> bool {
        self.info & FIRST_IS_CONTRECORD != 0
    }

    pub(crate) fn overwrites_record(self) -> bool {
        self.info & FIRST_IS_OVERWRITE != 0
    }
}
