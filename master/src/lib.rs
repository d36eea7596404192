//! CairnFS: names, inodes, chunk table, membership, repair.
//!
//! [`core`] decides and performs nothing; [`owner`] holds the state, runs the cores over the [`store`] and
//! commits, for one caller at a time; [`shell`] speaks gRPC.

mod config;
pub mod core;
mod error;
pub mod owner;
mod run;
pub mod shell;
pub mod store;

pub use config::Config;
pub use error::Error;
pub use run::run;
