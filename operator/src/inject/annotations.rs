//! What the pod's annotations ask for.

use super::memory::Memory;
use super::names::{
    CONFIGURE_ANNOTATION, CONTAINER_ANNOTATION, DATA_DIRECTORY_ANNOTATION, INJECT_ANNOTATION,
    INJECTED_ANNOTATION, MEMORY_ANNOTATION, POSTGRES_MAJOR_ANNOTATION, RUN_AS_USER_ANNOTATION,
    SKIP_DRAIN_ANNOTATION,
};
use super::path::Path;
use super::refusal::{Quoted, Refusal};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// The majors that the sidecar can read.
pub(super) const MAJORS: RangeInclusive<u32> = 14..=18;

const PREFIX: &str = "holdfast.dev/";

const KNOWN: [&str; 9] = [
    CONTAINER_ANNOTATION,
    DATA_DIRECTORY_ANNOTATION,
    RUN_AS_USER_ANNOTATION,
    POSTGRES_MAJOR_ANNOTATION,
    CONFIGURE_ANNOTATION,
    MEMORY_ANNOTATION,
    INJECT_ANNOTATION,
    SKIP_DRAIN_ANNOTATION,
    INJECTED_ANNOTATION,
];

/// Who sets archive_mode, archive_command and restore_command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Configure {
    /// The webhook, on the server's command line.
    Arguments,
    /// The sidecar, in SQL.
    AlterSystem,
    /// The user.
    None,
}

impl fmt::Display for Configure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Arguments => "Arguments",
            Self::AlterSystem => "AlterSystem",
            Self::None => "None",
        })
    }
}

impl FromStr for Configure {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Ok(match text {
            "Arguments" => Self::Arguments,
            "AlterSystem" => Self::AlterSystem,
            "None" => Self::None,
            _ => return Err(()),
        })
    }
}

/// The annotations, each checked; what is left out is none.
#[derive(Debug, Clone, Default)]
pub(super) struct Wishes {
    pub(super) container: Option<String>,
    pub(super) data_directory: Option<Path>,
    pub(super) run_as_user: Option<i64>,
    pub(super) major: Option<u32>,
    pub(super) configure: Option<Configure>,
    pub(super) memory: Option<Memory>,
    pub(super) warnings: Vec<String>,
}

/// Whether the pod is to be left alone.
pub(super) fn inject(annotations: &BTreeMap<String, String>) -> Result<bool, Refusal> {
    let given = read(
        annotations,
        INJECT_ANNOTATION,
        "write \"true\" or \"false\"",
        |text| text.parse::<bool>().ok(),
    )?;
    Ok(given.unwrap_or(true))
}

/// Reads them all.
pub(super) fn wishes(annotations: &BTreeMap<String, String>) -> Result<Wishes, Refusal> {
    let unknown = annotations
        .keys()
        .filter(|name| name.starts_with(PREFIX) && !KNOWN.contains(&name.as_str()));
    let warnings = unknown.take(10).map(|name| {
        let name = Quoted::new(name);
        format!("Holdfast knows no annotation {name} and ignores it")
    });
    Ok(Wishes {
        container: read(
            annotations,
            CONTAINER_ANNOTATION,
            "write the name of Postgres' container",
            |text| (!text.is_empty()).then(|| text.to_owned()),
        )?,
        data_directory: read(
            annotations,
            DATA_DIRECTORY_ANNOTATION,
            "write the absolute path of PGDATA, without '..', ':' and '$'",
            |text| Path::parse(text).filter(|path| path.depth() > 0),
        )?,
        run_as_user: read(
            annotations,
            RUN_AS_USER_ANNOTATION,
            "write the uid that Postgres runs as, a number above 0 in quotes",
            |text| number(text).filter(|uid| *uid > 0).map(i64::from),
        )?,
        major: read(
            annotations,
            POSTGRES_MAJOR_ANNOTATION,
            "write \"14\", \"15\", \"16\", \"17\" or \"18\"",
            |text| {
                let major = number(text)?.unsigned_abs();
                MAJORS.contains(&major).then_some(major)
            },
        )?,
        configure: read(
            annotations,
            CONFIGURE_ANNOTATION,
            "write Arguments, AlterSystem or None",
            |text| text.parse().ok(),
        )?,
        memory: read(
            annotations,
            MEMORY_ANNOTATION,
            &super::memory::BadMemory.to_string(),
            |text| text.parse().ok(),
        )?,
        warnings: warnings.collect(),
    })
}

