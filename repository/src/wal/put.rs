//! Storing a WAL file: create-only, whole segments only under their exact name, other content never silently.

use super::descriptor::{Descriptor, Digest, Head, build_chunk, open_chunk};
use super::store::WalStore;
use super::{CHUNK_BYTES, FRAME_BYTES};
use crate::blocking::blocking;
use crate::compression::Compression;
use crate::layout;
use crate::object::{ObjectError, ObjectKind};
use crate::store::{Created, Withheld};
use bytes::Bytes;
use holdfast_postgres::wal::{
    SegmentEnd, SegmentHeader, SegmentIndex, SegmentScan, SegmentScanner,
};
use holdfast_postgres::{
    HistoryError, Lsn, PgTimestamp, SegmentName, TimelineHistory, WalFileName, WalNameError,
};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::resume_unwind;
use std::sync::Arc;
use thiserror::Error;

/// History and backup history files are a few lines, in bytes.
const LARGEST_SMALL_FILE: u64 = 4 << 20;

/// How a file came to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PutOutcome {
    /// Under its name, now.
    Stored,
    /// Under its name, with the same content, since before. Where an object's bytes are the same too, as they are
    /// without encryption, this may be told as [`PutOutcome::Stored`].
    AlreadyThere,
    /// It is no whole segment, and what is valid of it is the beginning of the whole one that is stored.
    PrefixOfStored,
    /// It is no whole segment, and was stored aside.
    Aside {
        /// Where its valid records end.
        valid_through: Lsn,
        /// Why it is not whole.
        why: String,
    },
}

/// How far a stored segment reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredThrough {
    /// The end of its last complete record.
    pub end: Lsn,
    /// The latest commit in it; none where it has none.
    pub last_commit: Option<PgTimestamp>,
}

impl StoredThrough {
    fn of(index: &SegmentIndex) -> Self {
        Self {
            end: index.end,
            last_commit: index.commit_times.map(|(_, latest)| latest),
        }
    }
}

/// A file that was not stored, or of which that is not known. Calling again is always safe.
#[derive(Debug, Error)]
pub enum PutError {
    /// Not of the right length.
    #[error(
        "{name} has {found} bytes instead of {expected}: it is not a WAL segment of this cluster, or still being written"
    )]
    Length {
        /// The file.
        name: WalFileName,
        /// Its length.
        found: u64,
        /// The segment size.
        expected: u64,
    },
    /// Nothing in it.
    #[error("{0} is empty")]
    Empty(WalFileName),
    /// A history or backup history file that can't be one.
    #[error(
        "{name} has {found} bytes, more than the {LARGEST_SMALL_FILE} that such a file can have"
    )]
    Large {
        /// The file.
        name: WalFileName,
        /// Its length.
        found: u64,
    },
    /// The local file.
    #[error("can't read {name}: {source}")]
    Read {
        /// The file.
        name: WalFileName,
        /// What the system said.
        source: io::Error,
    },
    /// WAL that its server has flushed, and nobody could replay.
    #[error(
        "{name} holds no valid WAL where its server has written some: {why}. Check the disk under pg_wal"
    )]
    Invalid {
        /// The file.
        name: WalFileName,
        /// What is wrong.
        why: String,
    },
    /// More or something else of a segment is stored than its server has written.
    #[error(
        "{place} holds {stored} of {name}, which this server is writing and has written otherwise, or not yet: two servers \
         write to this archive, or this one was set back; nothing was overwritten. Give one of them another archive"
    )]
    OtherHistory {
        /// The archive.
        place: String,
        /// The segment.
        name: WalFileName,
        /// How much.
        stored: String,
    },
    /// Two readings differ.
    #[error("{0} changed while it was read: is something else writing to pg_wal?")]
    Changed(WalFileName),
    /// No segment has this name.
    #[error(transparent)]
    Name(#[from] WalNameError),
    /// Another cluster's.
    #[error("{name} is not this cluster's WAL: {why}")]
    Foreign {
        /// The file.
        name: WalFileName,
        /// What differs.
        why: String,
    },
    /// Not a history file.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The name is taken by other content.
    #[error(
        "{key} in {place} holds other content than {name} here (digest {stored} there, {ours} here): two servers wrote to this archive, \
         or this one was set back; nothing was overwritten. Give one of them another archive"
    )]
    Differs {
        /// The object.
        key: String,
        /// The archive.
        place: String,
        /// The file.
        name: WalFileName,
        /// Digest of what is stored.
        stored: String,
        /// Digest of the local file.
        ours: String,
    },
    /// The repository.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

