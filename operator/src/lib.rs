//! The operator: pod injection, and the reconcilers of Repository, Archive, Backup and ScheduledBackup.
//!
//! Each reconciler observes, validates, plans (a pure function), applies, and writes status.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that cannot go on fails")
)]

pub mod archive;
pub mod authority;
pub mod backup;
pub mod catalogue;
pub mod conditions;
pub mod inject;
pub mod leader;
pub mod metrics;
pub mod repository;
pub mod schedule;
pub mod sidecar_client;
pub mod webhook;
