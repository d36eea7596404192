//! The pure parts: no I/O, no clock.

pub mod cache;
pub mod directory;
mod entry_key;
pub mod window;
#[cfg(test)]
mod cache_tests;
