//! Reconciles Archive: renders the Secret of its pods, asks its sidecars, tells what can be recovered.
