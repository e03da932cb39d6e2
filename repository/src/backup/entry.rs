//! What a manifest's leaf says, checked: nothing read from a repository names a path outside the data directory or
//! lengths that don't fit.

use super::region::Region;
use super::root::PackRef;
use super::{REGION_BYTES, proto};
use prost::Message;
use std::collections::HashMap;

/// Where a frame lies: a pack, by its place in the root's list, and the place in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frame {
    /// Place in the root's list of packs.
    pub pack: u32,
    /// From the pack's first byte.
    pub offset: u64,
    /// As stored, in bytes.
    pub length: u32,
    /// Number in the pack.
    pub number: u32,
}

/// Some files and directories, sorted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leaf {
    /// In order.
    pub entries: Vec<Entry>,
}

/// A directory, a file, or a stretch of a large file. Where it goes on from the leaf before, mode, size and time are 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative to the data directory.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Has no regions.
    pub directory: bool,
    /// In bytes.
    pub size: u64,
    /// Seconds since 1970.
    pub modified: i64,
    /// Relation data.
    pub paged: bool,
    /// The number of the first of `regions`.
    pub first_region: u64,
    /// Consecutive.
    pub regions: Vec<Region>,
}

impl Entry {
    /// How many regions the whole file has.
    pub fn region_count(&self) -> u64 {
        self.size.div_ceil(REGION_BYTES)
    }

    /// Whether one of its regions may be so long, in bytes.
    fn fits(&self, number: u64, length: u32, is_last: bool) -> bool {
        if self.first_region > 0 {
            return is_last || u64::from(length) == REGION_BYTES;
        }
        let start = number.checked_mul(REGION_BYTES);
        let left = start.and_then(|start| self.size.checked_sub(start));
        left.is_some_and(|left| u64::from(length) == left.min(REGION_BYTES))
    }
}

impl Leaf {
    /// `packs` is the list that frames name a pack by. The same leaf is always the same bytes.
    pub(super) fn encode(&self, packs: &[PackRef]) -> Vec<u8> {
        let mut named = Vec::new();
        let mut places = HashMap::new();
        let mut place = |pack: u32| {
            *places.entry(pack).or_insert_with(|| {
                if let Some(pack) = packs.get(pack as usize) {
                    named.push(proto::PackName {
                        backup: pack.backup.to_string(),
                        number: pack.number,
                    });
                }
                named.len().saturating_sub(1) as u32
            })
        };
        let entries = self
            .entries
            .iter()
            .map(|e| e.to_proto(&mut place))
            .collect();
        proto::Leaf {
            oldest_reader: 1,
            entries,
            packs: named,
        }
        .encode_to_vec()
    }

