//! The precopy command.
fn main() {}
