//! The Secrets of users: fetched by name when they are needed, never watched. What was fetched is remembered for a
//! little while, for many archives use one.

use crate::controller::ReconcileError;
use crate::names::Key;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::Api;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How old what is used may be.
const FRESH: Duration = Duration::from_secs(45);

/// More are not remembered.
const MOST: usize = 4096;

/// What a Secret holds. `Debug` shows names alone.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SecretData(BTreeMap<String, Vec<u8>>);

impl SecretData {
    /// An entry.
    pub fn get(&self, entry: &str) -> Option<&[u8]> {
        self.0.get(entry).map(Vec::as_slice)
    }

    /// All entries, by name.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// A digest of all of it, to tell whether it has changed.
    pub fn digest(&self) -> [u8; 32] {
        use sha2::{Digest, Sha256};
        let mut hash = Sha256::new();
        for (name, value) in &self.0 {
            for part in [name.as_bytes(), value] {
                hash.update((part.len() as u64).to_le_bytes());
                hash.update(part);
            }
        }
        hash.finalize().into()
    }
}

impl<N: Into<String>, V: Into<Vec<u8>>> FromIterator<(N, V)> for SecretData {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(entries: I) -> Self {
        let entries = entries.into_iter();
        Self(entries.map(|(n, v)| (n.into(), v.into())).collect())
    }
}

impl fmt::Debug for SecretData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// The Secrets that something refers to, by name; none for one that is not there.
pub type Found = BTreeMap<String, Option<Arc<SecretData>>>;

struct Remembered {
    data: Option<Arc<SecretData>>,
    at: Instant,
}

/// Fetches Secrets by name. Cheap to clone.
///
/// Verbs on Secrets: get.
#[derive(Clone)]
pub struct UserSecrets {
    client: Client,
    remembered: Arc<Mutex<HashMap<Key, Remembered>>>,
}

impl UserSecrets {
    /// Remembers nothing yet.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            remembered: Arc::default(),
        }
    }

    /// These Secrets of a namespace, at most 45 seconds old. A Secret that may not be read is an error.
    pub async fn get<'a>(
        &self,
        namespace: &str,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Found, ReconcileError> {
        self.fetch(namespace, names, FRESH).await
    }

    /// These Secrets of a namespace, as they are now.
    pub async fn get_now<'a>(
        &self,
        namespace: &str,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Found, ReconcileError> {
        self.fetch(namespace, names, Duration::ZERO).await
    }

    async fn fetch<'a>(
        &self,
        namespace: &str,
        names: impl IntoIterator<Item = &'a str>,
        fresh: Duration,
    ) -> Result<Found, ReconcileError> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let mut found = Found::new();
        for name in names {
            if found.contains_key(name) {
                continue;
            }
            let key = Key::new(namespace, name);
            let data = match self.remembered(&key, fresh) {
                Some(data) => data,
                None => {
                    let secret = api
                        .get_opt(name)
                        .await
                        .map_err(ReconcileError::api("can't read a Secret"))?;
                    let data = secret.map(|secret| Arc::new(data_of(secret)));
                    self.remember(key, data.clone());
                    data
                }
            };
            found.insert(name.to_owned(), data);
        }
        Ok(found)
    }

    fn remembered(&self, key: &Key, fresh: Duration) -> Option<Option<Arc<SecretData>>> {
        let remembered = self.lock();
        let known = remembered.get(key)?;
        (known.at.elapsed() < fresh).then(|| known.data.clone())
    }

    fn remember(&self, key: Key, data: Option<Arc<SecretData>>) {
        let mut remembered = self.lock();
        if remembered.len() >= MOST {
            remembered.retain(|_, known| known.at.elapsed() < FRESH);
        }
        if remembered.len() < MOST {
            let at = Instant::now();
            remembered.insert(key, Remembered { data, at });
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Remembered>> {
        self.remembered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn data_of(secret: Secret) -> SecretData {
    let data = secret.data.unwrap_or_default();
    data.into_iter()
        .map(|(name, value)| (name, value.0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_names_alone_and_tells_when_it_has_changed() {
        let one: SecretData = [("a", "hunter2"), ("b", "")].into_iter().collect();
        assert_eq!(format!("{one:?}"), r#"{"a", "b"}"#);
        let other: SecretData = [("a", "hunter2b")].into_iter().collect();
        assert_ne!(one.digest(), other.digest());
        assert_eq!(one.digest(), one.clone().digest());
    }
}
