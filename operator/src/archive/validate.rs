//! From an Archive, its Repositories and the Secrets that they name to what its pods need, or to what is missing. Pure.

use crate::repository::{Lack, Resolved, one_entry, resolve, secrets};
use crate::secrets::Found;
use holdfast_crds::{
    AccessMode, ArchiveSpec, Compression, CompressionAlgorithm, Repository, RepositoryMode, SslMode,
};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use thiserror::Error;

/// The sidecar takes no more.
const MOST_REPOSITORIES: usize = 16;

/// The Repositories that an Archive names; none for one that is not there.
pub type Repositories = BTreeMap<String, Option<Arc<Repository>>>;

/// What is missing or wrong.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// No such Repository.
    #[error(
        "the Repository {0} does not exist in this namespace: make it, or correct spec.repositories"
    )]
    NoRepository(String),
    /// Nothing may be archived there.
    #[error(
        "the Repository {0} is ReadOnly, so nothing can be archived there: name another in spec.repositories"
    )]
    ReadOnly(String),
    /// The rules let no such Archive in.
    #[error("spec.repositories {0}")]
    Repositories(&'static str),
    /// What a Repository names.
    #[error("the Repository {repository}: {lack}")]
    Repository {
        /// Its name.
        repository: String,
        /// What is missing or wrong.
        lack: Lack,
    },
    /// What the Archive itself names.
    #[error("spec.postgres.auth.passwordSecretRef: {0}")]
    Password(Lack),
}

impl Fault {
    /// One word, for a condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoRepository(_) => "RepositoryNotFound",
            Self::ReadOnly(_) => "RepositoryReadOnly",
            Self::Repositories(_) => "RepositoriesInvalid",
            Self::Repository { lack, .. } | Self::Password(lack) => lack.reason(),
        }
    }
}

/// A Repository as an Archive uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedRepository {
    /// Its name.
    pub name: String,
    /// Whether archiving waits for it.
    pub required: bool,
    /// All that it names.
    pub resolved: Resolved,
}

/// All that the pods of an archive need. `Debug` shows no secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct Wanted {
    /// In the Archive's order.
    pub repositories: Vec<WantedRepository>,
    /// The server's port.
    pub port: u16,
    /// Who takes backups.
    pub user: String,
    /// None: none is sent.
    pub password: Option<Vec<u8>>,
    /// Whether connections are encrypted.
    pub ssl_mode: SslMode,
    /// Of WAL: algorithm and level.
    pub wal: (String, Option<i32>),
    /// Of backups.
    pub backup: (String, Option<i32>),
    /// Workers of a backup; none: the sidecar's default.
    pub parallelism: Option<u32>,
    /// Consent to begin an incarnation.
    pub accepted: Option<String>,
}

impl fmt::Debug for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wanted")
            .field("repositories", &self.repositories)
            .finish_non_exhaustive()
    }
}

/// The Secrets that an Archive and its Repositories name.
pub fn wanted_secrets<'a>(
    spec: &'a ArchiveSpec,
    repositories: &'a Repositories,
) -> impl Iterator<Item = &'a str> {
    let password = spec.postgres.auth.password_secret_ref.iter();
    repositories
        .values()
        .flatten()
        .flat_map(|repository| secrets(&repository.spec))
        .chain(password.map(|reference| reference.name.as_str()))
}

/// Finds everything, or all that is missing.
pub fn validate(
    spec: &ArchiveSpec,
    repositories: &Repositories,
    found: &Found,
) -> Result<Wanted, Vec<Fault>> {
    let mut faults = Vec::new();
    let names: Vec<&str> = spec.repositories.iter().map(|r| r.name.as_str()).collect();
    let unique: std::collections::BTreeSet<&str> = names.iter().copied().collect();
    if names.is_empty() {
        faults.push(Fault::Repositories("is empty: name one at least"));
    } else if names.len() > MOST_REPOSITORIES {
        faults.push(Fault::Repositories("has more than 16 entries"));
    } else if unique.len() < names.len() {
        faults.push(Fault::Repositories("names one twice"));
    } else if spec
        .repositories
        .iter()
        .all(|r| r.mode == RepositoryMode::BestEffort)
    {
        faults.push(Fault::Repositories(
            "has none with mode Required: WAL would be dropped before it is stored",
        ));
    }
    let mut wanted = Vec::new();
    for one in &spec.repositories {
        let Some(repository) = repositories.get(&one.name).and_then(Option::as_ref) else {
            faults.push(Fault::NoRepository(one.name.clone()));
            continue;
        };
        if repository.spec.access_mode == AccessMode::ReadOnly {
            faults.push(Fault::ReadOnly(one.name.clone()));
        }
        match resolve(&repository.spec, found) {
            Ok(resolved) => wanted.push(WantedRepository {
                name: one.name.clone(),
                required: one.mode == RepositoryMode::Required,
                resolved,
            }),
            Err(lacks) => faults.extend(lacks.into_iter().map(|lack| Fault::Repository {
                repository: one.name.clone(),
                lack,
            })),
        }
    }
    let password = spec.postgres.auth.password_secret_ref.as_ref();
    let password = password.and_then(|reference| {
        one_entry(
            found,
            &reference.name,
            &reference.key,
            "the role's password",
        )
        .map_err(|lack| faults.push(Fault::Password(lack)))
        .ok()
    });
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Wanted {
        repositories: wanted,
        port: spec.postgres.port,
        user: spec.postgres.auth.user.clone(),
        password,
        ssl_mode: spec.postgres.auth.ssl_mode,
        wal: compression(&spec.wal.compression),
        backup: compression(&spec.backup.compression),
        parallelism: spec.backup.parallelism,
        accepted: Some(spec.accept_system_identifier.clone()).filter(|id| !id.is_empty()),
    })
}

