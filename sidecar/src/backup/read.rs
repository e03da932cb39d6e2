//! Reads one task's regions while Postgres goes on writing them: what is torn is read again, what has gone is left
//! out, what has become shorter is padded; then checks, sums, digests and packs.

use super::compare::Before;
use super::walk::Piece;
use holdfast_postgres::Lsn;
use holdfast_postgres::page::{self, PageState};
use holdfast_repository::backup::{
    self, Again, BadPage, Item, PackedLayer, PackedRegion, Pages, REGION_BYTES,
};
use holdfast_repository::{Archive, Compression};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use thiserror::Error;

/// A page that looks torn is read again this often.
const RE_READS: u32 = 5;
const RE_READ_PAUSE: Duration = Duration::from_millis(2);
/// `RWF_DONTCACHE` (Linux 6.14): what this read brings into the page cache leaves it again, what was there stays.
const DONT_CACHE: ReadWriteFlags = ReadWriteFlags::from_bits_retain(0x80);

/// What reading needs to know.
pub struct Source {
    /// The data directory.
    pub root: PathBuf,
    /// Where the backup starts: a newer page will be replaced by the WAL's, so its checksum proves nothing.
    pub start: Lsn,
    /// Whether pages carry checksums.
    pub data_checksums: bool,
    /// Makes digests.
    pub archive: Archive,
    /// For frames.
    pub compression: Compression,
    /// Whether the file system takes [`DONT_CACHE`]; cleared when it says no.
    pub dont_cache: AtomicBool,
}

/// So much of new content has a frame of its own; less shares one with what comes after it.
const OWN_FRAME: usize = REGION_BYTES as usize / 4;

/// A task, read.
pub struct Read {
    /// What is new.
    pub content: Content,
    /// For the writer; offsets are within that.
    pub items: Vec<Item>,
    /// Pages that failed their checksum.
    pub bad_pages: Vec<BadPage>,
    /// Bytes read, padding included.
    pub bytes: u64,
}

/// The new content of a task.
pub enum Content {
    /// A whole frame.
    Packed(Vec<u8>),
    /// Some of one, or nothing.
    Raw(Vec<u8>),
}

/// A file that can't be read.
#[derive(Debug, Error)]
#[error("can't read {path}: {source}")]
pub struct ReadError {
    path: PathBuf,
    source: io::Error,
}

impl Source {
    /// Reads, checks, compares and packs. Takes a core for a while: not for an async thread.
    pub fn read(&self, pieces: Vec<(Piece, Option<Before>)>) -> Result<Read, ReadError> {
        let total: usize = pieces.iter().map(|(p, _)| p.length as usize).sum();
        let mut raw = vec![0; total];
        let mut used = 0;
        let mut bytes = 0;
        let mut items = Vec::with_capacity(pieces.len());
        let mut bad_pages = Vec::new();
        for (piece, before) in pieces {
            let length = piece.length as usize;
            let buffer = &mut raw[used..used + length];
            buffer.fill(0);
            let Some(file) = self.open(&piece)? else {
                continue;
            };
            self.fill(&piece, &file, buffer)?;
            if self.data_checksums && piece.first_block.is_some() {
                self.check_pages(&piece, &file, buffer, &mut bad_pages)?;
            }
            let (kept, new) = self.compare(&piece, buffer, before);
            let new = new.map(|new| PackedLayer {
                offset: used as u32,
                ..new
            });
            used += new.as_ref().map_or(0, |new| new.length as usize);
            bytes += length as u64;
            let Piece {
                file,
                region,
                length,
                ..
            } = piece;
            items.push(Item::Region(PackedRegion {
                file,
                region,
                length,
                kept,
                new,
            }));
        }
        raw.truncate(used);
        let content = if used >= OWN_FRAME {
            Content::Packed(self.compression.pack(&raw))
        } else {
            Content::Raw(raw)
        };
        Ok(Read {
            content,
            items,
            bad_pages,
            bytes,
        })
    }

    /// What of a region stays as it was stored, and what is stored anew: moved to the beginning of `content`.
    fn compare(
        &self,
        piece: &Piece,
        content: &mut [u8],
        before: Option<Before>,
    ) -> (Vec<backup::Layer>, Option<PackedLayer>) {
        let length = piece.length;
        if length == 0 || is_zero(content) {
            return (Vec::new(), None);
        }
        let sums = match piece.first_block {
            Some(_) => backup::page_sums(content),
            None => Vec::new(),
        };
        let again = before.as_ref().map_or(Again::Whole, |before| {
            let changed = if piece.first_block.is_some() {
                differing(&sums, &before.sums)
            } else {
                self.differs(content, &before.region)
            };
            before.region.again(changed, length)
        });
        let mut layers = before.map(|b| b.region.layers).unwrap_or_default();
        match again {
            Again::Kept => (layers, None),
            Again::Above(kept, pages) => {
                layers.truncate(kept);
                let mut packed = 0;
                let mut of_pages = Vec::with_capacity(pages.count() as usize);
                for page in pages.iter() {
                    let start = page as usize * page::SIZE;
                    let end = content.len().min(start + page::SIZE);
                    content.copy_within(start..end, packed);
                    packed += end - start;
                    of_pages.extend(sums.get(page as usize));
                }
                let new = self.layer(&content[..packed], pages, of_pages);
                (layers, Some(new))
            }
            Again::Whole => {
                let new = self.layer(content, Pages::of_length(length), sums);
                (Vec::new(), Some(new))
            }
        }
    }