impl PutError {
    /// Whether trying again can't help without somebody changing something.
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Read { .. } | Self::Changed(_) => false,
            Self::Object(ObjectError::Store(e)) => e.is_permanent(),
            _ => true,
        }
    }
}

/// What the first reading of a file gives.
struct Reading {
    length: u64,
    digest: Digest,
    scan: Option<SegmentScan>,
    /// The data in packed frames, if it goes into the object.
    packed: Vec<Vec<u8>>,
    /// Else its chunks' digests.
    chunks: Vec<Digest>,
}

/// A file as it will be stored, of which nothing is yet.
#[derive(Debug)]
pub struct Prepared {
    source: Arc<File>,
    compression: Compression,
    kind: ObjectKind,
    key: String,
    descriptor: Descriptor,
    object: Bytes,
    through: Option<StoredThrough>,
}

impl Prepared {
    /// In bytes, what it takes until it is stored, where it is not there yet: to compare it with what is there takes
    /// [`WalStore::PUT_MEMORY`].
    pub fn memory(&self) -> u64 {
        match self.descriptor.chunks.is_empty() {
            true => 2 * self.object.len() as u64,
            false => WalStore::PUT_MEMORY,
        }
    }

    /// Whether it comes to lie under its exact name, and not aside.
    pub fn is_whole(&self) -> bool {
        self.descriptor.aside.is_none()
    }
}

impl WalStore {
    /// Stores the file `name`, which `source` is: [`WalStore::prepare`] and [`WalStore::put_prepared`] in one.
    pub async fn put(
        &self,
        name: &WalFileName,
        source: Arc<File>,
        compression: Compression,
    ) -> Result<PutOutcome, PutError> {
        let prepared = self.prepare(name, source, compression).await?;
        let (outcome, _) = self.put_prepared(prepared, None).await?;
        Ok(outcome)
    }

    /// Reads the file `name`, which `source` is, and makes the object of it. Nothing is stored yet.
    pub async fn prepare(
        &self,
        name: &WalFileName,
        source: Arc<File>,
        compression: Compression,
    ) -> Result<Prepared, PutError> {
        let (this, name) = (self.clone(), *name);
        blocking(move || this.prepare_now(name, source, compression)).await
    }

    fn prepare_now(
        &self,
        name: WalFileName,
        source: Arc<File>,
        compression: Compression,
    ) -> Result<Prepared, PutError> {
        let Reading {
            length,
            digest,
            scan,
            packed,
            chunks,
        } = self.read(&name, &source, compression)?;
        let (aside, index) = match scan {
            None => (None, None),
            Some(SegmentScan {
                end: SegmentEnd::Incomplete { valid_through, why },
                header: _,
                index: _,
            }) => (Some((valid_through, why)), None),
            Some(SegmentScan {
                end: SegmentEnd::Full | SegmentEnd::Switch { .. },
                header: _,
                index,
            }) => match name {
                WalFileName::Partial(_) => {
                    (Some((index.end, "it is a .partial file".to_owned())), None)
                }
                _ => (None, Some(index)),
            },
        };
        let (kind, key) = match (layout::wal_file(self.system, &name), &aside) {
            (Some(key), None) => (ObjectKind::Wal, key),
            _ => (
                ObjectKind::Aside,
                layout::aside(self.system, &name, &digest),
            ),
        };
        let descriptor = Descriptor::new(name, length, digest, chunks, aside);
        let object = descriptor.build(&self.archive, kind, &key, index.as_ref(), packed)?;
        Ok(Prepared {
            source,
            compression,
            kind,
            key,
            descriptor,
            object,
            through: index.as_ref().map(StoredThrough::of),
        })
    }

