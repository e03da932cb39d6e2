//! What stands in the Secret that lets into a store. Pure.

use super::place::Place;
use super::resolve::{Lack, entry, secret, text};
use crate::secrets::{Found, SecretData};
use holdfast_repository::store::{AzureCredentials, Credentials};
use std::fmt;

/// The names under which an access key may stand in a Secret: ours, and those of the SDKs' environment.
const ACCESS_KEY_ID: [&str; 2] = ["accessKeyId", "AWS_ACCESS_KEY_ID"];
const SECRET_ACCESS_KEY: [&str; 2] = ["secretAccessKey", "AWS_SECRET_ACCESS_KEY"];
const SESSION_TOKEN: [&str; 2] = ["sessionToken", "AWS_SESSION_TOKEN"];
const ACCOUNT_KEY: &str = "accountKey";
const SAS_TOKEN: &str = "sasToken";
const SERVICE_ACCOUNT: &str = "serviceAccount.json";

const ACCESS_KEY_LINE: &str = "such as kubectl create secret generic NAME --from-literal=accessKeyId=… --from-literal=secretAccessKey=…";
const AZURE_LINE: &str = "such as kubectl create secret generic NAME --from-literal=sasToken=…, or --from-literal=accountKey=…";
const SERVICE_ACCOUNT_LINE: &str =
    "such as kubectl create secret generic NAME --from-file=serviceAccount.json=…";

/// What lets into a store. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreKey {
    /// Into a bucket of S3.
    AccessKey(AccessKey),
    /// Into a storage account, to do everything.
    AccountKey(String),
    /// Into a storage account, to do what it says.
    SasToken(String),
    /// Into a bucket of Google's: a service account's key, in JSON.
    ServiceAccount(String),
}

/// An access key of S3.
#[derive(Clone, PartialEq, Eq)]
pub struct AccessKey {
    /// Names the key.
    pub id: String,
    /// The secret.
    pub secret: String,
    /// For temporary credentials.
    pub session_token: Option<String>,
}

impl fmt::Debug for StoreKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreKey").finish_non_exhaustive()
    }
}

impl AccessKey {
    pub(super) fn credentials(&self) -> Credentials {
        Credentials {
            access_key_id: self.id.clone(),
            secret_access_key: self.secret.clone(),
            session_token: self.session_token.clone(),
        }
    }
}

impl StoreKey {
    pub(super) fn of_azure(&self) -> Option<AzureCredentials> {
        match self {
            Self::AccountKey(key) => Some(AzureCredentials::AccountKey(key.clone())),
            Self::SasToken(token) => Some(AzureCredentials::SasToken(token.clone())),
            Self::AccessKey(_) | Self::ServiceAccount(_) => None,
        }
    }
}

/// Finds what lets into a store of this kind.
pub(super) fn store_key(place: &Place, found: &Found, name: &str) -> Result<StoreKey, Lack> {
    match place {
        Place::S3(_) => {
            access_key(secret(found, name, ACCESS_KEY_LINE)?, name).map(StoreKey::AccessKey)
        }
        Place::Azure(_) => of_azure(secret(found, name, AZURE_LINE)?, name),
        Place::Gcs(_) => service_account(secret(found, name, SERVICE_ACCOUNT_LINE)?, name),
    }
}

fn access_key(data: &SecretData, name: &str) -> Result<AccessKey, Lack> {
    let one = |names: [&str; 2]| {
        let present = names.into_iter().find(|name| data.get(name).is_some());
        let [ours, _] = names;
        let present = present.unwrap_or(ours);
        entry(data, name, present, ACCESS_KEY_LINE).and_then(|value| text(value, name, present))
    };
    let has_token = SESSION_TOKEN.iter().any(|name| data.get(name).is_some());
    Ok(AccessKey {
        id: one(ACCESS_KEY_ID)?,
        secret: one(SECRET_ACCESS_KEY)?,
        session_token: has_token.then(|| one(SESSION_TOKEN)).transpose()?,
    })
}

