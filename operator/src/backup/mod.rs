//! Reconciles Backup: chooses the pod, orders, follows.
