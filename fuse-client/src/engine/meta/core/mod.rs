//! The pure parts: no I/O, no clock.

pub mod cache;
#[cfg(test)]
mod cache_tests;
pub mod directory;
mod entry_key;
pub mod failures;
pub mod foresee;
pub mod numbers;
pub mod window;
