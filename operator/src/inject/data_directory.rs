//! Where the data directory and the WAL are, in Postgres' container.

use super::command_line::{Setting, last};
use super::environment::{Environment, Lookup};
use super::image::Known;
use super::path::Path;
use super::pod::Container;
use super::refusal::{Quoted, Refusal};

/// Where they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    pub(super) data: Path,
    /// Said by the annotation.
    pub(super) annotated: bool,
    /// Where initdb was told to put pg_wal, if it was.
    pub(super) wal: Option<Path>,
    pub(super) warnings: Vec<String>,
}

/// What decides.
pub(super) struct Evidence<'a> {
    pub(super) annotated: Option<&'a Path>,
    pub(super) container: &'a Container,
    pub(super) environment: &'a Environment<'a>,
    pub(super) settings: &'a [Setting],
    pub(super) known: Option<&'a Known>,
    pub(super) major: Option<u32>,
}

/// Finds them: the annotation; else the container's PGDATA; else what the known image uses.
pub(super) fn places(evidence: &Evidence<'_>) -> Result<Places, Refusal> {
    let wal = wal_directory(evidence);
    if let Some(annotated) = evidence.annotated {
        return Ok(Places {
            data: annotated.clone(),
            annotated: true,
            wal,
            warnings: Vec::new(),
        });
    }
    let argument = last(evidence.settings, "data_directory");
    let (data, warnings) = match (told(evidence)?, argument) {
        (Some((told, warnings)), None) => (told, warnings),
        (Some((told, warnings)), Some(argument)) => {
            if Path::parse(argument).as_ref() != Some(&told) {
                return Err(Refusal::TwoDataDirectories {
                    container: name(evidence),
                    argument: Quoted::new(argument),
                    other: Quoted::new(&told.to_string()),
                });
            }
            (told, warnings)
        }
        (None, Some(argument)) => {
            let path = absolute(argument)
                .ok_or_else(|| none(evidence, format!("-D is {}", Quoted::new(argument))))?;
            (path, Vec::new())
        }
        (None, None) => {
            let why = match evidence.known {
                Some(_) => "no PGDATA in its env, and its image's tag does not tell",
                None => "no PGDATA in its env, and its image is not known",
            };
            return Err(none(evidence, why.to_owned()));
        }
    };
    Ok(Places {
        data,
        annotated: false,
        wal,
        warnings,
    })
}

/// By a variable or the image.
fn told(evidence: &Evidence<'_>) -> Result<Option<(Path, Vec<String>)>, Refusal> {
    let variables = evidence
        .known
        .map_or(&["PGDATA"][..], Known::data_directory_variables);
    for variable in variables {
        if let Some(path) = variable_path(evidence, variable)? {
            return Ok(Some((path, Vec::new())));
        }
    }
    if let Some(variable) = evidence.known.and_then(Known::parent_variable)
        && let Some(parent) = variable_path(evidence, variable)?
    {
        return Ok(Some((parent.join("data"), Vec::new())));
    }
    let Some(default) = evidence
        .known
        .and_then(|known| known.data_directory(evidence.major))
    else {
        return Ok(None);
    };
    let Some(path) = absolute(&default) else {
        return Ok(None);
    };
    let from_elsewhere = !evidence.container.env_from.is_empty();
    let warning = format!(
        "Holdfast takes {path} for the data directory: if envFrom of container {} sets PGDATA, add the annotation {}",
        name(evidence),
        super::names::DATA_DIRECTORY_ANNOTATION
    );
    let warnings = from_elsewhere.then_some(warning).into_iter().collect();
    Ok(Some((path, warnings)))
}

/// None where the variable is not set.
fn variable_path(evidence: &Evidence<'_>, variable: &str) -> Result<Option<Path>, Refusal> {
    match evidence.environment.get(variable) {
        Lookup::Absent => Ok(None),
        Lookup::Elsewhere => {
            let why = format!("{variable} comes from elsewhere than the pod");
            Err(none(evidence, why))
        }
        Lookup::Literal(value) => match absolute(&value) {
            Some(path) => Ok(Some(path)),
            None => {
                let why = format!("{variable} is {}", Quoted::new(&value));
                Err(none(evidence, why))
            }
        },
    }
}

/// Told to initdb by the entrypoints' variables. One that can't be read is no obstacle: every volume that may hold WAL
/// is mounted anyway.
fn wal_directory(evidence: &Evidence<'_>) -> Option<Path> {
    let literal = |variable| match evidence.environment.get(variable) {
        Lookup::Literal(value) => Some(value),
        Lookup::Absent | Lookup::Elsewhere => None,
    };
    let named = [
        "POSTGRES_INITDB_WALDIR",
        "POSTGRESQL_INITDB_WAL_DIR",
        "POSTGRES_INITDB_WAL_DIR",
    ];
    if let Some(directory) = named.into_iter().find_map(literal) {
        return absolute(&directory);
    }
    let arguments = ["POSTGRES_INITDB_ARGS", "POSTGRESQL_INITDB_ARGS"]
        .into_iter()
        .find_map(literal)?;
    let mut words = arguments.split_whitespace();
    while let Some(word) = words.next() {
        let directory = match word {
            "-X" | "--waldir" => words.next(),
            _ => word
                .strip_prefix("--waldir=")
                .or_else(|| word.strip_prefix("-X")),
        };
        if let Some(directory) = directory {
            return absolute(directory);
        }
    }
    None
}

fn absolute(text: &str) -> Option<Path> {
    Path::parse(text).filter(|path| path.depth() > 0)
}

