//! The container of every stored object that is not JSON: a header, then frames, each sealed on its own.
//!
//! ```text
//! header   magic "HFST" | format u16 | oldest reader u16 | kind u8 | sealing u8 | 0 u16 | data key u32 | salt 32 bytes
//! frame    length u32 of what follows | packed content (see compression) | tag 16 bytes
//! ```
//!
//! All numbers are little endian. With a data key a frame is AES-256-GCM: the object's key is HKDF-SHA-256 of the data
//! key and the salt, the nonce is the frame's number. Without, the tag is BLAKE3 (cut to 16 bytes) of the same context
//! and the content. The context is the archive's id, the object's name in the archive, the header, the frame's number
//! and whether it is the last: so a frame opens nowhere else, and an object can't be cut short unnoticed.

use crate::archive::{ArchiveId, FORMAT_VERSION};
use crate::compression;
use crate::keys::DataKey;
use crate::store::StoreError;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use bytes::Bytes;
use thiserror::Error;

/// The length of the header, in bytes.
pub const HEADER_BYTES: usize = 48;
/// What a frame adds to its packed content, in bytes.
pub const FRAME_OVERHEAD: usize = LENGTH_BYTES + TAG_BYTES;
/// The most that a frame takes in an object, in bytes.
pub const LARGEST_STORED_FRAME: usize = compression::LARGEST_FRAME + 64;

const MAGIC: &[u8; 4] = b"HFST";
const LENGTH_BYTES: usize = 4;
const TAG_BYTES: usize = 16;
const SALT_BYTES: usize = 32;

/// What an object is. An object of one kind is never read as another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ObjectKind {
    /// A WAL file under its exact name.
    Wal = 1,
    /// Part of the data of a WAL file over 16 MiB.
    Chunk = 2,
    /// What is not a whole segment.
    Aside = 3,
    /// Many layers.
    Pack = 4,
    /// The root of a backup.
    Manifest = 5,
    /// A backup's first sign.
    Started = 6,
    /// A sign of life.
    Alive = 7,
    /// Whether retention may delete a backup.
    Keep = 8,
    /// A sign of life of one who reads.
    Marker = 9,
    /// What is about to be deleted.
    Tombstone = 10,
    /// A stretch of an unfinished segment.
    Part = 11,
}

/// How frames are protected.
#[derive(Clone)]
pub(crate) enum Sealing {
    /// Encrypted by a key derived from this one.
    Key(DataKey),
    /// In the clear, with a digest.
    Digest,
}

/// Where a frame lies in its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FramePlace {
    /// From 0.
    pub number: u32,
    /// From the object's first byte.
    pub offset: u64,
    /// With length and tag, in bytes.
    pub length: u32,
}

/// An object that can't be read or written.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// Not what was written there.
    #[error("{key} is damaged: {why}")]
    Damaged {
        /// Its key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// Written by a newer version.
    #[error(
        "{key} has format {found}, and this program reads up to {FORMAT_VERSION}: use a newer holdfast"
    )]
    NewerFormat {
        /// Its key.
        key: String,
        /// What it needs.
        found: u32,
    },
    /// Sealed by a data key that was not opened.
    #[error("{key} is sealed by data key {number}, which is not among the archive's keys")]
    NoKey {
        /// Its key.
        key: String,
        /// The data key.
        number: u32,
    },
    /// The cipher or the random source failed.
    #[error("can't seal {0} on this machine")]
    Cipher(String),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl ObjectError {
    pub(crate) fn damaged(key: &str, why: impl Into<String>) -> Self {
        Self::Damaged {
            key: key.to_owned(),
            why: why.into(),
        }
    }

    /// The object's key.
    pub fn object(&self) -> &str {
        match self {
            Self::Damaged { key, .. }
            | Self::NewerFormat { key, .. }
            | Self::NoKey { key, .. }
            | Self::Cipher(key) => key,
            Self::Store(e) => e.key(),
        }
    }

    /// Whether the store answered that there is no such object.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Store(e) if e.is_not_found())
    }

    /// Whether the object was read and is not good, as opposed to one that could not be read.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Damaged { .. } | Self::NewerFormat { .. } | Self::NoKey { .. } => true,
            Self::Store(e) => matches!(e.kind(), crate::store::ErrorKind::Damaged),
            Self::Cipher(_) => false,
        }
    }
}

enum Cipher {
    Gcm(LessSafeKey),
    Digest,
}

struct Seal {
    cipher: Cipher,
    /// Everything in the context that is the same for all frames.
    context: Vec<u8>,
}

