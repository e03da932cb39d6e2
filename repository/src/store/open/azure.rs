//! Azure Blob Storage.

use super::{Connector, RETRIES, client};
use object_store::azure::{AzureConfigKey, MicrosoftAzure, MicrosoftAzureBuilder};
use std::fmt;

/// A container of Azure Blob Storage.
#[derive(Debug, Clone)]
pub struct AzureSettings {
    /// The storage account.
    pub account: String,
    /// The container, which must exist.
    pub container: String,
    /// Put before every key; may be empty.
    pub prefix: String,
    /// The account's address. Left out: Azure's public cloud. `http://` sends everything in the clear.
    pub endpoint: Option<String>,
    /// PEM certificates that are trusted besides the system's.
    pub ca: Option<Vec<u8>>,
    /// False accepts any certificate.
    pub verify_tls: bool,
    /// Left out: what the environment says, such as a workload identity, else the machine's managed identity.
    pub credentials: Option<AzureCredentials>,
}

/// What lets into a storage account. `Debug` does not show it.
#[derive(Clone)]
pub enum AzureCredentials {
    /// One of the account's keys, in base64: it may do everything.
    AccountKey(String),
    /// A shared access signature, with or without its leading `?`.
    SasToken(String),
}

impl fmt::Debug for AzureCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzureCredentials").finish_non_exhaustive()
    }
}

impl AzureSettings {
    pub(super) fn open(&self) -> Result<MicrosoftAzure, object_store::Error> {
        let endpoint = self.endpoint.as_deref();
        let mut builder = match &self.credentials {
            None => of_the_environment(),
            Some(AzureCredentials::AccountKey(key)) => {
                MicrosoftAzureBuilder::new().with_access_key(key)
            }
            Some(AzureCredentials::SasToken(token)) => {
                MicrosoftAzureBuilder::new().with_config(AzureConfigKey::SasKey, token)
            }
        };
        if let Some(endpoint) = endpoint {
            builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        builder
            .with_account(&self.account)
            .with_container_name(&self.container)
            .with_client_options(client(endpoint, self.ca.as_deref(), self.verify_tls)?)
            .with_http_connector(Connector {
                ca: self.ca.clone(),
                verify_tls: self.verify_tls,
            })
            .with_retry(RETRIES)
            .build()
    }
}

/// The webhook of Azure's workload identity writes the authority with a slash at its end, and what is asked there is
/// appended with one of its own.
fn of_the_environment() -> MicrosoftAzureBuilder {
    let builder = MicrosoftAzureBuilder::from_env();
    match builder.get_config_value(&AzureConfigKey::AuthorityHost) {
        Some(host) => builder.with_config(
            AzureConfigKey::AuthorityHost,
            host.trim_end_matches('/').to_owned(),
        ),
        None => builder,
    }
}
