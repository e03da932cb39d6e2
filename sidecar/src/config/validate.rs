//! From the file's shape to settings that can be used: a pure function that finds all problems.

use super::problem::Problem;
use super::{
    CredentialFiles, Encryption, Mode, Place, Postgres, Repository, S3, Settings, file, quantity,
};
use holdfast_postgres::SystemIdentifier;
use holdfast_repository::Compression;
use serde_saphyr::Spanned;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

const DEFAULT_SOCKET: &str = "/holdfast/run/wal.sock";
const DEFAULT_MEMORY: u64 = 256 << 20;
const LEAST_MEMORY: u64 = 64 << 20;
const DEFAULT_PARALLELISM: u32 = 2;
const MOST_PARALLELISM: u32 = 64;
const MOST_REPOSITORIES: usize = 16;

struct Problems(Vec<Problem>);

impl Problems {
    fn at<T>(&mut self, place: &Spanned<T>, message: impl Into<String>) {
        self.0.push(Problem {
            line: place.referenced.line(),
            column: place.referenced.column(),
            message: message.into(),
        });
    }

    /// The text, which may not be empty.
    fn text(&mut self, text: Spanned<String>, what: &str) -> String {
        if text.value.is_empty() {
            self.at(&text, format!("{what} is empty"));
        }
        text.value
    }
}

/// Relative paths become relative to the folder of `path`, the settings file.
pub(super) fn validate(path: &Path, file: file::File) -> Result<Settings, Vec<Problem>> {
    let mut problems = Problems(Vec::new());
    let folder = path.parent().unwrap_or(Path::new(""));
    let file::File {
        archive,
        socket,
        postgres,
        repositories,
        wal,
        backup,
        limits,
        accept_system_identifier,
    } = file;
    if let Err(why) = check_archive(&archive.value) {
        problems.at(&archive, format!("the archive {:?} {why}", archive.value));
    }
    let settings = Settings {
        file: path.to_owned(),
        archive: archive.value,
        socket: folder.join(socket.map_or(DEFAULT_SOCKET.into(), |socket| socket.value)),
        postgres: check_postgres(&mut problems, folder, postgres),
        repositories: check_repositories(&mut problems, folder, repositories),
        wal_compression: check_compression(&mut problems, wal.compression, 1),
        backup_compression: check_compression(&mut problems, backup.compression, 3),
        parallelism: check_parallelism(&mut problems, backup.parallelism) as usize,
        memory: check_memory(&mut problems, limits.memory),
        accept_system_identifier: check_identifier(&mut problems, accept_system_identifier),
    };
    if problems.0.is_empty() {
        return Ok(settings);
    }
    problems.0.sort_by_key(|p| (p.line, p.column));
    Err(problems.0)
}

/// `namespace/name`, both as Kubernetes names its objects. They become folders of the repository.
fn check_archive(archive: &str) -> Result<(), &'static str> {
    let Some((namespace, name)) = archive.split_once('/') else {
        return Err("is not of the form namespace/name, such as shop/orders");
    };
    let part = |part: &str| {
        let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        (1..=63).contains(&part.len())
            && part.starts_with(good)
            && part.ends_with(good)
            && part.chars().all(|c| good(c) || c == '-' || c == '.')
            && !part.contains("..")
    };
    if part(namespace) && part(name) {
        Ok(())
    } else {
        Err(
            "must be namespace/name, each of 1 to 63 lower-case letters, digits, '-' and '.', with a letter or digit at both ends",
        )
    }
}

fn check_postgres(problems: &mut Problems, folder: &Path, postgres: file::Postgres) -> Postgres {
    let file::Postgres {
        data_directory,
        host,
        port,
        user,
        database,
        password_file,
    } = postgres;
    if data_directory.value.as_os_str().is_empty() {
        problems.at(&data_directory, "dataDirectory is empty");
    }
    if let Some(port) = port.as_ref().filter(|port| port.value == 0) {
        problems.at(
            port,
            "port is 0; it is 5432 unless the server was told otherwise",
        );
    }
    let mut text = |value: Option<Spanned<String>>, what: &str, default: &str| match value {
        Some(value) => problems.text(value, what),
        None => default.to_owned(),
    };
    Postgres {
        data_directory: folder.join(data_directory.value),
        host: text(host, "host", "/var/run/postgresql"),
        port: port.map_or(5432, |port| port.value),
        user: text(user, "user", "postgres"),
        database: text(database, "database", "postgres"),
        password_file: password_file.map(|file| folder.join(file)),
    }
}

