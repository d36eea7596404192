//! The cluster core against fake chunkservers.

mod fake;
mod random;
mod scenarios;
mod world;
