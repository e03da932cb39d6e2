//! Writes a backup: frames into packs, leaves among them, the root last.

use super::entry::{Entry, Frame, Leaf};
use super::pack::{IndexWriter, NewLayer};
use super::region::{Layer, Pages, Region};
use super::root::{BadPage, LeafPlace, PackRef, Root};
use super::scan::with_patience;
use super::{BackupId, Digest, digest, path_order, proto};
use crate::archive::Archive;
use crate::compression::Compression;
use crate::facts::BackupFacts;
use crate::layout;
use crate::object::{ObjectError, ObjectKind, ObjectWriter};
use crate::store::{Created, Store};
use bytes::Bytes;
use holdfast_postgres::SystemIdentifier;
use prost::Message;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// A leaf is closed at this many regions. Where it may be one of the reference's, it is only at twice as many, unless it
/// ends where that one does.
const LEAF_REGIONS: usize = 512;
/// Or at this many entries.
const LEAF_ENTRIES: usize = 1024;
/// Or at so many bytes of paths and layers, so that it fits a frame.
const LEAF_BYTES: usize = 1 << 20;
/// One that has less than this part of them goes on beyond the end of the reference's, or there would be ever more.
const SMALL_LEAF: usize = 8;
/// A pack is closed when its index has this many bytes, so that it fits a frame: zeros take no room.
const INDEX_BYTES: usize = 2 << 20;
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

/// What stands in the manifest, in its place in the order.
#[derive(Debug)]
pub enum Item {
    /// A directory.
    Directory {
        /// Relative to the data directory.
        path: String,
        /// Permission bits.
        mode: u32,
    },
    /// A region of a file.
    Region(PackedRegion),
}

/// A region of a file, or an empty file.
#[derive(Debug)]
pub struct PackedRegion {
    /// The file.
    pub file: Arc<FileFacts>,
    /// Which.
    pub region: u64,
    /// In bytes; 0 for an empty file.
    pub length: u32,
    /// Its layers as the reference has them, the lowest first. None, and no new one: zeros.
    pub kept: Vec<Layer>,
    /// What is above them.
    pub new: Option<PackedLayer>,
}

/// A layer within the frame that comes with it.
#[derive(Debug)]
pub struct PackedLayer {
    /// From the unpacked frame's first byte.
    pub offset: u32,
    /// In bytes.
    pub length: u32,
    /// Which pages it holds.
    pub pages: Pages,
    /// Of its bytes.
    pub digest: Digest,
    /// A sum a page for relation data, else empty.
    pub sums: Vec<u64>,
}

/// A packed frame, and what stands in the manifest of what it holds, and between that.
#[derive(Debug)]
pub struct PackedFrame {
    /// By [`Compression::pack`]; empty where no item has a new layer.
    pub packed: Vec<u8>,
    /// In order of path and region.
    pub items: Vec<Item>,
}

/// Writes one backup. Dropping it leaves packs without a manifest, which no reader looks at.
pub struct BackupWriter {
    archive: Archive,
    system: SystemIdentifier,
    id: BackupId,
    settings: WriterSettings,
    pack: Option<OpenPack>,
    /// The reference's, then our own.
    packs: Vec<PackRef>,
    /// How many there are of our own.
    own_packs: u32,
    uploads: JoinSet<Result<(), ObjectError>>,
    leaf: Leaf,
    leaf_regions: usize,
    leaf_bytes: usize,
    leaves: Vec<LeafPlace>,
    reference: Reference,
    changed_bytes: u64,
    stored_bytes: u64,
    /// The file whose first region came last.
    current: String,
    files: u64,
    database_bytes: u64,
    /// By the tablespace's OID as it stands in paths.
    tablespace_bytes: BTreeMap<String, u64>,
}

struct OpenPack {
    key: String,
    /// Among all.
    place: u32,
    writer: ObjectWriter,
    index: IndexWriter,
}

/// Leaves of the backup that this one is compared with.
#[derive(Default)]
struct Reference {
    id: Option<String>,
    /// By what they hold.
    leaves: HashMap<Digest, LeafPlace>,
    /// Where those begin that were not reached yet, in order.
    beginnings: VecDeque<(String, u64)>,
}

impl Reference {
    fn of(root: &Root) -> Self {
        let leaves = root.leaves.iter();
        let begins = |leaf: &LeafPlace| {
            let path = String::from_utf8_lossy(&leaf.first_path).into_owned();
            (path, leaf.first_region)
        };
        Self {
            id: Some(root.facts.id.clone()),
            leaves: leaves
                .clone()
                .map(|leaf| (leaf.digest, leaf.clone()))
                .collect(),
            beginnings: leaves.map(begins).collect(),
        }
    }

