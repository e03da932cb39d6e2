//! Copies a data directory into a backup: one walk, parallel reads, frames written in the walk's order.

use super::compare::{Before, Compare};
use super::read::{Content, Read, ReadError, Source};
use super::walk::{Piece, Task, Walk, WalkError};
use crate::progress::Counters;
use futures::StreamExt;
use holdfast_repository::ObjectError;
use holdfast_repository::backup::{BackupWriter, BadPage, Item, PackedFrame, REGION_BYTES};
use holdfast_repository::{Compression, blocking};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};

/// Tasks that the walk is ahead of the reading: names only.
const AHEAD: usize = 64;
/// What was read of several tasks shares a frame until it has so many items.
const SHARED_ITEMS: usize = 4096;
/// Bad pages that are named; all are counted.
const NAMED_PAGES: usize = 1000;

/// Bad pages found.
#[derive(Debug, Default)]
pub struct Findings {
    /// How many.
    pub page_errors: u64,
    /// The first of them.
    pub bad_pages: Vec<BadPage>,
}

/// A copy that failed.
#[derive(Debug, Error)]
pub enum CopyError {
    /// The data directory.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// A file.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The repository.
    #[error(transparent)]
    Write(#[from] ObjectError),
    /// A panic in a worker.
    #[error("a worker of the backup ended unexpectedly: {0}")]
    Worker(#[from] tokio::task::JoinError),
}

/// Adds up the sizes of all that will be copied, in bytes.
pub async fn measure(walk: Walk) -> Result<u64, CopyError> {
    let total = tokio::task::spawn_blocking(move || {
        let mut total = 0;
        walk.run(&mut |task| {
            if let Task::Frame(pieces) = task {
                total += pieces.iter().map(|p| u64::from(p.length)).sum::<u64>();
            }
            Ok(())
        })?;
        Ok::<_, WalkError>(total)
    });
    Ok(total.await??)
}

/// A task, and what the reference has of its pieces.
enum Job {
    Directory(String, u32),
    Frame(Vec<(Piece, Option<Before>)>),
}

enum Done {
    Directory(String, u32),
    Frame(Read),
}

/// Copies everything but pg_control, or what of it differs from what `compare` has. At most `2 * parallelism` regions are
/// in memory, and a frame.
pub async fn copy(
    walk: Walk,
    source: Arc<Source>,
    mut compare: Option<Compare>,
    writer: &mut BackupWriter,
    parallelism: usize,
    counters: &Counters,
) -> Result<Findings, CopyError> {
    let (send, mut receive) = mpsc::channel(AHEAD);
    let walker = tokio::task::spawn_blocking(move || {
        walk.run(&mut |task| send.blocking_send(task).map_err(|_| WalkError::Stopped))
    });
    let cores = Arc::new(Semaphore::new(parallelism));
    let compression = source.compression;
    let (plan, planned) = mpsc::channel(1);
    let planner = async move {
        while let Some(task) = receive.recv().await {
            let job = match task {
                Task::Directory { path, mode } => Job::Directory(path, mode),
                Task::Frame(pieces) => {
                    let mut both = Vec::with_capacity(pieces.len());
                    for piece in pieces {
                        let before = match &mut compare {
                            Some(compare) if piece.length > 0 => compare.before(&piece).await?,
                            _ => None,
                        };
                        both.push((piece, before));
                    }
                    Job::Frame(both)
                }
            };
            if plan.send(job).await.is_err() {
                // The other side ended with an error, which it returns.
                break;
            }
        }
        Ok::<_, CopyError>(())
    };
    let read = async {
        let mut planned = planned;
        let jobs = futures::stream::poll_fn(move |context| planned.poll_recv(context));
        let mut done = jobs
            .map(|job| {
                let (source, cores) = (source.clone(), cores.clone());
                tokio::spawn(async move {
                    match job {
                        Job::Directory(path, mode) => {
                            Ok::<_, CopyError>(Done::Directory(path, mode))
                        }
                        Job::Frame(pieces) => {
                            // Never closed.
                            let _core = cores.acquire_owned().await.ok();
                            Ok(Done::Frame(
                                tokio::task::spawn_blocking(move || source.read(pieces)).await??,
                            ))
                        }
                    }
                })
            })
            .buffered(2 * parallelism);
        let mut findings = Findings::default();
        let mut shared = Shared::default();
        while let Some(item) = done.next().await {
            match item?? {
                Done::Directory(path, mode) => shared.items.push(Item::Directory { path, mode }),
                Done::Frame(read) => {
                    let Read {
                        content,
                        items,
                        bad_pages,
                        bytes,
                    } = read;
                    findings.add(bad_pages);
                    match content {
                        Content::Packed(packed) => {
                            shared.write(writer, compression).await?;
                            writer.frame(PackedFrame { packed, items }).await?;
                        }
                        Content::Raw(raw) => shared.add(&raw, items),
                    }
                    counters.add_bytes(bytes);
                }
            }
            if shared.is_full() {
                shared.write(writer, compression).await?;
            }
        }
        shared.write(writer, compression).await?;
        Ok(findings)
    };
    let (findings, ()) = futures::try_join!(read, planner)?;
    walker.await??;
    Ok(findings)
}

impl Findings {
    fn add(&mut self, bad_pages: Vec<BadPage>) {
        self.page_errors += bad_pages.len() as u64;
        for page in bad_pages {
            tracing::warn!(
                file = page.path,
                block = page.block,
                "the page's checksum does not match, also after re-reading"
            );
            if self.bad_pages.len() < NAMED_PAGES {
                self.bad_pages.push(page);
            }
        }
    }
}

/// A frame that what little is new in each of many regions shares.
#[derive(Default)]
struct Shared {
    raw: Vec<u8>,
    items: Vec<Item>,
}

impl Shared {
    fn add(&mut self, raw: &[u8], mut items: Vec<Item>) {
        let before = self.raw.len() as u32;
        self.raw.extend_from_slice(raw);
        for item in &mut items {
            if let Item::Region(region) = item
                && let Some(new) = &mut region.new
            {
                new.offset += before;
            }
        }
        self.items.append(&mut items);
    }

    fn is_full(&self) -> bool {
        self.raw.len() as u64 >= REGION_BYTES || self.items.len() >= SHARED_ITEMS
    }

    async fn write(
        &mut self,
        writer: &mut BackupWriter,
        compression: Compression,
    ) -> Result<(), ObjectError> {
        let Self { raw, items } = std::mem::take(self);
        let packed = if raw.is_empty() {
            Vec::new()
        } else {
            blocking(move || compression.pack(&raw)).await
        };
        writer.frame(PackedFrame { packed, items }).await
    }
}
