//! A region of a file as it is stored: layers, of which each page is taken from the highest that has it.

use super::entry::Frame;
use super::{DIGEST_BYTES, Digest, REGION_BYTES, proto};
use holdfast_postgres::page;

/// Pages of a region.
const REGION_PAGES: u32 = REGION_BYTES as u32 / page::SIZE as u32;
/// A region has no more layers, as written: then those above the lowest are stored together.
const LAYERS: usize = 8;
/// As read.
const MOST_LAYERS: usize = 64;

/// Some of the 128 pages of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pages(u128);

impl Pages {
    /// Those of so many bytes from the region's first on, the last one perhaps short.
    #[must_use]
    pub fn of_length(length: u32) -> Self {
        match length.div_ceil(page::SIZE as u32) {
            REGION_PAGES.. => Self(u128::MAX),
            pages => Self((1 << pages) - 1),
        }
    }

    /// How many.
    #[must_use]
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// None at all.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Adds one, by its place in the region; beyond it nothing.
    pub fn insert(&mut self, page: u32) {
        self.0 |= 1_u128.checked_shl(page).unwrap_or(0);
    }

    /// Those of either.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are also among the others.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are not among the others.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn has(self, page: u32) -> bool {
        self.0.checked_shr(page).unwrap_or(0) & 1 == 1
    }

    /// The last.
    fn last(self) -> Option<u32> {
        self.0.checked_ilog2()
    }

    /// In order.
    pub fn iter(self) -> impl Iterator<Item = u32> {
        (0..REGION_PAGES).filter(move |page| self.has(*page))
    }
}

/// 1 MiB of a file, or its tail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// In bytes.
    pub length: u32,
    /// The lowest first. None: it is zeros.
    pub layers: Vec<Layer>,
}

/// A stretch of an unpacked frame: some pages of a region, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layer {
    /// The frame.
    pub frame: Frame,
    /// From the unpacked frame's first byte.
    pub offset: u32,
    /// In bytes; the last page may be short.
    pub length: u32,
    /// Which pages.
    pub pages: Pages,
    /// Of its bytes.
    pub digest: Digest,
}

/// How a region that was stored before is stored again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// As it is.
    Kept,
    /// These pages in a new layer, above so many of those that there are.
    Above(usize, Pages),
    /// All of it.
    Whole,
}

impl Region {
    /// How it is stored when these pages differ and it is now so long. Pure.
    #[must_use]
    pub fn again(&self, changed: Pages, length: u32) -> Again {
        if changed.is_empty() && length == self.length {
            return Again::Kept;
        }
        // What lies beyond a cut must never come back.
        let Some((_, above)) = self.layers.split_first().filter(|_| length >= self.length) else {
            return Again::Whole;
        };
        let all = above
            .iter()
            .fold(changed, |all, layer| all.and(layer.pages));
        if all.count() * 2 >= Pages::of_length(length).count() {
            Again::Whole
        } else if self.layers.len() < LAYERS {
            Again::Above(self.layers.len(), changed)
        } else {
            Again::Above(1, all)
        }
    }

    /// For each layer, which of its pages are the region's.
    #[must_use]
    pub fn visible(&self) -> Vec<Pages> {
        let mut left = Pages::of_length(self.length);
        let mut visible: Vec<Pages> = self
            .layers
            .iter()
            .rev()
            .map(|layer| {
                let here = layer.pages.within(left);
                left = left.without(here);
                here
            })
            .collect();
        visible.reverse();
        visible
    }

    /// Leaves out layers of which nothing is seen any more, so that what they lie in may go.
    pub(super) fn forget_covered(&mut self) {
        let mut visible = self.visible().into_iter();
        self.layers
            .retain(|_| visible.next().is_some_and(|pages| !pages.is_empty()));
    }

    pub(super) fn to_proto(&self, pack: &mut impl FnMut(u32) -> u32) -> proto::Region {
        let layers = self.layers.iter().map(|layer| {
            let Layer {
                frame,
                offset,
                length,
                pages,
                digest,
            } = *layer;
            let pages = if pages == Pages::of_length(length) {
                Vec::new()
            } else {
                pages.0.to_le_bytes().to_vec()
            };
            let frame = Frame {
                pack: pack(frame.pack),
                ..frame
            };
            proto::Layer {
                frame: Some(frame.to_proto()),
                offset,
                length,
                pages,
                digest: digest.to_vec(),
            }
        });
        proto::Region {
            length: self.length,
            layers: layers.collect(),
        }
    }

