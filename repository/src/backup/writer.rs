//! Writes a backup: frames into packs, leaves among them, the root last.

use super::entry::{Entry, Frame, Layer, Leaf, Region};
use super::root::{BadPage, LeafPlace, PackRef, Root};
use super::scan::with_patience;
use super::{BackupId, Digest, proto};
use crate::archive::Archive;
use crate::compression::Compression;
use crate::facts::BackupFacts;
use crate::layout;
use crate::object::{ObjectError, ObjectKind, ObjectWriter};
use crate::store::{Created, Store};
use bytes::Bytes;
use holdfast_postgres::SystemIdentifier;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// A leaf is closed at this many regions, so that its sums fit a frame.
const LEAF_REGIONS: usize = 512;
/// Or at this many entries.
const LEAF_ENTRIES: usize = 1024;
/// Or a pack at this many regions, so that its index fits a frame: zeros take no room.
const PACK_REGIONS: usize = 50_000;
/// How long one pack's upload is tried again while the store is in trouble.
const UPLOAD_PATIENCE: Duration = Duration::from_secs(300);

/// How a backup is written.
#[derive(Debug, Clone, Copy)]
pub struct WriterSettings {
    /// For leaves and sums; frames come packed.
    pub compression: Compression,
    /// A pack is closed once it is this long, in bytes; one more frame may be over it.
    pub pack_bytes: usize,
    /// Packs that are being sent at once, each in memory.
    pub uploads: usize,
}

/// What is known of a file before it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// Relative to the data directory.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// In bytes; what is read is padded with zeros or cut to it.
    pub size: u64,
    /// Seconds since 1970.
    pub modified: i64,
    /// Relation data.
    pub paged: bool,
}

/// A region of a file, or an empty file, within a frame.
#[derive(Debug)]
pub struct PackedSlice {
    /// The file.
    pub file: Arc<FileFacts>,
    /// Its region.
    pub region: u64,
    /// From the unpacked frame's first byte.
    pub offset: u32,
    /// In bytes; 0 for an empty file.
    pub length: u32,
    /// Of the region.
    pub digest: Digest,
    /// A sum a page for relation data, else empty.
    pub sums: Vec<u64>,
}

/// A packed frame and what it holds.
#[derive(Debug)]
pub struct PackedFrame {
    /// By [`Compression::pack`]; empty where no slice has bytes.
    pub packed: Vec<u8>,
    /// In order of path and region.
    pub slices: Vec<PackedSlice>,
}

/// Writes one backup. Dropping it leaves packs without a manifest, which no reader looks at.
pub struct BackupWriter {
    archive: Archive,
    system: SystemIdentifier,
    id: BackupId,
    settings: WriterSettings,
    pack: Option<OpenPack>,
    packs: Vec<PackRef>,
    uploads: JoinSet<Result<(), ObjectError>>,
    leaf: Leaf,
    leaf_regions: usize,
    sums: Vec<u8>,
    leaves: Vec<LeafPlace>,
    /// The file whose first region came last.
    current: String,
    files: u64,
    database_bytes: u64,
    /// By the tablespace's OID as it stands in paths.
    tablespace_bytes: BTreeMap<String, u64>,
}

struct OpenPack {
    key: String,
    writer: ObjectWriter,
    index: Vec<proto::PackedRegion>,
}

impl BackupWriter {
    /// Says that the backup begins, so that others can see it.
    pub async fn begin(
        archive: Archive,
        system: SystemIdentifier,
        id: BackupId,
        settings: WriterSettings,
    ) -> Result<Self, ObjectError> {
        let key = layout::started(system, id.as_str());
        let host = std::env::var("HOSTNAME").unwrap_or_default();
        let started = proto::Started {
            oldest_reader: 1,
            host,
            start_time: jiff::Timestamp::now().as_microsecond(),
        };
        match archive
            .create_single(ObjectKind::Started, &key, &started.encode_to_vec())
            .await?
        {
            Created::New => {}
            Created::Occupied(_) => {
                return Err(ObjectError::damaged(
                    &key,
                    format!("a backup with the id {id} was already begun"),
                ));
            }
        }
        Ok(Self {
            archive,
            system,
            id,
            settings,
            pack: None,
            packs: Vec::new(),
            uploads: JoinSet::new(),
            leaf: Leaf::default(),
            leaf_regions: 0,
            sums: Vec::new(),
            leaves: Vec::new(),
            current: String::new(),
            files: 0,
            database_bytes: 0,
            tablespace_bytes: BTreeMap::new(),
        })
    }

