//! Holdfast's Kubernetes resources, group `holdfast.dev`, version `v1alpha1`: the Rust types, and what is written
//! from them into `crds/*.yaml`.
//!
//! What a field takes, does and defaults to stands at its declaration, once: `kubectl explain` prints these comments.
//! What can't work is refused by the API server, by rules (CEL) beside the fields. The types here are what passed
//! those rules; whoever reads an object that the API server did not check gets an error from `serde`, or a value that
//! the rules would refuse, and must bear both.

// Each printer column has a type and a path.
#![allow(clippy::duplicated_attributes)]

mod archive;
mod backup;
mod cel;
mod period;
mod recovery;
mod reference;
mod render;
mod repository;
mod restore;
#[cfg(any(test, feature = "rules"))]
pub mod rules;
mod scheduled_backup;
mod schema;
mod store;

pub use archive::{
    Archive, ArchiveAuth, ArchiveBackup, ArchiveBootstrap, ArchiveLastBackup, ArchivePostgres,
    ArchiveRepository, ArchiveSpec, ArchiveStatus, ArchiveWal, BackupSource, BootstrapRecovery,
    Compression, CompressionAlgorithm, RepositoryMode, Retention, SslMode, Streaming,
};
pub use backup::{Backup, BackupKeep, BackupSpec, DeletionPolicy};
pub use period::{BadPeriod, Period};
pub use recovery::{Nothing, RecoverySource, RecoveryTarget, RepositoryReference};
pub use reference::{ArchiveReference, SecretKeyReference, SecretReference};
pub use render::{all, files};
pub use repository::{
    AccessMode, Credentials, Encryption, Repository, RepositorySpec, RepositoryStatus,
};
pub use restore::{
    ClaimAccessMode, ClaimTemplate, InPlace, IntoClaim, OtherReplicas, Restore, RestoreAction,
    RestoreDestination, RestorePostgres, RestoreSource, RestoreSpec,
};
pub use scheduled_backup::{
    BackupTemplate, BackupTemplateMetadata, BackupTemplateSpec, ScheduledBackup,
    ScheduledBackupSpec, ScheduledBackupStatus,
};
pub use schema::limits;
pub use store::{Azure, Gcs, S3};

/// The API group of all resources.
pub const GROUP: &str = "holdfast.dev";

/// The version that is served and stored.
pub const VERSION: &str = "v1alpha1";
