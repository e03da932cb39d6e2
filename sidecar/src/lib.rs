//! sidecar
pub mod status;
