//! The `vaebm` binary.
fn main() {}
