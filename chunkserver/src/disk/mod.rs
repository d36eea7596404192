//! Disks: chunk files with checksums and versions for each block, made crash-consistent by a journal.

mod checkpoint;
mod chunk_file;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod crashing;
mod error;
pub mod fs;
pub mod identity;
mod journal;
mod recover;
pub mod storage;
mod store;
mod syncer;

pub use chunk_file::ChunkFile;
pub use error::DiskError;
pub use recover::Recovered;
pub use store::{Blocks, Change, Disk, DiskSettings, Payload};
pub use syncer::Syncer;