fn name(evidence: &Evidence<'_>) -> Quoted {
    Quoted::new(&evidence.container.name)
}

fn none(evidence: &Evidence<'_>, why: String) -> Refusal {
    Refusal::NoDataDirectory {
        container: name(evidence),
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inject::command_line::settings;
    use serde_json::{Value, json};

    fn found(annotated: Option<&str>, image: &str, more: Value) -> Result<Places, String> {
        let mut raw = json!({"name": "db", "image": image});
        raw.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        let container: Container = serde_json::from_value(raw).unwrap();
        let environment = Environment::new(&container.env);
        places(&Evidence {
            annotated: annotated.map(|path| Path::parse(path).unwrap()).as_ref(),
            container: &container,
            environment: &environment,
            settings: &settings(&container, &environment),
            known: Known::of(image).as_ref(),
            major: None,
        })
        .map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn the_data_directory_is_found() {
        let pgdata = json!({"env": [{"name": "ROOT", "value": "/data"}, {"name": "PGDATA", "value": "$(ROOT)/pg/"}]});
        for (annotated, image, more, expected) in [
            (Some("/a"), "postgres:17", pgdata.clone(), "/a"),
            (Some("/a"), "acme/db", json!({"args": ["-D", "/b"]}), "/a"),
            (None, "postgres:17", pgdata.clone(), "/data/pg"),
            (None, "acme/db", pgdata.clone(), "/data/pg"),
            (None, "postgres:17", json!({}), "/var/lib/postgresql/data"),
            (
                None,
                "postgres:18",
                json!({}),
                "/var/lib/postgresql/18/docker",
            ),
            (
                None,
                "bitnami/postgresql:17",
                json!({}),
                "/bitnami/postgresql/data",
            ),
            (
                None,
                "bitnami/postgresql:17",
                json!({"env": [{"name": "PGDATA", "value": "/a"}, {"name": "POSTGRESQL_DATA_DIR", "value": "/b"}]}),
                "/b",
            ),
            (
                None,
                "bitnami/postgresql:17",
                json!({"env": [{"name": "POSTGRESQL_VOLUME_DIR", "value": "/volume"}]}),
                "/volume/data",
            ),
            (
                None,
                "acme/db",
                json!({"args": ["postgres", "-D", "/b"]}),
                "/b",
            ),
            (
                None,
                "postgres:17",
                json!({"args": ["-D", "/var/lib/postgresql/data"]}),
                "/var/lib/postgresql/data",
            ),
        ] {
            let places = found(annotated, image, more).unwrap();
            assert_eq!(places.data.to_string(), expected);
            assert_eq!(places.annotated, annotated.is_some());
            assert_eq!(places.warnings, Vec::<String>::new());
        }
    }

    #[test]
    fn where_it_is_not_clear_the_line_to_add_is_told() {
        let elsewhere = |value: Value| json!({"env": [{"name": "PGDATA", "valueFrom": value}]});
        for (image, more) in [
            ("acme/db", json!({})),
            ("postgres", json!({})),
            ("postgres@sha256:00", json!({})),
            ("timescale/timescaledb:latest-pg18", json!({})),
            (
                "postgres:17",
                elsewhere(json!({"configMapKeyRef": {"name": "c", "key": "k"}})),
            ),
            (
                "postgres:17",
                json!({"env": [{"name": "PGDATA", "value": "$(UNKNOWN)/x"}]}),
            ),
            (
                "postgres:17",
                json!({"env": [{"name": "PGDATA", "value": "data"}]}),
            ),
            (
                "postgres:17",
                json!({"env": [{"name": "PGDATA", "value": "/"}]}),
            ),
            (
                "postgres:17",
                json!({"env": [{"name": "PGDATA", "value": "/a/../b"}]}),
            ),
            (
                "postgres:17",
                json!({"args": ["-c", "data_directory=/other"]}),
            ),
            ("acme/db", json!({"args": ["-D", "relative"]})),
        ] {
            let sentence = found(None, image, more).unwrap_err();
            assert!(
                sentence.contains("holdfast.dev/data-directory"),
                "{sentence}"
            );
            assert!(sentence.contains("\"db\""), "{sentence}");
        }
    }

    #[test]
    fn variables_that_nobody_sees_are_warned_of() {
        let places = found(
            None,
            "postgres:17",
            json!({"envFrom": [{"configMapRef": {"name": "c"}}]}),
        );
        assert_eq!(places.unwrap().warnings.len(), 1);
    }

    #[test]
    fn the_wal_directory_is_where_initdb_was_told() {
        for (name, value, expected) in [
            ("POSTGRES_INITDB_WALDIR", "/wal", Some("/wal")),
            ("POSTGRESQL_INITDB_WAL_DIR", "/wal", Some("/wal")),
            (
                "POSTGRES_INITDB_ARGS",
                "--data-checksums --waldir=/wal",
                Some("/wal"),
            ),
            ("POSTGRES_INITDB_ARGS", "-k -X /wal", Some("/wal")),
            ("POSTGRES_INITDB_ARGS", "-X/wal", Some("/wal")),
            ("POSTGRES_INITDB_ARGS", "--data-checksums", None),
            ("POSTGRES_INITDB_WALDIR", "wal", None),
            ("POSTGRES_INITDB_WALDIR", "$(UNKNOWN)", None),
        ] {
            let env = json!({"env": [{"name": name, "value": value}]});
            let wal = found(None, "postgres:17", env).unwrap().wal;
            assert_eq!(
                wal.map(|path| path.to_string()).as_deref(),
                expected,
                "{name} {value}"
            );
        }
    }
}
