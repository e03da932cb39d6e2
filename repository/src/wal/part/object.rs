//! How a part's object is put together and taken apart.

use super::super::descriptor::Digest;
use super::super::{FRAME_BYTES, proto};
use super::name::PartName;
use crate::archive::{Archive, FORMAT_VERSION};
use crate::compression::Compression;
use crate::object::{FRAME_OVERHEAD, HEADER_BYTES, ObjectError, ObjectKind, split_frames};
use bytes::Bytes;
use prost::Message;

/// The description is small: packed as well as is quick.
const PACKING: Compression = Compression::Zstd(3);

/// What a part says of its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sums {
    /// Of the data.
    pub(super) digest: Digest,
    /// Of the segment's bytes before it.
    pub(super) before: Digest,
}

/// Builds the object of `raw`.
pub(super) fn build(
    archive: &Archive,
    key: &str,
    name: &PartName,
    sums: &Sums,
    raw: &[u8],
    compression: Compression,
) -> Result<Bytes, ObjectError> {
    let message = proto::Part {
        format_version: FORMAT_VERSION,
        oldest_reader: 1,
        segment: name.segment.to_string(),
        from: name.from,
        to: name.to,
        digest: sums.digest.to_vec(),
        before: sums.before.to_vec(),
    };
    let mut writer = archive.writer(ObjectKind::Part, key)?;
    writer.append(&PACKING.pack(&message.encode_to_vec()), raw.is_empty())?;
    let count = raw.len().div_ceil(FRAME_BYTES);
    for (i, piece) in raw.chunks(FRAME_BYTES).enumerate() {
        let packed = compression.pack(piece);
        writer.reserve(packed.len() + FRAME_OVERHEAD);
        writer.append(&packed, i + 1 == count)?;
    }
    Ok(writer.finish())
}

/// Opens an object and checks all of it but what comes before: that it is the part of that name, each frame, and the
/// digest of the data, whose pieces of 1 MiB at most are returned.
pub(super) fn open(
    archive: &Archive,
    key: &str,
    name: &PartName,
    object: &[u8],
) -> Result<(Sums, Vec<Bytes>), ObjectError> {
    let damaged = |why: String| ObjectError::Damaged {
        key: key.to_owned(),
        why,
    };
    let reader = archive.reader(ObjectKind::Part, key, object)?;
    let frames = split_frames(key, object.get(HEADER_BYTES..).unwrap_or_default())?;
    let expected = 1 + (name.length() as usize).div_ceil(FRAME_BYTES);
    if frames.len() != expected {
        return Err(damaged(format!(
            "it has {} frames instead of {expected}",
            frames.len()
        )));
    }
    let mut contents = frames
        .iter()
        .enumerate()
        .map(|(number, frame)| reader.open(number as u32, number + 1 == expected, frame));
    let sums = parse(key, name, &contents.next().transpose()?.unwrap_or_default())?;
    let mut hasher = archive.hasher();
    let mut pieces = Vec::with_capacity(expected);
    let mut left = name.length() as usize;
    for (number, content) in contents.enumerate() {
        let content = content?;
        let wanted = left.min(FRAME_BYTES);
        if content.len() != wanted {
            return Err(damaged(format!(
                "frame {} holds {} bytes instead of {wanted}",
                number + 1,
                content.len()
            )));
        }
        left -= wanted;
        hasher.update(&content);
        pieces.push(Bytes::from(content));
    }
    if hasher.finalize().as_bytes() != &sums.digest {
        return Err(damaged("its data does not match its digest".into()));
    }
    Ok((sums, pieces))
}

fn parse(key: &str, name: &PartName, content: &[u8]) -> Result<Sums, ObjectError> {
    let damaged = |why: String| ObjectError::Damaged {
        key: key.to_owned(),
        why,
    };
    let message = proto::Part::decode(content)
        .map_err(|e| damaged(format!("its description can't be read: {e}")))?;
    if message.oldest_reader > FORMAT_VERSION {
        return Err(ObjectError::NewerFormat {
            key: key.to_owned(),
            found: message.oldest_reader,
        });
    }
    if (message.segment.as_str(), message.from, message.to)
        != (name.segment.to_string().as_str(), name.from, name.to)
    {
        return Err(damaged(format!(
            "it says that it is of {:?}, from {:X} to {:X}",
            message.segment.chars().take(80).collect::<String>(),
            message.from,
            message.to
        )));
    }
    let digest = |bytes: &[u8]| {
        Digest::try_from(bytes)
            .map_err(|_| damaged(format!("a digest in it has {} bytes", bytes.len())))
    };
    Ok(Sums {
        digest: digest(&message.digest)?,
        before: digest(&message.before)?,
    })
}
