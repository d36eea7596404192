//! What the data path needs from elsewhere: the master's word on chunks, and somebody to tell.

use crate::engine::error::FsError;
use cairn_proto::rpc::{ChunkInfo, Failure, Neighbour};
use cairn_proto::{ChunkId, Epoch, InodeId, ServerId};
use futures::future::BoxFuture;

/// The master, as the data path sees it. Implementations retry and end by the session's own deadline;
/// every error they return is final for the call, and only [`FsError::TimedOut`] and
/// [`FsError::Unreachable`] are asked again.
pub trait ChunkService: Send + Sync + 'static {
    /// Chunks of the file with index in `[from, from + count)`; absent ones are holes.
    fn get_chunks(
        &self,
        inode: InodeId,
        from: u64,
        count: u32,
    ) -> BoxFuture<'_, Result<Vec<ChunkInfo>, FsError>>;

    /// The first chunks of the next files by inode number, `count` at most, and the files' sizes.
    fn neighbours(&self, after: InodeId, count: u32) -> BoxFuture<'_, Result<Vec<Neighbour>, FsError>>;

    /// As `get_chunks`; chunks are made where there are none.
    fn alloc_chunks(
        &self,
        inode: InodeId,
        from: u64,
        count: u32,
    ) -> BoxFuture<'_, Result<Vec<ChunkInfo>, FsError>>;

    /// Reports replicas that could not be used; the answer is the chunk as it stands now.
    fn replica_failed(
        &self,
        chunk: ChunkId,
        epoch: Epoch,
        servers: Vec<ServerId>,
        failure: Failure,
    ) -> BoxFuture<'_, Result<ChunkInfo, FsError>>;
}

/// Hears of finished write-back.
pub trait WriteBackObserver: Send + Sync + 'static {
    /// All that had been written to the file is acknowledged; nothing of it is dirty. Called without locks held,
    /// in a task of the data path: it must not block.
    fn written_back(&self, inode: InodeId);

    /// Data that had been written to the file could not be brought to the replicas: an error that the next fsync or close reports.
    /// Called as [`Self::written_back`] is, once until somebody has been told.
    fn lost(&self, inode: InodeId, why: &FsError);
}
