//! The `holdfast-operator` program.

fn main() {}
