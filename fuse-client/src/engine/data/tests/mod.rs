//! The data path against chunkservers over real sockets.

mod cluster;
mod faults;
mod model;
mod requests;
mod server;
