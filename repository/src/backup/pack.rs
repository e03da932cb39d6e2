//! What a pack's last frame says of the others: the digest of each layer, and the sums of its pages.

use super::region::{Layer, Pages, Region};
use super::{Digest, proto};
use crate::compression::Compression;
use holdfast_postgres::page;
use prost::Message;
use std::collections::HashMap;

/// The layers of a pack that is being written.
#[derive(Debug, Default)]
pub(super) struct IndexWriter {
    layers: Vec<proto::PackedLayer>,
    bytes: usize,
}

impl IndexWriter {
    /// Adds layers of one frame.
    pub(super) fn add(&mut self, frame: u32, layers: Vec<NewLayer>) {
        for layer in layers {
            let NewLayer {
                offset,
                length,
                digest,
                sums,
            } = layer;
            let sums: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            self.bytes += sums.len() + 48;
            self.layers.push(proto::PackedLayer {
                digest: digest.to_vec(),
                frame,
                offset,
                length,
                sums,
            });
        }
    }

    /// How long it is about, in bytes.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    /// The frame.
    pub(super) fn pack(self, compression: Compression) -> Vec<u8> {
        let index = proto::PackIndex {
            oldest_reader: 1,
            layers: self.layers,
        };
        compression.pack(&index.encode_to_vec())
    }
}

/// A layer that is written.
#[derive(Debug)]
pub(super) struct NewLayer {
    pub(super) offset: u32,
    pub(super) length: u32,
    pub(super) digest: Digest,
    pub(super) sums: Vec<u64>,
}

/// What a pack says of its layers, by frame and offset.
#[derive(Debug)]
pub struct PackIndex(HashMap<(u32, u32), Packed>);

#[derive(Debug)]
struct Packed {
    length: u32,
    digest: Digest,
    sums: Vec<u64>,
}

impl PackIndex {
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let index =
            proto::PackIndex::decode(bytes).map_err(|e| format!("its index can't be read: {e}"))?;
        if index.oldest_reader > 1 {
            return Err("its index needs a newer holdfast".into());
        }
        let layers = index.layers.into_iter().map(|layer| {
            let digest = Digest::try_from(layer.digest);
            let digest = digest.map_err(|_| "its index has a digest of a wrong length")?;
            let sums = layer.sums.as_chunks::<8>().0.iter();
            let packed = Packed {
                length: layer.length,
                digest,
                sums: sums.map(|sum| u64::from_le_bytes(*sum)).collect(),
            };
            Ok(((layer.frame, layer.offset), packed))
        });
        let layers = layers.collect::<Result<_, String>>()?;
        Ok(Self(layers))
    }

    /// How much memory it takes about, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let sums: usize = self.0.values().map(|packed| packed.sums.len() * 8).sum();
        sums + self.0.len() * 96
    }

    /// The sums of a layer's pages. None: it is not the layer that the manifest means, or not of relation data.
    pub(super) fn sums(&self, layer: &Layer) -> Option<&[u64]> {
        let packed = self.0.get(&(layer.frame.number, layer.offset))?;
        let same = packed.length == layer.length && packed.digest == layer.digest;
        let sums = packed.sums.as_slice();
        let complete = sums.len() == layer.length.div_ceil(page::SIZE as u32) as usize;
        (same && complete).then_some(sums)
    }
}

impl Region {
    /// The sum of each of its pages, given those of each layer.
    pub(super) fn sums<'a>(
        &self,
        mut of: impl FnMut(&Layer) -> Option<&'a [u64]>,
    ) -> Result<Vec<u64>, Layer> {
        let pages = Pages::of_length(self.length).count() as usize;
        let mut sums = vec![0; pages];
        if self.layers.is_empty() {
            let last = self.length as usize % page::SIZE;
            sums.fill(twox_hash::XxHash3_64::oneshot(&[0; page::SIZE]));
            if let Some(short) = sums.last_mut().filter(|_| last > 0) {
                *short = twox_hash::XxHash3_64::oneshot(&[0; page::SIZE][..last]);
            }
        }
        for (layer, visible) in self.layers.iter().zip(self.visible()) {
            let found = of(layer).ok_or(*layer)?;
            let both = found.iter().zip(layer.pages.iter());
            for (sum, page) in both.filter(|(_, page)| visible.has(*page)) {
                if let Some(place) = sums.get_mut(page as usize) {
                    *place = *sum;
                }
            }
        }
        Ok(sums)
    }
}
