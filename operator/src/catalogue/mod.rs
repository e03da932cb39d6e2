//! Backup objects for what is stored.
