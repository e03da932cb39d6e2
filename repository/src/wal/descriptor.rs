//! The first frame of a WAL object, and how an object is put together from it and taken apart.

use super::index;
use super::proto;
use super::{CHUNK_BYTES, FRAME_BYTES};
use crate::archive::{Archive, FORMAT_VERSION};
use crate::compression::Compression;
use crate::object::{HEADER_BYTES, ObjectError, ObjectKind, ObjectReader, split_frames};
use bytes::Bytes;
use holdfast_postgres::wal::SegmentIndex;
use holdfast_postgres::{Lsn, WalFileName};
use prost::Message;

/// Of content, by [`Archive::hasher`].
pub(crate) type Digest = [u8; 32];

/// No WAL file is larger, in bytes.
const LARGEST_FILE: u64 = 1 << 30;
/// An index up to this stands in the descriptor, in bytes; a larger one is cut into frames.
const INDEX_IN_DESCRIPTOR: usize = 1 << 20;
/// The descriptor is small and read often: packed as well as is quick.
const PACKING: Compression = Compression::Zstd(3);

/// What is known of a WAL file without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) name: WalFileName,
    /// Of the data, in bytes.
    pub(crate) length: u64,
    /// Of the data.
    pub(crate) digest: Digest,
    /// Of the chunks, in order; empty where the data follows in the object.
    pub(crate) chunks: Vec<Digest>,
    /// Of what lies aside: where its valid records end, and why it is no whole segment.
    pub(crate) aside: Option<(Lsn, String)>,
    index_frames: u32,
}

impl Descriptor {
    /// Of a file that is to be stored.
    pub(crate) fn new(
        name: WalFileName,
        length: u64,
        digest: Digest,
        chunks: Vec<Digest>,
        aside: Option<(Lsn, String)>,
    ) -> Self {
        Self {
            name,
            length,
            digest,
            chunks,
            aside,
            index_frames: 0,
        }
    }

    /// How many frames of data follow in the object.
    fn data_frames(&self) -> usize {
        if self.chunks.is_empty() {
            (self.length as usize).div_ceil(FRAME_BYTES)
        } else {
            0
        }
    }

    /// Builds the object: this, the index, and the packed data if it is not in chunks. Uses up `data` as it goes, so
    /// that it is not held twice.
    pub(crate) fn build(
        &self,
        archive: &Archive,
        kind: ObjectKind,
        key: &str,
        index: Option<&SegmentIndex>,
        data: Vec<Vec<u8>>,
    ) -> Result<Bytes, ObjectError> {
        let mut message = proto::Descriptor {
            format_version: FORMAT_VERSION,
            oldest_reader: 1,
            name: self.name.to_string(),
            length: self.length,
            digest: self.digest.to_vec(),
            index: index.map(index::encode),
            index_frames: 0,
            chunks: self.chunks.iter().map(|d| d.to_vec()).collect(),
            valid_through: self.aside.as_ref().map_or(0, |(lsn, _)| lsn.0),
            why: self
                .aside
                .as_ref()
                .map_or(String::new(), |(_, why)| why.clone()),
        };
        let mut frames = Vec::new();
        if message
            .index
            .as_ref()
            .is_some_and(|i| i.encoded_len() > INDEX_IN_DESCRIPTOR)
        {
            let encoded = message.index.take().unwrap_or_default().encode_to_vec();
            frames.extend(encoded.chunks(FRAME_BYTES).map(|piece| PACKING.pack(piece)));
            message.index_frames = frames.len() as u32;
        }
        frames.insert(0, PACKING.pack(&message.encode_to_vec()));
        frames.extend(data);
        let mut writer = archive.writer(kind, key)?;
        writer.reserve(
            frames
                .iter()
                .map(|f| f.len() + crate::object::FRAME_OVERHEAD)
                .sum(),
        );
        let count = frames.len();
        for (i, frame) in frames.into_iter().enumerate() {
            writer.append(&frame, i + 1 == count)?;
        }
        Ok(writer.finish())
    }