    /// `packs` are the places in the root's list of what the leaf names.
    pub(super) fn from_proto(region: proto::Region, packs: &[u32]) -> Result<Self, String> {
        let proto::Region { length, layers } = region;
        if length == 0 || u64::from(length) > REGION_BYTES || layers.len() > MOST_LAYERS {
            return Err("its length or the number of its layers can't be".into());
        }
        let layers = layers
            .into_iter()
            .map(|layer| Layer::from_proto(layer, packs))
            .collect::<Result<Vec<_>, _>>()?;
        let region = Self { length, layers };
        region.check().map(|()| region)
    }

    /// Whether each page is in a layer, and whole there.
    fn check(&self) -> Result<(), String> {
        let size = page::SIZE as u32;
        let mut missing = Pages::of_length(self.length);
        if self.layers.is_empty() {
            return Ok(());
        }
        for (layer, visible) in self.layers.iter().zip(self.visible()) {
            missing = missing.without(visible);
            let short = layer.length % size;
            let Some(last) = visible.last().filter(|_| short != 0) else {
                continue;
            };
            let is_short = layer.pages.last() == Some(last);
            if is_short && last * size + short < self.length.min((last + 1) * size) {
                return Err(format!("page {last} of it is not whole"));
            }
        }
        match missing.iter().next() {
            Some(page) => Err(format!("no layer has page {page} of it")),
            None => Ok(()),
        }
    }
}

impl Layer {
    fn from_proto(layer: proto::Layer, packs: &[u32]) -> Result<Self, String> {
        let proto::Layer {
            frame,
            offset,
            length,
            pages,
            digest,
        } = layer;
        let digest = <[u8; DIGEST_BYTES]>::try_from(digest)
            .map_err(|_| "the digest of a layer has a wrong length")?;
        let pages = if pages.is_empty() {
            Pages::of_length(length)
        } else {
            let bytes = pages
                .try_into()
                .map_err(|_| "a bitmap has a wrong length")?;
            Pages(u128::from_le_bytes(bytes))
        };
        let end = u64::from(offset) + u64::from(length);
        if length == 0
            || length.div_ceil(page::SIZE as u32) != pages.count()
            || end > crate::compression::LARGEST_FRAME as u64
        {
            return Err("the length of a layer can't be".into());
        }
        let mut frame = Frame::from_proto(frame, packs.len())?;
        frame.pack = *packs
            .get(frame.pack as usize)
            .ok_or("a layer's pack is not named")?;
        Ok(Self {
            frame,
            offset,
            length,
            pages,
            digest,
        })
    }

