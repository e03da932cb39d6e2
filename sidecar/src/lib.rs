//! The `holdfast` program: serves the WAL socket, takes and restores backups.
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, reason = "a test that cannot go on fails")
)]

pub mod archive;
pub mod backup;
pub mod bootstrap;
pub mod budget;
pub mod check;
pub mod cli;
pub mod commands;
pub mod config;
pub mod configure;
pub mod control;
pub mod data_directory;
pub mod drain;
pub mod environment;
pub mod exit;
pub mod histories;
pub mod http;
pub mod info;
pub mod install;
pub mod logging;
pub mod monitoring;
pub mod open;
pub mod orders;
pub mod origin;
pub mod progress;
pub mod queue;
pub mod reading;
pub mod reload;
pub mod report;
pub mod restore;
pub mod restore_wal;
pub mod sidecar;
pub mod socket;
pub mod stream;
pub mod verify;
#[cfg(test)]
mod wal_bench;
pub mod wal_command;

pub use holdfast_protocol::status;
