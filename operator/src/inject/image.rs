//! Images whose ways are known: what they run as, where they keep data, and whether arguments reach Postgres.
//!
//! An image counts as known in any registry and below any path there, since mirrors keep the last two names:
//! `mirror.example.com:5000/hub/library/postgres:17`. A bare `postgres` is Docker Hub's alone.

use super::reference::Reference;

/// What is known of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    /// The uid and, where the image has a group of its own for it, the gid of the server.
    pub(super) user: Option<(i64, Option<i64>)>,
    /// By its tag.
    pub(super) major: Option<u32>,
    kind: &'static Kind,
}

/// What the images of one maker have in common.
#[derive(Debug, PartialEq, Eq)]
struct Kind {
    /// The last two parts of the repository.
    names: &'static [&'static str],
    tag: TagStyle,
    user: User,
    directory: Directory,
    /// Whether the container's `args` are handed to `postgres`.
    arguments: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum TagStyle {
    /// `17`, `17.6-alpine3.22`, `17-3.5`.
    MajorFirst,
    /// `pg17`, `2.17.2-pg17-oss`.
    AfterPg,
}

#[derive(Debug, PartialEq, Eq)]
enum User {
    /// 70 where the tag says alpine, else 999: each with a group of the same number.
    ByDistribution,
    /// This one, whose group has the same number.
    WithGroup(i64),
    /// This one; its group is root's.
    InGroupRoot(i64),
}

#[derive(Debug, PartialEq, Eq)]
enum Directory {
    /// The official image's: from 18 on below the major, with the anonymous volume one up.
    Official,
    /// As the official image before 18; later ones were not looked at.
    OfficialBefore18,
    /// Always here.
    Fixed {
        path: &'static str,
        volume: Option<&'static str>,
    },
}

const KINDS: [Kind; 6] = [
    Kind {
        names: &["library/postgres"],
        tag: TagStyle::MajorFirst,
        user: User::ByDistribution,
        directory: Directory::Official,
        arguments: true,
    },
    Kind {
        names: &["postgis/postgis"],
        tag: TagStyle::MajorFirst,
        user: User::ByDistribution,
        directory: Directory::Official,
        arguments: true,
    },
    Kind {
        names: &["pgvector/pgvector"],
        tag: TagStyle::AfterPg,
        user: User::WithGroup(999),
        directory: Directory::Official,
        arguments: true,
    },
    Kind {
        names: &["timescale/timescaledb"],
        tag: TagStyle::AfterPg,
        user: User::WithGroup(70),
        directory: Directory::OfficialBefore18,
        arguments: true,
    },
    Kind {
        names: &["timescale/timescaledb-ha"],
        tag: TagStyle::AfterPg,
        user: User::WithGroup(1000),
        directory: Directory::Fixed {
            path: "/home/postgres/pgdata/data",
            volume: None,
        },
        arguments: true,
    },
    Kind {
        names: &["bitnami/postgresql", "bitnamilegacy/postgresql"],
        tag: TagStyle::MajorFirst,
        user: User::InGroupRoot(1001),
        directory: Directory::Fixed {
            path: "/bitnami/postgresql/data",
            volume: Some("/bitnami/postgresql"),
        },
        // Its arguments take the place of the script that starts Postgres.
        arguments: false,
    },
];

impl Known {
    /// What is known of that image, if anything.
    pub(super) fn of(image: &str) -> Option<Self> {
        let reference = Reference::parse(image);
        let ends = |name: &&str| {
            let rest = reference.repository.strip_suffix(*name);
            rest.is_some_and(|rest| rest.ends_with('/'))
        };
        let kind = KINDS.iter().find(|kind| kind.names.iter().any(ends))?;
        let tag = reference.readable_tag();
        Some(Self {
            user: kind.user(tag),
            major: tag.and_then(|tag| kind.major(tag)),
            kind,
        })
    }

    /// Where it keeps data, if nothing else says so; `major` beats the tag's.
    pub(super) fn data_directory(&self, major: Option<u32>) -> Option<String> {
        match (&self.kind.directory, major.or(self.major)) {
            (Directory::Fixed { path, .. }, _) => Some((*path).to_owned()),
            (Directory::Official, Some(major)) if major >= 18 => {
                Some(format!("/var/lib/postgresql/{major}/docker"))
            }
            (Directory::Official | Directory::OfficialBefore18, Some(..18)) => {
                Some("/var/lib/postgresql/data".to_owned())
            }
            _ => None,
        }
    }

    /// The directory that the image declares as a volume: a container runtime gives it one that lasts no longer than
    /// the pod, unless one is mounted at exactly this path.
    pub(super) fn volume(&self, major: Option<u32>) -> Option<&'static str> {
        match (&self.kind.directory, major.or(self.major)) {
            (Directory::Fixed { volume, .. }, _) => *volume,
            (Directory::Official, Some(18..)) => Some("/var/lib/postgresql"),
            (Directory::Official | Directory::OfficialBefore18, Some(..18)) => {
                Some("/var/lib/postgresql/data")
            }
            _ => None,
        }
    }

    /// The variables that name the data directory, the first that is set counts.
    pub(super) fn data_directory_variables(&self) -> &'static [&'static str] {
        if self.kind.arguments {
            &["PGDATA"]
        } else {
            &["POSTGRESQL_DATA_DIR", "POSTGRES_DATA_DIR", "PGDATA"]
        }
    }

    /// The variable that names the parent of the data directory, `data`, where none of those is set.
    pub(super) fn parent_variable(&self) -> Option<&'static str> {
        (!self.kind.arguments).then_some("POSTGRESQL_VOLUME_DIR")
    }

    /// Whether the container's `args` are handed to `postgres`.
    pub(super) fn arguments_reach_postgres(&self) -> bool {
        self.kind.arguments
    }
}

