//! From a Repository and the Secrets that it names to what opens its store, or to what is missing. Pure.

use super::credentials::{StoreKey, store_key};
use super::place::Place;
use crate::secrets::{Found, SecretData};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use holdfast_crds::{AccessMode, Azure, Gcs, RepositorySpec, S3};
use holdfast_repository::MasterKeys;
use holdfast_repository::keys::{KEY_BYTES, valid_id};
use holdfast_repository::store::{AzureSettings, GcsSettings, S3Settings, StoreSettings};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// The entry that names the key for new data.
const CURRENT: &str = "current";

/// No entry that is used is longer, in bytes.
const LONGEST: usize = 64 << 10;

/// What is missing or wrong in a Repository or a Secret.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Lack {
    /// The Repository names none, or several.
    #[error("the Repository is not in exactly one of s3, azure and gcs: write one of them")]
    Store,
    /// No such Secret.
    #[error("the Secret {name} is missing: make it in this namespace ({})", what.replace("NAME", name))]
    Secret {
        /// Its name.
        name: String,
        /// What it has to hold, or the line that makes it.
        what: &'static str,
    },
    /// No such entry.
    #[error("the Secret {secret} has no entry {entry}: add it ({})", what.replace("NAME", secret))]
    Entry {
        /// The Secret.
        secret: String,
        /// Its entry.
        entry: String,
        /// What it has to hold, or the line that makes it.
        what: &'static str,
    },
    /// An entry that can't be used.
    #[error("the entry {entry} of the Secret {secret} {why}")]
    Invalid {
        /// The Secret.
        secret: String,
        /// Its entry.
        entry: String,
        /// Such as `is empty`. Never holds what the entry holds.
        why: String,
    },
}

impl Lack {
    /// One word, for a condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Store => "NoStore",
            Self::Secret { .. } => "SecretNotFound",
            Self::Entry { .. } => "SecretEntryMissing",
            Self::Invalid { .. } => "SecretInvalid",
        }
    }
}

const KEYS: &str = "such as kubectl create secret generic NAME --from-literal=current=k1 --from-literal=k1=\"$(openssl rand -base64 32)\"";

/// Master keys. `Debug` shows ids alone.
#[derive(Clone, PartialEq, Eq)]
pub struct KeySet {
    /// The key for new data: one of `keys`.
    pub current: String,
    /// By id.
    pub keys: BTreeMap<String, [u8; KEY_BYTES]>,
}

/// A Repository with all that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Where it is.
    pub place: Place,
    /// PEM certificates to trust.
    pub ca: Option<Vec<u8>>,
    /// None: what the pods' environment says, which the operator does not have.
    pub access: Option<StoreKey>,
    /// None: `access`.
    pub maintenance: Option<StoreKey>,
    /// None: not encrypted.
    pub keys: Option<KeySet>,
    /// What may be done there.
    pub mode: AccessMode,
}

/// The Secrets that a Repository names.
pub fn secrets(spec: &RepositorySpec) -> impl Iterator<Item = &str> {
    let credentials = spec.credentials.iter().flat_map(|credentials| {
        let maintenance = credentials.maintenance_secret_ref.as_ref();
        std::iter::once(&credentials.secret_ref).chain(maintenance)
    });
    let encryption = spec.encryption.iter().map(|e| &e.secret_ref);
    let ca = [
        spec.s3.as_ref().and_then(|s3| s3.ca_secret_ref.as_ref()),
        spec.azure
            .as_ref()
            .and_then(|azure| azure.ca_secret_ref.as_ref()),
        spec.gcs.as_ref().and_then(|gcs| gcs.ca_secret_ref.as_ref()),
    ];
    credentials
        .chain(encryption)
        .map(|reference| reference.name.as_str())
        .chain(ca.into_iter().flatten().map(|ca| ca.name.as_str()))
}

/// Finds everything, or all that is missing.
pub fn resolve(spec: &RepositorySpec, found: &Found) -> Result<Resolved, Vec<Lack>> {
    let Some(place) = Place::of(spec) else {
        return Err(vec![Lack::Store]);
    };
    let mut lacks = Vec::new();
    let mut keep = |result: Result<_, Lack>| result.map_err(|lack| lacks.push(lack)).ok();
    let credentials = spec.credentials.as_ref();
    let access = credentials.and_then(|c| keep(store_key(&place, found, &c.secret_ref.name)));
    let maintenance = credentials
        .and_then(|c| c.maintenance_secret_ref.as_ref())
        .and_then(|reference| keep(store_key(&place, found, &reference.name)));
    let keys = spec.encryption.as_ref();
    let keys = keys.and_then(|e| {
        key_set(found, &e.secret_ref.name)
            .map_err(|lack| lacks.push(lack))
            .ok()
    });
    let ca = place.ca_secret_ref().and_then(|reference| {
        let what = "the certificates to trust, in PEM";
        secret(found, &reference.name, what)
            .and_then(|data| entry(data, &reference.name, &reference.key, what))
            .map(<[u8]>::to_vec)
            .map_err(|lack| lacks.push(lack))
            .ok()
    });
    if lacks.is_empty() {
        Ok(Resolved {
            place,
            ca,
            access,
            maintenance,
            keys,
            mode: spec.access_mode,
        })
    } else {
        Err(lacks)
    }
}

