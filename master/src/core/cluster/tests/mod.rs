//! The cluster core against fake chunkservers.

mod detection;
mod fake;
mod orders;
mod random;
mod scenarios;
mod world;