    /// Whether what comes next is where a leaf begins, or beyond.
    fn begins(&mut self, path: &str, region: u64) -> bool {
        let reached = |(first, number): &(String, u64)| {
            path_order(first, path).then(number.cmp(&region)) != Ordering::Greater
        };
        let before = self.beginnings.len();
        while self.beginnings.front().is_some_and(reached) {
            self.beginnings.pop_front();
        }
        self.beginnings.len() < before
    }
}

impl BackupWriter {
    /// Says that the backup begins, so that others can see it. What is kept of a `reference` is as its reader gives it; that
    /// nothing of it is deleted meanwhile is for the caller to see to.
    pub async fn begin(
        archive: Archive,
        system: SystemIdentifier,
        id: BackupId,
        settings: WriterSettings,
        reference: Option<&Root>,
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
            packs: reference.map(unused).unwrap_or_default(),
            own_packs: 0,
            uploads: JoinSet::new(),
            leaf: Leaf::default(),
            leaf_regions: 0,
            leaf_bytes: 0,
            leaves: Vec::new(),
            reference: reference.map(Reference::of).unwrap_or_default(),
            changed_bytes: 0,
            stored_bytes: 0,
            current: String::new(),
            files: 0,
            database_bytes: 0,
            tablespace_bytes: BTreeMap::new(),
        })
    }

    /// Adds a frame, in its place in the order.
    pub async fn frame(&mut self, frame: PackedFrame) -> Result<(), ObjectError> {
        let PackedFrame { packed, mut items } = frame;
        let place = if packed.is_empty() {
            None
        } else {
            let layers = items.iter_mut().filter_map(|item| match item {
                Item::Region(PackedRegion { new: Some(new), .. }) => Some(NewLayer {
                    offset: new.offset,
                    length: new.length,
                    digest: new.digest,
                    sums: std::mem::take(&mut new.sums),
                }),
                _ => None,
            });
            Some(self.append(&packed, layers.collect()).await?)
        };
        for item in items {
            match item {
                Item::Directory { path, mode } => {
                    self.reach(&path, 0).await?;
                    self.directory(path, mode);
                }
                Item::Region(region) => {
                    self.reach(&region.file.path, region.region).await?;
                    self.region(region, place);
                }
            }
        }
        Ok(())
    }

    fn directory(&mut self, path: String, mode: u32) {
        self.leaf_bytes += path.len();
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
    }

    fn region(&mut self, region: PackedRegion, frame: Option<Frame>) {
        let PackedRegion {
            file,
            region,
            length,
            kept,
            new,
        } = region;
        if region == 0 {
            self.current.clone_from(&file.path);
            self.files += 1;
            self.database_bytes += file.size;
            if let Some(oid) = file
                .path
                .strip_prefix("pg_tblspc/")
                .and_then(|rest| rest.split('/').next())
            {
                *self.tablespace_bytes.entry(oid.to_owned()).or_default() += file.size;
            }
        } else if self.current != file.path {
            // Its beginning has vanished, and the file with it.
            return;
        }
        let goes_on = region > 0
            && self
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
            let (mode, size, modified) = if region == 0 {
                (mode, size, modified)
            } else {
                (0, 0, 0)
            };
            self.leaf_bytes += path.len();
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
        }
        let Some(entry) = self.leaf.entries.last_mut().filter(|_| length > 0) else {
            return;
        };
        let mut layers = kept;
        if let (Some(frame), Some(new)) = (frame, new) {
            let PackedLayer {
                offset,
                length,
                pages,
                digest,
                ..
            } = new;
            self.changed_bytes += u64::from(length);
            layers.push(Layer {
                frame,
                offset,
                length,
                pages,
                digest,
            });
        }
        let mut region = Region { length, layers };
        region.forget_covered();
        self.leaf_bytes += 64 * region.layers.len();
        entry.regions.push(region);
        self.leaf_regions += 1;
    }

    /// Closes the leaf if it ends before what comes next.
    async fn reach(&mut self, path: &str, region: u64) -> Result<(), ObjectError> {
        let is_small = |part: usize| {
            self.leaf_regions < LEAF_REGIONS / part && self.leaf.entries.len() < LEAF_ENTRIES / part
        };
        let (small, full) = (is_small(SMALL_LEAF), !is_small(1));
        let overfull = self.leaf_regions >= 2 * LEAF_REGIONS
            || self.leaf.entries.len() >= 2 * LEAF_ENTRIES
            || self.leaf_bytes >= LEAF_BYTES;
        let begins = self.reference.begins(path, region);
        let none_ahead = self.reference.beginnings.is_empty();
        if overfull || begins && !small || none_ahead && full {
            self.close_leaf().await
        } else {
            Ok(())
        }
    }

    async fn close_leaf(&mut self) -> Result<(), ObjectError> {
        let leaf = std::mem::take(&mut self.leaf);
        self.leaf_regions = 0;
        self.leaf_bytes = 0;
        let Some(first) = leaf.entries.first() else {
            return Ok(());
        };
        let mut frames = BTreeSet::new();
        for region in leaf.entries.iter().flat_map(|entry| &entry.regions) {
            frames.extend(region.layers.iter().map(|layer| layer.frame));
        }
        for frame in frames {
            self.uses(frame);
        }
        let encoded = leaf.encode(&self.packs);
        let digest = digest(&self.archive, &encoded);
        if let Some(place) = self.reference.leaves.get(&digest) {
            let place = place.clone();
            self.uses(place.leaf);
            self.leaves.push(place);
            return Ok(());
        }
        let place = LeafPlace {
            first_path: first.path.clone().into_bytes(),
            first_region: first.first_region,
            leaf: self
                .append(&self.settings.compression.pack(&encoded), Vec::new())
                .await?,
            digest,
        };
        self.uses(place.leaf);
        self.leaves.push(place);
        Ok(())
    }

    fn uses(&mut self, frame: Frame) {
        if let Some(pack) = self.packs.get_mut(frame.pack as usize) {
            pack.live_bytes += u64::from(frame.length);
        }
    }

    async fn append(&mut self, packed: &[u8], layers: Vec<NewLayer>) -> Result<Frame, ObjectError> {
        let pack = match &mut self.pack {
            Some(pack) => pack,
            none => {
                let number = self.own_packs;
                self.own_packs += 1;
                let key = layout::pack(self.system, self.id.as_str(), number);
                let mut writer = self.archive.writer(ObjectKind::Pack, &key)?;
                writer.reserve(self.settings.pack_bytes + self.settings.pack_bytes / 16);
                let place = self.packs.len() as u32;
                self.packs.push(PackRef {
                    backup: self.id.clone(),
                    number,
                    live_bytes: 0,
                    index: None,
                });
                none.insert(OpenPack {
                    key,
                    place,
                    writer,
                    index: IndexWriter::default(),
                })
            }
        };
        let place = pack.writer.append(packed, false)?;
        pack.index.add(place.number, layers);
        let frame = Frame {
            pack: pack.place,
            offset: place.offset,
            length: place.length,
            number: place.number,
        };
        if pack.writer.len() >= self.settings.pack_bytes || pack.index.len() >= INDEX_BYTES {
            self.close_pack().await?;
        }
        Ok(frame)
    }

    async fn close_pack(&mut self) -> Result<(), ObjectError> {
        let Some(OpenPack {
            key,
            place,
            mut writer,
            index,
        }) = self.pack.take()
        else {
            return Ok(());
        };
        let index = writer.append(&index.pack(self.settings.compression), true)?;
        if let Some(pack) = self.packs.get_mut(place as usize) {
            pack.index = Some(Frame {
                pack: place,
                offset: index.offset,
                length: index.length,
                number: index.number,
            });
        }
        self.stored_bytes += writer.len() as u64;
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

    /// Sends what is left, and then commits. Sizes and reference in `facts` are filled in here.
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
        facts.stored_bytes = self.stored_bytes;
        facts.changed_bytes = self.changed_bytes + pg_control.len() as u64;
        facts.reference = self.reference.id.take();
        // The reference's that nothing is used of any more may go with it.
        let mut places = vec![0; self.packs.len()];
        let mut packs = Vec::new();
        for (pack, place) in std::mem::take(&mut self.packs).into_iter().zip(&mut places) {
            if pack.live_bytes > 0 {
                *place = packs.len() as u32;
                packs.push(pack);
            }
        }
        for leaf in &mut self.leaves {
            leaf.leaf.pack = places[leaf.leaf.pack as usize];
        }
        let root = Root {
            facts,
            bad_pages,
            pg_control,
            backup_label,
            directory_mode,
            packs,
            leaves: self.leaves,
        };
        let key = layout::manifest(self.system, self.id.as_str());
        let mut writer = self.archive.writer(ObjectKind::Manifest, &key)?;
        write_manifest(&mut writer, &root.encode(), self.settings.compression)?;
        commit(self.archive.store(), &key, writer.finish()).await?;
        Ok(root)
    }
}

/// The packs of a backup, before anything uses them.
fn unused(root: &Root) -> Vec<PackRef> {
    let mut packs = root.packs.clone();
    packs.iter_mut().for_each(|pack| pack.live_bytes = 0);
    packs
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