/// One entry of one Secret, such as a password.
pub fn one_entry(
    found: &Found,
    name: &str,
    key: &str,
    what: &'static str,
) -> Result<Vec<u8>, Lack> {
    let data = secret(found, name, what)?;
    entry(data, name, key, what).map(<[u8]>::to_vec)
}

pub(super) fn secret<'a>(
    found: &'a Found,
    name: &str,
    what: &'static str,
) -> Result<&'a Arc<SecretData>, Lack> {
    found
        .get(name)
        .and_then(Option::as_ref)
        .ok_or_else(|| Lack::Secret {
            name: name.to_owned(),
            what,
        })
}

pub(super) fn entry<'a>(
    data: &'a SecretData,
    secret: &str,
    entry: &str,
    what: &'static str,
) -> Result<&'a [u8], Lack> {
    let invalid = |why: String| Lack::Invalid {
        secret: secret.to_owned(),
        entry: entry.to_owned(),
        why,
    };
    let value = data.get(entry).ok_or_else(|| Lack::Entry {
        secret: secret.to_owned(),
        entry: entry.to_owned(),
        what,
    })?;
    if value.is_empty() {
        return Err(invalid("is empty".to_owned()));
    }
    if value.len() > LONGEST {
        return Err(invalid(format!("has more than {LONGEST} bytes")));
    }
    Ok(value)
}

/// Text on one line, without the newline that editors and `base64` leave at its end.
pub(super) fn text(value: &[u8], secret: &str, entry: &str) -> Result<String, Lack> {
    let text = std::str::from_utf8(value)
        .map(str::trim)
        .unwrap_or_default();
    if text.is_empty() || text.contains(|c: char| c.is_control()) {
        return Err(Lack::Invalid {
            secret: secret.to_owned(),
            entry: entry.to_owned(),
            why: "is not one line of text".to_owned(),
        });
    }
    Ok(text.to_owned())
}

fn key_set(found: &Found, name: &str) -> Result<KeySet, Lack> {
    let data = secret(found, name, KEYS)?;
    let current = entry(data, name, CURRENT, KEYS).and_then(|value| text(value, name, CURRENT))?;
    let mut keys = BTreeMap::new();
    for (id, _) in data.entries().filter(|(id, _)| *id != CURRENT) {
        let invalid = |why: String| Lack::Invalid {
            secret: name.to_owned(),
            entry: id.to_owned(),
            why,
        };
        if !valid_id(id) {
            return Err(invalid("can't name a key: 1 to 63 letters, digits, '-', '_' and '.', the first a letter or digit".to_owned()));
        }
        let mut base64 = entry(data, name, id, KEYS)?.to_vec();
        base64.retain(|byte| !byte.is_ascii_whitespace());
        let wrong = |found: String| {
            invalid(format!(
                "does not hold {KEY_BYTES} bytes in base64 ({found}): a key is made with openssl rand -base64 32"
            ))
        };
        let bytes = STANDARD
            .decode(base64)
            .map_err(|_| wrong("it is no base64".to_owned()))?;
        let length = bytes.len();
        let key = bytes
            .try_into()
            .map_err(|_| wrong(format!("it holds {length} bytes")))?;
        keys.insert(id.to_owned(), key);
    }
    if !keys.contains_key(&current) {
        // What stands in `current` may be a key, put there by mistake.
        let shown = valid_id(&current) && current.len() < 40;
        let named = if shown { &current } else { "a key" };
        return Err(Lack::Invalid {
            secret: name.to_owned(),
            entry: CURRENT.to_owned(),
            why: format!("names {named} that is no entry of this Secret"),
        });
    }
    Ok(KeySet { current, keys })
}

impl Resolved {
    /// What opens its store for reading and for adding; none where only the pods have credentials.
    pub fn store(&self) -> Option<StoreSettings> {
        self.store_as(self.access.as_ref()?)
    }