    fn parse(
        key: &str,
        name: &WalFileName,
        content: &[u8],
    ) -> Result<(Self, Option<SegmentIndex>), ObjectError> {
        let damaged = |why: String| ObjectError::Damaged {
            key: key.to_owned(),
            why,
        };
        let message = proto::Descriptor::decode(content)
            .map_err(|e| damaged(format!("its descriptor can't be read: {e}")))?;
        if message.oldest_reader > FORMAT_VERSION {
            return Err(ObjectError::NewerFormat {
                key: key.to_owned(),
                found: message.oldest_reader,
            });
        }
        if message.name != name.to_string() {
            return Err(damaged(format!(
                "it says that it is {:?}",
                message.name.chars().take(80).collect::<String>()
            )));
        }
        if message.length == 0 || message.length > LARGEST_FILE {
            return Err(damaged(format!(
                "it says that its data has {} bytes",
                message.length
            )));
        }
        let digest = |bytes: &[u8]| {
            Digest::try_from(bytes)
                .map_err(|_| damaged(format!("a digest in it has {} bytes", bytes.len())))
        };
        let chunks = message
            .chunks
            .iter()
            .map(|c| digest(c))
            .collect::<Result<Vec<_>, _>>()?;
        let expected = if message.length > CHUNK_BYTES {
            message.length.div_ceil(CHUNK_BYTES)
        } else {
            0
        };
        if chunks.len() as u64 != expected {
            return Err(damaged(format!(
                "its {} bytes lie in {} chunks instead of {expected}",
                message.length,
                chunks.len()
            )));
        }
        let descriptor = Self {
            name: *name,
            length: message.length,
            digest: digest(&message.digest)?,
            chunks,
            aside: (!message.why.is_empty()).then_some((Lsn(message.valid_through), message.why)),
            index_frames: message.index_frames,
        };
        let index = message
            .index
            .map(index::decode)
            .transpose()
            .map_err(|why| damaged(why.into()))?;
        Ok((descriptor, index))
    }
}

/// A WAL object's beginning, opened.
pub(crate) struct Head {
    key: String,
    reader: ObjectReader,
    pub(crate) descriptor: Descriptor,
    index: Option<SegmentIndex>,
}

/// How many bytes of the object must be known before the wanted can be had.
pub(crate) struct NeedsMore(pub(crate) u64);

/// How the first `count` frames lie in `bytes`, an object's beginning; else how many bytes of it are needed for more.
fn leading_frames<'a>(
    key: &str,
    bytes: &'a [u8],
    count: usize,
) -> Result<Result<Vec<&'a [u8]>, NeedsMore>, ObjectError> {
    let mut frames = Vec::new();
    let mut at = HEADER_BYTES;
    for number in 0..count {
        let Some(length) = bytes.get(at..).and_then(|rest| rest.first_chunk::<4>()) else {
            return Ok(Err(NeedsMore((at + 4) as u64)));
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > crate::object::LARGEST_STORED_FRAME {
            return Err(ObjectError::damaged(
                key,
                format!("frame {number} announces {length} bytes"),
            ));
        }
        let end = at + 4 + length;
        let Some(frame) = bytes.get(at + 4..end) else {
            return Ok(Err(NeedsMore(end as u64)));
        };
        frames.push(frame);
        at = end;
    }
    Ok(Ok(frames))
}

impl Head {
    /// Opens the first frame; `bytes` are the object's beginning.
    pub(crate) fn open(
        archive: &Archive,
        kind: ObjectKind,
        key: &str,
        name: &WalFileName,
        bytes: &[u8],
    ) -> Result<Result<Self, NeedsMore>, ObjectError> {
        let reader = archive.reader(kind, key, bytes)?;
        let first = match leading_frames(key, bytes, 1)? {
            Ok(frames) => frames.into_iter().next().unwrap_or_default(),
            Err(more) => return Ok(Err(more)),
        };
        // Whether it is the last is not known before it is opened. What it says must then agree.
        let (content, last) = match reader.open(0, false, first) {
            Ok(content) => (content, false),
            Err(_) => (reader.open(0, true, first)?, true),
        };
        let (descriptor, index) = Descriptor::parse(key, name, &content)?;
        let head = Self {
            key: key.to_owned(),
            reader,
            descriptor,
            index,
        };
        if last != (head.frames() == 1) {
            return Err(ObjectError::damaged(
                key,
                "it ends where its descriptor says that it does not",
            ));
        }
        Ok(Ok(head))
    }

    fn frames(&self) -> usize {
        1 + self.descriptor.index_frames as usize + self.descriptor.data_frames()
    }

