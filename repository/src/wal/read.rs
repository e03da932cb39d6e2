//! Reading WAL files back: nothing is handed out before it was verified.

use super::descriptor::{Digest, Head, NeedsMore, open_chunk};
use super::store::WalStore;
use super::{CHUNK_BYTES, LARGEST_IN_MEMORY};
use crate::blocking::blocking;
use crate::layout;
use crate::object::{ObjectError, ObjectKind};
use crate::store::{LARGEST_WHOLE_OBJECT, StoreError};
use bytes::{Bytes, BytesMut};
use futures::stream::BoxStream;
use holdfast_postgres::wal::SegmentIndex;
use holdfast_postgres::{SegmentName, TimelineHistory, TimelineId, WalFileName};
use std::collections::VecDeque;

/// Of an object's beginning, in bytes: the descriptor and index of most segments.
const FIRST_GUESS: u64 = 64 << 10;

/// A WAL file that was found.
#[derive(Debug)]
pub struct WalFile {
    length: u64,
    digest: Digest,
    pieces: WalPieces,
}

/// The verified content of a WAL file, piece by piece.
#[derive(Debug)]
pub struct WalPieces {
    store: WalStore,
    key: String,
    ready: VecDeque<Bytes>,
    chunks: VecDeque<Digest>,
    /// What is not fetched yet, in bytes.
    left: u64,
    /// Of what was fetched in chunks, and what it must come to.
    hasher: Option<(blake3::Hasher, Digest)>,
}

impl WalFile {
    /// In bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Of the content, by [`crate::Archive::hasher`].
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// The content. A file of up to 16 MiB was verified as a whole already; of a larger one each chunk is verified
    /// before it is handed out, and the whole before the end is told: an error there means that nothing of it counts.
    pub fn into_pieces(self) -> WalPieces {
        self.pieces
    }
}

impl WalPieces {
    /// The next piece, of at most 1 MiB; none at the verified end. After an error there is nothing more to ask for.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ObjectError> {
        if let Some(piece) = self.ready.pop_front() {
            return Ok(Some(piece));
        }
        let Some(digest) = self.chunks.pop_front() else {
            return match self.hasher.take() {
                Some((hasher, digest)) if hasher.finalize().as_bytes() != &digest => Err(
                    ObjectError::damaged(&self.key, "its chunks do not match its digest"),
                ),
                _ => Ok(None),
            };
        };
        let length = self.left.min(CHUNK_BYTES);
        self.left -= length;
        let key = layout::chunk(self.store.system, &self.key, &digest);
        let object = self
            .store
            .archive
            .store()
            .get(&key, LARGEST_WHOLE_OBJECT)
            .await;
        // A chunk that is not there is damage: only the file itself can be absent.
        let object = object.map_err(|e| {
            if e.is_not_found() {
                ObjectError::damaged(&self.key, format!("its chunk {key} is missing"))
            } else {
                e.into()
            }
        })?;
        let (store, hasher) = (self.store.clone(), self.hasher.take());
        let (pieces, hasher) = blocking::<Result<_, ObjectError>>(move || {
            let pieces = open_chunk(&store.archive, &key, &object, length, &digest)?;
            let hasher = hasher.map(|(mut hasher, whole)| {
                pieces.iter().for_each(|piece| {
                    hasher.update(piece);
                });
                (hasher, whole)
            });
            Ok((pieces, hasher))
        })
        .await?;
        self.hasher = hasher;
        self.ready = pieces.into();
        Ok(self.ready.pop_front())
    }

    /// The same as a stream.
    pub fn into_stream(self) -> BoxStream<'static, Result<Bytes, ObjectError>> {
        Box::pin(futures::stream::try_unfold(self, |mut pieces| async move {
            Ok(pieces.next().await?.map(|piece| (piece, pieces)))
        }))
    }
}