    /// Puts its visible pages where they belong.
    pub(super) fn lay(&self, content: &[u8], visible: Pages, region: &mut [u8]) {
        let pages = content.chunks(page::SIZE).zip(self.pages.iter());
        for (content, page) in pages.filter(|(_, page)| visible.has(*page)) {
            let start = page as usize * page::SIZE;
            let there = region.get_mut(start..).unwrap_or_default();
            let length = content.len().min(there.len());
            if let (Some(to), Some(from)) = (there.get_mut(..length), content.get(..length)) {
                to.copy_from_slice(from);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pages(list: &[u32]) -> Pages {
        let mut pages = Pages::default();
        list.iter().for_each(|page| pages.insert(*page));
        pages
    }

    fn layer(pages: Pages, length: u32) -> Layer {
        Layer {
            frame: Frame {
                pack: 0,
                offset: 48,
                length: 100,
                number: 0,
            },
            offset: 0,
            length,
            pages,
            digest: [1; 16],
        }
    }

    fn whole(length: u32) -> Layer {
        layer(Pages::of_length(length), length)
    }

    fn some(list: &[u32]) -> Layer {
        layer(pages(list), list.len() as u32 * 8192)
    }

    #[test]
    fn pages_are_those_of_a_length() {
        for (length, want) in [(0, 0), (1, 1), (8192, 1), (8193, 2), (1 << 20, 128)] {
            let pages = Pages::of_length(length);
            assert_eq!((pages.count(), pages.iter().count()), (want, want as usize));
        }
        assert!(!Pages::of_length(1 << 20).has(128));
    }

    #[test]
    fn a_region_is_stored_again_as_little_as_pays() {
        const MIB: u32 = 1 << 20;
        let above = |layers: &[Layer]| {
            let mut all = vec![whole(MIB)];
            all.extend(layers);
            all
        };
        let full: Vec<Layer> = (0..7).map(|n| some(&[n])).collect();
        for (length, layers, changed, now, want) in [
            (MIB, above(&[]), pages(&[]), MIB, Again::Kept),
            (
                MIB,
                above(&[]),
                pages(&[3]),
                MIB,
                Again::Above(1, pages(&[3])),
            ),
            (
                MIB,
                above(&[some(&[1])]),
                pages(&[3]),
                MIB,
                Again::Above(2, pages(&[3])),
            ),
            (
                MIB,
                above(&full),
                pages(&[9]),
                MIB,
                Again::Above(1, pages(&[0, 1, 2, 3, 4, 5, 6, 9])),
            ),
            // Half of it.
            (
                MIB,
                above(&[]),
                Pages::of_length(MIB / 2),
                MIB,
                Again::Whole,
            ),
            (8192, vec![whole(8192)], pages(&[0]), 8192, Again::Whole),
            // Zeros, and what was cut.
            (MIB, vec![], pages(&[3]), MIB, Again::Whole),
            (MIB, above(&[]), pages(&[]), MIB - 8192, Again::Whole),
            // It has grown.
            (
                MIB - 8192,
                vec![whole(MIB - 8192)],
                pages(&[127]),
                MIB,
                Again::Above(1, pages(&[127])),
            ),
        ] {
            let region = Region { length, layers };
            assert_eq!(
                region.again(changed, now),
                want,
                "{changed:?} of {region:?}"
            );
        }
    }

    #[test]
    fn the_highest_layer_counts() {
        let region = Region {
            length: 4 * 8192,
            layers: vec![whole(4 * 8192), some(&[1, 2]), some(&[2])],
        };
        let visible = region.visible();
        assert_eq!(visible, [pages(&[0, 3]), pages(&[1]), pages(&[2])]);
        let mut bytes = vec![0; 4 * 8192];
        for ((layer, visible), fill) in region.layers.iter().zip(visible).zip(1..) {
            layer.lay(&vec![fill; layer.length as usize], visible, &mut bytes);
        }
        let firsts: Vec<u8> = bytes.chunks(8192).map(|page| page[0]).collect();
        assert_eq!(firsts, [1, 2, 3, 1]);
        assert!(
            bytes
                .chunks(8192)
                .all(|page| page.iter().all(|b| *b == page[0]))
        );
    }

    #[test]
    fn what_is_covered_is_forgotten() {
        let mut region = Region {
            length: 4 * 8192,
            layers: vec![whole(4 * 8192), some(&[1]), some(&[2]), some(&[1, 3])],
        };
        region.forget_covered();
        assert_eq!(region.layers, [whole(4 * 8192), some(&[2]), some(&[1, 3])]);
    }

    #[test]
    fn a_region_without_one_of_its_pages_is_refused() {
        for (length, layers, good) in [
            (1 << 20, vec![], true),
            (8192, vec![whole(8192)], true),
            (8192, vec![whole(16384)], true),
            (16384, vec![whole(8192)], false),
            (16384, vec![whole(8192), some(&[1])], true),
            (5000, vec![whole(5000)], true),
            // The short page has become a whole one.
            (8192, vec![whole(5000)], false),
            (8192, vec![whole(5000), some(&[0])], true),
            (12000, vec![whole(8192), layer(pages(&[1]), 3000)], false),
            (0, vec![], false),
            ((1 << 20) + 1, vec![], false),
            (8192, vec![layer(pages(&[0, 1]), 8192)], false),
            (8192, vec![whole(8192); 65], false),
        ] {
            let region = Region { length, layers };
            let read = Region::from_proto(region.to_proto(&mut |pack| pack), &[0]);
            assert_eq!(read.is_ok(), good, "{region:?}");
            if let Ok(read) = read {
                assert_eq!(read, region);
            }
        }
    }
}
