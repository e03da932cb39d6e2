//! Repositories: where they are, with which credentials and keys.

use super::Problems;
use crate::config::{CredentialFiles, Encryption, Mode, Place, Repository, S3, file};
use serde_saphyr::Spanned;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const MOST_REPOSITORIES: usize = 16;

pub(super) fn check_repositories(
    problems: &mut Problems,
    folder: &Path,
    repositories: Spanned<Vec<Spanned<file::Repository>>>,
    sources: Vec<Spanned<file::Repository>>,
) -> (Vec<Repository>, Vec<Repository>) {
    if repositories.value.is_empty() {
        problems.at(
            &repositories,
            "repositories is empty: at least one is needed to keep anything",
        );
    }
    if repositories.value.len() + sources.len() > MOST_REPOSITORIES {
        problems.at(
            &repositories,
            format!("more than {MOST_REPOSITORIES} repositories"),
        );
    }
    let place = repositories.referenced;
    let mut names = BTreeSet::new();
    let mut check = |repositories: Vec<Spanned<file::Repository>>| {
        let mut checked = Vec::new();
        for repository in repositories {
            let name = &repository.value.name;
            if !names.insert(name.value.clone()) {
                problems.at(
                    name,
                    format!(
                        "a second repository named {:?}: give each a name of its own",
                        name.value
                    ),
                );
            }
            checked.extend(check_repository(problems, folder, repository));
        }
        checked
    };
    let (checked, sources) = (check(repositories.value), check(sources));
    if !checked.is_empty() && checked.iter().all(|r| r.mode == Mode::BestEffort) {
        problems.at_location(
            place,
            "no repository has mode Required: WAL would be dropped before it is stored".to_owned(),
        );
    }
    (checked, sources)
}

fn check_repository(
    problems: &mut Problems,
    folder: &Path,
    repository: Spanned<file::Repository>,
) -> Option<Repository> {
    let place = repository.referenced;
    let file::Repository {
        name,
        s3,
        filesystem,
        credentials,
        encryption,
        mode,
    } = repository.value;
    let place = match (s3, filesystem) {
        (Some(s3), None) => Place::S3(check_s3(problems, folder, s3.value, credentials)),
        (None, Some(filesystem)) => {
            if let Some(credentials) = &credentials {
                problems.at(
                    credentials,
                    "a filesystem repository has no credentials: remove them",
                );
            }
            let path = filesystem.value.path;
            if path.value.as_os_str().is_empty() {
                problems.at(&path, "path is empty");
            }
            Place::Filesystem {
                path: folder.join(path.value),
            }
        }
        (both, _) => {
            let how = if both.is_some() {
                "both s3 and filesystem"
            } else {
                "neither s3 nor filesystem"
            };
            problems.at_location(
                place,
                format!(
                    "the repository {:?} has {how}: write one of them",
                    name.value
                ),
            );
            return None;
        }
    };
    Some(Repository {
        name: problems.text(name, "name"),
        place,
        encryption: encryption.map(|encryption| check_encryption(problems, folder, encryption)),
        mode: match mode {
            file::Mode::Required => Mode::Required,
            file::Mode::BestEffort => Mode::BestEffort,
        },
    })
}

fn check_s3(
    problems: &mut Problems,
    folder: &Path,
    s3: file::S3,
    credentials: Option<Spanned<file::Credentials>>,
) -> S3 {
    let file::S3 {
        bucket,
        prefix,
        region,
        endpoint,
        ca_file,
        verify_tls,
    } = s3;
    if bucket.value.contains('/') {
        problems.at(
            &bucket,
            "a bucket's name has no '/': what follows it belongs into prefix",
        );
    }
    if let Some(prefix) = prefix
        .as_ref()
        .filter(|p| p.value.split('/').any(|part| matches!(part, "." | "..")))
    {
        problems.at(prefix, "a prefix can't have '.' or '..' as a part");
    }
    if let Some(endpoint) = endpoint
        .as_ref()
        .filter(|e| !e.value.starts_with("http://") && !e.value.starts_with("https://"))
    {
        problems.at(
            endpoint,
            "an endpoint begins with https:// (or http://, which sends everything in the clear)",
        );
    }
    S3 {
        bucket: problems.text(bucket, "bucket"),
        prefix: prefix
            .map(|p| p.value.trim_matches('/').to_owned())
            .unwrap_or_default(),
        region: region.filter(|r| !r.is_empty()),
        endpoint: endpoint.map(|e| e.value),
        ca_file: ca_file.map(|file| folder.join(file)),
        verify_tls: verify_tls.unwrap_or(true),
        credentials: credentials.map(|credentials| {
            let file::Credentials {
                access_key_id_file,
                secret_access_key_file,
                session_token_file,
            } = credentials.value;
            CredentialFiles {
                access_key_id: folder.join(access_key_id_file),
                secret_access_key: folder.join(secret_access_key_file),
                session_token: session_token_file.map(|file| folder.join(file)),
            }
        }),
    }
}

fn check_encryption(
    problems: &mut Problems,
    folder: &Path,
    encryption: file::Encryption,
) -> Encryption {
    let file::Encryption {
        current_key,
        key_files,
    } = encryption;
    if !key_files.contains_key(&current_key.value) {
        problems.at(
            &current_key,
            format!("currentKey {:?} is not one of keyFiles", current_key.value),
        );
    }
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for (id, file) in key_files {
        if !holdfast_repository::keys::valid_id(&id) {
            problems.at(&file, format!("the key id {id:?} must have 1 to 63 letters, digits, '-', '_' and '.', the first a letter or digit"));
        }
        files.insert(id, folder.join(file.value));
    }
    Encryption {
        current_key: current_key.value,
        key_files: files,
    }
}
