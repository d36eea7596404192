//! Where the records are: an ordered key-value store with atomic, durable batches.

mod directory;
mod disk;
mod engine;
mod log;
mod memory;

use std::path::PathBuf;

use crate::core::scratch::Batch;
use crate::core::view::View;

pub use directory::{DataDir, FORMAT};
pub use disk::DiskStore;
pub use memory::MemoryStore;

/// How much more the store can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// Enough.
    Ample,
    /// Only for what makes it smaller.
    Scarce,
    /// For nothing.
    None,
}

/// A store of records.
pub trait Store: View + Send {
    /// Makes all changes of the batch durable, or none. What was committed is seen by reads at once.
    ///
    /// # Errors
    /// When it cannot be written; nothing of the batch may then be taken for done.
    fn commit(&mut self, batch: Batch) -> Result<(), StoreError>;

    /// How much more it can take, and bytes free for it.
    fn room(&self) -> (Room, u64);

    /// Called now and then: repairs itself, where it can.
    ///
    /// # Errors
    /// When it could not, and is of no use any more.
    fn tend(&mut self) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Why a store cannot be opened or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory cannot be used.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process holds it.
    #[error(
        "{0} is in use by another process: is a master running on it already? Stop that one, or choose another directory with --data"
    )]
    Locked(PathBuf),
    /// It holds something else.
    #[error("{0} is not empty and holds no CairnFS master: choose an empty or a new directory with --data")]
    Foreign(PathBuf),
    /// It was written by a newer version, or is damaged.
    #[error(
        "{path} has format \"{found}\", this version of cairn reads up to \"{known}\": use a newer cairn for it"
    )]
    Format {
        /// The directory.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What is understood.
        known: String,
    },
    /// The engine has lost what it had made durable.
    #[error("the store is damaged: its engine has changes up to {applied}, its log those from {logged} on")]
    Gap {
        /// The last change in the engine.
        applied: u64,
        /// The first in the log that the engine lacks.
        logged: u64,
    },
    /// No space on its disk.
    #[error("no space left for the store")]
    NoSpace,
    /// The engine failed.
    #[error("the store's engine failed: {0}")]
    Engine(String),
}
