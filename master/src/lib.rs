//! CairnFS: names, inodes, chunk table, membership, repair.
//!
//! [`core`] decides and performs nothing; [`owner`] is the one thread that holds the state, runs the
//! cores over the [`store`] and commits; [`shell`] speaks gRPC.

pub mod core;
pub mod owner;
pub mod shell;
pub mod store;
