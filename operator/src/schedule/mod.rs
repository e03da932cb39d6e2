//! Reconciles ScheduledBackup: when, and what it is called.
