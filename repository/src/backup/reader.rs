//! Reads a backup: leaves one at a time, and their frames in runs that are fetched by one request each.

use super::entry::{Entry, Frame, Leaf};
use super::root::{Manifest, Root};
use super::{BackupId, Digest, digest, proto};
use crate::archive::Archive;
use crate::layout;
use crate::object::{
    FramePlace, HEADER_BYTES, ObjectError, ObjectKind, ObjectReader, split_frames,
};
use bytes::Bytes;
use futures::TryStreamExt;
use holdfast_postgres::SystemIdentifier;
use prost::Message;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// The largest root that is read, in bytes.
const LARGEST_MANIFEST: u64 = 256 << 20;
/// A run is not longer than this as stored, in bytes, unless it is one frame.
const RUN_BYTES: u64 = 4 << 20;
/// What lies between two frames is fetched with them if it is no more than this, in bytes.
const RUN_GAP: u64 = 64 << 10;
/// Headers of packs kept at once.
const KEPT_PACKS: usize = 256;

/// One backup, opened.
pub struct BackupReader {
    archive: Archive,
    system: SystemIdentifier,
    root: Root,
    packs: Mutex<BTreeMap<u32, Arc<ObjectReader>>>,
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
    /// In order, with what each holds.
    pub frames: Vec<(Frame, Vec<Slice>)>,
}

/// A region within a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// Place in [`Leaf::entries`].
    pub entry: usize,
    /// The pack that the frame lies in: place in the root's list.
    pub pack: u32,
    /// The file's region.
    pub region: u64,
    /// From the unpacked frame's first byte.
    pub offset: u32,
    /// In bytes.
    pub length: u32,
    /// Of the region's content.
    pub digest: Digest,
}