impl Kind {
    fn user(&self, tag: Option<&str>) -> Option<(i64, Option<i64>)> {
        let with_group = |id| (id, Some(id));
        Some(match self.user {
            User::WithGroup(id) => with_group(id),
            User::InGroupRoot(id) => (id, None),
            User::ByDistribution => {
                let alpine = tag?.split('-').any(|part| part.starts_with("alpine"));
                with_group(if alpine { 70 } else { 999 })
            }
        })
    }

    fn major(&self, tag: &str) -> Option<u32> {
        let digits = match self.tag {
            TagStyle::MajorFirst => tag,
            TagStyle::AfterPg => tag.split('-').find_map(|part| {
                let rest = part.strip_prefix("pg")?;
                rest.starts_with(|c: char| c.is_ascii_digit())
                    .then_some(rest)
            })?,
        };
        let end = digits
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(digits.len());
        digits[..end].parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_images_tell_user_major_and_directory() {
        let official = Some("/var/lib/postgresql/data");
        let both = |id| Some((id, Some(id)));
        for (image, user, major, directory) in [
            ("postgres:17", both(999), Some(17), official),
            ("postgres:17.6-bookworm", both(999), Some(17), official),
            ("postgres:16-alpine", both(70), Some(16), official),
            ("postgres:14.19-alpine3.22", both(70), Some(14), official),
            (
                "postgres:18",
                both(999),
                Some(18),
                Some("/var/lib/postgresql/18/docker"),
            ),
            (
                "postgres:18beta1-alpine",
                both(70),
                Some(18),
                Some("/var/lib/postgresql/18/docker"),
            ),
            ("postgres", both(999), None, None),
            ("postgres:latest", both(999), None, None),
            ("postgres:alpine", both(70), None, None),
            ("postgres:trixie", both(999), None, None),
            ("postgres:17@sha256:00", both(999), Some(17), official),
            ("postgres@sha256:00", None, None, None),
            (
                "public.ecr.aws/docker/library/postgres:15",
                both(999),
                Some(15),
                official,
            ),
            (
                "mirror:5000/hub/library/postgres:17-alpine",
                both(70),
                Some(17),
                official,
            ),
            ("postgis/postgis:17-3.5", both(999), Some(17), official),
            (
                "postgis/postgis:17-3.5-alpine",
                both(70),
                Some(17),
                official,
            ),
            ("pgvector/pgvector:pg17", both(999), Some(17), official),
            (
                "pgvector/pgvector:0.8.1-pg18-trixie",
                both(999),
                Some(18),
                Some("/var/lib/postgresql/18/docker"),
            ),
            (
                "timescale/timescaledb:2.17.2-pg17-oss",
                both(70),
                Some(17),
                official,
            ),
            (
                "timescale/timescaledb:latest-pg18",
                both(70),
                Some(18),
                None,
            ),
            (
                "timescale/timescaledb-ha:pg17.2-ts2.17.2",
                both(1000),
                Some(17),
                Some("/home/postgres/pgdata/data"),
            ),
            (
                "bitnami/postgresql:17.0.0-debian-12-r15",
                Some((1001, None)),
                Some(17),
                Some("/bitnami/postgresql/data"),
            ),
            (
                "r.io/mirror/bitnamilegacy/postgresql:16",
                Some((1001, None)),
                Some(16),
                Some("/bitnami/postgresql/data"),
            ),
            (
                "bitnami/postgresql",
                Some((1001, None)),
                None,
                Some("/bitnami/postgresql/data"),
            ),
        ] {
            let known = Known::of(image).expect(image);
            assert_eq!(known.user, user, "{image}");
            assert_eq!(known.major, major, "{image}");
            assert_eq!(known.data_directory(None).as_deref(), directory, "{image}");
        }
    }

    #[test]
    fn other_images_are_not_known() {
        for image in [
            "",
            "mysql:8",
            "acme/postgres:17",
            "ghcr.io/acme/postgres:17",
            "localhost/postgres:17",
            "mylibrary/postgres:17",
            "bitnami/postgresql-repmgr:17",
            "prom/postgres-exporter",
            "library/postgresx",
            "postgres/",
            "@",
            ":",
        ] {
            assert_eq!(Known::of(image), None, "{image}");
        }
    }

    #[test]
    fn an_annotated_major_decides_where_the_tag_is_silent() {
        let latest = Known::of("postgres").unwrap();
        assert_eq!(
            latest.data_directory(Some(17)).unwrap(),
            "/var/lib/postgresql/data"
        );
        assert_eq!(
            latest.data_directory(Some(18)).unwrap(),
            "/var/lib/postgresql/18/docker"
        );
        assert_eq!(latest.volume(Some(17)), Some("/var/lib/postgresql/data"));
        assert_eq!(latest.volume(Some(18)), Some("/var/lib/postgresql"));
        assert_eq!(latest.volume(None), None);
    }
}
