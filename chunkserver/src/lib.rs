//! The chunkserver: stores chunk replicas, replicates writes, heals.
//!
//! `core` is pure: formats and the state machine of a replica. `disk` keeps replicas on disks,
//! crash-consistently. `node` is the shell: connections, the master, background work.

mod config;
pub mod core;
pub mod disk;
mod node;
mod run;

pub use config::{Config, Error};
pub use run::run;
