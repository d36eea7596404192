//! The data half of the engine: file contents between the caller's memory and the chunkservers.
//!
//! [`DataPath`] is the mount's; it hands out one [`FileData`] for each inode in use.

mod config;
pub mod core;
mod file;
mod locations;
mod memory;
mod nearest;
mod path;
mod peers;
mod prefetched;
mod primary;
mod read;
mod resize;
mod send;
mod service;
mod siblings;
mod write;

pub use config::DataConfig;
pub use file::FileData;
pub use path::{DataPath, Traffic};
pub use service::{ChunkService, WriteBackObserver};

#[cfg(test)]
mod tests;
