//! What a manifest's leaf says, checked: nothing read from a repository names a path outside the data directory or
//! lengths that don't fit.

use super::{DIGEST_BYTES, Digest, REGION_BYTES, proto};
use prost::Message;

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

/// A directory, a file, or a stretch of a large file.
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

/// 1 MiB of a file, or its tail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// In bytes.
    pub length: u32,
    /// Of the whole region.
    pub digest: Digest,
    /// Where its bytes are.
    pub layer: Layer,
}

/// A stretch of an unpacked frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// The frame.
    pub frame: Frame,
    /// From the unpacked frame's first byte.
    pub offset: u32,
}

impl Entry {
    /// How many regions the whole file has.
    pub fn region_count(&self) -> u64 {
        self.size.div_ceil(REGION_BYTES)
    }

    /// The length that region `number` must have, in bytes.
    fn region_length(&self, number: u64) -> Option<u32> {
        let start = number.checked_mul(REGION_BYTES)?;
        let left = self.size.checked_sub(start).filter(|left| *left > 0)?;
        u32::try_from(left.min(REGION_BYTES)).ok()
    }
}

impl Leaf {
    pub(super) fn encode(&self) -> Vec<u8> {
        let entries = self.entries.iter().map(Entry::to_proto).collect();
        proto::Leaf {
            oldest_reader: 1,
            entries,
        }
        .encode_to_vec()
    }

    /// `packs` is the length of the root's list. The error says what is wrong.
    pub(super) fn decode(bytes: &[u8], packs: usize) -> Result<Self, String> {
        let leaf = proto::Leaf::decode(bytes)
            .map_err(|e| format!("a leaf of the manifest can't be read: {e}"))?;
        if leaf.oldest_reader > 1 {
            return Err("a leaf of the manifest needs a newer holdfast".into());
        }
        let entries = leaf
            .entries
            .into_iter()
            .map(|e| Entry::from_proto(e, packs))
            .collect::<Result<_, _>>()?;
        Ok(Self { entries })
    }
}

impl Entry {
    fn to_proto(&self) -> proto::Entry {
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
            regions: regions.iter().map(Region::to_proto).collect(),
        }
    }

    fn from_proto(entry: proto::Entry, packs: usize) -> Result<Self, String> {
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
        for (region, number) in regions.into_iter().zip(first_region..) {
            let region = Region::from_proto(region, packs)
                .map_err(|why| format!("region {number} of {}: {why}", entry.path))?;
            if directory || entry.region_length(number) != Some(region.length) {
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

impl Region {
    fn to_proto(&self) -> proto::Region {
        let Self {
            length,
            digest,
            layer: Layer { frame, offset },
        } = self;
        proto::Region {
            length: *length,
            digest: digest.to_vec(),
            layers: vec![proto::Layer {
                frame: Some(frame.to_proto()),
                offset: *offset,
                length: *length,
                pages: Vec::new(),
            }],
        }
    }

    fn from_proto(region: proto::Region, packs: usize) -> Result<Self, String> {
        let digest = <[u8; DIGEST_BYTES]>::try_from(region.digest)
            .map_err(|_| "its digest has a wrong length")?;
        let [layer] = <[proto::Layer; 1]>::try_from(region.layers)
            .map_err(|_| "it has several layers, which needs a newer holdfast")?;
        if layer.length != region.length || !layer.pages.is_empty() || region.length == 0 {
            return Err("its layer does not cover it".into());
        }
        let frame = Frame::from_proto(layer.frame, packs)?;
        Ok(Self {
            length: region.length,
            digest,
            layer: Layer {
                frame,
                offset: layer.offset,
            },
        })
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
    use super::*;
    use proptest::prelude::*;

    fn entry(path: &str, size: u64, lengths: &[u32]) -> Entry {
        let layer = Layer {
            frame: Frame {
                pack: 0,
                offset: 48,
                length: 100,
                number: 0,
            },
            offset: 0,
        };
        let regions = lengths
            .iter()
            .map(|length| Region {
                length: *length,
                digest: [1; 16],
                layer,
            })
            .collect();
        Entry {
            path: path.into(),
            mode: 0o600,
            directory: false,
            size,
            modified: 5,
            paged: true,
            first_region: 0,
            regions,
        }
    }

    #[test]
    fn leaves_come_back_as_they_were() {
        let leaf = Leaf {
            entries: vec![
                entry("base/5/1", (1 << 20) + 8192, &[1 << 20, 8192]),
                entry("empty", 0, &[]),
            ],
        };
        assert_eq!(Leaf::decode(&leaf.encode(), 1).unwrap(), leaf);
    }

    #[test]
    fn what_can_not_be_is_refused() {
        for (bad, packs) in [
            (entry("../x", 0, &[]), 1),
            (entry("/etc/passwd", 0, &[]), 1),
            (entry("a//b", 0, &[]), 1),
            (entry("a", 8192, &[4096]), 1),
            (entry("a", 8192, &[8192, 8192]), 1),
            (entry("a", 8192, &[8192]), 0),
        ] {
            let leaf = Leaf { entries: vec![bad] };
            assert!(Leaf::decode(&leaf.encode(), packs).is_err(), "{leaf:?}");
        }
    }

    proptest! {
        #[test]
        fn hostile_leaves_are_errors(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Leaf::decode(&bytes, 3);
        }
    }
}
