//! Restores.
pub mod clear;
pub mod destination;
pub mod recovery;
pub mod write;
