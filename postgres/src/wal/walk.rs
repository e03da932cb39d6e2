//! Pages and records, one after the other.
