//! What an earlier backup has of the data directory, in the order in which it is walked.

use super::walk::Piece;
use futures::StreamExt;
use futures::stream::BoxStream;
use holdfast_repository::ObjectError;
use holdfast_repository::backup::{BackupReader, Entry, Leaf, Region, path_order};
use std::cmp::Ordering;
use std::sync::Arc;

/// Leaves that are fetched ahead.
const AHEAD: usize = 4;

/// A region as the reference has it.
#[derive(Debug)]
pub struct Before {
    /// Its layers.
    pub region: Region,
    /// Of relation data, the sum of each page.
    pub sums: Vec<u64>,
}

/// The reference, read once from its beginning to its end.
pub struct Compare {
    reader: Arc<BackupReader>,
    leaves: BoxStream<'static, Result<Leaf, ObjectError>>,
    leaf: Leaf,
    /// Of the leaf's entries, the first that was not passed.
    entry: usize,
    ended: bool,
}

impl Compare {
    /// From its first file on.
    pub fn with(reader: Arc<BackupReader>) -> Self {
        let numbers = futures::stream::iter(0..reader.leaf_count());
        let from = reader.clone();
        let leaves = numbers
            .map(move |number| {
                let reader = from.clone();
                async move { reader.leaf(number).await }
            })
            .buffered(AHEAD);
        Self {
            reader,
            leaves: leaves.boxed(),
            leaf: Leaf::default(),
            entry: 0,
            ended: false,
        }
    }

    /// What it has of this region, which comes after those that were asked for before. None where it has nothing to compare
    /// with; also where what it has can't be read, which is told.
    ///
    /// # Errors
    /// If the store is in trouble.
    pub async fn before(&mut self, piece: &Piece) -> Result<Option<Before>, ObjectError> {
        let Some(region) = self.region(&piece.file.path, piece.region).await? else {
            return Ok(None);
        };
        let sums = if piece.file.paged {
            match self.reader.sums(&region).await {
                Ok(sums) => sums,
                Err(e) => {
                    self.tell(e)?;
                    return Ok(None);
                }
            }
        } else {
            Vec::new()
        };
        Ok(Some(Before { region, sums }))
    }

    async fn region(&mut self, path: &str, number: u64) -> Result<Option<Region>, ObjectError> {
        while !self.ended {
            let Some(entry) = self.leaf.entries.get(self.entry) else {
                match self.leaves.next().await {
                    None => self.ended = true,
                    Some(Ok(leaf)) => (self.leaf, self.entry) = (leaf, 0),
                    Some(Err(e)) => self.tell(e)?,
                }
                continue;
            };
            let Entry {
                first_region,
                regions,
                ..
            } = entry;
            let end = first_region + regions.len() as u64;
            match path_order(&entry.path, path) {
                Ordering::Greater => return Ok(None),
                Ordering::Equal if number < *first_region => return Ok(None),
                Ordering::Equal if number < end => {
                    return Ok(regions.get((number - first_region) as usize).cloned());
                }
                Ordering::Equal | Ordering::Less => self.entry += 1,
            }
        }
        Ok(None)
    }

    /// Damage costs a comparison, and an outage the backup.
    fn tell(&self, error: ObjectError) -> Result<(), ObjectError> {
        if !error.is_damage() && !error.is_not_found() {
            return Err(error);
        }
        tracing::warn!(
            reference = self.reader.root().facts.id,
            "what the earlier backup has of some files can't be read, and they are stored whole: {error}"
        );
        Ok(())
    }
}
