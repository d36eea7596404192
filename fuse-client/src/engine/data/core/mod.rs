//! The data path's decisions: pure, no clock, no network. Time comes in as [`Millis`].

pub mod dirty;
pub mod kept;
pub mod latency;
pub mod piece;
pub mod ranges;
pub mod read_ahead;
pub mod replicas;
pub mod retry;
pub mod rows;

/// Monotonic milliseconds from an arbitrary beginning.
pub type Millis = u64;

#[cfg(test)]
mod dirty_tests;
#[cfg(test)]
mod kept_tests;
#[cfg(test)]
mod piece_tests;