/// A uid goes up to 2^31 - 1 in a pod.
fn number(text: &str) -> Option<i32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

fn read<T>(
    annotations: &BTreeMap<String, String>,
    annotation: &'static str,
    allowed: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Option<T>, Refusal> {
    let Some(text) = annotations.get(annotation) else {
        return Ok(None);
    };
    let parsed = parse(text).ok_or_else(|| Refusal::Annotation {
        annotation,
        value: Quoted::new(text),
        allowed: allowed.to_owned(),
    })?;
    Ok(Some(parsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, value: &str) -> BTreeMap<String, String> {
        BTreeMap::from([(name.to_owned(), value.to_owned())])
    }

    #[test]
    fn good_values_are_read() {
        let all: BTreeMap<String, String> = [
            (CONTAINER_ANNOTATION, "db"),
            (DATA_DIRECTORY_ANNOTATION, "/data/pg/"),
            (RUN_AS_USER_ANNOTATION, "26"),
            (POSTGRES_MAJOR_ANNOTATION, "17"),
            (CONFIGURE_ANNOTATION, "AlterSystem"),
            (MEMORY_ANNOTATION, "1Gi"),
            (SKIP_DRAIN_ANNOTATION, "true"),
            ("example.com/other", "x"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        let wishes = wishes(&all).unwrap();
        assert_eq!(wishes.container.as_deref(), Some("db"));
        assert_eq!(wishes.data_directory, Path::parse("/data/pg"));
        assert_eq!(wishes.run_as_user, Some(26));
        assert_eq!(wishes.major, Some(17));
        assert_eq!(wishes.configure, Some(Configure::AlterSystem));
        assert_eq!(wishes.memory.unwrap().to_string(), "1Gi");
        assert_eq!(wishes.warnings, Vec::<String>::new());
    }

    #[test]
    fn bad_values_are_refused_with_what_to_write() {
        for (annotation, value, says) in [
            (CONTAINER_ANNOTATION, "", "name of Postgres' container"),
            (DATA_DIRECTORY_ANNOTATION, "", "absolute path"),
            (DATA_DIRECTORY_ANNOTATION, "/", "absolute path"),
            (DATA_DIRECTORY_ANNOTATION, "data", "absolute path"),
            (DATA_DIRECTORY_ANNOTATION, "/a/../b", "absolute path"),
            (DATA_DIRECTORY_ANNOTATION, "/a/$(B)", "absolute path"),
            (RUN_AS_USER_ANNOTATION, "0", "above 0"),
            (RUN_AS_USER_ANNOTATION, "-1", "above 0"),
            (RUN_AS_USER_ANNOTATION, "+7", "above 0"),
            (RUN_AS_USER_ANNOTATION, "postgres", "above 0"),
            (RUN_AS_USER_ANNOTATION, "2147483648", "above 0"),
            (POSTGRES_MAJOR_ANNOTATION, "13", "\"14\""),
            (POSTGRES_MAJOR_ANNOTATION, "17.6", "\"14\""),
            (
                CONFIGURE_ANNOTATION,
                "arguments",
                "Arguments, AlterSystem or None",
            ),
            (MEMORY_ANNOTATION, "1M", "64Mi at least"),
        ] {
            let refusal = wishes(&of(annotation, value)).unwrap_err().to_string();
            assert!(refusal.contains(annotation), "{refusal}");
            assert!(refusal.contains(&format!("{value:?}")), "{refusal}");
            assert!(refusal.contains(says), "{refusal}");
        }
    }

    #[test]
    fn a_pod_can_be_left_alone() {
        assert!(inject(&BTreeMap::new()).unwrap());
        assert!(inject(&of(INJECT_ANNOTATION, "true")).unwrap());
        assert!(!inject(&of(INJECT_ANNOTATION, "false")).unwrap());
        for bad in ["", "no", "False"] {
            assert!(inject(&of(INJECT_ANNOTATION, bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_slip_of_the_pen_is_told() {
        let wishes = wishes(&of("holdfast.dev/datadirectory", "/data")).unwrap();
        assert_eq!(wishes.warnings.len(), 1);
        assert!(wishes.warnings[0].contains("holdfast.dev/datadirectory"));
    }
}
