//! Reads a backup: leaves one at a time, the regions of each in groups, and the frames of a group in runs that are fetched by
//! one request each.

use super::entry::{Entry, Frame, Leaf};
use super::pack::PackIndex;
use super::region::{Layer, Pages, Region};
use super::root::{Manifest, Root};
use super::{BackupId, digest};
use crate::archive::Archive;
use crate::layout;
use crate::object::{
    FramePlace, HEADER_BYTES, ObjectError, ObjectKind, ObjectReader, split_frames,
};
use bytes::Bytes;
use futures::TryStreamExt;
use holdfast_postgres::SystemIdentifier;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

/// The largest root that is read, in bytes.
const LARGEST_MANIFEST: u64 = 256 << 20;
/// A run is not longer than this as stored, in bytes, unless it is one frame.
const RUN_BYTES: u64 = 4 << 20;
/// What lies between two frames is fetched with them if it is no more than this, in bytes.
const RUN_GAP: u64 = 64 << 10;
/// A group is closed at so many stored bytes.
const GROUP_STORED: u64 = 4 << 20;
/// Or at so many bytes of regions.
const GROUP_BYTES: u64 = 16 << 20;
/// Or at so many regions.
const GROUP_REGIONS: usize = 1024;
/// Headers of packs kept at once.
const KEPT_PACKS: usize = 256;
/// Indexes of packs kept at once, in bytes.
const KEPT_INDEXES: usize = 16 << 20;

/// One backup, opened.
pub struct BackupReader {
    archive: Archive,
    system: SystemIdentifier,
    root: Root,
    /// Places in the root's list, by who wrote it and number.
    places: HashMap<String, HashMap<u32, u32>>,
    packs: Mutex<BTreeMap<u32, Arc<ObjectReader>>>,
    indexes: Mutex<KeptIndexes>,
}

/// The indexes that were asked for last.
#[derive(Default)]
struct KeptIndexes {
    bytes: usize,
    clock: u64,
    kept: HashMap<u32, (u64, Arc<PackIndex>)>,
}

/// Regions that are read together, and the runs that hold their layers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// In order.
    pub slices: Vec<Slice>,
    /// In order of pack and offset.
    pub runs: Vec<Run>,
}

/// Frames of one pack that are fetched together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Place in the root's list.
    pub pack: u32,
    /// Of the first frame, in bytes.
    pub offset: u64,
    /// To the end of the last frame, in bytes.
    pub length: u64,
}

/// A region of a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Place in [`Leaf::entries`].
    pub entry: usize,
    /// Place among that one's.
    place: usize,
    /// The file's region.
    pub region: u64,
}

/// The bytes of each of a group's runs.
pub type Fetched = Vec<Result<Bytes, ObjectError>>;

impl KeptIndexes {
    fn get(&mut self, pack: u32) -> Option<Arc<PackIndex>> {
        self.clock += 1;
        let (used, index) = self.kept.get_mut(&pack)?;
        *used = self.clock;
        Some(index.clone())
    }

    fn keep(&mut self, pack: u32, index: PackIndex) -> Arc<PackIndex> {
        let bytes = index.bytes();
        while self.bytes + bytes > KEPT_INDEXES {
            let oldest = self.kept.iter().min_by_key(|(_, (used, _))| *used);
            let Some(gone) = oldest.map(|(pack, _)| *pack) else {
                break;
            };
            let gone = self.kept.remove(&gone);
            self.bytes -= gone.map_or(0, |(_, index)| index.bytes());
        }
        let index = Arc::new(index);
        self.clock += 1;
        let before = self.kept.insert(pack, (self.clock, index.clone()));
        self.bytes += bytes;
        // Two asked for it at once.
        self.bytes -= before.map_or(0, |(_, index)| index.bytes());
        index
    }
}

impl BackupReader {
    /// Reads the root.
    pub async fn open(
        archive: Archive,
        system: SystemIdentifier,
        id: &BackupId,
    ) -> Result<Self, ObjectError> {
        let root = read_root(&archive, system, id).await?;
        let mut places: HashMap<String, HashMap<u32, u32>> = HashMap::new();
        for (pack, place) in root.packs.iter().zip(0..) {
            match places.get_mut(pack.backup.as_str()) {
                Some(numbers) => numbers.insert(pack.number, place),
                None => places
                    .entry(pack.backup.to_string())
                    .or_default()
                    .insert(pack.number, place),
            };
        }
        Ok(Self {
            archive,
            system,
            root,
            places,
            packs: Mutex::default(),
            indexes: Mutex::default(),
        })
    }

