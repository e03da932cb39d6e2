//! An archive's part of an object store: create-only writes, exact reads, listings that ignore leftovers.
//!
//! Every key is relative to the archive (`archive.json`, `<system identifier>/wal/…`), so that nothing above this
//! module knows where in a bucket the archive lies.

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
mod create;
mod error;
mod open;
mod requests;
mod withheld;

pub use create::Created;
pub use error::{ErrorKind, StoreError};
pub use open::{
    AzureCredentials, AzureSettings, Credentials, GcsSettings, S3Settings, StoreSettings,
};
pub use requests::{Operation, Requests, requests};
pub use withheld::{Release, Withheld, withhold};

use crate::blocking::blocking;
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use std::ops::Range;
use std::sync::Arc;

/// The largest object that is read whole, in bytes: a pack or a WAL object, with room.
pub const LARGEST_WHOLE_OBJECT: u64 = 96 << 20;

/// One object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Relative to the archive.
    pub key: String,
    /// In bytes, as stored.
    pub size: u64,
    /// By the store's clock.
    pub modified: jiff::Timestamp,
}

/// A handle on one archive's prefix in one object store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    root: Path,
    description: Arc<str>,
    /// The same store as `inner`, where that is a folder.
    folder: Option<Arc<LocalFileSystem>>,
    /// Whether it can be sent an object without its last byte.
    withholds: bool,
}

impl Store {
    /// `root` is the archive's prefix, `description` names the store in messages (no secrets in it).
    pub fn new(
        inner: Arc<dyn ObjectStore>,
        root: &str,
        description: &str,
    ) -> Result<Self, StoreError> {
        let root = Path::parse(root).map_err(|e| StoreError::invalid(description, root, e))?;
        Ok(Self {
            inner,
            root,
            description: description.into(),
            folder: None,
            withholds: false,
        })
    }

    /// In a folder.
    fn in_folder(
        folder: LocalFileSystem,
        root: &str,
        description: &str,
    ) -> Result<Self, StoreError> {
        let folder = Arc::new(folder);
        Ok(Self {
            folder: Some(folder.clone()),
            ..Self::new(folder, root, description)?
        })
    }

    /// Whether it is a folder, which may be unmounted at any time.
    pub fn is_filesystem(&self) -> bool {
        self.folder.is_some()
    }

    /// Names the store for people, such as `s3://bucket/prefix/shop/orders`.
    pub fn description(&self) -> &str {
        &self.description
    }

    fn path(&self, key: &str) -> Result<Path, StoreError> {
        let full = if self.root.as_ref().is_empty() {
            key.to_owned()
        } else {
            format!("{}/{key}", self.root)
        };
        Path::parse(&full).map_err(|e| StoreError::invalid(&self.description, key, e))
    }

    /// Reads a whole object, refusing one larger than `limit` bytes. The length is checked against what the store announced.
    pub async fn get(&self, key: &str, limit: u64) -> Result<Bytes, StoreError> {
        Operation::Read.count(self.get_uncounted(key, limit).await)
    }

