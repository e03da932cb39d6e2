//! What Prometheus is told, and the probes.
