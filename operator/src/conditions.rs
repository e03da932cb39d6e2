//! Conditions by the Kubernetes API conventions.
