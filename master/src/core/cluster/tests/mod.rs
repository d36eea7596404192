//! The cluster core against fake chunkservers.

mod random;
mod scenarios;
mod world;
