//! Disks: chunk files with checksums and versions for each block, made crash-consistent by a journal.

mod boot_mark;
mod change;
mod checkpoint;
mod chunk_file;
mod copy;
#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod crashing;
#[cfg(test)]
mod damage_tests;
mod error;
pub mod fs;
pub mod identity;
mod journal;
mod read;
mod recover;
mod scrub_mark;
mod spares;
pub mod storage;
mod store;
mod syncer;
mod verify;
mod write;

pub use boot_mark::BootMark;
pub use change::{Change, Payload};
pub use chunk_file::ChunkFile;
pub use error::DiskError;
pub use read::Blocks;
pub use recover::Recovered;
pub use scrub_mark::ScrubMark;
pub use store::{Disk, DiskSettings, Findings};
pub use syncer::Syncer;
pub use verify::{Source, Verified};
