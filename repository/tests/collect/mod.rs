//! What a backup's visitor sees, as files.

use holdfast_repository::ObjectError;
use holdfast_repository::backup::{Leaf, Slice, Visit};
use std::collections::BTreeMap;
use std::sync::Mutex;

/// Collects what a backup holds, by path.
#[derive(Default)]
pub struct Collect {
    pub files: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Visit for Collect {
    type Error = String;

    fn leaf(&self, _: usize, leaf: &Leaf) -> Result<(), String> {
        for entry in leaf.entries.iter().filter(|e| !e.directory) {
            self.files
                .lock()
                .unwrap()
                .entry(entry.path.clone())
                .or_insert_with(|| vec![0; entry.size as usize]);
        }
        Ok(())
    }

    fn region(
        &self,
        leaf: &Leaf,
        slice: &Slice,
        content: Result<&[u8], &ObjectError>,
    ) -> Result<(), String> {
        let content = content.map_err(ToString::to_string)?;
        let mut files = self.files.lock().unwrap();
        let file = files.get_mut(&leaf.entries[slice.entry].path).unwrap();
        file[(slice.region << 20) as usize..][..content.len()].copy_from_slice(content);
        Ok(())
    }

    fn leaf_lost(&self, _: usize, error: ObjectError) -> Result<(), String> {
        Err(error.to_string())
    }
}
