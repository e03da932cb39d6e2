//! From an Archive, its Repositories and the Secrets that they name to what its pods need, or to what is missing. Pure.

use crate::repository::{Lack, Resolved, one_entry, resolve, secrets};
use crate::secrets::Found;
use holdfast_crds::{
    AccessMode, ArchiveSpec, BootstrapRecovery, Compression, CompressionAlgorithm, Repository,
    RepositoryMode, SslMode, Streaming,
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
    /// No such Repository to restore from.
    #[error(
        "the Repository {0} does not exist in this namespace: make it, or correct spec.bootstrap.recovery.source.repositoryRef"
    )]
    NoSource(String),
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
            Self::NoRepository(_) | Self::NoSource(_) => "RepositoryNotFound",
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
    /// The Repository that is only read from, if the source of the recovery is none of the others.
    pub source: Option<WantedRepository>,
    /// What an empty data directory is restored from.
    pub recovery: Option<BootstrapRecovery>,
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
    /// How the segment that is being written is stored.
    pub streaming: Streaming,
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

/// The Repositories that an Archive names, each once.
pub fn wanted_repositories(spec: &ArchiveSpec) -> impl Iterator<Item = &str> {
    let archived = spec.repositories.iter().map(|r| r.name.as_str());
    let source = recovery(spec).map(|recovery| recovery.source.repository_ref.name.as_str());
    let unique: std::collections::BTreeSet<&str> = archived.chain(source).collect();
    unique.into_iter()
}

fn recovery(spec: &ArchiveSpec) -> Option<&BootstrapRecovery> {
    let bootstrap = spec.bootstrap.as_ref();
    bootstrap.map(|bootstrap| &bootstrap.recovery)
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
    let known = |name: &str| repositories.get(name).and_then(Option::as_ref);
    let open = |name: &str, required: bool, repository: &Repository| {
        let lacking = |lack| Fault::Repository {
            repository: name.to_owned(),
            lack,
        };
        match resolve(&repository.spec, found) {
            Ok(resolved) => Ok(WantedRepository {
                name: name.to_owned(),
                required,
                resolved,
            }),
            Err(lacks) => Err(lacks.into_iter().map(lacking).collect::<Vec<_>>()),
        }
    };
    let mut wanted = Vec::new();
    for one in &spec.repositories {
        let Some(repository) = known(&one.name) else {
            faults.push(Fault::NoRepository(one.name.clone()));
            continue;
        };
        if repository.spec.access_mode == AccessMode::ReadOnly {
            faults.push(Fault::ReadOnly(one.name.clone()));
        }
        match open(&one.name, one.mode == RepositoryMode::Required, repository) {
            Ok(repository) => wanted.push(repository),
            Err(lacking) => faults.extend(lacking),
        }
    }
    let recovery = recovery(spec);
    let source = recovery.map(|recovery| recovery.source.repository_ref.name.as_str());
    let source = source.filter(|source| !unique.contains(source));
    let source = source.and_then(|source| match known(source) {
        None => {
            faults.push(Fault::NoSource(source.to_owned()));
            None
        }
        Some(repository) => open(source, false, repository)
            .map_err(|lacking| faults.extend(lacking))
            .ok(),
    });
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
        source,
        recovery: recovery.cloned(),
        port: spec.postgres.port,
        user: spec.postgres.auth.user.clone(),
        password,
        ssl_mode: spec.postgres.auth.ssl_mode,
        wal: compression(&spec.wal.compression),
        streaming: spec.wal.streaming.clone(),
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
        // The source of a recovery may be one that only reads, and need be none of those that are archived to.
        let source = |name: &str| {
            let source =
                json!({"repositoryRef": {"name": name}, "namespace": "shop", "archive": "old"});
            json!({"bootstrap": {"recovery": {"source": source}}})
        };
        let mut both = repositories("ReadWrite");
        both.extend(
            repositories("ReadOnly")
                .into_values()
                .map(|one| ("old".to_owned(), one)),
        );
        both.insert("gone".to_owned(), None);
        let sourced = |name: &str| validate(&spec(source(name)), &both, &good);
        assert_eq!(sourced("s3").unwrap().source, None);
        assert_eq!(sourced("old").unwrap().source.unwrap().name, "old");
        assert_eq!(
            sourced("gone").unwrap_err(),
            [Fault::NoSource("gone".into())]
        );
        let named = spec(source("old"));
        let named: Vec<_> = wanted_repositories(&named).collect();
        assert_eq!(named, ["old", "s3"]);
        let wanted = wanted(json!({"acceptSystemIdentifier": "7"}), keys);
        assert_eq!(wanted.accepted.as_deref(), Some("7"));
        assert!(!format!("{wanted:?}").contains("hunter"));
    }
}
