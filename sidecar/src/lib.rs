//! The `holdfast` program: serves the WAL socket, takes and restores backups.

pub mod backup;
pub mod socket;
pub mod status;