    /// `place` gives a pack's place in the root's list. The error says what is wrong.
    pub(super) fn decode(
        bytes: &[u8],
        place: impl Fn(&str, u32) -> Option<u32>,
    ) -> Result<Self, String> {
        let leaf = proto::Leaf::decode(bytes)
            .map_err(|e| format!("a leaf of the manifest can't be read: {e}"))?;
        if leaf.oldest_reader > 1 {
            return Err("a leaf of the manifest needs a newer holdfast".into());
        }
        let packs = leaf
            .packs
            .iter()
            .map(|pack| {
                place(&pack.backup, pack.number).ok_or_else(|| {
                    format!(
                        "a leaf of the manifest uses pack {} of backup {}, which the manifest does not name",
                        pack.number, pack.backup
                    )
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        let entries = leaf
            .entries
            .into_iter()
            .map(|e| Entry::from_proto(e, &packs))
            .collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }
}

impl Entry {
    fn to_proto(&self, pack: &mut impl FnMut(u32) -> u32) -> proto::Entry {
        let Self {
            path,
            mode,
            directory,
            size,
            modified,
            paged,
            first_region,
            regions,
        } = self;
        proto::Entry {
            path: path.clone().into_bytes(),
            mode: *mode,
            directory: *directory,
            size: *size,
            modified: *modified,
            paged: *paged,
            first_region: *first_region,
            regions: regions.iter().map(|r| r.to_proto(pack)).collect(),
        }
    }

    fn from_proto(entry: proto::Entry, packs: &[u32]) -> Result<Self, String> {
        let proto::Entry {
            path,
            mode,
            directory,
            size,
            modified,
            paged,
            first_region,
            regions,
        } = entry;
        let path = String::from_utf8(path)
            .map_err(|_| "a path in the manifest is not UTF-8".to_owned())?;
        if !is_safe(&path) {
            return Err(format!(
                "the manifest names {path:?}, which is no path within a data directory"
            ));
        }
        let mut entry = Self {
            path,
            mode: mode & 0o7777,
            directory,
            size,
            modified,
            paged,
            first_region,
            regions: Vec::with_capacity(regions.len()),
        };
        let count = regions.len();
        for (place, (region, number)) in regions.into_iter().zip(first_region..).enumerate() {
            let region = Region::from_proto(region, packs)
                .map_err(|why| format!("region {number} of {}: {why}", entry.path))?;
            if directory || !entry.fits(number, region.length, place + 1 == count) {
                return Err(format!(
                    "region {number} of {} has {} bytes, which does not fit a file of {size}",
                    entry.path, region.length
                ));
            }
            entry.regions.push(region);
        }
        Ok(entry)
    }
}

impl Frame {
    pub(super) fn to_proto(self) -> proto::Frame {
        let Self {
            pack,
            offset,
            length,
            number,
        } = self;
        proto::Frame {
            pack,
            number,
            offset,
            length,
        }
    }

    pub(super) fn from_proto(frame: Option<proto::Frame>, packs: usize) -> Result<Self, String> {
        let proto::Frame {
            pack,
            number,
            offset,
            length,
        } = frame.ok_or("a frame's place is missing")?;
        let fits = (pack as usize) < packs
            && length as usize <= crate::object::LARGEST_STORED_FRAME
            && offset <= crate::store::LARGEST_WHOLE_OBJECT;
        if fits {
            Ok(Self {
                pack,
                offset,
                length,
                number,
            })
        } else {
            Err("a frame's place can't be".into())
        }
    }
}

/// Whether `path` stays within the data directory, whatever it is joined to.
pub(crate) fn is_safe(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\0')
        && path
            .split('/')
            .all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::region::{Layer, Pages};
    use super::*;
    use proptest::prelude::*;

    fn entry(path: &str, size: u64, lengths: &[u32]) -> Entry {
        let frame = Frame {
            pack: 1,
            offset: 48,
            length: 100,
            number: 0,
        };
        let regions = lengths.iter().map(|length| Region {
            length: *length,
            layers: vec![Layer {
                frame,
                offset: 0,
                length: *length,
                pages: Pages::of_length(*length),
                digest: [1; 16],
            }],
        });
        Entry {
            path: path.into(),
            mode: 0o600,
            directory: false,
            size,
            modified: 5,
            paged: true,
            first_region: 0,
            regions: regions.collect(),
        }
    }

    fn packs() -> Vec<PackRef> {
        let pack = |number| PackRef {
            backup: "b".parse().unwrap(),
            number,
            live_bytes: 0,
            index: None,
        };
        vec![pack(6), pack(7)]
    }

    fn read(leaf: &Leaf) -> Result<Leaf, String> {
        let packs = packs();
        Leaf::decode(&leaf.encode(&packs), |backup, number| {
            let found = packs
                .iter()
                .position(|p| p.backup.as_str() == backup && p.number == number);
            found.map(|place| place as u32)
        })
    }

    #[test]
    fn leaves_come_back_as_they_were() {
        let leaf = Leaf {
            entries: vec![
                entry("base/5/1", (1 << 20) + 8192, &[1 << 20, 8192]),
                entry("empty", 0, &[]),
            ],
        };
        assert_eq!(read(&leaf).unwrap(), leaf);
        // Also by a root that has other packs before it, and not without that one.
        let elsewhere = Leaf::decode(&leaf.encode(&packs()), |_, number| {
            (number == 7).then_some(9)
        });
        let frames = elsewhere.unwrap();
        assert_eq!(frames.entries[0].regions[0].layers[0].frame.pack, 9);
        assert!(Leaf::decode(&leaf.encode(&packs()), |_, _| None).is_err());
    }

    #[test]
    fn what_can_not_be_is_refused() {
        for bad in [
            entry("../x", 0, &[]),
            entry("/etc/passwd", 0, &[]),
            entry("a//b", 0, &[]),
            entry("a", 8192, &[4096]),
            entry("a", 8192, &[8192, 8192]),
        ] {
            let leaf = Leaf { entries: vec![bad] };
            assert!(read(&leaf).is_err(), "{leaf:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_leaves_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Leaf::decode(&bytes, |_, number| Some(number % 3));
        }
    }
}
