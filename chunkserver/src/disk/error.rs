//! What can go wrong on a disk.

use cairn_proto::data::Status;
use std::io;

/// Why a disk did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// No room, or less than the reserve.
    #[error("the disk is full")]
    NoSpace,
    /// The disk failed, now or before: nothing on it is served any more.
    #[error("disk failure: {0}")]
    Io(io::Error),
    /// The disk failed earlier.
    #[error("the disk has failed")]
    Failed,
    /// A block does not match its checksum.
    #[error("block {block} does not match its checksum")]
    Corrupt {
        /// Its number in the chunk.
        block: u32,
    },
    /// Outside the chunk, or lengths that do not fit together.
    #[error("range outside the chunk")]
    Range,
    /// The chunk has been deleted.
    #[error("the chunk has been deleted")]
    Deleted,
    /// A replica of the chunk that knew a later epoch was deleted here: none is made anew.
    #[error("a replica that knew a later epoch has been deleted")]
    Stale,
}

impl From<io::Error> for DiskError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            _ => Self::Io(e),
        }
    }
}

impl DiskError {
    /// How a request that ran into it is answered.
    pub fn status(&self) -> Status {
        match self {
            Self::NoSpace => Status::NoSpace,
            Self::Io(_) | Self::Failed => Status::DiskError,
            Self::Corrupt { .. } => Status::Corrupt,
            Self::Range => Status::BadRequest,
            Self::Deleted => Status::NoChunk,
            Self::Stale => Status::StaleEpoch,
        }
    }
}