    /// What opens its store for deleting, too.
    pub fn maintenance_store(&self) -> Option<StoreSettings> {
        self.store_as(self.maintenance.as_ref().or(self.access.as_ref())?)
    }

    /// None where the credentials are another store's, which is not resolved.
    fn store_as(&self, key: &StoreKey) -> Option<StoreSettings> {
        let prefix = |prefix: &Option<String>| prefix.clone().unwrap_or_default();
        Some(match &self.place {
            Place::S3(S3 {
                bucket,
                prefix: before,
                region,
                endpoint,
                ca_secret_ref: _,
            }) => {
                let StoreKey::AccessKey(key) = key else {
                    return None;
                };
                StoreSettings::S3(S3Settings {
                    bucket: bucket.clone(),
                    prefix: prefix(before),
                    region: region.clone(),
                    endpoint: endpoint.clone(),
                    ca: self.ca.clone(),
                    verify_tls: true,
                    credentials: Some(key.credentials()),
                })
            }
            Place::Azure(Azure {
                account,
                container,
                prefix: before,
                endpoint,
                ca_secret_ref: _,
            }) => StoreSettings::Azure(AzureSettings {
                account: account.clone(),
                container: container.clone(),
                prefix: prefix(before),
                endpoint: endpoint.clone(),
                ca: self.ca.clone(),
                verify_tls: true,
                credentials: Some(key.of_azure()?),
            }),
            Place::Gcs(Gcs {
                bucket,
                prefix: before,
                endpoint,
                ca_secret_ref: _,
            }) => {
                let StoreKey::ServiceAccount(key) = key else {
                    return None;
                };
                StoreSettings::Gcs(GcsSettings {
                    bucket: bucket.clone(),
                    prefix: prefix(before),
                    endpoint: endpoint.clone(),
                    ca: self.ca.clone(),
                    verify_tls: true,
                    service_account: Some(key.clone()),
                })
            }
        })
    }

