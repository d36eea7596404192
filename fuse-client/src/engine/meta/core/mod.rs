//! The pure parts: no I/O, no clock.

pub mod cache;
#[cfg(test)]
mod cache_tests;
pub mod directory;
mod entry_key;
pub mod failures;
pub mod foresee;
mod leased;
#[cfg(test)]
mod leased_tests;
mod listings;
pub mod numbers;
mod paths;
pub mod window;
