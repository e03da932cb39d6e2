//! Repositories: which, and with which keys.

use super::{Problems, places};
use crate::config::{Encryption, Mode, Place, Repository, file};
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
        azure,
        gcs,
        filesystem,
        credentials,
        encryption,
        mode,
    } = repository.value;
    let named = [
        ("s3", s3.is_some()),
        ("azure", azure.is_some()),
        ("gcs", gcs.is_some()),
        ("filesystem", filesystem.is_some()),
    ];
    let place = match (s3, azure, gcs, filesystem) {
        (Some(s3), None, None, None) => {
            Place::S3(places::check_s3(problems, folder, s3.value, credentials))
        }
        (None, Some(azure), None, None) => Place::Azure(places::check_azure(
            problems,
            folder,
            azure.value,
            credentials,
        )),
        (None, None, Some(gcs), None) => {
            Place::Gcs(places::check_gcs(problems, folder, gcs.value, credentials))
        }
        (None, None, None, Some(filesystem)) => {
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
        _ => {
            let there: Vec<&str> = named
                .iter()
                .filter(|(_, is)| *is)
                .map(|(n, _)| *n)
                .collect();
            let how = match there.as_slice() {
                [] => "none of s3, azure, gcs and filesystem".to_owned(),
                several => several.join(" and "),
            };
            problems.at_location(
                place,
                format!("the repository {:?} has {how}: write one", name.value),
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
