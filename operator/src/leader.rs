//! One of the replicas acts.
