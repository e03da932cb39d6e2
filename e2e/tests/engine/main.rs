//! Holdfast's programs on real Postgres and a real S3, without Kubernetes.

mod archive_library;
mod backup;
mod bad_input;
mod bootstrap;
mod damage;
mod docs;
mod formats;
mod harness;
mod in_place;
mod incremental;
mod info;
mod postgres_files;
mod readers;
mod repositories;
mod restore_targets;
mod sidecar;
mod soak;
mod stores;
mod streaming;
mod synchronous;
mod timelines;
mod wal;
mod waldump;
