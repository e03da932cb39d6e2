//! Copies a data directory into a backup: one walk, parallel reads, frames written in the walk's order.

use super::read::{Read, ReadError, Source};
use super::walk::{Task, Walk, WalkError};
use crate::progress::Counters;
use futures::StreamExt;
use holdfast_repository::ObjectError;
use holdfast_repository::backup::{BackupWriter, BadPage};
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::{Semaphore, mpsc};

/// Tasks that the walk is ahead of the reading: names only.
const AHEAD: usize = 64;
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

enum Done {
    Directory(String, u32),
    Frame(Read),
}

/// Copies everything but pg_control. At most `2 * parallelism` regions are in memory.
pub async fn copy(
    walk: Walk,
    source: Arc<Source>,
    writer: &mut BackupWriter,
    parallelism: usize,
    counters: &Counters,
) -> Result<Findings, CopyError> {
    let (send, mut receive) = mpsc::channel(AHEAD);
    let walker = tokio::task::spawn_blocking(move || {
        walk.run(&mut |task| send.blocking_send(task).map_err(|_| WalkError::Stopped))
    });
    let cores = Arc::new(Semaphore::new(parallelism));
    let tasks = futures::stream::poll_fn(move |context| receive.poll_recv(context));
    let mut done = tasks
        .map(|task| {
            let (source, cores) = (source.clone(), cores.clone());
            tokio::spawn(async move {
                match task {
                    Task::Directory { path, mode } => {
                        Ok::<_, CopyError>(Done::Directory(path, mode))
                    }
                    Task::Frame(pieces) => {
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
    while let Some(item) = done.next().await {
        match item?? {
            Done::Directory(path, mode) => writer.directory(path, mode).await?,
            Done::Frame(Read {
                frame,
                bad_pages,
                bytes,
            }) => {
                findings.page_errors += bad_pages.len() as u64;
                for page in bad_pages {
                    tracing::warn!(
                        file = page.path,
                        block = page.block,
                        "the page's checksum does not match, also after re-reading"
                    );
                    if findings.bad_pages.len() < NAMED_PAGES {
                        findings.bad_pages.push(page);
                    }
                }
                writer.frame(frame).await?;
                counters.add_bytes(bytes);
            }
        }
    }
    walker.await??;
    Ok(findings)
}