    /// The segment's index, if it is one.
    pub(crate) fn index(
        mut self,
        bytes: &[u8],
    ) -> Result<Result<Option<SegmentIndex>, NeedsMore>, ObjectError> {
        if self.descriptor.index_frames == 0 {
            return Ok(Ok(self.index.take()));
        }
        let count = self.descriptor.index_frames as usize;
        let frames = match leading_frames(&self.key, bytes, 1 + count)? {
            Ok(frames) => frames,
            Err(more) => return Ok(Err(more)),
        };
        let total = self.frames();
        let mut encoded = Vec::new();
        for (number, frame) in frames.iter().enumerate().skip(1) {
            encoded.extend(
                self.reader
                    .open(number as u32, number + 1 == total, frame)?,
            );
        }
        let damaged = |why: String| ObjectError::Damaged {
            key: self.key.clone(),
            why,
        };
        let index = proto::Index::decode(&*encoded)
            .map_err(|e| damaged(format!("its index can't be read: {e}")))?;
        Ok(Ok(Some(
            index::decode(index).map_err(|why| damaged(why.into()))?,
        )))
    }

    /// Opens everything in the object, `bytes`, and checks it: every frame, and the data's digest where it is here.
    /// Returns the data's pieces, none where it lies in chunks.
    pub(crate) fn open_all(
        &self,
        archive: &Archive,
        bytes: &[u8],
    ) -> Result<Vec<Bytes>, ObjectError> {
        let damaged = |why: String| ObjectError::Damaged {
            key: self.key.clone(),
            why,
        };
        let frames = split_frames(&self.key, bytes.get(HEADER_BYTES..).unwrap_or_default())?;
        let total = self.frames();
        if frames.len() != total {
            return Err(damaged(format!(
                "it has {} frames instead of {total}",
                frames.len()
            )));
        }
        let first_data = 1 + self.descriptor.index_frames as usize;
        let mut hasher = archive.hasher();
        let mut pieces = Vec::new();
        let mut left = self.descriptor.length;
        for (number, frame) in frames.iter().enumerate().skip(1) {
            let content = self
                .reader
                .open(number as u32, number + 1 == total, frame)?;
            if number < first_data {
                continue;
            }
            let expected = left.min(FRAME_BYTES as u64);
            if content.len() as u64 != expected {
                return Err(damaged(format!(
                    "frame {number} holds {} bytes instead of {expected}",
                    content.len()
                )));
            }
            left -= expected;
            hasher.update(&content);
            pieces.push(Bytes::from(content));
        }
        if self.descriptor.chunks.is_empty()
            && hasher.finalize().as_bytes() != &self.descriptor.digest
        {
            return Err(damaged("its data does not match its digest".into()));
        }
        Ok(pieces)
    }
}

/// Builds a chunk object; `raw` has at most [`CHUNK_BYTES`].
pub(crate) fn build_chunk(
    archive: &Archive,
    key: &str,
    raw: &[u8],
    compression: Compression,
) -> Result<Bytes, ObjectError> {
    let mut writer = archive.writer(ObjectKind::Chunk, key)?;
    let count = raw.len().div_ceil(FRAME_BYTES);
    for (i, piece) in raw.chunks(FRAME_BYTES).enumerate() {
        writer.append(&compression.pack(piece), i + 1 == count)?;
    }
    Ok(writer.finish())
}

/// Opens a chunk object and checks that it holds `length` bytes of that digest.
pub(crate) fn open_chunk(
    archive: &Archive,
    key: &str,
    bytes: &[u8],
    length: u64,
    digest: &Digest,
) -> Result<Vec<Bytes>, ObjectError> {
    let damaged = |why: String| ObjectError::Damaged {
        key: key.to_owned(),
        why,
    };
    let reader = archive.reader(ObjectKind::Chunk, key, bytes)?;
    let frames = split_frames(key, bytes.get(HEADER_BYTES..).unwrap_or_default())?;
    let expected = (length as usize).div_ceil(FRAME_BYTES);
    if frames.len() != expected {
        return Err(damaged(format!(
            "it has {} frames instead of {expected}",
            frames.len()
        )));
    }
    let mut hasher = archive.hasher();
    let mut pieces = Vec::with_capacity(expected);
    let mut left = length;
    for (number, frame) in frames.iter().enumerate() {
        let content = reader.open(number as u32, number + 1 == expected, frame)?;
        let wanted = left.min(FRAME_BYTES as u64);
        if content.len() as u64 != wanted {
            return Err(damaged(format!(
                "frame {number} holds {} bytes instead of {wanted}",
                content.len()
            )));
        }
        left -= wanted;
        hasher.update(&content);
        pieces.push(Bytes::from(content));
    }
    if hasher.finalize().as_bytes() != digest {
        return Err(damaged(
            "its data does not match the digest in its name".into(),
        ));
    }
    Ok(pieces)
}
