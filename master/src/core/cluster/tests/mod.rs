//! The cluster core against fake chunkservers.

mod balance;
mod detection;
mod fake;
mod fences;
mod orders;
mod planning;
mod random;
mod relief;
mod room;
mod scenarios;
mod world;