    /// Everything but the leaves.
    pub fn root(&self) -> &Root {
        &self.root
    }

    /// How many leaves there are.
    pub fn leaf_count(&self) -> usize {
        self.root.leaves.len()
    }

    /// Reads leaf `number`, from 0.
    pub async fn leaf(&self, number: usize) -> Result<Leaf, ObjectError> {
        let place = &self.root.leaves[number];
        let bytes = self.frame(place.leaf).await?;
        let pack = |backup: &str, number: u32| self.places.get(backup)?.get(&number).copied();
        let leaf = Leaf::decode(&bytes, pack)
            .map_err(|why| ObjectError::damaged(&self.pack_key(place.leaf.pack), why))?;
        let is_named = |first: &Entry| {
            first.path.as_bytes() == place.first_path && first.first_region == place.first_region
        };
        if !leaf.entries.first().is_some_and(is_named)
            || digest(&self.archive, &bytes) != place.digest
        {
            return Err(ObjectError::damaged(
                &self.pack_key(place.leaf.pack),
                "a leaf is not the one that the manifest names",
            ));
        }
        Ok(leaf)
    }

    /// Looks, before anything relies on it, whether every leaf can be read and every pack is there and long enough.
    pub async fn preflight(&self) -> Result<(), ObjectError> {
        for number in 0..self.leaf_count() {
            self.leaf(number).await?;
        }
        self.has_packs().await
    }

    /// Looks whether every pack is there and as long as it was written.
    pub async fn has_packs(&self) -> Result<(), ObjectError> {
        let ends = self.root.packs.iter().zip(0..).map(|(pack, place)| {
            let end = pack
                .index
                .map(|index| index.offset + u64::from(index.length));
            (self.pack_key(place), end.unwrap_or_default())
        });
        let mut needed: HashMap<String, u64> = ends.collect();
        let mut listing = self.archive.store().list(&layout::packs(self.system));
        while let Some(object) = listing.try_next().await? {
            if let Some(end) = needed.remove(&object.key)
                && object.size != end
            {
                let why = format!("it has {} bytes, and {end} were written", object.size);
                return Err(ObjectError::damaged(&object.key, why));
            }
        }
        match needed.into_keys().next() {
            Some(key) => Err(ObjectError::damaged(
                &key,
                "it is missing, and the backup needs it",
            )),
            None => Ok(()),
        }
    }

    /// The sum of each page of a region of relation data, from the indexes of the packs that its layers lie in.
    pub async fn sums(&self, region: &Region) -> Result<Vec<u64>, ObjectError> {
        let mut indexes: HashMap<u32, Arc<PackIndex>> = HashMap::new();
        for layer in &region.layers {
            let pack = layer.frame.pack;
            if let std::collections::hash_map::Entry::Vacant(none) = indexes.entry(pack) {
                none.insert(self.index(pack).await?);
            }
        }
        let of = |layer: &Layer| indexes.get(&layer.frame.pack)?.sums(layer);
        region.sums(of).map_err(|layer| {
            let why = "its index has no page sums of a layer that the manifest names";
            ObjectError::damaged(&self.pack_key(layer.frame.pack), why)
        })
    }

    /// What a pack says of its layers.
    pub async fn index(&self, pack: u32) -> Result<Arc<PackIndex>, ObjectError> {
        if let Some(kept) = self.indexes().get(pack) {
            return Ok(kept);
        }
        let key = self.pack_key(pack);
        let place = self.root.packs.get(pack as usize).and_then(|p| p.index);
        let place = place.ok_or_else(|| ObjectError::damaged(&key, "its index is not named"))?;
        let bytes = self.open_frame(Frame { pack, ..place }, true).await?;
        let index = PackIndex::decode(&bytes).map_err(|why| ObjectError::damaged(&key, why))?;
        Ok(self.indexes().keep(pack, index))
    }

    fn indexes(&self) -> std::sync::MutexGuard<'_, KeptIndexes> {
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The regions of a leaf, as they are best read.
    pub fn groups(&self, leaf: &Leaf) -> Vec<Group> {
        plan_groups(&leaf.entries)
    }

    /// Fetches a run's bytes.
    pub async fn fetch(&self, run: &Run) -> Result<Bytes, ObjectError> {
        self.pack(run.pack).await?;
        let range = run.offset..run.offset + run.length;
        let key = self.pack_key(run.pack);
        Ok(self.archive.store().get_range(&key, range).await?)
    }

