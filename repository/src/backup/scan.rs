//! Goes through a whole backup: leaves in order, the regions of each in parallel. Restoring and verifying are this,
//! with different hands at the end.

use super::entry::Leaf;
use super::reader::{BackupReader, Fetched, Group, Slice};
use crate::blocking::blocking;
use crate::object::ObjectError;
use crate::store::ErrorKind;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

/// What is done with what is found. Called on threads that may block.
pub trait Visit: Send + Sync + 'static {
    /// What ends the scan.
    type Error: Send + 'static;

    /// Called for each leaf, in order, before any of its regions.
    fn leaf(&self, number: usize, leaf: &Leaf) -> Result<(), Self::Error>;

    /// Called once for each region of a leaf, in any order, from several threads. The content's digest was compared; an
    /// error names what is not good.
    fn region(
        &self,
        leaf: &Leaf,
        slice: &Slice,
        content: Result<&[u8], &ObjectError>,
    ) -> Result<(), Self::Error>;

    /// Called for a leaf that can't be read.
    fn leaf_lost(&self, number: usize, error: ObjectError) -> Result<(), Self::Error>;
}

/// How a scan is done.
#[derive(Debug, Clone, Copy)]
pub struct ScanSettings {
    /// Threads that open frames and call [`Visit::region`].
    pub parallelism: usize,
    /// How long a fetch is tried again while the store is in trouble.
    pub patience: Duration,
}

/// Groups are fetched at most `parallelism + 4` at once, each a few MiB, so memory does not grow with the backup.
pub async fn scan<V: Visit>(
    reader: Arc<BackupReader>,
    visitor: Arc<V>,
    settings: ScanSettings,
) -> Result<(), V::Error> {
    let ScanSettings {
        parallelism,
        patience,
    } = settings;
    let (send, mut receive) = mpsc::channel::<(Arc<Leaf>, Group)>(4);
    let leaves = {
        let (reader, visitor) = (reader.clone(), visitor.clone());
        async move {
            for number in 0..reader.leaf_count() {
                let leaf = match with_patience(patience, || reader.leaf(number)).await {
                    Ok(leaf) => Arc::new(leaf),
                    Err(e) => {
                        visitor.leaf_lost(number, e)?;
                        continue;
                    }
                };
                let (begun, told) = (leaf.clone(), visitor.clone());
                blocking(move || told.leaf(number, &begun)).await?;
                for group in reader.groups(&leaf) {
                    if send.send((leaf.clone(), group)).await.is_err() {
                        // The other side ended with an error, which it returns.
                        return Ok(());
                    }
                }
            }
            Ok(())
        }
    };
    let cores = Arc::new(Semaphore::new(parallelism));
    let regions = async move {
        let groups = futures::stream::poll_fn(|context| receive.poll_recv(context));
        let mut done = groups
            .map(|(leaf, group)| {
                let (reader, visitor, cores) = (reader.clone(), visitor.clone(), cores.clone());
                tokio::spawn(async move {
                    let runs = group.runs.iter();
                    let from = &reader;
                    let fetch = |run| with_patience(patience, move || from.fetch(run));
                    let fetched = futures::future::join_all(runs.map(fetch)).await;
                    // Never closed.
                    let _core = cores.acquire_owned().await.ok();
                    blocking(move || open(&reader, &leaf, &group, &fetched, &*visitor)).await
                })
            })
            .buffer_unordered(parallelism + 4);
        while let Some(outcome) = done.next().await {
            match outcome {
                Ok(outcome) => outcome?,
                Err(e) => std::panic::resume_unwind(e.into_panic()),
            }
        }
        Ok(())
    };
    futures::try_join!(leaves, regions)?;
    Ok(())
}

fn open<V: Visit>(
    reader: &BackupReader,
    leaf: &Leaf,
    group: &Group,
    fetched: &Fetched,
    visitor: &V,
) -> Result<(), V::Error> {
    reader.open_group(leaf, group, fetched, |slice, content| {
        visitor.region(leaf, slice, content)
    })
}

/// Tries again while the store is in trouble; damage and absence are answers.
pub(crate) async fn with_patience<T, F: Future<Output = Result<T, ObjectError>>>(
    patience: Duration,
    mut work: impl FnMut() -> F,
) -> Result<T, ObjectError> {
    let deadline = Instant::now() + patience;
    let mut pause = Duration::from_millis(500);
    let mut damaged = 0;
    loop {
        match work().await {
            // A body cut short on its way looks like an object that is; twice is enough to tell.
            Err(ObjectError::Store(e)) if e.kind() == ErrorKind::Damaged && damaged < 2 => {
                damaged += 1
            }
            Err(ObjectError::Store(e))
                if e.kind() == ErrorKind::Trouble && Instant::now() + pause < deadline =>
            {
                tracing::warn!("{e}; trying again in {pause:?}");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(15));
            }
            other => return other,
        }
    }
}