    /// Stores it, and tells how far the stored segment reaches; none for what is no whole segment.
    ///
    /// A whole segment, a history and a backup history file come to lie under their exact names. Anything that is not
    /// a whole segment is kept aside, under its name and digest. Returns only when the store holds the whole object
    /// and, where there was one before, its content was read back and is the same. After an error it is unknown
    /// whether the object exists. Safe to drop and to repeat. What is `withheld` is under its exact name only once that is
    /// released.
    pub async fn put_prepared(
        &self,
        prepared: Prepared,
        withheld: Option<&Withheld>,
    ) -> Result<(PutOutcome, Option<StoredThrough>), PutError> {
        let name = prepared.descriptor.name;
        if let (Some((valid_through, _)), WalFileName::Segment(segment)) =
            (&prepared.descriptor.aside, name)
            && self
                .is_beginning_of_stored(segment, &prepared.source, *valid_through)
                .await?
        {
            return Ok((PutOutcome::PrefixOfStored, None));
        }
        // Chunks that nothing comes to name are never swept.
        if let (Some(withheld), false) = (withheld, prepared.descriptor.chunks.is_empty()) {
            withheld.released().await;
        }
        self.put_chunks(&prepared).await?;
        let through = prepared.through;
        let (descriptor, existed) = self.create(prepared, withheld).await?;
        let outcome = match descriptor.aside {
            Some((valid_through, why)) => PutOutcome::Aside { valid_through, why },
            None if existed => PutOutcome::AlreadyThere,
            None => PutOutcome::Stored,
        };
        Ok((outcome, through))
    }

    /// Creates the object; true if it was there before, with the same content.
    async fn create(
        &self,
        prepared: Prepared,
        withheld: Option<&Withheld>,
    ) -> Result<(Descriptor, bool), PutError> {
        let Prepared {
            kind,
            key,
            descriptor,
            object,
            ..
        } = prepared;
        let (store, object) = (self.archive.store(), vec![object]);
        let created = match withheld {
            Some(withheld) => store.create_withheld(&key, object, withheld).await,
            None => store.create(&key, object).await,
        };
        let stored = match created.map_err(ObjectError::from)? {
            Created::New => return Ok((descriptor, false)),
            Created::Occupied(stored) => stored,
        };
        let there = {
            let (this, key, name) = (self.clone(), key.clone(), descriptor.name);
            blocking::<Result<_, PutError>>(move || {
                let head = this.head_of_whole(kind, &key, &name, &stored)?;
                head.open_all(&this.archive, &stored)?;
                Ok(head.descriptor)
            })
            .await?
        };
        // Equal chunk digests mean chunks that were just now written or read back.
        if (there.length, there.digest, &there.chunks)
            == (descriptor.length, descriptor.digest, &descriptor.chunks)
        {
            return Ok((descriptor, true));
        }
        Err(PutError::Differs {
            key,
            place: self.archive.store().description().to_owned(),
            name: descriptor.name,
            stored: hex::encode(there.digest),
            ours: hex::encode(descriptor.digest),
        })
    }

    fn head_of_whole(
        &self,
        kind: ObjectKind,
        key: &str,
        name: &WalFileName,
        object: &[u8],
    ) -> Result<Head, ObjectError> {
        Head::open(&self.archive, kind, key, name, object)?
            .map_err(|_| ObjectError::damaged(key, "it ends within its first frame"))
    }

    /// The second reading of a large file: chunk by chunk, each held against the first reading.
    async fn put_chunks(&self, prepared: &Prepared) -> Result<(), PutError> {
        let Prepared {
            source,
            compression,
            key: object,
            descriptor,
            ..
        } = prepared;
        let (name, compression) = (descriptor.name, *compression);
        for (number, digest) in descriptor.chunks.iter().enumerate() {
            let offset = number as u64 * CHUNK_BYTES;
            let size = CHUNK_BYTES.min(descriptor.length - offset);
            let key = layout::chunk(self.system, object, digest);
            let object = {
                let (this, source, key, digest) =
                    (self.clone(), source.clone(), key.clone(), *digest);
                blocking::<Result<_, PutError>>(move || {
                    let mut raw = vec![0; size as usize];
                    source
                        .read_exact_at(&mut raw, offset)
                        .map_err(|source| PutError::Read { name, source })?;
                    if this.archive.digest(&raw) != digest {
                        return Err(PutError::Changed(name));
                    }
                    Ok(build_chunk(&this.archive, &key, &raw, compression)?)
                })
                .await?
            };
            if let Created::Occupied(stored) = self
                .archive
                .store()
                .create(&key, vec![object])
                .await
                .map_err(ObjectError::from)?
            {
                let (this, digest) = (self.clone(), *digest);
                blocking::<Result<_, PutError>>(move || {
                    Ok(open_chunk(&this.archive, &key, &stored, size, &digest)?)
                })
                .await?;
            }
        }
        Ok(())
    }