impl Seal {
    fn new(
        archive: ArchiveId,
        key: &str,
        header: &[u8; HEADER_BYTES],
        data_key: Option<&DataKey>,
    ) -> Result<Self, ObjectError> {
        let fail = || ObjectError::Cipher(key.to_owned());
        let cipher = match data_key {
            None => Cipher::Digest,
            Some(data_key) => {
                let salt = hkdf::Salt::new(
                    hkdf::HKDF_SHA256,
                    header.get(HEADER_BYTES - SALT_BYTES..).unwrap_or_default(),
                );
                let derived = salt.extract(&data_key.secret);
                let material = derived
                    .expand(&[b"holdfast object key v1"], &AES_256_GCM)
                    .map_err(|_| fail())?;
                Cipher::Gcm(LessSafeKey::new(UnboundKey::from(material)))
            }
        };
        let mut context = Vec::with_capacity(128);
        context.extend_from_slice(&archive.0);
        context.extend_from_slice(&(key.len() as u32).to_le_bytes());
        context.extend_from_slice(key.as_bytes());
        context.extend_from_slice(header);
        Ok(Self { cipher, context })
    }

    fn context(&self, number: u32, last: bool) -> Vec<u8> {
        let mut context = Vec::with_capacity(self.context.len() + 5);
        context.extend_from_slice(&self.context);
        context.extend_from_slice(&number.to_le_bytes());
        context.push(u8::from(last));
        context
    }