    /// Adds a directory, in its place in the order.
    pub async fn directory(&mut self, path: String, mode: u32) -> Result<(), ObjectError> {
        self.leaf.entries.push(Entry {
            path,
            mode,
            directory: true,
            size: 0,
            modified: 0,
            paged: false,
            first_region: 0,
            regions: Vec::new(),
        });
        self.close_full_leaf().await
    }

    /// Adds a frame, in its place in the order.
    pub async fn frame(&mut self, frame: PackedFrame) -> Result<(), ObjectError> {
        let place = if frame.packed.is_empty() {
            None
        } else {
            let regions = frame
                .slices
                .iter()
                .filter(|s| s.length > 0)
                .map(|s| proto::PackedRegion {
                    digest: s.digest.to_vec(),
                    frame: 0,
                    offset: s.offset,
                    length: s.length,
                })
                .collect();
            Some(self.append(&frame.packed, regions).await?)
        };
        for slice in frame.slices {
            self.slice(slice, place);
        }
        self.close_full_leaf().await
    }

    fn slice(&mut self, slice: PackedSlice, frame: Option<Frame>) {
        let PackedSlice {
            file,
            region,
            offset,
            length,
            digest,
            sums,
        } = slice;
        if region == 0 {
            self.current.clone_from(&file.path);
        } else if self.current != file.path {
            // Its beginning has vanished, and the file with it.
            return;
        }
        let goes_on = self
            .leaf
            .entries
            .last()
            .is_some_and(|last| !last.directory && last.path == file.path);
        if !goes_on {
            let FileFacts {
                path,
                mode,
                size,
                modified,
                paged,
            } = FileFacts::clone(&file);
            self.leaf.entries.push(Entry {
                path,
                mode,
                directory: false,
                size,
                modified,
                paged,
                first_region: region,
                regions: Vec::new(),
            });
            if region == 0 {
                self.files += 1;
                self.database_bytes += size;
                if let Some(oid) = file
                    .path
                    .strip_prefix("pg_tblspc/")
                    .and_then(|rest| rest.split('/').next())
                {
                    *self.tablespace_bytes.entry(oid.to_owned()).or_default() += size;
                }
            }
        }
        if let (Some(frame), Some(entry)) =
            (frame.filter(|_| length > 0), self.leaf.entries.last_mut())
        {
            entry.regions.push(Region {
                length,
                digest,
                layer: Layer { frame, offset },
            });
            self.leaf_regions += 1;
            self.sums
                .extend(sums.iter().flat_map(|sum| sum.to_le_bytes()));
        }
    }

    async fn close_full_leaf(&mut self) -> Result<(), ObjectError> {
        if self.leaf_regions >= LEAF_REGIONS || self.leaf.entries.len() >= LEAF_ENTRIES {
            self.close_leaf().await
        } else {
            Ok(())
        }
    }

    async fn close_leaf(&mut self) -> Result<(), ObjectError> {
        let leaf = std::mem::take(&mut self.leaf);
        self.leaf_regions = 0;
        let Some(first) = leaf.entries.first() else {
            return Ok(());
        };
        let first_path = first.path.clone().into_bytes();
        let packed = self.settings.compression.pack(&leaf.encode());
        let leaf = self.append(&packed, Vec::new()).await?;
        let sums = std::mem::take(&mut self.sums);
        let sums = if sums.is_empty() {
            None
        } else {
            let packed = self.settings.compression.pack(
                &proto::Sums {
                    oldest_reader: 1,
                    sums,
                }
                .encode_to_vec(),
            );
            Some(self.append(&packed, Vec::new()).await?)
        };
        self.leaves.push(LeafPlace {
            first_path,
            leaf,
            sums,
        });
        Ok(())
    }

    async fn append(
        &mut self,
        packed: &[u8],
        mut regions: Vec<proto::PackedRegion>,
    ) -> Result<Frame, ObjectError> {
        let pack = match &mut self.pack {
            Some(pack) => pack,
            none => {
                let number = self.packs.len() as u32;
                let key = layout::pack(self.system, self.id.as_str(), number);
                let mut writer = self.archive.writer(ObjectKind::Pack, &key)?;
                writer.reserve(self.settings.pack_bytes + self.settings.pack_bytes / 16);
                self.packs.push(PackRef {
                    backup: self.id.clone(),
                    number,
                    live_bytes: 0,
                });
                none.insert(OpenPack {
                    key,
                    writer,
                    index: Vec::new(),
                })
            }
        };
        let place = pack.writer.append(packed, false)?;
        regions.iter_mut().for_each(|r| r.frame = place.number);
        pack.index.append(&mut regions);
        let number = self.packs.len() as u32 - 1;
        if let Some(used) = self.packs.last_mut() {
            used.live_bytes += u64::from(place.length);
        }
        if pack.writer.len() >= self.settings.pack_bytes || pack.index.len() >= PACK_REGIONS {
            self.close_pack().await?;
        }
        Ok(Frame {
            pack: number,
            offset: place.offset,
            length: place.length,
            number: place.number,
        })
    }