    /// Whether the whole segment is stored, and is what its file `source` holds. That it is stored and differs is an error.
    pub async fn holds(&self, segment: SegmentName, source: &Arc<File>) -> Result<bool, PutError> {
        let end = segment.number(self.segment_size)?.end(self.segment_size);
        self.is_beginning_of_stored(segment, source, end).await
    }

    /// Whether the whole segment is stored, and begins with the local file's bytes up to `valid_through`. That it is
    /// stored and differs is an error.
    pub(super) async fn is_beginning_of_stored(
        &self,
        segment: SegmentName,
        source: &Arc<File>,
        valid_through: Lsn,
    ) -> Result<bool, PutError> {
        let name = WalFileName::Segment(segment);
        let prefix = valid_through.0.saturating_sub(
            segment
                .number(self.segment_size)?
                .start(self.segment_size)
                .0,
        );
        if prefix == 0 {
            return Ok(false);
        }
        let file = match self.read_file(&name).await {
            Err(e) if e.is_not_found() => return Ok(false),
            other => other?,
        };
        let stored = hex::encode(file.digest());
        let mut pieces = file.into_pieces();
        let (mut offset, mut same) = (0u64, true);
        // To its end, so that all of what is stored was verified.
        while let Some(piece) = pieces.next().await? {
            let wanted = prefix.saturating_sub(offset).min(piece.len() as u64) as usize;
            let mut ours = vec![0; wanted];
            source
                .read_exact_at(&mut ours, offset)
                .map_err(|source| PutError::Read { name, source })?;
            same &= piece.get(..wanted) == Some(&*ours);
            offset += piece.len() as u64;
        }
        if same {
            return Ok(true);
        }
        let (this, source) = (self.clone(), source.clone());
        let ours =
            blocking::<Result<_, PutError>>(move || Ok(hex::encode(this.hash(&name, &source)?)))
                .await?;
        let place = self.archive.store().description().to_owned();
        Err(PutError::Differs {
            key: layout::segment(self.system, segment),
            place,
            name,
            stored,
            ours,
        })
    }

    fn hash(&self, name: &WalFileName, source: &File) -> Result<Digest, PutError> {
        let mut hasher = self.archive.hasher();
        for_each_piece(
            name,
            source,
            u64::from(self.segment_size.bytes()),
            |piece| {
                hasher.update(piece);
            },
        )?;
        Ok(*hasher.finalize().as_bytes())
    }

    fn read(
        &self,
        name: &WalFileName,
        source: &File,
        compression: Compression,
    ) -> Result<Reading, PutError> {
        let length = source
            .metadata()
            .map_err(|source| PutError::Read {
                name: *name,
                source,
            })?
            .len();
        if length == 0 {
            return Err(PutError::Empty(*name));
        }
        match name {
            WalFileName::Segment(segment) | WalFileName::Partial(segment) => {
                self.read_segment(name, *segment, source, length, compression)
            }
            WalFileName::History(_) | WalFileName::BackupHistory { .. }
                if length > LARGEST_SMALL_FILE =>
            {
                Err(PutError::Large {
                    name: *name,
                    found: length,
                })
            }
            WalFileName::History(_) | WalFileName::BackupHistory { .. } => {
                let mut raw = vec![0; length as usize];
                source
                    .read_exact_at(&mut raw, 0)
                    .map_err(|source| PutError::Read {
                        name: *name,
                        source,
                    })?;
                if let WalFileName::History(timeline) = name {
                    TimelineHistory::parse(*timeline, &raw)?;
                }
                let packed = raw
                    .chunks(FRAME_BYTES)
                    .map(|piece| compression.pack(piece))
                    .collect();
                Ok(Reading {
                    length,
                    digest: self.archive.digest(&raw),
                    scan: None,
                    packed,
                    chunks: Vec::new(),
                })
            }
        }
    }