fn of_azure(data: &SecretData, name: &str) -> Result<StoreKey, Lack> {
    let one = |key: &str| entry(data, name, key, AZURE_LINE).and_then(|v| text(v, name, key));
    match (
        data.get(ACCOUNT_KEY).is_some(),
        data.get(SAS_TOKEN).is_some(),
    ) {
        (true, true) => Err(Lack::Invalid {
            secret: name.to_owned(),
            entry: ACCOUNT_KEY.to_owned(),
            why: format!("stands beside {SAS_TOKEN}: remove one of them"),
        }),
        (true, false) => one(ACCOUNT_KEY).map(StoreKey::AccountKey),
        (false, _) => one(SAS_TOKEN).map(StoreKey::SasToken),
    }
}

fn service_account(data: &SecretData, name: &str) -> Result<StoreKey, Lack> {
    let value = entry(data, name, SERVICE_ACCOUNT, SERVICE_ACCOUNT_LINE)?;
    let key: serde_json::Value = serde_json::from_slice(value).unwrap_or_default();
    match std::str::from_utf8(value) {
        Ok(text) if key["type"] == "service_account" => {
            Ok(StoreKey::ServiceAccount(text.trim().to_owned()))
        }
        _ => Err(Lack::Invalid {
            secret: name.to_owned(),
            entry: SERVICE_ACCOUNT.to_owned(),
            why: "is no service account's key: JSON whose type is service_account".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn each_store_has_its_own() {
        let azure = json!({"azure": {"account": "acme", "container": "c"}});
        let gcs = json!({"gcs": {"bucket": "b"}});
        let key = r#"{"type": "service_account", "private_key": "hunter2"}"#;
        type Entries<'a> = &'a [(&'a str, &'a str)];
        let cases: [(&serde_json::Value, Entries, Result<StoreKey, &str>); 10] = [
            (
                &azure,
                &[("accountKey", "hunter2\n")],
                Ok(StoreKey::AccountKey("hunter2".into())),
            ),
            (
                &azure,
                &[("sasToken", "sv=1&sig=hunter2")],
                Ok(StoreKey::SasToken("sv=1&sig=hunter2".into())),
            ),
            (
                &azure,
                &[("accountKey", "hunter2"), ("sasToken", "hunter2")],
                Err("the entry accountKey of the Secret s stands beside sasToken: remove one"),
            ),
            (&azure, &[], Err("the Secret s has no entry sasToken")),
            (
                &azure,
                &[("accountKey", "")],
                Err("accountKey of the Secret s is empty"),
            ),
            (
                &azure,
                &[("accessKeyId", "a"), ("secretAccessKey", "hunter2")],
                Err("has no entry sasToken: add it (such as kubectl create secret generic s"),
            ),
            (
                &gcs,
                &[("serviceAccount.json", key)],
                Ok(StoreKey::ServiceAccount(key.into())),
            ),
            (
                &gcs,
                &[("serviceAccount.json", "hunter2")],
                Err("is no service account's key"),
            ),
            (
                &gcs,
                &[("serviceAccount.json", r#"{"type": "external_account"}"#)],
                Err("is no service account's key"),
            ),
            (
                &gcs,
                &[("sasToken", "x")],
                Err("the Secret s has no entry serviceAccount.json"),
            ),
        ];
        for (spec, entries, expected) in cases {
            let place = Place::of(&serde_json::from_value(spec.clone()).unwrap()).unwrap();
            let data = entries.iter().copied().collect();
            let found = Found::from([("s".to_owned(), Some(Arc::new(data)))]);
            let got = store_key(&place, &found, "s");
            assert!(!format!("{got:?}").contains("hunter"), "{got:?}");
            match expected {
                Ok(key) => assert!(got == Ok(key), "{spec} {entries:?}"),
                Err(words) => {
                    let told = got.unwrap_err().to_string();
                    assert!(told.contains(words) && !told.contains("hunter"), "{told}");
                }
            }
        }
    }
}
