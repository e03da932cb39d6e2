//! Holdfast's Kubernetes resources.