    /// Gives each region of a fetched group, put together from its layers, the digest of each compared, to `each`. A
    /// region that is not good is given as an error that names its object, and the rest goes on: whether that ends the
    /// work is for `each` to say. Computes for a while: not for an async thread.
    pub fn open_group<E>(
        &self,
        leaf: &Leaf,
        group: &Group,
        fetched: &Fetched,
        mut each: impl FnMut(&Slice, Result<&[u8], &ObjectError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let regions = || {
            let slices = group.slices.iter();
            slices.filter_map(|slice| Some((slice, slice.region_of(leaf)?)))
        };
        let mut uses: HashMap<Frame, usize> = HashMap::new();
        for (layer, _) in regions().flat_map(|(_, region)| needed(region)) {
            *uses.entry(layer.frame).or_default() += 1;
        }
        let mut opened: HashMap<Frame, Result<Vec<u8>, Bad<'_>>> = HashMap::new();
        for (slice, region) in regions() {
            for (layer, _) in needed(region) {
                let frame = layer.frame;
                opened
                    .entry(frame)
                    .or_insert_with(|| self.open_fetched(frame, group, fetched));
            }
            match self.put_together(region, &opened) {
                Ok(content) => each(slice, Ok(content.as_ref()))?,
                Err(bad) => each(slice, Err(bad.error()))?,
            }
            for (layer, _) in needed(region) {
                let left = uses.entry(layer.frame).or_default();
                *left = left.saturating_sub(1);
                if *left == 0 {
                    opened.remove(&layer.frame);
                }
            }
        }
        Ok(())
    }

    fn put_together<'a>(
        &self,
        region: &Region,
        opened: &'a HashMap<Frame, Result<Vec<u8>, Bad<'_>>>,
    ) -> Result<Cow<'a, [u8]>, Bad<'a>> {
        let length = region.length as usize;
        let mut assembled = Vec::new();
        for (layer, visible) in needed(region) {
            let opened: &[u8] = match opened.get(&layer.frame) {
                Some(Ok(opened)) => opened,
                Some(Err(bad)) => return Err(Bad::Told(bad.error())),
                None => &[],
            };
            let start = layer.offset as usize;
            let content = opened.get(start..start + layer.length as usize);
            let content = content.filter(|content| digest(&self.archive, content) == layer.digest);
            let content = content.ok_or_else(|| {
                let why = format!(
                    "frame {} does not hold what the manifest says",
                    layer.frame.number
                );
                Bad::Found(ObjectError::damaged(&self.pack_key(layer.frame.pack), why))
            })?;
            if content.len() == length && visible == Pages::of_length(region.length) {
                return Ok(Cow::Borrowed(content));
            }
            assembled.resize(length, 0);
            layer.lay(content, visible, &mut assembled);
        }
        assembled.resize(length, 0);
        Ok(Cow::Owned(assembled))
    }

    fn open_fetched<'a>(
        &self,
        frame: Frame,
        group: &Group,
        fetched: &'a Fetched,
    ) -> Result<Vec<u8>, Bad<'a>> {
        let key = self.pack_key(frame.pack);
        let damaged = |why| Bad::Found(ObjectError::damaged(&key, why));
        let end = frame.offset + u64::from(frame.length);
        let mut runs = group.runs.iter().zip(fetched);
        let found = runs.find(|(run, _)| {
            run.pack == frame.pack && run.offset <= frame.offset && end <= run.offset + run.length
        });
        let (run, bytes) = match found {
            Some((run, Ok(bytes))) => (run, bytes),
            Some((_, Err(e))) => return Err(Bad::Told(e)),
            None => return Err(damaged("a frame of it was not fetched")),
        };
        let packs = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = packs.get(&frame.pack).cloned();
        drop(packs);
        let reader = reader.ok_or_else(|| damaged("its header was not read"))?;
        let start = (frame.offset - run.offset) as usize;
        let stored = bytes.get(start..start + frame.length as usize);
        let place = FramePlace {
            number: frame.number,
            offset: frame.offset,
            length: frame.length,
        };
        let opened = reader.open_at(place, false, stored.unwrap_or_default());
        opened.map_err(Bad::Found)
    }

    /// The object that frames with this pack number lie in.
    pub fn pack_key(&self, pack: u32) -> String {
        match self.root.packs.get(pack as usize) {
            Some(pack) => layout::pack(self.system, pack.backup.as_str(), pack.number),
            None => format!("pack {pack}"),
        }
    }

    /// The object that leaf `number` lies in.
    pub fn leaf_key(&self, number: usize) -> String {
        self.root
            .leaves
            .get(number)
            .map(|l| self.pack_key(l.leaf.pack))
            .unwrap_or_default()
    }

    async fn frame(&self, frame: Frame) -> Result<Vec<u8>, ObjectError> {
        self.open_frame(frame, false).await
    }

    async fn open_frame(&self, frame: Frame, is_last: bool) -> Result<Vec<u8>, ObjectError> {
        let reader = self.pack(frame.pack).await?;
        let range = frame.offset..frame.offset + u64::from(frame.length);
        let bytes = self
            .archive
            .store()
            .get_range(&self.pack_key(frame.pack), range)
            .await?;
        reader.open_at(
            FramePlace {
                number: frame.number,
                offset: frame.offset,
                length: frame.length,
            },
            is_last,
            &bytes,
        )
    }

    async fn pack(&self, pack: u32) -> Result<Arc<ObjectReader>, ObjectError> {
        if let Some(reader) = self
            .packs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&pack)
        {
            return Ok(reader.clone());
        }
        let key = self.pack_key(pack);
        let header = self
            .archive
            .store()
            .get_range(&key, 0..HEADER_BYTES as u64)
            .await?;
        let reader = Arc::new(self.archive.reader(ObjectKind::Pack, &key, &header)?);
        let mut packs = self.packs.lock().unwrap_or_else(PoisonError::into_inner);
        while packs.len() >= KEPT_PACKS {
            packs.pop_first();
        }
        packs.insert(pack, reader.clone());
        Ok(reader)
    }
}