fn compression(compression: &Compression) -> (String, Option<i32>) {
    let algorithm = match compression.algorithm {
        CompressionAlgorithm::Zstd => "zstd",
        CompressionAlgorithm::Lz4 => "lz4",
        CompressionAlgorithm::None => "none",
    };
    (algorithm.to_owned(), compression.level)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use serde_json::{Value, json};

    pub fn spec(changes: Value) -> ArchiveSpec {
        let mut spec = json!({"repositories": [{"name": "s3"}], "postgres": {"auth": {"passwordSecretRef": {"name": "pw", "key": "password"}}}});
        json_patch::merge(&mut spec, &changes);
        serde_json::from_value(spec).unwrap()
    }

    pub fn repositories(mode: &str) -> Repositories {
        let repository = json!({"apiVersion": "holdfast.dev/v1alpha1", "kind": "Repository", "metadata": {"name": "s3"},
            "spec": {"s3": {"bucket": "b", "endpoint": "http://minio:9000"}, "accessMode": mode,
                "credentials": {"secretRef": {"name": "writer"}}, "encryption": {"secretRef": {"name": "keys"}}}});
        let repository = serde_json::from_value(repository).unwrap();
        [("s3".to_owned(), Some(Arc::new(repository)))].into()
    }

    pub const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

    pub fn found(keys: &[(&str, &str)]) -> Found {
        let secrets: [(&str, &[(&str, &str)]); 3] = [
            (
                "writer",
                &[("accessKeyId", "id"), ("secretAccessKey", "hunter2")],
            ),
            ("keys", keys),
            ("pw", &[("password", "hunter3\n")]),
        ];
        secrets
            .into_iter()
            .map(|(name, data)| {
                (
                    name.to_owned(),
                    Some(Arc::new(data.iter().copied().collect())),
                )
            })
            .collect()
    }

    pub fn wanted(changes: Value, keys: &[(&str, &str)]) -> Wanted {
        validate(&spec(changes), &repositories("ReadWrite"), &found(keys)).unwrap()
    }

    #[test]
    fn all_that_is_missing_is_told_at_once() {
        let keys: &[(&str, &str)] = &[("current", "k1"), ("k1", KEY)];
        let (good, spec_of) = (found(keys), spec);
        let none = Repositories::from([("s3".to_owned(), None)]);
        let writable = repositories("ReadWrite");
        let twice = json!({"repositories": [{"name": "s3"}, {"name": "s3"}]});
        let lax = json!({"repositories": [{"name": "s3", "mode": "BestEffort"}]});
        for (changes, repositories, found, reasons) in [
            (json!({}), &writable, &good, vec![]),
            (json!({}), &none, &good, vec!["RepositoryNotFound"]),
            (
                json!({}),
                &repositories("ReadOnly"),
                &good,
                vec!["RepositoryReadOnly"],
            ),
            (twice, &writable, &good, vec!["RepositoriesInvalid"]),
            (lax, &writable, &good, vec!["RepositoriesInvalid"]),
            (
                json!({"repositories": []}),
                &writable,
                &good,
                vec!["RepositoriesInvalid"],
            ),
            (
                json!({}),
                &writable,
                &Found::new(),
                vec!["SecretNotFound"; 3],
            ),
        ] {
            let faults = validate(&spec_of(changes.clone()), repositories, found)
                .err()
                .unwrap_or_default();
            let told: Vec<_> = faults.iter().map(Fault::reason).collect();
            assert_eq!(told, reasons, "{changes}: {faults:?}");
        }
        let wanted = wanted(json!({"acceptSystemIdentifier": "7"}), keys);
        assert_eq!(wanted.accepted.as_deref(), Some("7"));
        assert!(!format!("{wanted:?}").contains("hunter"));
    }
}
