//! From settings to a [`Store`].

mod azure;
mod gcs;
mod s3;

pub use azure::{AzureCredentials, AzureSettings};
pub use gcs::GcsSettings;
pub use s3::{Credentials, S3Settings};

use super::withheld::Connector;
use super::{Store, StoreError};
use object_store::local::LocalFileSystem;
use object_store::{
    BackoffConfig, Certificate, ClientOptions, HeaderValue, ObjectStore, RetryConfig,
};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where an archive's objects are kept.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// An S3 bucket, or anything that speaks its protocol and honours `If-None-Match: *`.
    S3(S3Settings),
    /// A container of Azure Blob Storage.
    Azure(AzureSettings),
    /// A bucket of Google Cloud Storage.
    Gcs(GcsSettings),
    /// A folder, for tests and for machines without an object store. Files and folders are fsynced.
    Filesystem {
        /// An existing folder.
        path: PathBuf,
    },
}

/// Short enough that callers with a deadline of their own can decide; those that can wait try again.
const RETRIES: RetryConfig = RetryConfig {
    backoff: BackoffConfig {
        init_backoff: Duration::from_millis(100),
        max_backoff: Duration::from_secs(2),
        base: 2.0,
    },
    max_retries: 4,
    retry_timeout: Duration::from_secs(20),
};

/// Runs from the request's first byte, so a large object has to get through a slow line in it.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(180);
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// As stores log it, and policies may ask for it.
pub(super) const USER_AGENT: HeaderValue =
    HeaderValue::from_static(concat!("holdfast/", env!("CARGO_PKG_VERSION")));

impl StoreSettings {
    /// Makes a handle on the archive `archive` (`namespace/name`). Reaches nothing yet, but a folder must exist.
    pub fn open(&self, archive: &str) -> Result<Store, StoreError> {
        match self {
            Self::Filesystem { path } => {
                let description = format!("{}/{archive}", path.display());
                let inner = LocalFileSystem::new_with_prefix(path)
                    .map_err(|e| {
                        StoreError::new(&description, "open", &path.display().to_string(), e)
                    })?
                    // A bucket has no empty folders, which would be taken for backups that were interrupted.
                    .with_automatic_cleanup(true)
                    .with_fsync(true);
                Store::in_folder(inner, archive, &description)
            }
            Self::S3(s3) => bucket("s3", &s3.bucket, &s3.prefix, archive, s3.open()),
            Self::Azure(azure) => bucket(
                "azure",
                &azure.container,
                &azure.prefix,
                archive,
                azure.open(),
            ),
            Self::Gcs(gcs) => bucket("gs", &gcs.bucket, &gcs.prefix, archive, gcs.open()),
        }
    }
}

/// The archive's part of a bucket or container.
fn bucket<S: ObjectStore>(
    scheme: &str,
    name: &str,
    prefix: &str,
    archive: &str,
    opened: Result<S, object_store::Error>,
) -> Result<Store, StoreError> {
    let prefix = prefix.trim_matches('/');
    let root = if prefix.is_empty() {
        archive.to_owned()
    } else {
        format!("{prefix}/{archive}")
    };
    let description = format!("{scheme}://{name}/{root}");
    let inner = opened.map_err(|e| StoreError::invalid(&description, "settings", e))?;
    Ok(Store {
        withholds: true,
        ..Store::new(Arc::new(inner), &root, &description)?
    })
}

/// Whether everything is sent in the clear.
fn is_plain(endpoint: Option<&str>) -> bool {
    endpoint.is_some_and(|e| e.starts_with("http://"))
}

/// How every store is spoken to. `ca` holds PEM certificates that are trusted besides the system's.
fn client(
    endpoint: Option<&str>,
    ca: Option<&[u8]>,
    verify_tls: bool,
) -> Result<ClientOptions, object_store::Error> {
    let client = ClientOptions::new()
        .with_allow_http(is_plain(endpoint))
        .with_timeout_disabled()
        .with_user_agent(USER_AGENT)
        .with_read_timeout(READ_TIMEOUT)
        .with_connect_timeout(CONNECT_TIMEOUT)
        .with_allow_invalid_certificates(!verify_tls);
    let trusted = ca.map(Certificate::from_pem_bundle).transpose()?;
    Ok(trusted
        .unwrap_or_default()
        .into_iter()
        .fold(client, ClientOptions::with_root_certificate))
}
