//! Reconciles Repository: is it reachable, and can it do what is needed.