    fn layer(&self, content: &[u8], pages: Pages, sums: Vec<u64>) -> PackedLayer {
        PackedLayer {
            offset: 0,
            length: content.len() as u32,
            pages,
            digest: backup::digest(&self.archive, content),
            sums,
        }
    }

    /// Of a file without pages' LSNs only the digest of all tells: then everything is another.
    fn differs(&self, content: &[u8], before: &backup::Region) -> Pages {
        match before.layers.as_slice() {
            [only]
                if only.length as usize == content.len()
                    && only.digest == backup::digest(&self.archive, content) =>
            {
                Pages::default()
            }
            _ => Pages::of_length(content.len() as u32),
        }
    }

    /// `None`: the file has gone, and with its first region the whole file is left out. A later region of a file that
    /// has gone is zeros, as what was cut off is.
    fn open(&self, piece: &Piece) -> Result<Option<Option<File>>, ReadError> {
        let path = self.root.join(&piece.file.path);
        match rustix::fs::open(
            &path,
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
        ) {
            Ok(descriptor) => Ok(Some(Some(File::from(descriptor)))),
            Err(Errno::NOENT) if piece.region == 0 => Ok(None),
            Err(Errno::NOENT) => Ok(Some(None)),
            Err(e) => Err(ReadError {
                path,
                source: e.into(),
            }),
        }
    }

    /// What is not there any more stays zero.
    fn fill(&self, piece: &Piece, file: &Option<File>, buffer: &mut [u8]) -> Result<(), ReadError> {
        let Some(file) = file else { return Ok(()) };
        let mut done = 0;
        while done < buffer.len() {
            let offset = piece.region * REGION_BYTES + done as u64;
            match self.pread(file, &mut buffer[done..], offset) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(ReadError {
                        path: self.root.join(&piece.file.path),
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    fn pread(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        if self.dont_cache.load(Ordering::Relaxed) {
            match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, DONT_CACHE) {
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                    self.dont_cache.store(false, Ordering::Relaxed)
                }
                other => return Ok(other?),
            }
        }
        file.read_at(buffer, offset)
    }

    /// As `basebackup.c` does: a page that is newer than the start is not judged, a bad one is read again.
    fn check_pages(
        &self,
        piece: &Piece,
        file: &Option<File>,
        buffer: &mut [u8],
        bad: &mut Vec<BadPage>,
    ) -> Result<(), ReadError> {
        let Some(file) = file else { return Ok(()) };
        let pages_before = piece.region * (REGION_BYTES / page::SIZE as u64);
        for (number, content) in (pages_before..).zip(buffer.chunks_exact_mut(page::SIZE)) {
            let block = piece.first_block.unwrap_or(0).wrapping_add(number as u32);
            let mut tries = 0;
            while page::lsn(content) < self.start
                && matches!(page::check(content, block), PageState::Bad { .. })
            {
                if tries == RE_READS {
                    bad.push(BadPage {
                        path: piece.file.path.clone(),
                        block,
                    });
                    break;
                }
                tries += 1;
                std::thread::sleep(RE_READ_PAUSE);
                match file.read_at(content, number * page::SIZE as u64) {
                    // Cut off meanwhile: the WAL says so too.
                    Ok(n) if n < page::SIZE => {
                        content.fill(0);
                        break;
                    }
                    Ok(_) => {}
                    Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                    Err(source) => {
                        return Err(ReadError {
                            path: self.root.join(&piece.file.path),
                            source,
                        });
                    }
                }
            }
        }
        Ok(())
    }
}

/// The pages whose sum is another one, or of which there was none.
fn differing(now: &[u64], before: &[u64]) -> Pages {
    let mut pages = Pages::default();
    for (page, sum) in (0..).zip(now) {
        if before.get(page as usize) != Some(sum) {
            pages.insert(page);
        }
    }
    pages
}

fn is_zero(content: &[u8]) -> bool {
    let (chunks, rest) = content.as_chunks::<64>();
    chunks.iter().all(|chunk| *chunk == [0; 64]) && rest.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests;
