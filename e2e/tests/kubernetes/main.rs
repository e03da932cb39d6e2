//! Holdfast on a real Kubernetes: what users do, by the commands that they type.
//!
//! One cluster for all of it; each scenario has a namespace of its own. Those that take the operator or the store away
//! run alone.

mod archiving;
mod backups;
mod bad_input;
mod docs;
mod fixtures;
mod outages;
