//! Scenarios on real parts: Postgres 14 to 18, MinIO, Azurite, and Holdfast's own release programs.
//!
//! A test begins with a [`World`], which ends with the test however it ends; all else lives in it:
//!
//! - [`parts`]: where the programs are
//! - [`world`]: directory, user, guardian, running commands
//! - [`postgres`]: throw-away servers, primary and standby
//! - [`minio`]: a real S3
//! - [`azurite`], [`gcs`]: the stores of the other clouds
//! - [`network`]: the way to it, which can be made bad
//! - [`holdfast`]: configuration, commands, the sidecar
//! - [`ledger`]: what was committed when, and whether it is there
//! - [`restored`]: a restored directory, from the command to the rows
//! - [`objects`]: an archive's stored objects, looked at and damaged
//! - [`cluster`]: a real Kubernetes, and a namespace for each test
//! - [`forwarded`]: the Postgres of a pod, reached from outside
//! - [`snapshot`]: what a folder holds, to prove that nothing in it changed

pub mod azurite;
pub mod cluster;
pub mod daemon;
pub mod forwarded;
pub mod gcs;
pub mod holdfast;
pub mod ledger;
pub mod minio;
pub mod network;
pub mod objects;
pub mod parts;
pub mod postgres;
pub mod random;
pub mod restored;
pub mod snapshot;
pub mod world;

pub use azurite::Azurite;
pub use cluster::{Cluster, Said, Space};
pub use daemon::Daemon;
pub use forwarded::Forwarded;
pub use gcs::{Gcs, ServiceAccount};
pub use holdfast::{Holdfast, Sidecar};
pub use ledger::{Ledger, Target};
pub use minio::{Bucket, Minio};
pub use network::{FAULTS, Fault, Network};
pub use objects::Objects;
pub use postgres::{Postgres, Shutdown};
pub use random::Random;
pub use snapshot::Snapshot;
pub use world::{Output, World, eventually};
