//! Speaks to a sidecar: mutual TLS, by name.