/// Reads and checks a backup's root.
async fn read_root(
    archive: &Archive,
    system: SystemIdentifier,
    id: &BackupId,
) -> Result<Root, ObjectError> {
    match read_manifest(archive, system, id).await? {
        Manifest::Committed(root) => Ok(*root),
        Manifest::Aborted(aborted) => Err(ObjectError::damaged(
            &layout::manifest(system, id.as_str()),
            format!(
                "the backup was interrupted, and given up on {:.0}",
                aborted.time
            ),
        )),
    }
}

/// Reads and checks what stands where a backup is committed.
pub(crate) async fn read_manifest(
    archive: &Archive,
    system: SystemIdentifier,
    id: &BackupId,
) -> Result<Manifest, ObjectError> {
    let key = layout::manifest(system, id.as_str());
    let bytes = archive.store().get(&key, LARGEST_MANIFEST).await?;
    let reader = archive.reader(ObjectKind::Manifest, &key, &bytes)?;
    let frames = split_frames(&key, bytes.get(HEADER_BYTES..).unwrap_or_default())?;
    let mut root = Vec::new();
    for (number, frame) in frames.iter().enumerate() {
        root.extend(reader.open(number as u32, number + 1 == frames.len(), frame)?);
        if root.len() as u64 > LARGEST_MANIFEST {
            return Err(ObjectError::damaged(
                &key,
                "it unpacks to more than a manifest can have",
            ));
        }
    }
    Root::decode(&key, &root, system, id)
}

impl Slice {
    /// The region that it is of this leaf.
    pub fn region_of<'a>(&self, leaf: &'a Leaf) -> Option<&'a Region> {
        leaf.entries.get(self.entry)?.regions.get(self.place)
    }
}

/// Why a frame or a region can't be had.
enum Bad<'a> {
    /// Others can't be had for the same reason.
    Told(&'a ObjectError),
    Found(ObjectError),
}

impl Bad<'_> {
    fn error(&self) -> &ObjectError {
        match self {
            Self::Told(e) => e,
            Self::Found(e) => e,
        }
    }
}

/// The layers of which anything is seen.
fn needed(region: &Region) -> impl Iterator<Item = (&Layer, Pages)> {
    let layers = region.layers.iter().zip(region.visible());
    layers.filter(|(_, visible)| !visible.is_empty())
}

/// Cuts a leaf's regions into groups. Pure.
fn plan_groups(entries: &[Entry]) -> Vec<Group> {
    let mut groups = Vec::new();
    let mut slices = Vec::new();
    let mut frames = BTreeSet::new();
    let (mut bytes, mut stored) = (0, 0);
    let all = entries.iter().enumerate().flat_map(|(entry, e)| {
        let numbered = e.regions.iter().zip(e.first_region..).enumerate();
        numbered.map(move |(place, (region, number))| {
            let slice = Slice {
                entry,
                place,
                region: number,
            };
            (slice, region)
        })
    });
    for (slice, region) in all {
        slices.push(slice);
        bytes += u64::from(region.length);
        for (layer, _) in needed(region) {
            if frames.insert(layer.frame) {
                stored += u64::from(layer.frame.length);
            }
        }
        if stored >= GROUP_STORED || bytes >= GROUP_BYTES || slices.len() >= GROUP_REGIONS {
            groups.push(Group {
                slices: std::mem::take(&mut slices),
                runs: plan_runs(&std::mem::take(&mut frames)),
            });
            (bytes, stored) = (0, 0);
        }
    }
    if !slices.is_empty() {
        groups.push(Group {
            slices,
            runs: plan_runs(&frames),
        });
    }
    groups
}

