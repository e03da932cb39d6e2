//! S3.

use super::{Connector, RETRIES, client, is_plain};
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum, S3ConditionalPut};
use std::fmt;

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

impl S3Settings {
    pub(super) fn open(&self) -> Result<AmazonS3, object_store::Error> {
        let endpoint = self.endpoint.as_deref();
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
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint);
        }
        builder
            .with_bucket_name(&self.bucket)
            .with_client_options(client(endpoint, self.ca.as_deref(), self.verify_tls)?)
            .with_http_connector(Connector {
                ca: self.ca.clone(),
                verify_tls: self.verify_tls,
            })
            .with_retry(RETRIES)
            .with_conditional_put(S3ConditionalPut::ETagMatch)
            .with_checksum_algorithm(Checksum::CRC64NVME)
            // TLS and the checksum already cover the body; without TLS the signature has to.
            .with_unsigned_payload(!is_plain(endpoint))
            .build()
    }
}
