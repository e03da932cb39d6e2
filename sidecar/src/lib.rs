//! The `holdfast` program: serves the WAL socket, takes and restores backups.
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on fails"))]

pub mod cli;
pub mod config;
pub mod exit;
pub mod logging;
pub mod progress;
pub mod socket;
pub mod status;
