//! How a frame's content is packed: one byte that names the algorithm, the raw length, the data.

use thiserror::Error;

/// The most a frame may hold once unpacked, in bytes.
pub const LARGEST_FRAME: usize = 4 << 20;

/// How new frames are compressed. What is read says for itself how it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Stored as it is.
    None,
    /// LZ4 block format.
    Lz4,
    /// Zstandard at this level, 1 to 19.
    Zstd(i32),
}

const NONE: u8 = 0;
const LZ4: u8 = 1;
const ZSTD: u8 = 2;
const PREFIX: usize = 5;

/// A frame whose content can't be unpacked.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum UnpackError {
    /// Shorter than its own prefix.
    #[error("a frame has only {0} bytes")]
    Short(usize),
    /// Announces more than a frame may hold.
    #[error("a frame announces {0} bytes, more than the {LARGEST_FRAME} that one may hold")]
    Large(usize),
    /// Written by a newer version, or damaged.
    #[error("a frame is compressed by an unknown algorithm, number {0}")]
    Algorithm(u8),
    /// The data does not unpack to the announced length.
    #[error("a frame does not unpack to the {0} bytes that it announces")]
    Data(usize),
}

impl Compression {
    /// Packs `raw`, which has at most [`LARGEST_FRAME`] bytes; stored as it is where compression gains nothing.
    pub fn pack(self, raw: &[u8]) -> Vec<u8> {
        debug_assert!(raw.len() <= LARGEST_FRAME);
        let (algorithm, bound) = match self {
            Self::None => (NONE, 0),
            Self::Lz4 => (LZ4, lz4_flex::block::get_maximum_output_size(raw.len())),
            Self::Zstd(_) => (ZSTD, zstd::zstd_safe::compress_bound(raw.len())),
        };
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.len() < bound {
                scratch.resize(bound, 0);
            }
            let packed = match self {
                Self::None => None,
                Self::Lz4 => lz4_flex::block::compress_into(raw, scratch).ok(),
                Self::Zstd(level) => zstd_compress(level, raw, scratch),
            };
            let packed = packed
                .and_then(|n| scratch.get(..n))
                .filter(|packed| packed.len() < raw.len());
            let (algorithm, content) = packed.map_or((NONE, raw), |packed| (algorithm, packed));
            let mut out = Vec::with_capacity(PREFIX + content.len());
            out.push(algorithm);
            out.extend_from_slice(&(raw.len() as u32).to_le_bytes());
            out.extend_from_slice(content);
            out
        })
    }
}

/// Unpacks what [`Compression::pack`] made.
pub fn unpack(packed: &[u8]) -> Result<Vec<u8>, UnpackError> {
    let Some((&[algorithm, a, b, c, d], data)) = packed.split_first_chunk::<PREFIX>() else {
        return Err(UnpackError::Short(packed.len()));
    };
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > LARGEST_FRAME {
        return Err(UnpackError::Large(length));
    }
    let raw = match algorithm {
        NONE => data.to_vec(),
        LZ4 => lz4_flex::block::decompress(data, length).map_err(|_| UnpackError::Data(length))?,
        ZSTD => {
            let mut out = vec![0; length];
            let n = zstd_decompress(data, &mut out).ok_or(UnpackError::Data(length))?;
            out.truncate(n);
            out
        }
        other => return Err(UnpackError::Algorithm(other)),
    };
    if raw.len() != length {
        Err(UnpackError::Data(length))
    } else {
        Ok(raw)
    }
}

// Contexts are large and slow to make, and so is room for the worst case: one a thread.
thread_local! {
    static SCRATCH: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
    static COMPRESS: std::cell::RefCell<zstd::zstd_safe::CCtx<'static>> = std::cell::RefCell::new(zstd::zstd_safe::CCtx::create());
    static DECOMPRESS: std::cell::RefCell<zstd::zstd_safe::DCtx<'static>> = std::cell::RefCell::new(zstd::zstd_safe::DCtx::create());
}

fn zstd_compress(level: i32, raw: &[u8], out: &mut [u8]) -> Option<usize> {
    COMPRESS.with_borrow_mut(|context| context.compress(out, raw, level).ok())
}

fn zstd_decompress(data: &[u8], out: &mut [u8]) -> Option<usize> {
    DECOMPRESS.with_borrow_mut(|context| context.decompress(out, data).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_packed_unpacks_to_the_same() {
        let text = b"a page of mostly zeros".repeat(4000);
        let noise: Vec<u8> = (0..50_000u32)
            .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
            .collect();
        for compression in [
            Compression::None,
            Compression::Lz4,
            Compression::Zstd(1),
            Compression::Zstd(19),
        ] {
            for raw in [&text[..], &noise[..], b"", b"x"] {
                assert_eq!(
                    unpack(&compression.pack(raw)).unwrap(),
                    raw,
                    "{compression:?}"
                );
            }
        }
    }

    #[test]
    fn a_lying_length_is_refused() {
        let mut packed = Compression::Zstd(3).pack(&[7; 1000]);
        packed[1] = packed[1].wrapping_add(1);
        assert!(unpack(&packed).is_err());
        let mut packed = Compression::None.pack(&[7; 1000]);
        packed[4] = 0xff;
        assert!(matches!(unpack(&packed), Err(UnpackError::Large(_))));
    }

    proptest! {
        #[test]
        fn hostile_frames_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = unpack(&bytes);
        }
    }
}
