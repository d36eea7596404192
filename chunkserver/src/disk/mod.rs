//! Disks: chunk files with checksums and versions for each block, made crash-consistent by a journal.

mod boot_mark;
mod change;
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
mod read;
mod recover;
pub mod storage;
mod store;
mod syncer;
mod write;

pub use boot_mark::BootMark;
pub use change::{Change, Payload};
pub use chunk_file::ChunkFile;
pub use error::DiskError;
pub use read::Blocks;
pub use recover::Recovered;
pub use store::{Disk, DiskSettings};
pub use syncer::Syncer;