/// Puts frames that lie near each other into one run. Pure.
fn plan_runs(frames: &BTreeSet<Frame>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for frame in frames {
        let end = frame.offset + u64::from(frame.length);
        match runs.last_mut() {
            Some(run)
                if run.pack == frame.pack
                    && frame.offset <= run.offset + run.length + RUN_GAP
                    && end - run.offset <= RUN_BYTES =>
            {
                run.length = run.length.max(end - run.offset);
            }
            _ => runs.push(Run {
                pack: frame.pack,
                offset: frame.offset,
                length: u64::from(frame.length),
            }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(pack: u32, offset: u64, length: u32) -> Frame {
        Frame {
            pack,
            offset,
            length,
            number: offset as u32,
        }
    }

    #[test]
    fn near_frames_are_fetched_together_and_far_ones_apart() {
        let (k, m) = (1 << 10, 1 << 20);
        for (frames, want) in [
            (vec![(0, 48, 1000), (0, 1048, 1000)], vec![(0, 48, 2000)]),
            (
                vec![(0, 0, 1000), (0, 1000 + 64 * k, 1000)],
                vec![(0, 0, 2000 + 64 * k)],
            ),
            (
                vec![(0, 0, 1000), (0, 1001 + 64 * k, 1000)],
                vec![(0, 0, 1000), (0, 1001 + 64 * k, 1000)],
            ),
            (
                vec![(0, 0, 1000), (1, 1000, 1000)],
                vec![(0, 0, 1000), (1, 1000, 1000)],
            ),
            (
                vec![(0, 0, 3 * m as u32), (0, 3 * m, 2 * m as u32)],
                vec![(0, 0, 3 * m), (0, 3 * m, 2 * m)],
            ),
            (vec![(0, 0, 10 * m as u32)], vec![(0, 0, 10 * m)]),
        ] {
            let frames = frames.into_iter().map(|(p, o, l)| frame(p, o, l));
            let got: Vec<_> = plan_runs(&frames.collect())
                .iter()
                .map(|r| (r.pack, r.offset, r.length))
                .collect();
            assert_eq!(got, want);
        }
    }

    #[test]
    fn a_group_holds_as_much_as_is_read_at_once() {
        let layer = |frame: Frame, pages: Pages| Layer {
            frame,
            offset: 0,
            length: pages.count() * 8192,
            pages,
            digest: [0; 16],
        };
        let all = Pages::of_length(1 << 20);
        let mut one = Pages::default();
        one.insert(5);
        let small = frame(1, 100, 4000);
        let entry = |regions: Vec<Region>| Entry {
            path: "f".into(),
            mode: 0o600,
            directory: false,
            size: (regions.len() as u64) << 20,
            modified: 0,
            paged: true,
            first_region: 7,
            regions,
        };
        let region = |layers| Region {
            length: 1 << 20,
            layers,
        };
        // Of zeros nothing is read; of what lies below others neither.
        let below = region(vec![
            layer(frame(9, 0, 1), one),
            layer(frame(0, 48, 9), all),
        ]);
        let groups = plan_groups(&[entry(vec![region(vec![]), below])]);
        let runs: Vec<_> = groups[0].runs.iter().map(|r| r.pack).collect();
        assert_eq!(
            (groups.len(), groups[0].slices.len(), runs),
            (1, 2, vec![0])
        );
        // A frame that many have a page in is fetched once.
        let regions = (0..40).map(|n| {
            let whole = layer(frame(0, n << 20, 300_000), all);
            region(vec![whole, layer(small, one)])
        });
        let groups = plan_groups(&[entry(regions.collect())]);
        let shape: Vec<_> = groups.iter().map(|g| g.slices.len()).collect();
        assert_eq!(shape, [14, 14, 12]);
        assert!(
            groups
                .iter()
                .all(|g| g.runs.iter().filter(|r| r.pack == 1).count() == 1)
        );
        assert_eq!(groups[1].slices[0].region, 21);
    }
}
