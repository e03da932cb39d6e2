//! The stored objects of an archive, looked at and damaged behind Holdfast's back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use futures::TryStreamExt;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::minio::Bucket;
use crate::world::World;

/// An archive's objects, by their keys below the archive.
#[derive(Clone, Debug)]
pub struct Objects {
    world: World,
    place: Place,
}

#[derive(Clone, Debug)]
enum Place {
    Folder(PathBuf),
    Bucket { bucket: Bucket, prefix: String },
}

impl Objects {
    /// Of a repository that is a folder; `archive` is `<namespace>/<name>`.
    pub(crate) fn in_folder(world: &World, repository: &Path, archive: &str) -> Self {
        Self {
            world: world.clone(),
            place: Place::Folder(repository.join(archive)),
        }
    }

    /// Of a bucket.
    pub(crate) fn in_bucket(world: &World, bucket: &Bucket, prefix: &str, archive: &str) -> Self {
        Self {
            world: world.clone(),
            place: Place::Bucket {
                bucket: bucket.clone(),
                prefix: format!("{prefix}/{archive}/"),
            },
        }
    }

    /// Every key, with what changes when the object does (length and time of the last change).
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn list(&self) -> Result<BTreeMap<String, (u64, String)>> {
        match &self.place {
            Place::Folder(folder) => {
                let mut all = BTreeMap::new();
                if folder.exists() {
                    list_folder(folder, folder, &mut all)?;
                }
                Ok(all)
            }
            Place::Bucket { bucket, prefix } => {
                let store = bucket.store()?;
                let path = object_store::path::Path::from(prefix.as_str());
                let objects: Vec<_> = store.list(Some(&path)).try_collect().await?;
                objects
                    .into_iter()
                    .map(|object| {
                        let key = object
                            .location
                            .as_ref()
                            .strip_prefix(prefix.as_str())
                            .context("listed below the prefix")?
                            .to_owned();
                        Ok((key, (object.size, object.last_modified.to_string())))
                    })
                    .collect()
            }
        }
    }

    /// The keys that contain `part`, sorted.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn keys(&self, part: &str) -> Result<Vec<String>> {
        let mut keys: Vec<String> = self.list().await?.into_keys().collect();
        keys.retain(|key| key.contains(part));
        Ok(keys)
    }

    /// How many objects whose keys contain `part` are there or, in a folder, are being written: what shows earliest
    /// that a process has come so far.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn begun(&self, part: &str) -> Result<usize> {
        match &self.place {
            Place::Folder(folder) => count_files(folder, part),
            Place::Bucket { .. } => Ok(self.keys(part).await?.len()),
        }
    }

    /// The one key that contains `part`.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub async fn key(&self, part: &str) -> Result<String> {
        let keys = self.keys(part).await?;
        match keys.as_slice() {
            [only] => Ok(only.clone()),
            _ => bail!("{} keys contain {part}: {keys:?}", keys.len()),
        }
    }

    /// An object's bytes.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn get(&self, key: &str) -> Result<Vec<u8>> {
        match &self.place {
            Place::Folder(folder) => {
                std::fs::read(folder.join(key)).with_context(|| format!("reading {key}"))
            }
            Place::Bucket { bucket, prefix } => {
                let object = bucket
                    .store()?
                    .get(&format!("{prefix}{key}").into())
                    .await?;
                Ok(object.bytes().await?.to_vec())
            }
        }
    }

    /// Writes an object, whatever was there.
    ///
    /// # Errors
    /// If the store refuses.
    pub async fn put(&self, key: &str, content: &[u8]) -> Result<()> {
        match &self.place {
            Place::Folder(folder) => {
                let path = folder.join(key);
                let parent = path.parent().context("a key has a folder")?;
                std::fs::create_dir_all(parent)?;
                self.world.own(parent)?;
                std::fs::write(&path, content).with_context(|| format!("writing {key}"))?;
                self.world.own(&path)
            }
            Place::Bucket { bucket, prefix } => {
                let key = format!("{prefix}{key}").into();
                bucket.store()?.put(&key, content.to_vec().into()).await?;
                Ok(())
            }
        }
    }

    /// Removes an object and answers what it held.
    ///
    /// # Errors
    /// If it is not there.
    pub async fn take(&self, key: &str) -> Result<Vec<u8>> {
        let content = self.get(key).await?;
        match &self.place {
            Place::Folder(folder) => std::fs::remove_file(folder.join(key))?,
            Place::Bucket { bucket, prefix } => {
                bucket
                    .store()?
                    .delete(&format!("{prefix}{key}").into())
                    .await?;
            }
        }
        Ok(content)
    }

    /// Turns over one bit of the byte at `offset`. Twice is as before.
    ///
    /// # Errors
    /// If the object has no such byte.
    pub async fn flip(&self, key: &str, offset: usize) -> Result<()> {
        let mut content = self.get(key).await?;
        let length = content.len();
        let byte = content
            .get_mut(offset)
            .with_context(|| format!("{key} has {length} bytes, and no byte {offset}"))?;
        *byte ^= 0x04;
        self.put(key, &content).await
    }
}

fn list_folder(
    root: &Path,
    folder: &Path,
    all: &mut BTreeMap<String, (u64, String)>,
) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // What is being written (`name#1`) is no object, and may be gone by now.
        if entry.file_name().to_string_lossy().contains('#') {
            continue;
        }
        let meta = entry.metadata()?;
        if meta.is_dir() {
            list_folder(root, &entry.path(), all)?;
        } else {
            let key = entry
                .path()
                .strip_prefix(root)?
                .to_string_lossy()
                .into_owned();
            all.insert(key, (meta.len(), format!("{:?}", meta.modified()?)));
        }
    }
    Ok(())
}

fn count_files(folder: &Path, part: &str) -> Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // It may be gone by now, or have its final name: what is counted twice or not at all is looked at again.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            count += count_files(&entry.path(), part)?;
        } else {
            count += usize::from(entry.path().to_string_lossy().contains(part));
        }
    }
    Ok(count)
}
