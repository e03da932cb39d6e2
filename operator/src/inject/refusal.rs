//! Why a labelled pod is not let in: one sentence each, with what to write.

use super::names::{
    ARCHIVE_LABEL, CONFIGURE_ANNOTATION, CONTAINER_ANNOTATION, DATA_DIRECTORY_ANNOTATION,
    POSTGRES_MAJOR_ANNOTATION, RUN_AS_USER_ANNOTATION,
};
use thiserror::Error;

/// What stands in the way. Names and values of the pod in it are cut to a length that fits into an event.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Not a pod's shape. The API server sends none such.
    #[error("this can't be read as a pod: {0}")]
    Unreadable(String),
    /// The label names no Archive that could exist.
    #[error(
        "the label {ARCHIVE_LABEL}: {0} names no Archive: write its name, 1 to 63 lower-case letters, digits, '-' and '.'"
    )]
    Label(Quoted),
    /// An annotation's value.
    #[error("the annotation {annotation}: {value} is no good: {allowed}")]
    Annotation {
        /// Which.
        annotation: &'static str,
        /// As it was written.
        value: Quoted,
        /// What to write.
        allowed: String,
    },
    /// Another operator's pod.
    #[error(
        "{0} runs this pod's Postgres and would undo what Holdfast sets: take the label {ARCHIVE_LABEL} away, and back it up with that operator's own means"
    )]
    OtherOperator(&'static str),
    /// Patroni writes Postgres' configuration itself.
    #[error(
        "Patroni runs the Postgres of container {container} and would undo what Holdfast sets: take the label {ARCHIVE_LABEL} away"
    )]
    Patroni {
        /// Where it was seen.
        container: Quoted,
    },
    /// A mirror of what a kubelet runs from a file.
    #[error(
        "this is a static pod, which can't be changed here: take the label {ARCHIVE_LABEL} away, or run it as a StatefulSet"
    )]
    StaticPod,
    /// The annotated container is not there.
    #[error(
        "the annotation {CONTAINER_ANNOTATION} names {named}, and the pod's containers are {present}: write one of them"
    )]
    NoSuchContainer {
        /// As annotated.
        named: Quoted,
        /// The pod's.
        present: String,
    },
    /// Nothing tells Postgres' container from the others.
    #[error(
        "which of the containers {present} is Postgres is not clear: add the annotation {CONTAINER_ANNOTATION}: <its name>"
    )]
    WhichContainer {
        /// The pod's.
        present: String,
    },
    /// A name of ours is taken.
    #[error("the pod has a {kind} named {name} already, a name that Holdfast needs: rename it")]
    NameTaken {
        /// Container or volume.
        kind: &'static str,
        /// Ours.
        name: &'static str,
    },
    /// A directory of ours is taken.
    #[error(
        "container {container} mounts {path}, where Holdfast has its own: mount it somewhere else"
    )]
    PathTaken {
        /// Whose mount.
        container: Quoted,
        /// Where.
        path: Quoted,
    },
    /// A port of ours is taken.
    #[error("container {container} has the port {port}, which Holdfast needs: choose another")]
    PortTaken {
        /// Whose port.
        container: Quoted,
        /// Ours.
        port: u16,
    },
    /// Nobody says where the data directory is.
    #[error(
        "where the data directory of container {container} is can't be seen ({why}): add the annotation {DATA_DIRECTORY_ANNOTATION}: <the absolute path of PGDATA>"
    )]
    NoDataDirectory {
        /// Postgres'.
        container: Quoted,
        /// What was looked at.
        why: String,
    },
    /// Two places say different things.
    #[error(
        "the command line of container {container} says the data directory is {argument}, its variables and image say {other}: add the annotation {DATA_DIRECTORY_ANNOTATION} with the right one"
    )]
    TwoDataDirectories {
        /// Postgres'.
        container: Quoted,
        /// By `-D`.
        argument: Quoted,
        /// By PGDATA or the image.
        other: Quoted,
    },
    /// What Postgres writes lies where only its own container sees it.
    #[error(
        "{what} {path} of container {container} lies on no volume, so it is lost with the pod and Holdfast can't read it: mount a volume there, or correct the annotation {DATA_DIRECTORY_ANNOTATION}"
    )]
    NoVolume {
        /// The data directory, the WAL directory.
        what: &'static str,
        /// Where.
        path: String,
        /// Postgres'.
        container: Quoted,
    },
    /// An image's own anonymous volume lies over the mount.
    #[error(
        "the volume is mounted at {mount}, and the image keeps {volume} below it on a volume of its own that is lost with the pod: mount yours at {volume} (with subPath, to find what is stored below {mount}), or say with the annotation {DATA_DIRECTORY_ANNOTATION}: {directory} that your nodes do not"
    )]
    HiddenByImage {
        /// The user's mount.
        mount: String,
        /// The image's `VOLUME`.
        volume: &'static str,
        /// The data directory.
        directory: String,
    },
    /// A mount of the data would hide what the sidecar runs on.
    #[error(
        "{path} of container {container} holds data and would hide {hidden} in the sidecar: mount the volume at the data directory itself"
    )]
    MountHides {
        /// The mount's path.
        path: Quoted,
        /// Postgres'.
        container: Quoted,
        /// A directory of the sidecar.
        hidden: &'static str,
    },
    /// A subPathExpr that the sidecar could not follow.
    #[error(
        "the subPathExpr of the mount {path} needs the variable {variable}, whose value Holdfast can't pass on: set it in env of container {container} by value or fieldRef, or use subPath"
    )]
    SubPathVariable {
        /// The mount's path.
        path: Quoted,
        /// Its name.
        variable: Quoted,
        /// Postgres'.
        container: Quoted,
    },
    /// Nobody says what uid Postgres has.
    #[error(
        "the uid that Postgres runs as in container {container} is not known: add the annotation {RUN_AS_USER_ANNOTATION}: \"<uid>\", or runAsUser to its securityContext"
    )]
    NoUser {
        /// Postgres'.
        container: Quoted,
    },
    /// A version that the sidecar can't read.
    #[error(
        "image {image} is Postgres {major}, and Holdfast knows 14 to 18: if the image holds one of them, add the annotation {POSTGRES_MAJOR_ANNOTATION}"
    )]
    Version {
        /// As written.
        image: Quoted,
        /// By its tag.
        major: u32,
    },
    /// `Arguments` would have no effect.
    #[error(
        "{CONFIGURE_ANNOTATION}: Arguments has no effect on container {container}, {why}: write {CONFIGURE_ANNOTATION}: AlterSystem, or None to set archive_mode and archive_command yourself"
    )]
    ArgumentsDoNotReach {
        /// Postgres'.
        container: Quoted,
        /// What hears the arguments.
        why: &'static str,
    },
    /// Another archive or restore command stands on the command line, where it beats every other setting.
    #[error(
        "the command line of container {container} sets {setting} to {value}, which Holdfast would replace: take it away, or write {CONFIGURE_ANNOTATION}: None to keep it and do without Holdfast's archiving"
    )]
    OtherSetting {
        /// Postgres'.
        container: Quoted,
        /// Its name.
        setting: &'static str,
        /// As written.
        value: Quoted,
    },
}

/// Text of the pod, quoted and at most 120 characters long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quoted(String);

const LONGEST: usize = 120;

impl Quoted {
    /// Quotes that text.
    pub fn new(text: &str) -> Self {
        let cut = text.chars().nth(LONGEST).map_or("", |_| "…");
        let start: String = text.chars().take(LONGEST).collect();
        Self(format!("{start:?}{cut}"))
    }

    /// A list of them, the first ten.
    pub fn list<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
        let mut quoted: Vec<_> = texts.into_iter().take(11).map(|t| Self::new(t).0).collect();
        if quoted.len() > 10 {
            quoted[10] = "…".to_owned();
        }
        quoted.join(", ")
    }
}

impl std::fmt::Display for Quoted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