impl WalStore {
    /// The index of a whole segment, by a ranged read of its object's beginning.
    pub async fn index(&self, name: SegmentName) -> Result<SegmentIndex, ObjectError> {
        let key = layout::segment(self.system, name);
        let file = WalFileName::Segment(name);
        let mut wanted = FIRST_GUESS;
        loop {
            let bytes = match self.archive.store().get_head(&key, 0..wanted).await {
                Ok(bytes) => bytes,
                Err(e) => {
                    // Stores refuse any range of an empty object, each in its own words.
                    let empty = self
                        .archive
                        .store()
                        .head(&key)
                        .await
                        .is_ok_and(|object| object.size == 0);
                    return Err(if empty {
                        ObjectError::damaged(&key, "it is empty")
                    } else {
                        e.into()
                    });
                }
            };
            let (this, whole) = (self.clone(), (bytes.len() as u64) < wanted);
            let found = {
                let key = key.clone();
                blocking::<Result<_, ObjectError>>(move || {
                    match Head::open(&this.archive, ObjectKind::Wal, &key, &file, &bytes)? {
                        Ok(head) => head.index(&bytes),
                        Err(more) => Ok(Err(more)),
                    }
                })
                .await?
            };
            match found {
                Ok(Some(index)) => return Ok(index),
                Ok(None) => return Err(ObjectError::damaged(&key, "it has no index")),
                Err(NeedsMore(_)) if whole => {
                    return Err(ObjectError::damaged(&key, "it ends within its index"));
                }
                // Room for the length of the frame after it, so that each frame costs one request at most.
                Err(NeedsMore(more)) => wanted = more.max(wanted) + FIRST_GUESS,
            }
        }
    }

    /// Finds a file by its exact name. What it then hands out is verified, see [`WalFile::into_pieces`].
    /// A `.partial` is kept aside and never found.
    pub async fn read_file(&self, name: &WalFileName) -> Result<WalFile, ObjectError> {
        let Some(key) = layout::wal_file(self.system, name) else {
            return Err(StoreError::invalid(
                self.archive.store().description(),
                &name.to_string(),
                "a .partial file is kept aside and never served",
            )
            .into());
        };
        let object = self.archive.store().get(&key, LARGEST_WHOLE_OBJECT).await?;
        let (this, name) = (self.clone(), *name);
        blocking::<Result<_, ObjectError>>(move || {
            let Ok(head) = Head::open(&this.archive, ObjectKind::Wal, &key, &name, &object)? else {
                return Err(ObjectError::damaged(&key, "it ends within its first frame"));
            };
            let ready = head.open_all(&this.archive, &object)?;
            let (length, digest) = (head.descriptor.length, head.descriptor.digest);
            let is_segment = matches!(name, WalFileName::Segment(_));
            if is_segment && length != u64::from(this.segment_size.bytes()) {
                return Err(ObjectError::damaged(
                    &key,
                    format!(
                        "its segment has {length} bytes instead of {}",
                        this.segment_size.bytes()
                    ),
                ));
            }
            let chunks = VecDeque::from(head.descriptor.chunks);
            let (left, hasher) = if chunks.is_empty() {
                (0, None)
            } else {
                (length, Some((this.archive.hasher(), digest)))
            };
            let pieces = WalPieces {
                store: this,
                key,
                ready: ready.into(),
                chunks,
                left,
                hasher,
            };
            Ok(WalFile {
                length,
                digest,
                pieces,
            })
        })
        .await
    }

    /// A whole segment of up to [`LARGEST_IN_MEMORY`]; of a larger one take [`WalStore::read_file`].
    pub async fn segment(&self, name: SegmentName) -> Result<Bytes, ObjectError> {
        let file = self.read_file(&WalFileName::Segment(name)).await?;
        if file.length > LARGEST_IN_MEMORY {
            let key = layout::segment(self.system, name);
            return Err(ObjectError::damaged(
                &key,
                format!(
                    "its {} bytes are too many to be held in memory",
                    file.length
                ),
            ));
        }
        let mut all = BytesMut::with_capacity(file.length as usize);
        let mut pieces = file.into_pieces();
        while let Some(piece) = pieces.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// Hands a whole segment of any size to `each`, piece by piece. After an error nothing of it counts.
    pub async fn visit(
        &self,
        name: SegmentName,
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), ObjectError> {
        let mut pieces = self
            .read_file(&WalFileName::Segment(name))
            .await?
            .into_pieces();
        while let Some(piece) = pieces.next().await? {
            each(&piece);
        }
        Ok(())
    }

    /// A small file, a history or a backup history file, exactly as it was.
    pub async fn small_file(&self, name: &WalFileName) -> Result<Bytes, ObjectError> {
        let mut pieces = self.read_file(name).await?.into_pieces();
        let mut all = BytesMut::new();
        while let Some(piece) = pieces.next().await? {
            all.extend_from_slice(&piece);
        }
        Ok(all.freeze())
    }

    /// Where a timeline came from. The first has no history file; asking for it is answered with "not found".
    pub async fn history(&self, timeline: TimelineId) -> Result<TimelineHistory, ObjectError> {
        let name = WalFileName::History(timeline);
        let content = self.small_file(&name).await?;
        TimelineHistory::parse(timeline, &content).map_err(|e| {
            ObjectError::damaged(
                &layout::wal_file(self.system, &name).unwrap_or_default(),
                e.to_string(),
            )
        })
    }
}
