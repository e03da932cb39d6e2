//! The operator: pod injection, and the reconcilers of Repository, Archive, Backup,
//! ScheduledBackup and Restore.
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
pub mod check;
pub mod cli;
pub mod conditions;
pub mod context;
pub mod controller;
pub mod events;
pub mod finalizer;
pub mod inject;
pub mod leader;
pub mod logging;
pub mod metrics;
pub mod names;
pub mod objects;
pub mod probes;
pub mod repository;
pub mod restore;
pub mod retire;
pub mod run;
pub mod schedule;
pub mod secrets;
pub mod sidecar_client;
pub mod status;
pub mod text;
pub mod webhook;
