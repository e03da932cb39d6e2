//! Frames for tests.

use super::{FileFacts, Item, PackedFrame, PackedLayer, PackedRegion, Pages, REGION_BYTES};
use crate::{Archive, Compression};
use std::sync::Arc;

/// A directory's.
pub fn directory(path: &str) -> PackedFrame {
    let (path, mode) = (path.to_owned(), 0o700);
    PackedFrame {
        packed: Vec::new(),
        items: vec![Item::Directory { path, mode }],
    }
}

/// A whole file's, one for each region; `paged` if it is relation data.
pub fn file(
    archive: &Archive,
    path: &str,
    content: &[u8],
    paged: bool,
    compression: Compression,
) -> Vec<PackedFrame> {
    let file = Arc::new(FileFacts {
        path: path.to_owned(),
        mode: 0o600,
        size: content.len() as u64,
        modified: 1,
        paged,
    });
    let region = |number: u64, content: &[u8]| PackedFrame {
        packed: if content.is_empty() {
            Vec::new()
        } else {
            compression.pack(content)
        },
        items: vec![Item::Region(PackedRegion {
            file: file.clone(),
            region: number,
            length: content.len() as u32,
            kept: Vec::new(),
            new: (!content.is_empty()).then(|| layer(archive, content, paged)),
        })],
    };
    if content.is_empty() {
        return vec![region(0, content)];
    }
    let regions = content.chunks(REGION_BYTES as usize).zip(0..);
    regions
        .map(|(content, number)| region(number, content))
        .collect()
}

/// A whole region's, at its frame's beginning.
pub fn layer(archive: &Archive, content: &[u8], paged: bool) -> PackedLayer {
    let length = content.len() as u32;
    PackedLayer {
        offset: 0,
        length,
        pages: Pages::of_length(length),
        digest: super::digest(archive, content),
        sums: if paged {
            super::page_sums(content)
        } else {
            Vec::new()
        },
    }
}