    async fn get_uncounted(&self, key: &str, limit: u64) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        let fail = |e| StoreError::new(&self.description, "read", key, e);
        let answer = self
            .inner
            .get_opts(&path, GetOptions::default())
            .await
            .map_err(fail)?;
        let size = answer.meta.size;
        if size > limit {
            return Err(StoreError::damaged(
                &self.description,
                key,
                format!("it has {size} bytes, more than the {limit} such an object can have"),
            ));
        }
        let mut body = BytesMut::with_capacity(size as usize);
        let mut stream = answer.into_stream();
        while let Some(piece) = stream.try_next().await.map_err(fail)? {
            if body.len() as u64 + piece.len() as u64 > size {
                return Err(StoreError::short(
                    &self.description,
                    key,
                    size,
                    body.len() as u64 + piece.len() as u64,
                ));
            }
            body.extend_from_slice(&piece);
        }
        if body.len() as u64 != size {
            return Err(StoreError::short(
                &self.description,
                key,
                size,
                body.len() as u64,
            ));
        }
        Ok(body.freeze())
    }

    /// Reads exactly this range; anything shorter is an error.
    pub async fn get_range(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let wanted = range.end.saturating_sub(range.start);
        let bytes = match self.get_head(key, range.clone()).await {
            // Stores refuse a range that begins past the end, each in its own words; that is damage, and no outage.
            Err(e) if e.kind() == ErrorKind::Trouble => match self.head(key).await {
                Ok(object) if object.size < range.end => {
                    let there = object.size.saturating_sub(range.start);
                    return Err(StoreError::short(&self.description, key, wanted, there));
                }
                _ => return Err(e),
            },
            other => other?,
        };
        if bytes.len() as u64 != wanted {
            return Err(StoreError::short(
                &self.description,
                key,
                wanted,
                bytes.len() as u64,
            ));
        }
        Ok(bytes)
    }

    /// Reads this range or as much of it as the object has.
    pub async fn get_head(&self, key: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let path = self.path(key)?;
        let options = GetOptions {
            range: Some(GetRange::Bounded(range)),
            ..GetOptions::default()
        };
        let fail = |e| StoreError::new(&self.description, "read", key, e);
        let read = async {
            let answer = self.inner.get_opts(&path, options).await.map_err(fail)?;
            answer.bytes().await.map_err(fail)
        };
        Operation::Read.count(read.await)
    }

    /// The object's size and time, without its content.
    pub async fn head(&self, key: &str) -> Result<Listed, StoreError> {
        let path = self.path(key)?;
        let looked = self
            .inner
            .head(&path)
            .await
            .map_err(|e| StoreError::new(&self.description, "look at", key, e));
        let meta = Operation::Look.count(looked)?;
        Ok(self.listed(meta).unwrap_or_else(|| Listed {
            key: key.to_owned(),
            size: 0,
            modified: jiff::Timestamp::UNIX_EPOCH,
        }))
    }

    /// Lists the objects under `prefix` (a whole path component), in no particular order. Staging leftovers of
    /// interrupted writes (`name#1`) are not objects and are left out.
    pub fn list(&self, prefix: &str) -> BoxStream<'_, Result<Listed, StoreError>> {
        let path = match self.path(prefix) {
            Ok(path) => path,
            Err(e) => return futures::stream::once(async { Err(e) }).boxed(),
        };
        let prefix = prefix.to_owned();
        Operation::List.began();
        self.inner
            .list(Some(&path))
            .map_err(move |e| {
                let error = StoreError::new(&self.description, "list", &prefix, e);
                Operation::List.failed(&error);
                error
            })
            .try_filter_map(move |meta| futures::future::ready(Ok(self.listed(meta))))
            .boxed()
    }

    /// The names of the "folders" directly under `prefix`, sorted.
    pub async fn list_folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let path = if prefix.is_empty() {
            self.root.clone()
        } else {
            self.path(prefix)?
        };
        let answer = match self.inner.list_with_delimiter(Some(&path)).await {
            Ok(answer) => answer,
            Err(object_store::Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(e) => {
                let error = StoreError::new(&self.description, "list", prefix, e);
                return Operation::List.count(Err(error));
            }
        };
        Operation::List.began();
        let mut names: Vec<String> = answer
            .common_prefixes
            .iter()
            .filter_map(|p| p.filename().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Deletes an object; one that is not there is success.
    pub async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let path = self.path(key)?;
        Operation::Delete.count(match self.inner.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(StoreError::new(&self.description, "delete", key, e)),
        })
    }

    /// Whoever wrote an object that is there already may have been killed before its last fsync.
    async fn make_durable(&self, path: &Path, key: &str) -> Result<(), StoreError> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| {
            let store = "LocalFileSystem";
            let source = object_store::Error::Generic { store, source };
            StoreError::new(&self.description, "fsync", key, source)
        };
        let file = folder
            .path_to_filesystem(path)
            .map_err(|e| failed(e.into()))?;
        let levels = path.parts().count();
        let synced = blocking(move || {
            up_to_the_root(&file, levels).try_for_each(|path| std::fs::File::open(path)?.sync_all())
        });
        synced.await.map_err(|e| failed(e.into()))
    }

    fn listed(&self, meta: object_store::ObjectMeta) -> Option<Listed> {
        let full = meta.location.as_ref();
        let key = match self.root.as_ref() {
            "" => full,
            root => full.strip_prefix(root)?.strip_prefix('/')?,
        };
        if key.contains('#') {
            return None;
        }
        let modified = jiff::Timestamp::from_millisecond(meta.last_modified.timestamp_millis())
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        Some(Listed {
            key: key.to_owned(),
            size: meta.size,
            modified,
        })
    }
}

/// An object's file and the folders above it, the store's own last; `levels` is the number of its key's parts.
fn up_to_the_root(file: &std::path::Path, levels: usize) -> impl Iterator<Item = &std::path::Path> {
    file.ancestors().take(levels + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_found_in_a_folder_is_made_durable() {
        let paths: Vec<_> = up_to_the_root("/mnt/store/shop/orders/a".as_ref(), 3).collect();
        assert_eq!(
            paths,
            [
                "/mnt/store/shop/orders/a",
                "/mnt/store/shop/orders",
                "/mnt/store/shop",
                "/mnt/store"
            ]
            .map(std::path::Path::new)
        );
        let folder = tempfile::tempdir().unwrap();
        let settings = StoreSettings::Filesystem {
            path: folder.path().to_owned(),
        };
        let store = settings.open("shop/orders").unwrap();
        assert!(store.is_filesystem());
        // As a killed writer leaves it.
        std::fs::create_dir_all(folder.path().join("shop/orders/x")).unwrap();
        std::fs::write(folder.path().join("shop/orders/x/a b"), "ab").unwrap();
        let parts = vec![Bytes::from("a"), Bytes::from("b")];
        assert!(matches!(
            store.create("x/a b", parts.clone()).await,
            Ok(Created::New)
        ));
        let path = store.path("x/gone").unwrap();
        assert!(store.make_durable(&path, "x/gone").await.is_err());
        let memory = Store::new(
            Arc::new(object_store::memory::InMemory::new()),
            "a",
            "memory",
        )
        .unwrap();
        assert!(!memory.is_filesystem());
        assert!(memory.make_durable(&path, "x/gone").await.is_ok());
    }
}
