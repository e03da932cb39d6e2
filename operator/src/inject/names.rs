//! What the webhook adds is known by these names. Pods out there carry them, so they can't change.

pub use crate::names::{
    ARCHIVE_LABEL, CONTROL_PORT, INJECT_ANNOTATION, MONITORING_PORT, SIDECAR_CONTAINER,
};

/// Names Postgres' container.
pub const CONTAINER_ANNOTATION: &str = "holdfast.dev/container";
/// Where the data directory is, in Postgres' container.
pub const DATA_DIRECTORY_ANNOTATION: &str = "holdfast.dev/data-directory";
/// The uid that the server runs as.
pub const RUN_AS_USER_ANNOTATION: &str = "holdfast.dev/run-as-user";
/// The server's major version.
pub const POSTGRES_MAJOR_ANNOTATION: &str = "holdfast.dev/postgres-major";
/// Who sets archive_command and its like.
pub const CONFIGURE_ANNOTATION: &str = "holdfast.dev/configure";
/// The sidecar's memory.
pub const MEMORY_ANNOTATION: &str = "holdfast.dev/memory";
/// Lets a returning old primary go without its WAL being stored.
pub const SKIP_DRAIN_ANNOTATION: &str = "holdfast.dev/skip-drain";
/// Written by the webhook: a digest of what it added.
pub const INJECTED_ANNOTATION: &str = "holdfast.dev/injected";

/// The init container after the sidecar that may write the data directory.
pub const BOOTSTRAP_CONTAINER: &str = "holdfast-bootstrap";
/// The init container that is there only where one data mount lies in another.
pub const MOUNT_POINTS_CONTAINER: &str = "holdfast-mount-points";

/// Shared by Postgres and the sidecar: program, library, sockets.
pub const SHARED_VOLUME: &str = "holdfast";
/// The rendered Secret.
pub const CONFIGURATION_VOLUME: &str = "holdfast-config";
/// Empty, over the service account's token.
pub const NO_TOKEN_VOLUME: &str = "holdfast-no-token";

/// Where [`SHARED_VOLUME`] is mounted.
pub const SHARED_DIRECTORY: &str = "/holdfast";
/// Where [`CONFIGURATION_VOLUME`] is mounted.
pub const CONFIGURATION_DIRECTORY: &str = "/etc/holdfast";
/// Where a container without a mount of its own would find the API server's token.
pub const TOKEN_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where the programs are in our image.
pub const PROGRAM_DIRECTORY: &str = "/usr/local/bin";

/// What Postgres calls for each segment that is to be archived.
pub const ARCHIVE_COMMAND: &str = "/holdfast/bin/holdfast-wal archive %f %p";
/// What Postgres loads from 15 on instead of calling [`ARCHIVE_COMMAND`].
pub const ARCHIVE_LIBRARY: &str = "/holdfast/lib/holdfast_archive";
/// What Postgres calls for each file that recovery wants.
pub const RESTORE_COMMAND: &str = "/holdfast/bin/holdfast-wal restore %f %p";

/// Names the data directory to the sidecar.
pub const DATA_DIRECTORY_VARIABLE: &str = "HOLDFAST_DATA_DIRECTORY";
/// Names to the bootstrap container where pg_wal of an empty data directory is to lead.
pub const WAL_DIRECTORY_VARIABLE: &str = "HOLDFAST_WAL_DIRECTORY";
/// Tells the sidecar who configures archiving.
pub const CONFIGURE_VARIABLE: &str = "HOLDFAST_CONFIGURE";
/// Tells the sidecar its memory.
pub const MEMORY_VARIABLE: &str = "HOLDFAST_MEMORY";