    /// What opens an encrypted archive.
    pub fn master_keys(&self) -> Option<MasterKeys> {
        let keys = self.keys.as_ref()?;
        // Checked when it was resolved.
        MasterKeys::new(keys.current.clone(), keys.keys.clone()).ok()
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeySet")
            .field("current", &self.current)
            .field("ids", &self.keys.keys())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

    fn spec() -> RepositorySpec {
        serde_json::from_value(json!({
            "s3": {"bucket": "b", "caSecretRef": {"name": "ca", "key": "ca.crt"}},
            "credentials": {"secretRef": {"name": "writer"}, "maintenanceSecretRef": {"name": "cleaner"}},
            "encryption": {"secretRef": {"name": "keys"}},
        }))
        .unwrap()
    }

    /// A Secret's name and, if it is there, what it holds.
    type Entry<'a> = (&'a str, Holds<'a>);
    type Holds<'a> = Option<&'a [(&'a str, &'a str)]>;

    fn found(changes: &[Entry]) -> Found {
        let mut found = Found::new();
        let good: [Entry; 4] = [
            (
                "writer",
                Some(&[("accessKeyId", "id\n"), ("secretAccessKey", "hunter2")]),
            ),
            (
                "cleaner",
                Some(&[
                    ("AWS_ACCESS_KEY_ID", "c"),
                    ("AWS_SECRET_ACCESS_KEY", "d"),
                    ("AWS_SESSION_TOKEN", "t"),
                ]),
            ),
            (
                "keys",
                Some(&[("current", "k1"), ("k1", KEY), ("old", KEY)]),
            ),
            ("ca", Some(&[("ca.crt", "pem")])),
        ];
        for (name, data) in good.iter().chain(changes) {
            let data = data.map(|entries| Arc::new(entries.iter().copied().collect()));
            found.insert((*name).to_owned(), data);
        }
        found
    }

    #[test]
    fn what_is_there_is_found_under_either_name() {
        let names: Vec<_> = secrets(&spec()).map(str::to_owned).collect();
        assert_eq!(names, ["writer", "cleaner", "keys", "ca"]);
        let resolved = resolve(&spec(), &found(&[])).unwrap();
        let Some(StoreKey::AccessKey(own)) = &resolved.access else {
            panic!()
        };
        assert_eq!(own.id, "id");
        let Some(StoreKey::AccessKey(maintenance)) = &resolved.maintenance else {
            panic!()
        };
        assert_eq!(maintenance.session_token.as_deref(), Some("t"));
        assert_eq!(resolved.ca.as_deref(), Some(b"pem".as_slice()));
        let keys = resolved.master_keys().unwrap();
        assert_eq!(keys.ids().collect::<Vec<_>>(), ["k1", "old"]);
        let shown = format!("{resolved:?}");
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn every_kind_of_store_is_opened_with_its_own_key() {
        let found = found(&[
            ("azure", Some(&[("sasToken", "hunter2")])),
            (
                "gcs",
                Some(&[("serviceAccount.json", r#"{"type": "service_account"}"#)]),
            ),
        ]);
        let resolved = |spec: serde_json::Value| {
            resolve(&serde_json::from_value(spec).unwrap(), &found)
                .map_err(|lacks| lacks[0].clone())
        };
        let azure = resolved(json!({
            "azure": {"account": "acme", "container": "c", "prefix": "p", "caSecretRef": {"name": "ca", "key": "ca.crt"}},
            "credentials": {"secretRef": {"name": "azure"}},
        }))
        .unwrap();
        let Some(StoreSettings::Azure(settings)) = azure.maintenance_store() else {
            panic!()
        };
        assert_eq!(
            (settings.account.as_str(), settings.prefix.as_str()),
            ("acme", "p")
        );
        assert_eq!(settings.ca.as_deref(), Some(b"pem".as_slice()));
        assert!(!format!("{azure:?}").contains("hunter"));
        let gcs = resolved(
            json!({"gcs": {"bucket": "b"}, "credentials": {"secretRef": {"name": "gcs"}}}),
        );
        assert!(matches!(gcs.unwrap().store(), Some(StoreSettings::Gcs(_))));
        let identity = resolved(json!({"gcs": {"bucket": "b"}})).unwrap();
        assert!(identity.store().is_none());
        for none in [
            json!({}),
            json!({"gcs": {"bucket": "b"}, "s3": {"bucket": "b"}}),
        ] {
            assert_eq!(resolved(none).unwrap_err(), Lack::Store);
        }
    }

    #[test]
    fn what_is_missing_is_named_exactly() {
        let empty: &[(&str, &str)] = &[];
        let cases: [(&str, Holds, &str, &str); 13] = [
            (
                "writer",
                None,
                "SecretNotFound",
                "the Secret writer is missing",
            ),
            (
                "writer",
                Some(empty),
                "SecretEntryMissing",
                "has no entry accessKeyId",
            ),
            (
                "writer",
                Some(&[("accessKeyId", "a")]),
                "SecretEntryMissing",
                "has no entry secretAccessKey",
            ),
            (
                "writer",
                Some(&[("accessKeyId", ""), ("secretAccessKey", "b")]),
                "SecretInvalid",
                "accessKeyId of the Secret writer is empty",
            ),
            (
                "writer",
                Some(&[("accessKeyId", "a\nb"), ("secretAccessKey", "b")]),
                "SecretInvalid",
                "not one line of text",
            ),
            (
                "cleaner",
                None,
                "SecretNotFound",
                "the Secret cleaner is missing",
            ),
            ("keys", None, "SecretNotFound", "openssl rand -base64 32"),
            (
                "keys",
                Some(&[("k1", KEY)]),
                "SecretEntryMissing",
                "has no entry current",
            ),
            (
                "keys",
                Some(&[("current", "k2"), ("k1", KEY)]),
                "SecretInvalid",
                "names k2 that is no entry",
            ),
            (
                "keys",
                Some(&[("current", "k1"), ("k1", "AAAA")]),
                "SecretInvalid",
                "it holds 3 bytes",
            ),
            (
                "keys",
                Some(&[("current", "k1"), ("k1", "secret!")]),
                "SecretInvalid",
                "it is no base64",
            ),
            (
                "keys",
                Some(&[("current", "k1"), ("k1", KEY), (".x", KEY)]),
                "SecretInvalid",
                "can't name a key",
            ),
            (
                "ca",
                Some(empty),
                "SecretEntryMissing",
                "has no entry ca.crt",
            ),
        ];
        for (name, data, reason, words) in cases {
            let lacks = resolve(&spec(), &found(&[(name, data)])).unwrap_err();
            let message = lacks[0].to_string();
            assert!(lacks.len() == 1 && message.contains(words), "{lacks:?}");
            assert_eq!(lacks[0].reason(), reason, "{message}");
            assert!(!message.contains("secret!"), "{message}");
        }
        let all = resolve(&spec(), &Found::new()).unwrap_err();
        assert_eq!(all.len(), 4);
    }

    #[test]
    fn a_key_in_the_place_of_its_name_is_not_repeated() {
        let data: &[(&str, &str)] = &[("current", KEY), ("k1", KEY)];
        let lacks = resolve(&spec(), &found(&[("keys", Some(data))])).unwrap_err();
        assert!(!lacks[0].to_string().contains("AAECAw"), "{}", lacks[0]);
    }
}
