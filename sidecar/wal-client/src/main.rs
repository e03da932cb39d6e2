//! holdfast-wal
fn main() {}
