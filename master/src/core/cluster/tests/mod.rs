//! The cluster core against fake chunkservers.

mod detection;
mod fake;
mod orders;
mod planning;
mod random;
mod scenarios;
mod world;