fn check_repositories(
    problems: &mut Problems,
    folder: &Path,
    repositories: Spanned<Vec<Spanned<file::Repository>>>,
) -> Vec<Repository> {
    if repositories.value.is_empty() {
        problems.at(
            &repositories,
            "repositories is empty: at least one is needed to keep anything",
        );
    }
    if repositories.value.len() > MOST_REPOSITORIES {
        problems.at(
            &repositories,
            format!("more than {MOST_REPOSITORIES} repositories"),
        );
    }
    let place = repositories.referenced;
    let mut names = BTreeSet::new();
    let mut checked = Vec::new();
    for repository in repositories.value {
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
    if !checked.is_empty() && checked.iter().all(|r| r.mode == Mode::BestEffort) {
        problems.0.push(Problem {
            line: place.line(),
            column: place.column(),
            message: "no repository has mode Required: WAL would be dropped before it is stored"
                .to_owned(),
        });
    }
    checked
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
            problems.0.push(Problem {
                line: place.line(),
                column: place.column(),
                message: format!(
                    "the repository {:?} has {how}: write one of them",
                    name.value
                ),
            });
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

fn check_compression(
    problems: &mut Problems,
    compression: Option<file::Compression>,
    default_level: i32,
) -> Compression {
    let Some(file::Compression { algorithm, level }) = compression else {
        return Compression::Zstd(default_level);
    };
    match (algorithm, level) {
        (file::Algorithm::Zstd, None) => Compression::Zstd(default_level),
        (file::Algorithm::Zstd, Some(level)) => {
            if !(1..=19).contains(&level.value) {
                problems.at(
                    &level,
                    format!(
                        "zstd's level is 1 (fast) to 19 (small), not {}",
                        level.value
                    ),
                );
            }
            Compression::Zstd(level.value)
        }
        (other, level) => {
            if let Some(level) = level {
                problems.at(&level, "only zstd has a level: remove it");
            }
            if other == file::Algorithm::Lz4 {
                Compression::Lz4
            } else {
                Compression::None
            }
        }
    }
}

fn check_parallelism(problems: &mut Problems, parallelism: Option<Spanned<u32>>) -> u32 {
    let Some(parallelism) = parallelism else {
        return DEFAULT_PARALLELISM;
    };
    if !(1..=MOST_PARALLELISM).contains(&parallelism.value) {
        problems.at(
            &parallelism,
            format!(
                "parallelism is 1 to {MOST_PARALLELISM}, not {}",
                parallelism.value
            ),
        );
    }
    parallelism.value
}

fn check_memory(problems: &mut Problems, memory: Option<Spanned<String>>) -> u64 {
    let Some(memory) = memory else {
        return DEFAULT_MEMORY;
    };
    match quantity::parse(&memory.value) {
        Some(bytes) if bytes >= LEAST_MEMORY => bytes,
        Some(_) => {
            problems.at(
                &memory,
                format!("memory is {}, and at least 64Mi are needed", memory.value),
            );
            DEFAULT_MEMORY
        }
        None => {
            problems.at(
                &memory,
                format!(
                    "{:?} is no amount of memory: write it as 256Mi or 1Gi",
                    memory.value
                ),
            );
            DEFAULT_MEMORY
        }
    }
}

fn check_identifier(
    problems: &mut Problems,
    identifier: Option<Spanned<String>>,
) -> Option<SystemIdentifier> {
    let identifier = identifier.filter(|i| !i.value.is_empty())?;
    match identifier.value.parse() {
        Ok(parsed) => Some(parsed),
        Err(_) => {
            problems.at(&identifier, format!("{:?} is no system identifier: pg_controldata prints it, a number of some 19 digits", identifier.value));
            None
        }
    }
}
