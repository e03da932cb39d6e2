//! Holdfast on a real Kubernetes: what users do, by the commands that they type.
//!
//! One cluster for all of it; each scenario has a namespace of its own. Those that take the operator or the store away
//! run alone.

mod admission;
mod archiving;
mod backups;
mod bad_input;
mod bootstrap;
mod chart;
mod docs;
mod examples;
mod fixtures;
mod incarnations;
mod install;
mod mesh;
mod metrics;
mod operator_down;
mod outages;
mod pods;
mod refused;
mod resources;
mod shutdown;
mod store;
mod variants;
