//! Holdfast on a real Kubernetes: what users do, by the commands that they type.
//!
//! One cluster for all of it, and a second for those that take the operator away; each scenario has a namespace of its
//! own.

mod admission;
mod archiving;
mod backups;
mod bad_input;
mod bootstrap;
mod chart;
mod claims;
mod docs;
mod examples;
mod fixtures;
mod full_disk;
mod hand;
mod incarnations;
mod install;
mod lag;
mod mesh;
mod metrics;
mod operator_down;
mod outages;
mod pods;
mod refused;
mod resources;
mod restore_kills;
mod restore_outages;
mod restore_targets;
mod restores;
mod restores_refused;
mod shutdown;
mod store;
mod variants;