impl BackupReader {
    /// Reads the root.
    pub async fn open(
        archive: Archive,
        system: SystemIdentifier,
        id: &BackupId,
    ) -> Result<Self, ObjectError> {
        let root = read_root(&archive, system, id).await?;
        Ok(Self {
            archive,
            system,
            root,
            packs: Mutex::default(),
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
        let leaf = Leaf::decode(&bytes, self.root.packs.len())
            .map_err(|why| ObjectError::damaged(&self.pack_key(place.leaf.pack), why))?;
        if leaf
            .entries
            .first()
            .is_none_or(|e| e.path.as_bytes() != place.first_path)
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
        let mut needed: BTreeMap<u32, u64> = BTreeMap::new();
        for number in 0..self.leaf_count() {
            let leaf = self.leaf(number).await?;
            for region in leaf.entries.iter().flat_map(|e| &e.regions) {
                let frame = region.layer.frame;
                let end = needed.entry(frame.pack).or_default();
                *end = (*end).max(frame.offset + u64::from(frame.length));
            }
        }
        let mut needed: BTreeMap<String, u64> = needed
            .into_iter()
            .map(|(pack, end)| (self.pack_key(pack), end))
            .collect();
        let mut listing = self.archive.store().list(&layout::packs(self.system));
        while let Some(object) = listing.try_next().await? {
            if let Some(end) = needed.remove(&object.key)
                && object.size < end
            {
                let why = format!(
                    "it has {} bytes, and the backup uses {end} of it",
                    object.size
                );
                return Err(ObjectError::damaged(&object.key, why));
            }
        }
        match needed.pop_first() {
            Some((key, _)) => Err(ObjectError::damaged(
                &key,
                "it is missing, and the backup needs it",
            )),
            None => Ok(()),
        }
    }

    /// Reads leaf `number`'s page sums: one list for each paged region, in order.
    pub async fn sums(&self, number: usize, leaf: &Leaf) -> Result<Vec<Vec<u64>>, ObjectError> {
        let Some(frame) = self.root.leaves[number].sums else {
            return Ok(Vec::new());
        };
        let key = self.pack_key(frame.pack);
        let bytes = self.frame(frame).await?;
        let sums = proto::Sums::decode(bytes.as_slice())
            .map_err(|e| ObjectError::damaged(&key, format!("page sums can't be read: {e}")))?;
        let mut all = sums
            .sums
            .chunks_exact(8)
            .map(|c| u64::from_le_bytes(c.try_into().unwrap_or_default()));
        let paged = leaf
            .entries
            .iter()
            .filter(|e| e.paged)
            .flat_map(|e| &e.regions);
        Ok(paged
            .map(|r| {
                all.by_ref()
                    .take((r.length as usize).div_ceil(holdfast_postgres::page::SIZE))
                    .collect()
            })
            .collect())
    }

    /// Opens what each pack holds past the frames that this backup uses: its index, which no restore needs and the next
    /// backup does. Gives what is wrong, with the pack's key.
    ///
    /// # Errors
    /// If a leaf can't be read: then it can't be told where the index lies.
    pub async fn pack_ends(&self) -> Result<Vec<(String, ObjectError)>, ObjectError> {
        let mut ends: BTreeMap<u32, Frame> = BTreeMap::new();
        for number in 0..self.leaf_count() {
            let leaf = self.leaf(number).await?;
            let regions = leaf.entries.iter().flat_map(|e| &e.regions);
            let place = self.root.leaves.get(number);
            let own = place.into_iter().flat_map(|p| [Some(p.leaf), p.sums]);
            for frame in regions.map(|r| r.layer.frame).chain(own.flatten()) {
                let end = ends.entry(frame.pack).or_insert(frame);
                if frame.number > end.number {
                    *end = frame;
                }
            }
        }
        let mut bad = Vec::new();
        for (pack, last) in ends {
            if let Err(e) = self.pack_end(pack, last).await {
                bad.push((self.pack_key(pack), e));
            }
        }
        Ok(bad)
    }

    async fn pack_end(&self, pack: u32, last: Frame) -> Result<(), ObjectError> {
        let key = self.pack_key(pack);
        let reader = self.pack(pack).await?;
        let size = self.archive.store().head(&key).await?.size;
        let from = last.offset + u64::from(last.length);
        if size <= from {
            return Err(ObjectError::damaged(&key, "it ends before its index"));
        }
        let bytes = self.archive.store().get_range(&key, from..size).await?;
        let frames = split_frames(&key, &bytes)?;
        for (frame, number) in frames.iter().zip(last.number.saturating_add(1)..) {
            let is_last = (number - last.number) as usize == frames.len();
            reader.open(number, is_last, frame)?;
        }
        Ok(())
    }

    /// The frames of a leaf, as they are best fetched.
    pub fn runs(&self, leaf: &Leaf) -> Vec<Run> {
        plan_runs(&leaf.entries)
    }

    /// Fetches a run's bytes.
    pub async fn fetch(&self, run: &Run) -> Result<Bytes, ObjectError> {
        self.pack(run.pack).await?;
        Ok(self
            .archive
            .store()
            .get_range(
                &self.pack_key(run.pack),
                run.offset..run.offset + run.length,
            )
            .await?)
    }

    /// Opens a fetched run's frames one after another and gives each region, its digest compared, to `each`. A region
    /// that is not good is given as an error that names its object, and the rest goes on: whether that ends the work is for `each` to say.
    /// Computes for a while: not for an async thread.
    pub fn open_run<E>(
        &self,
        run: &Run,
        bytes: &[u8],
        mut each: impl FnMut(&Slice, Result<&[u8], &ObjectError>) -> Result<(), E>,
    ) -> Result<(), E> {
        let key = self.pack_key(run.pack);
        let reader = self
            .packs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&run.pack)
            .cloned();
        for (frame, slices) in &run.frames {
            let opened = match &reader {
                None => Err(ObjectError::damaged(&key, "its header was not read")),
                Some(reader) => {
                    let start = frame.offset.saturating_sub(run.offset) as usize;
                    let stored = bytes
                        .get(start..start + frame.length as usize)
                        .unwrap_or_default();
                    reader.open_at(
                        FramePlace {
                            number: frame.number,
                            offset: frame.offset,
                            length: frame.length,
                        },
                        false,
                        stored,
                    )
                }
            };
            let mut buffer = Vec::new();
            let opened = opened.map(|b| buffer = b);
            for slice in slices {
                match &opened {
                    Err(e) => each(slice, Err(e))?,
                    Ok(()) => {
                        let content = buffer.get(
                            slice.offset as usize
                                ..(slice.offset as usize).saturating_add(slice.length as usize),
                        );
                        match content {
                            Some(content) if digest(&self.archive, content) == slice.digest => {
                                each(slice, Ok(content))?
                            }
                            _ => each(
                                slice,
                                Err(&ObjectError::damaged(
                                    &key,
                                    format!(
                                        "frame {} does not hold what the manifest says",
                                        frame.number
                                    ),
                                )),
                            )?,
                        }
                    }
                }
            }
        }
        Ok(())
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

    /// The object that leaf `number`'s page sums lie in.
    pub fn sums_key(&self, number: usize) -> String {
        self.root
            .leaves
            .get(number)
            .and_then(|l| l.sums)
            .map(|f| self.pack_key(f.pack))
            .unwrap_or_default()
    }

    async fn frame(&self, frame: Frame) -> Result<Vec<u8>, ObjectError> {
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
            false,
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

/// Groups the frames that `entries` use into runs. Pure.
fn plan_runs(entries: &[Entry]) -> Vec<Run> {
    let mut frames: BTreeMap<Frame, Vec<Slice>> = BTreeMap::new();
    for (place, entry) in entries.iter().enumerate() {
        for (region, number) in entry.regions.iter().zip(entry.first_region..) {
            let slice = Slice {
                entry: place,
                pack: region.layer.frame.pack,
                region: number,
                offset: region.layer.offset,
                length: region.length,
                digest: region.digest,
            };
            frames.entry(region.layer.frame).or_default().push(slice);
        }
    }
    let mut runs: Vec<Run> = Vec::new();
    for (frame, slices) in frames {
        let end = frame.offset + u64::from(frame.length);
        match runs.last_mut() {
            Some(run)
                if run.pack == frame.pack
                    && frame.offset <= run.offset + run.length + RUN_GAP
                    && end - run.offset <= RUN_BYTES =>
            {
                run.length = run.length.max(end - run.offset);
                run.frames.push((frame, slices));
            }
            _ => runs.push(Run {
                pack: frame.pack,
                offset: frame.offset,
                length: u64::from(frame.length),
                frames: vec![(frame, slices)],
            }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::super::entry::{Layer, Region};
    use super::*;

    fn entry(frames: &[(u32, u64, u32)]) -> Entry {
        let regions = frames
            .iter()
            .enumerate()
            .map(|(n, &(pack, offset, length))| Region {
                length: 1 << 20,
                digest: [0; 16],
                layer: Layer {
                    frame: Frame {
                        pack,
                        offset,
                        length,
                        number: n as u32,
                    },
                    offset: 0,
                },
            })
            .collect();
        Entry {
            path: "f".into(),
            mode: 0o600,
            directory: false,
            size: (frames.len() as u64) << 20,
            modified: 0,
            paged: true,
            first_region: 0,
            regions,
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
            let got: Vec<_> = plan_runs(&[entry(&frames)])
                .iter()
                .map(|r| (r.pack, r.offset, r.length))
                .collect();
            assert_eq!(got, want, "{frames:?}");
        }
    }
}
