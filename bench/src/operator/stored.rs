//! What is stored: one real archive, and copies of it.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use holdfast_e2e::{Bucket, Shutdown, World};
use holdfast_protocol::status::{ArchiveStatus, Moment};
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

/// Of all archives, in the bucket.
pub const PREFIX: &str = "prod";
/// Of the archive that is copied.
const TEMPLATE: &str = "template";
const ARCHIVE: &str = "bench/orders";
/// Uploads at once.
const TOGETHER: usize = 32;

/// An archive of a database that has ended, by its objects' keys.
pub struct Template {
    objects: Vec<(String, Bytes)>,
    /// Of the database cluster.
    pub system_identifier: String,
    /// The end of its WAL.
    pub archived_through: Moment,
    /// The segment that was archived last, and when.
    pub last_archived: (String, Timestamp),
}

impl Template {
    /// Takes so many backups of a small database.
    ///
    /// Packs are left out: the operator never reads one, and they are nearly all of the bytes.
    pub async fn create(world: &World, bucket: &Bucket, backups: u32) -> Result<Self> {
        let mut postgres = world
            .postgres("orders", 17)
            .segment_mib(1)
            .set("archive_mode", "on")
            .create()
            .await?;
        let holdfast = world
            .holdfast(ARCHIVE, &postgres)
            .s3(bucket)
            .prefix(TEMPLATE)
            .build()?;
        let sidecar = holdfast.sidecar().await?;
        postgres.archive_with(&holdfast).await?;
        for _ in 0..backups {
            postgres
                .execute("CREATE TABLE IF NOT EXISTS orders (n int); INSERT INTO orders VALUES (1)")
                .await?;
            holdfast.backup().await?;
        }
        let last = postgres
            .value("SELECT pg_walfile_name(pg_switch_wal())")
            .await?;
        postgres.archive_all().await?;
        postgres.stop(Shutdown::Fast).await?;
        let info: ArchiveStatus = serde_json::from_value(holdfast.info().await?)?;
        sidecar.stop().await?;
        ensure!(
            holdfast.complete_backups().await?.len() == backups as usize,
            "not all backups of the database are complete"
        );
        Ok(Self {
            objects: objects(bucket).await?,
            system_identifier: info
                .system_identifier
                .context("an archive has a system identifier")?,
            archived_through: info.archived_through.context("there is WAL")?,
            last_archived: (last, Timestamp::now()),
        })
    }

    /// How many there are.
    pub fn objects(&self) -> usize {
        self.objects.len()
    }

    /// Stores all of it once more for each archive, given as namespace and name.
    pub async fn copy(&self, bucket: &Bucket, archives: &[(String, String)]) -> Result<()> {
        let store = bucket.store()?;
        let all = archives.iter().flat_map(|(namespace, name)| {
            let folder = format!("{PREFIX}/{namespace}/{name}");
            let objects = self.objects.iter();
            objects.map(move |(key, bytes)| (format!("{folder}/{key}"), bytes.clone()))
        });
        let uploads = futures::stream::iter(all).map(|(key, bytes)| {
            let store = &store;
            async move {
                let (key, content) = (Path::from(key), PutPayload::from_bytes(bytes));
                store.put(&key, content).await.map(drop)
            }
        });
        uploads
            .buffer_unordered(TOGETHER)
            .try_collect::<()>()
            .await
            .context("copying an archive")
    }
}

async fn objects(bucket: &Bucket) -> Result<Vec<(String, Bytes)>> {
    let store = bucket.store()?;
    let folder = format!("{TEMPLATE}/{ARCHIVE}/");
    let listed: Vec<_> = store
        .list(Some(&Path::from(folder.as_str())))
        .try_collect()
        .await?;
    let mut objects = Vec::new();
    for object in listed {
        let key = object.location.as_ref();
        let key = key
            .strip_prefix(&folder)
            .context("listed below the prefix")?;
        if !key.contains("/packs/") {
            let bytes = store.get(&object.location).await?.bytes().await?;
            objects.push((key.to_owned(), bytes));
        }
    }
    Ok(objects)
}
