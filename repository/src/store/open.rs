//! From settings to a [`Store`].

use super::{Store, StoreError};
use object_store::aws::{AmazonS3Builder, Checksum, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, Certificate, ClientOptions, RetryConfig};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Where an archive's objects are kept.
#[derive(Debug, Clone)]
pub enum StoreSettings {
    /// An S3 bucket, or anything that speaks its protocol and honours `If-None-Match: *`.
    S3(S3Settings),
    /// A folder, for tests and for machines without an object store. Files and folders are fsynced.
    Filesystem {
        /// An existing folder.
        path: PathBuf,
    },
}

/// An S3 bucket.
#[derive(Debug, Clone)]
pub struct S3Settings {
    /// The bucket, which must exist.
    pub bucket: String,
    /// Put before every key; may be empty.
    pub prefix: String,
    /// Left out: what the environment says, else `us-east-1`.
    pub region: Option<String>,
    /// Left out: AWS. `http://` sends everything in the clear.
    pub endpoint: Option<String>,
    /// PEM certificates that are trusted besides the system's.
    pub ca: Option<Vec<u8>>,
    /// False accepts any certificate.
    pub verify_tls: bool,
    /// Left out: what the environment says, as the SDKs read it.
    pub credentials: Option<Credentials>,
}

/// S3 credentials. `Debug` does not show them.
#[derive(Clone)]
pub struct Credentials {
    /// Names the key.
    pub access_key_id: String,
    /// The secret.
    pub secret_access_key: String,
    /// For temporary credentials.
    pub session_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").finish_non_exhaustive()
    }
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

impl StoreSettings {
    /// Makes a handle on the archive `archive` (`namespace/name`). Reaches nothing yet for S3; a folder must exist.
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
            Self::S3(s3) => {
                let prefix = s3.prefix.trim_matches('/');
                let root = if prefix.is_empty() {
                    archive.to_owned()
                } else {
                    format!("{prefix}/{archive}")
                };
                let description = format!("s3://{}/{root}", s3.bucket);
                let inner = s3
                    .builder()
                    .and_then(AmazonS3Builder::build)
                    .map_err(|e| StoreError::new(&description, "open", "settings", e))?;
                Store::new(Arc::new(inner), &root, &description)
            }
        }
    }
}

impl S3Settings {
    fn builder(&self) -> Result<AmazonS3Builder, object_store::Error> {
        let plain = self
            .endpoint
            .as_deref()
            .is_some_and(|e| e.starts_with("http://"));
        let mut client = ClientOptions::new()
            .with_allow_http(plain)
            .with_timeout_disabled()
            // Runs from the request's first byte, so a large object has to get through a slow line in it.
            .with_read_timeout(Duration::from_secs(180))
            .with_connect_timeout(Duration::from_secs(5))
            .with_allow_invalid_certificates(!self.verify_tls);
        for certificate in self
            .ca
            .as_deref()
            .map(Certificate::from_pem_bundle)
            .transpose()?
            .unwrap_or_default()
        {
            client = client.with_root_certificate(certificate);
        }
        let mut builder = match &self.credentials {
            None => AmazonS3Builder::from_env(),
            Some(credentials) => {
                let builder = AmazonS3Builder::new()
                    .with_access_key_id(&credentials.access_key_id)
                    .with_secret_access_key(&credentials.secret_access_key);
                match &credentials.session_token {
                    Some(token) => builder.with_token(token),
                    None => builder,
                }
            }
        };
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        Ok(builder
            .with_bucket_name(&self.bucket)
            .with_client_options(client)
            .with_retry(RETRIES)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_checksum_algorithm(Checksum::CRC64NVME)
            // TLS and the checksum already cover the body; without TLS the signature has to.
            .with_unsigned_payload(!plain))
    }
}
