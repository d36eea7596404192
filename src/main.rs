//! The `cairn` binary: one file a subcommand.
fn main() {}
