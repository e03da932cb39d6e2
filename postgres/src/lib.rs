//! What is true of PostgreSQL's files and protocol, for the majors 14 to 18.
//!
//! This crate knows no store and no Kubernetes. Everything that reads bytes treats them as hostile: a damaged
//! file is an error with a reason, never a panic, and nothing is allocated by a length that a file claims.

pub mod auto_conf;
pub mod backup_label;
pub mod backup_manifest;
mod bytes;
pub mod control_file;
pub mod crc;
pub mod datadir;
pub mod history;
pub mod lineage;
mod lsn;
pub mod outside;
pub mod page;
pub mod replication;
mod segment;
pub mod server;
mod timeline;
mod timestamp;
pub mod version;
pub mod wal;
mod wal_file_name;

pub use control_file::{ClusterState, ControlError, ControlFile, WalLevel};
pub use history::{Ancestor, HistoryError, TimelineHistory};
pub use lineage::{Lineage, Span};
pub use lsn::{Lsn, ParseLsnError};
pub use segment::{SegmentNumber, SegmentSize, SegmentSizeError};
pub use timeline::{ParseIdentifierError, SystemIdentifier, TimelineId};
pub use timestamp::PgTimestamp;
pub use wal_file_name::{SegmentName, WalFileName, WalNameError};
