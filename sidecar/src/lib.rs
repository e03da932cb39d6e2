//! The `holdfast` program: serves the WAL socket, takes and restores backups.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that cannot go on fails")
)]

pub mod archive;
pub mod backup;
pub mod check;
pub mod cli;
pub mod commands;
pub mod config;
pub mod control;
pub mod data_directory;
pub mod exit;
pub mod info;
pub mod logging;
pub mod open;
pub mod origin;
pub mod progress;
pub mod restore;
pub mod restore_wal;
pub mod sidecar;
pub mod socket;
pub mod verify;
#[cfg(test)]
mod wal_bench;

pub use holdfast_protocol::status;
