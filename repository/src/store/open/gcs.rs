//! Google Cloud Storage.

use super::{Connector, RETRIES, client};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use serde_json::Value;
use std::fmt;

/// A bucket of Google Cloud Storage.
#[derive(Clone)]
pub struct GcsSettings {
    /// The bucket, which must exist.
    pub bucket: String,
    /// Put before every key; may be empty.
    pub prefix: String,
    /// Left out: Google. `http://` sends everything in the clear.
    pub endpoint: Option<String>,
    /// PEM certificates that are trusted besides the system's.
    pub ca: Option<Vec<u8>>,
    /// False accepts any certificate.
    pub verify_tls: bool,
    /// A service account's key, in JSON. Left out: what the environment says, else the metadata server, which is where
    /// workload identity answers.
    pub service_account: Option<String>,
}

impl fmt::Debug for GcsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            bucket,
            prefix,
            endpoint,
            ca: _,
            verify_tls,
            service_account: _,
        } = self;
        f.debug_struct("GcsSettings")
            .field("bucket", bucket)
            .field("prefix", prefix)
            .field("endpoint", endpoint)
            .field("verify_tls", verify_tls)
            .finish_non_exhaustive()
    }
}

impl GcsSettings {
    pub(super) fn open(&self) -> Result<GoogleCloudStorage, object_store::Error> {
        let endpoint = self.endpoint.as_deref();
        let mut builder = match &self.service_account {
            None => GoogleCloudStorageBuilder::from_env(),
            Some(key) => {
                check(key).map_err(|why| object_store::Error::Generic {
                    store: "GCS",
                    source: why.into(),
                })?;
                GoogleCloudStorageBuilder::new().with_service_account_key(key)
            }
        };
        if let Some(endpoint) = endpoint {
            builder = builder.with_base_url(endpoint.trim_end_matches('/'));
        }
        builder
            .with_bucket_name(&self.bucket)
            .with_client_options(client(endpoint, self.ca.as_deref(), self.verify_tls)?)
            .with_http_connector(Connector {
                ca: self.ca.clone(),
                verify_tls: self.verify_tls,
            })
            .with_retry(RETRIES)
            .build()
    }
}

/// Whether it is a service account's key, with nothing of the key in the error.
fn check(key: &str) -> Result<(), String> {
    let key: Value = serde_json::from_str(key).unwrap_or_default();
    let fields = ["private_key", "private_key_id", "client_email"];
    match key.get("type").and_then(Value::as_str) {
        Some("service_account") if fields.iter().all(|field| key[field].is_string()) => Ok(()),
        // Such as what gcloud writes for a federated identity or a person.
        Some(other @ ("external_account" | "authorized_user" | "impersonated_service_account")) => {
            Err(format!(
                "these are credentials of type {other}: a service account's key is needed, or none where the environment has an identity"
            ))
        }
        _ => Err(format!(
            "this is no service account's key: JSON of type service_account with {}",
            fields.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreSettings;

    #[test]
    fn a_key_that_is_none_is_told_without_being_shown() {
        for (key, words) in [
            ("hunter2", "no service account's key"),
            ("\"hunter2\"", "no service account's key"),
            (
                r#"{"type": "service_account", "private_key": "hunter2"}"#,
                "private_key_id, client_email",
            ),
            (
                r#"{"type": "external_account", "audience": "hunter2"}"#,
                "of type external_account",
            ),
        ] {
            let settings = GcsSettings {
                bucket: "b".into(),
                prefix: "p".into(),
                endpoint: None,
                ca: None,
                verify_tls: true,
                service_account: Some(key.into()),
            };
            assert!(!format!("{settings:?}").contains("hunter"));
            let told = StoreSettings::Gcs(settings).open("a/b").unwrap_err();
            let told = told.to_string();
            assert!(
                told.contains(words) && told.contains("gs://b/p/a/b"),
                "{told}"
            );
            assert!(!told.contains("hunter"), "{told}");
        }
    }
}
