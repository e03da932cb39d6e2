//! Restores.
pub mod apply;
pub mod check;
pub mod clear;
pub mod command;
pub mod destination;
pub mod prepare;
pub mod recovery;
mod stored;
pub mod write;
