//! What operator, sidecar and scripts say to each other: the settings file, the control API's orders and answers, and
//! the reports, which have the field names of the Kubernetes resources' `status`.
//!
//! Plain values, and how they are written. Knows neither Kubernetes nor Postgres nor a store.

pub mod control;
pub mod memory;
pub mod settings;
pub mod status;