    fn read_segment(
        &self,
        name: &WalFileName,
        segment: SegmentName,
        source: &File,
        length: u64,
        compression: Compression,
    ) -> Result<Reading, PutError> {
        let expected = u64::from(self.segment_size.bytes());
        segment.number(self.segment_size)?;
        if length != expected {
            return Err(PutError::Length {
                name: *name,
                found: length,
                expected,
            });
        }
        self.check_owner(name, segment, source)?;
        let mut hasher = self.archive.hasher();
        let mut scanner = SegmentScanner::new(segment, self.segment_size, self.major);
        let (mut packed, mut chunks) = (Vec::new(), Vec::new());
        if length <= CHUNK_BYTES {
            let mut raw = vec![0; length as usize];
            source
                .read_exact_at(&mut raw, 0)
                .map_err(|source| PutError::Read {
                    name: *name,
                    source,
                })?;
            // Compression takes a few times as long as all the rest: on processors of their own.
            let pieces: Vec<&[u8]> = raw.chunks(FRAME_BYTES).collect();
            let (first, second) = pieces.split_at(pieces.len() / 2);
            let pack = |pieces: &[&[u8]]| -> Vec<Vec<u8>> {
                pieces.iter().map(|piece| compression.pack(piece)).collect()
            };
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    hasher.update(&raw);
                    scanner.feed(&raw);
                });
                let first = scope.spawn(|| pack(first));
                let second = pack(second);
                packed = first.join().unwrap_or_else(|panic| resume_unwind(panic));
                packed.extend(second);
            });
        } else {
            let mut chunk = self.archive.hasher();
            for_each_piece(name, source, length, |piece| {
                hasher.update(piece);
                scanner.feed(piece);
                chunk.update(piece);
                if chunk.count() == CHUNK_BYTES {
                    chunks.push(*chunk.finalize().as_bytes());
                    chunk.reset();
                }
            })?;
        }
        Ok(Reading {
            length,
            digest: *hasher.finalize().as_bytes(),
            scan: Some(scanner.finish()),
            packed,
            chunks,
        })
    }

    /// Whose WAL it is, by the header of its first page.
    pub(super) fn check_owner(
        &self,
        name: &WalFileName,
        segment: SegmentName,
        source: &File,
    ) -> Result<(), PutError> {
        let mut first = [0; SegmentHeader::SIZE];
        source
            .read_exact_at(&mut first, 0)
            .map_err(|source| PutError::Read {
                name: *name,
                source,
            })?;
        let foreign = |why: String| PutError::Foreign { name: *name, why };
        let header = SegmentHeader::parse(&first).map_err(|e| foreign(e.to_string()))?;
        let start = segment.number(self.segment_size)?.start(self.segment_size);
        let differs = [
            (
                "system identifier",
                header.system_identifier.to_string(),
                self.system.to_string(),
            ),
            (
                "segment size",
                header.segment_size.to_string(),
                self.segment_size.to_string(),
            ),
            (
                "PostgreSQL major version",
                header.major.to_string(),
                self.major.to_string(),
            ),
            (
                "address",
                header.page_address.to_string(),
                start.to_string(),
            ),
            // The first segment of a timeline may begin with a page of its parent, none with one of a child.
            (
                "timeline",
                header.timeline.to_string(),
                header.timeline.min(segment.timeline).to_string(),
            ),
        ];
        match differs
            .into_iter()
            .find(|(_, found, expected)| found != expected)
        {
            None => Ok(()),
            Some((what, found, expected)) => Err(foreign(format!(
                "its first page has {what} {found}, and {expected} is right here"
            ))),
        }
    }
}

/// Reads `length` bytes in pieces of [`FRAME_BYTES`].
pub(super) fn for_each_piece(
    name: &WalFileName,
    source: &File,
    length: u64,
    mut each: impl FnMut(&[u8]),
) -> Result<(), PutError> {
    let mut buffer = vec![0; FRAME_BYTES];
    let mut offset = 0;
    while offset < length {
        let size = (length - offset).min(FRAME_BYTES as u64) as usize;
        let piece = buffer.get_mut(..size).unwrap_or_default();
        source
            .read_exact_at(piece, offset)
            .map_err(|source| PutError::Read {
                name: *name,
                source,
            })?;
        each(piece);
        offset += size as u64;
    }
    Ok(())
}
