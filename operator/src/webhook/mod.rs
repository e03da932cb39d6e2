//! The admission webhook: HTTPS around [`crate::inject`].
//!
//! The API server waits for each answer while a pod is made, and without one the pod is not let in. So nothing here
//! waits for anything else: no lock, no leader, no API call. Anybody in the cluster can reach it, so all it takes is
//! bounded in size, number and time.

mod metrics;
mod respond;
mod review;
mod server;
mod slots;
#[cfg(test)]
mod tests;

pub use metrics::Metrics;
pub use server::{Certificates, Limits, Webhook, serve};

/// Where the API server posts pods.
pub const PATH: &str = "/inject";
