//! From the file's shape to settings that can be used: a pure function that finds all problems.

mod bootstrap;
mod endpoints;
mod places;
mod repositories;

use super::problem::Problem;
use super::{Overrides, Settings, Streaming, file};
use holdfast_postgres::SystemIdentifier;
use holdfast_protocol::memory::{self, LEAST_MEMORY};
use holdfast_repository::Compression;
use holdfast_wal_socket::DEFAULT_SOCKET;
use serde_saphyr::{Location, Spanned};
use std::path::Path;
use std::time::Duration;

/// Of `wal.streaming`, in seconds.
const LONGEST_INTERVAL: u64 = 60;
const DEFAULT_MEMORY: u64 = 256 << 20;
const DEFAULT_PARALLELISM: u32 = 2;
const MOST_PARALLELISM: u32 = 64;

struct Problems(Vec<Problem>);

impl Problems {
    fn at<T>(&mut self, place: &Spanned<T>, message: impl Into<String>) {
        self.at_location(place.referenced, message);
    }

    fn at_location(&mut self, place: Location, message: impl Into<String>) {
        self.0.push(Problem {
            line: place.line(),
            column: place.column(),
            message: message.into(),
        });
    }

    /// A problem that has no place in the file.
    fn of_the_environment(&mut self, message: String) {
        self.0.push(Problem {
            line: 0,
            column: 0,
            message,
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

/// Relative paths become relative to the folder of `path`, the settings file. What the environment says wins.
pub(super) fn validate(
    path: &Path,
    file: file::File,
    overrides: &Overrides,
) -> Result<Settings, Vec<Problem>> {
    let mut problems = Problems(Vec::new());
    let folder = path.parent().unwrap_or(Path::new(""));
    let file::File {
        archive,
        generation,
        socket,
        postgres,
        repositories,
        sources,
        wal,
        backup,
        limits,
        control,
        monitoring,
        history_directory,
        accept_system_identifier,
        bootstrap,
    } = file;
    if let Err(why) = check_archive(&archive.value) {
        problems.at(&archive, format!("the archive {:?} {why}", archive.value));
    }
    let (repositories, sources) =
        repositories::check_repositories(&mut problems, folder, repositories, sources);
    let named = |name: &str| repositories.iter().chain(&sources).any(|r| r.name == name);
    let (recovery, order) = bootstrap.map_or((None, None), |bootstrap| {
        (bootstrap.recovery, bootstrap.order)
    });
    let recovery =
        recovery.and_then(|recovery| bootstrap::check_recovery(&mut problems, recovery, named));
    let archived_to = |name: &str| repositories.iter().any(|r| r.name == name);
    let order = order.and_then(|order| bootstrap::check_order(&mut problems, order, archived_to));
    let settings = Settings {
        file: path.to_owned(),
        archive: archive.value,
        generation,
        socket: folder.join(socket.map_or(DEFAULT_SOCKET.into(), |socket| socket.value)),
        postgres: endpoints::check_postgres(
            &mut problems,
            folder,
            postgres,
            overrides.data_directory.as_deref(),
        ),
        repositories,
        sources,
        wal_compression: check_compression(&mut problems, wal.compression, 1),
        streaming: check_streaming(&mut problems, wal.streaming),
        backup_compression: check_compression(&mut problems, backup.compression, 3),
        parallelism: check_parallelism(&mut problems, backup.parallelism) as usize,
        memory: match &overrides.memory {
            Some(memory) => check_memory_override(&mut problems, memory),
            None => check_memory(&mut problems, limits.memory),
        },
        control: control.map(|control| endpoints::check_control(&mut problems, folder, control)),
        monitoring: monitoring
            .and_then(|monitoring| endpoints::check_listen(&mut problems, &monitoring.listen)),
        history_directory: history_directory.map(|directory| folder.join(directory)),
        accept_system_identifier: check_identifier(&mut problems, accept_system_identifier),
        recovery,
        order,
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

/// 0 turns it off.
fn check_streaming(problems: &mut Problems, streaming: file::Streaming) -> Option<Streaming> {
    let seconds = streaming.interval_seconds.map_or(1, |seconds| {
        if seconds.value > LONGEST_INTERVAL {
            problems.at(
                &seconds,
                format!(
                    "intervalSeconds is {}: give it in seconds, {LONGEST_INTERVAL} at most; 0 turns streaming off",
                    seconds.value
                ),
            );
        }
        seconds.value
    });
    let synchronous = streaming
        .synchronous
        .filter(|synchronous| synchronous.value);
    if let (0, Some(synchronous)) = (seconds, &synchronous) {
        problems.at(
            synchronous,
            "synchronous needs streaming, which intervalSeconds: 0 turns off".to_owned(),
        );
    }
    (seconds > 0).then(|| Streaming {
        interval: Duration::from_secs(seconds),
        synchronous: synchronous.is_some(),
    })
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
    amount_of_memory(&memory.value).unwrap_or_else(|why| {
        problems.at(&memory, why);
        DEFAULT_MEMORY
    })
}

fn check_memory_override(problems: &mut Problems, memory: &str) -> u64 {
    amount_of_memory(memory).unwrap_or_else(|why| {
        problems.of_the_environment(format!("HOLDFAST_MEMORY: {why}"));
        DEFAULT_MEMORY
    })
}

fn amount_of_memory(text: &str) -> Result<u64, String> {
    match memory::bytes(text) {
        Some(bytes) if bytes >= LEAST_MEMORY => Ok(bytes),
        Some(_) => Err(format!("memory is {text}, and at least 64Mi are needed")),
        None => Err(format!(
            "{text:?} is no amount of memory: write it as 256Mi or 1Gi"
        )),
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