    fn nonce(number: u32) -> Nonce {
        let mut nonce = [0; 12];
        nonce[..4].copy_from_slice(&number.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    fn digest(context: &[u8], content: &[u8]) -> [u8; TAG_BYTES] {
        let mut hasher = blake3::Hasher::new();
        hasher.update(context).update(content);
        let mut tag = [0; TAG_BYTES];
        hasher.finalize_xof().fill(&mut tag);
        tag
    }

    /// Seals `content` in place and returns the tag.
    fn seal(&self, number: u32, last: bool, content: &mut [u8]) -> Option<[u8; TAG_BYTES]> {
        let context = self.context(number, last);
        match &self.cipher {
            Cipher::Digest => Some(Self::digest(&context, content)),
            Cipher::Gcm(key) => {
                let tag = key
                    .seal_in_place_separate_tag(Self::nonce(number), Aad::from(context), content)
                    .ok()?;
                tag.as_ref().try_into().ok()
            }
        }
    }

    /// Opens content and tag; `None` where the tag does not fit.
    fn open(&self, number: u32, last: bool, sealed: &[u8]) -> Option<Vec<u8>> {
        let context = self.context(number, last);
        match &self.cipher {
            Cipher::Digest => {
                let (content, tag) = sealed.split_last_chunk::<TAG_BYTES>()?;
                (Self::digest(&context, content) == *tag)
                    .then(|| compression::unpack(content))?
                    .ok()
            }
            Cipher::Gcm(key) => {
                let mut buffer = sealed.to_vec();
                let content = key
                    .open_in_place(Self::nonce(number), Aad::from(context), &mut buffer)
                    .ok()?;
                compression::unpack(content).ok()
            }
        }
    }
}

/// Builds an object in memory, frame by frame.
pub struct ObjectWriter {
    key: String,
    seal: Seal,
    out: Vec<u8>,
    next: u32,
    finished: bool,
}

impl ObjectWriter {
    pub(crate) fn new(
        archive: ArchiveId,
        kind: ObjectKind,
        key: &str,
        sealing: Sealing,
    ) -> Result<Self, ObjectError> {
        let mut salt = [0; SALT_BYTES];
        let (sealing, number, data_key) = match &sealing {
            Sealing::Digest => (0, 0, None),
            Sealing::Key(data_key) => {
                getrandom::fill(&mut salt).map_err(|_| ObjectError::Cipher(key.to_owned()))?;
                (1, data_key.number, Some(data_key))
            }
        };
        let mut header = [0; HEADER_BYTES];
        header[..4].copy_from_slice(MAGIC);
        header[4..6].copy_from_slice(&(FORMAT_VERSION as u16).to_le_bytes());
        header[6..8].copy_from_slice(&1u16.to_le_bytes());
        header[8] = kind as u8;
        header[9] = sealing;
        header[12..16].copy_from_slice(&number.to_le_bytes());
        header[16..].copy_from_slice(&salt);
        let seal = Seal::new(archive, key, &header, data_key)?;
        Ok(Self {
            key: key.to_owned(),
            seal,
            out: header.to_vec(),
            next: 0,
            finished: false,
        })
    }

    /// Makes room for what will come, in bytes.
    pub fn reserve(&mut self, bytes: usize) {
        self.out.reserve(bytes);
    }

    /// The object's length so far, in bytes.
    pub fn len(&self) -> usize {
        self.out.len()
    }

    /// Whether no frame was appended yet.
    pub fn is_empty(&self) -> bool {
        self.next == 0
    }

    /// Appends a frame of content packed by [`crate::Compression::pack`]. Exactly the last frame is marked `last`.
    pub fn append(&mut self, packed: &[u8], last: bool) -> Result<FramePlace, ObjectError> {
        debug_assert!(!self.finished, "a frame after the last");
        self.finished = last;
        let place = FramePlace {
            number: self.next,
            offset: self.out.len() as u64,
            length: (packed.len() + FRAME_OVERHEAD) as u32,
        };
        self.out
            .extend_from_slice(&((packed.len() + TAG_BYTES) as u32).to_le_bytes());
        let start = self.out.len();
        self.out.extend_from_slice(packed);
        let tag = self
            .seal
            .seal(self.next, last, &mut self.out[start..])
            .ok_or_else(|| ObjectError::Cipher(self.key.clone()))?;
        self.out.extend_from_slice(&tag);
        self.next += 1;
        Ok(place)
    }

    /// The whole object.
    pub fn finish(self) -> Bytes {
        debug_assert!(self.finished, "no last frame");
        self.out.into()
    }
}

/// Opens frames of one object.
pub struct ObjectReader {
    key: String,
    seal: Seal,
}

impl ObjectReader {
    pub(crate) fn new(
        archive: ArchiveId,
        kind: ObjectKind,
        key: &str,
        start: &[u8],
        encrypted: bool,
        data_key: impl Fn(u32) -> Option<DataKey>,
    ) -> Result<Self, ObjectError> {
        let Some(header) = start.first_chunk::<HEADER_BYTES>() else {
            return Err(ObjectError::damaged(
                key,
                format!("it has only {} bytes", start.len()),
            ));
        };
        if &header[..4] != MAGIC {
            return Err(ObjectError::damaged(key, "it is not an object of Holdfast"));
        }
        let oldest_reader = u32::from(u16::from_le_bytes([header[6], header[7]]));
        if oldest_reader > FORMAT_VERSION {
            return Err(ObjectError::NewerFormat {
                key: key.to_owned(),
                found: oldest_reader,
            });
        }
        if header[8] != kind as u8 {
            return Err(ObjectError::damaged(
                key,
                format!("it is of kind {} where {kind:?} was expected", header[8]),
            ));
        }
        let number = u32::from_le_bytes([header[12], header[13], header[14], header[15]]);
        // An object in the clear in an encrypted archive is one that somebody else put there.
        let data_key = match (header[9], data_key(number), encrypted) {
            (0, _, false) => None,
            (1, Some(data_key), _) => Some(data_key),
            (1, None, _) => {
                return Err(ObjectError::NoKey {
                    key: key.to_owned(),
                    number,
                });
            }
            (0, _, true) => {
                return Err(ObjectError::damaged(
                    key,
                    "it is not encrypted, and its archive is",
                ));
            }
            (other, ..) => {
                return Err(ObjectError::damaged(
                    key,
                    format!("it is sealed in an unknown way, number {other}"),
                ));
            }
        };
        Ok(Self {
            key: key.to_owned(),
            seal: Seal::new(archive, key, header, data_key.as_ref())?,
        })
    }

    /// Opens a frame as [`split_frames`] gives it, or as it was read by its [`FramePlace`] (see [`Self::open_at`]).
    pub fn open(&self, number: u32, last: bool, sealed: &[u8]) -> Result<Vec<u8>, ObjectError> {
        self.seal.open(number, last, sealed).ok_or_else(|| {
            ObjectError::damaged(&self.key, format!("frame {number} does not match its seal"))
        })
    }

    /// Opens a frame that was read by its place: with its length in front.
    pub fn open_at(
        &self,
        place: FramePlace,
        last: bool,
        stored: &[u8],
    ) -> Result<Vec<u8>, ObjectError> {
        match split_frames(&self.key, stored)?.as_slice() {
            [only] => self.open(place.number, last, only),
            _ => Err(ObjectError::damaged(
                &self.key,
                format!("frame {} is not where the manifest says", place.number),
            )),
        }
    }
}

/// Splits what follows the header into frames (content and tag each), without opening them.
pub fn split_frames<'a>(key: &str, mut rest: &'a [u8]) -> Result<Vec<&'a [u8]>, ObjectError> {
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let (length, tail) = rest
            .split_first_chunk::<LENGTH_BYTES>()
            .ok_or_else(|| ObjectError::damaged(key, "it ends within a frame"))?;
        let length = u32::from_le_bytes(*length) as usize;
        if length < TAG_BYTES {
            return Err(ObjectError::damaged(key, "it has a frame without a seal"));
        }
        let (frame, tail) = tail
            .split_at_checked(length)
            .ok_or_else(|| ObjectError::damaged(key, "it ends within a frame"))?;
        frames.push(frame);
        rest = tail;
    }
    Ok(frames)
}