    async fn close_pack(&mut self) -> Result<(), ObjectError> {
        let Some(OpenPack {
            key,
            mut writer,
            index,
        }) = self.pack.take()
        else {
            return Ok(());
        };
        let index = proto::PackIndex {
            oldest_reader: 1,
            regions: index,
        }
        .encode_to_vec();
        writer.append(&self.settings.compression.pack(&index), true)?;
        while self.uploads.len() >= self.settings.uploads.max(1) {
            self.one_upload().await?;
        }
        let store = self.archive.store().clone();
        self.uploads.spawn(upload(store, key, writer.finish()));
        Ok(())
    }

    async fn one_upload(&mut self) -> Result<(), ObjectError> {
        match self.uploads.join_next().await {
            None | Some(Ok(Ok(()))) => Ok(()),
            Some(Ok(Err(e))) => Err(e),
            Some(Err(e)) => Err(ObjectError::damaged(
                "a pack",
                format!("its upload ended unexpectedly: {e}"),
            )),
        }
    }

    /// Sends what is left, and then commits. `facts` may leave the sizes at 0: they are filled in here.
    /// After an error it is unknown whether the backup exists; a listing tells.
    pub async fn finish(
        mut self,
        mut facts: BackupFacts,
        bad_pages: Vec<BadPage>,
        pg_control: Vec<u8>,
        backup_label: Vec<u8>,
        directory_mode: u32,
    ) -> Result<Root, ObjectError> {
        self.close_leaf().await?;
        self.close_pack().await?;
        while !self.uploads.is_empty() {
            self.one_upload().await?;
        }
        facts.id = self.id.to_string();
        facts.files = self.files + 1;
        facts.database_bytes = self.database_bytes + pg_control.len() as u64;
        for tablespace in &mut facts.tablespaces {
            tablespace.bytes = self
                .tablespace_bytes
                .get(&tablespace.oid.to_string())
                .copied()
                .unwrap_or(0);
        }
        facts.stored_bytes = self.packs.iter().map(|p| p.live_bytes).sum();
        let root = Root {
            facts,
            bad_pages,
            pg_control,
            backup_label,
            directory_mode,
            packs: self.packs,
            leaves: self.leaves,
        };
        let key = layout::manifest(self.system, self.id.as_str());
        let mut writer = self.archive.writer(ObjectKind::Manifest, &key)?;
        write_manifest(&mut writer, &root.encode(), self.settings.compression)?;
        commit(self.archive.store(), &key, writer.finish()).await?;
        Ok(root)
    }
}

/// The root in as many frames as it needs.
fn write_manifest(
    writer: &mut ObjectWriter,
    root: &[u8],
    compression: Compression,
) -> Result<(), ObjectError> {
    let mut pieces = root.chunks(crate::compression::LARGEST_FRAME).peekable();
    while let Some(piece) = pieces.next() {
        writer.append(&compression.pack(piece), pieces.peek().is_none())?;
    }
    Ok(())
}

/// Creates an object that nobody else can have made, with patience.
async fn upload(store: Store, key: String, bytes: Bytes) -> Result<(), ObjectError> {
    create(
        &store,
        &key,
        bytes,
        "somebody else wrote an object of that name",
    )
    .await
}

/// Creates the manifest. Only the archive's owner may have come first, and given the backup up.
async fn commit(store: &Store, key: &str, bytes: Bytes) -> Result<(), ObjectError> {
    create(
        store,
        key,
        bytes,
        "the backup was given up meanwhile, because it had shown no sign of life for 15 minutes: take it again",
    )
    .await
}

async fn create(store: &Store, key: &str, bytes: Bytes, occupied: &str) -> Result<(), ObjectError> {
    with_patience(UPLOAD_PATIENCE, || async {
        match store.create(key, vec![bytes.clone()]).await? {
            Created::New => Ok(()),
            Created::Occupied(_) => Err(ObjectError::damaged(key, occupied)),
        }
    })
    .await
}
