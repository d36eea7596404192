//! The data half of the engine: file contents between the caller's memory and the chunkservers.
//!
//! [`DataPath`] is the mount's; it hands out one [`FileData`] for each inode in use.

mod config;
mod service;

pub use config::DataConfig;
pub use service::{ChunkService, WriteBackObserver};

use crate::engine::error::FsError;
use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::rpc::{ChunkInfo, ServerInfo};
use std::ops::Range;
use std::sync::Arc;

/// The data path of one mount.
pub struct DataPath {}

/// Bytes moved since the mount began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received from chunkservers.
    pub read: u64,
    /// Sent to chunkservers and acknowledged.
    pub written: u64,
}

#[allow(unused_variables)]
impl DataPath {
    /// `runtime` must be multi-threaded or otherwise driven for as long as the data path lives.
    pub fn new(
        config: DataConfig,
        chunks: Arc<dyn ChunkService>,
        runtime: tokio::runtime::Handle,
    ) -> Arc<Self> {
        todo!()
    }
    /// Who hears of finished write-back.
    pub fn set_observer(&self, observer: Arc<dyn WriteBackObserver>) {
        todo!()
    }
    /// The chunkservers there are; replaces the earlier list.
    pub fn set_servers(&self, servers: Vec<ServerInfo>) {
        todo!()
    }
    /// The master says that this chunk has changed. What waits for its old primary tries again at once.
    pub fn chunk_changed(&self, chunk: ChunkInfo) {
        todo!()
    }
    /// The session was renewed: later connections and writes carry the new id.
    pub fn set_session(&self, session: u64) {
        todo!()
    }
    /// False: nothing is cached from now on (call [`Self::flush_all`] and [`Self::drop_caches`] after it).
    pub fn set_exclusive(&self, exclusive: bool) {
        todo!()
    }
    /// The inode is gone: its dirty data is dropped unsent, without an error.
    pub fn forget_inode(&self, inode: InodeId) {
        todo!()
    }
    /// Forgets locations and read-ahead of every file (dirty data stays).
    pub fn drop_caches(&self) {
        todo!()
    }
    /// Everything dirty in any file is acknowledged when this returns; the first error, if any.
    pub async fn flush_all(self: &Arc<Self>) -> Result<(), FsError> {
        todo!()
    }
    /// Bytes moved so far.
    pub fn traffic(&self) -> Traffic {
        todo!()
    }
    /// The contents of an inode; the same object for all who hold it. `size` counts only where it is not in use yet.
    pub fn file(self: &Arc<Self>, inode: InodeId, size: u64) -> Arc<FileData> {
        todo!()
    }
}

/// The contents of one inode.
pub struct FileData {}

#[allow(unused_variables)]
impl FileData {
    /// Whose contents.
    pub fn inode(&self) -> InodeId {
        todo!()
    }
    /// The size, dirty data included.
    pub fn size(&self) -> u64 {
        todo!()
    }
    /// What the master says (shared mode). Ignored while there is dirty data.
    pub fn set_known_size(&self, size: u64) {
        todo!()
    }
    /// Dirty bytes, those in flight included.
    pub fn dirty_bytes(&self) -> u64 {
        todo!()
    }
    /// Whether anything is dirty or in flight.
    pub fn dirty(&self) -> bool {
        todo!()
    }
    /// From memory alone: `None` when it cannot be answered without waiting.
    pub fn try_read(self: &Arc<Self>, offset: u64, len: usize) -> Option<Bytes> {
        todo!()
    }
    /// At most `len` bytes; fewer only at the end of the file.
    pub async fn read(self: &Arc<Self>, offset: u64, len: usize) -> Result<Bytes, FsError> {
        todo!()
    }
    /// Takes the data into memory if that needs no waiting; false: nothing was taken, use [`Self::write`].
    pub fn try_write(self: &Arc<Self>, offset: u64, data: &[u8]) -> bool {
        todo!()
    }
    /// Takes the data into memory, after waiting for room. In shared mode the same as `write_through(.., false)`.
    pub async fn write(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<(), FsError> {
        todo!()
    }
    /// Returns when the in-sync set has acknowledged it; with `sync`, made it stable.
    pub async fn write_through(
        self: &Arc<Self>,
        offset: u64,
        data: Bytes,
        sync: bool,
    ) -> Result<(), FsError> {
        todo!()
    }
    /// Starts to write back everything that is dirty now; does not wait.
    pub fn push(self: &Arc<Self>) {
        todo!()
    }
    /// Everything written before is acknowledged when this returns. Reports (and clears) a recorded error.
    pub async fn flush(self: &Arc<Self>) -> Result<(), FsError> {
        todo!()
    }
    /// Everything written before is stable at every in-sync replica when this returns. Reports (and clears) a recorded error.
    pub async fn fsync(self: &Arc<Self>) -> Result<(), FsError> {
        todo!()
    }
    /// The error of a write-back that failed since the last report, once.
    pub fn take_error(&self) -> Option<FsError> {
        todo!()
    }
    /// Sets the size. When it shrinks: dirty data behind is dropped and the tail of the last chunk that stays is zero at
    /// the replicas when this returns; only then tell the master, then call [`Self::forget_locations`] for the chunks that it dropped.
    pub async fn truncate(self: &Arc<Self>, size: u64) -> Result<(), FsError> {
        todo!()
    }
    /// Makes `[offset, offset + len)` zeros without changing the size. Partial chunks are zeroed here; returned are the
    /// indexes of chunks that lie wholly inside (may be empty), which the caller has the master drop (`DropChunks`), and
    /// then passes to [`Self::forget_locations`].
    pub async fn punch(self: &Arc<Self>, offset: u64, len: u64) -> Result<Range<u64>, FsError> {
        todo!()
    }
    /// The master has dropped chunks with these indexes.
    pub fn forget_locations(&self, indexes: Range<u64>) {
        todo!()
    }
    /// The first data at or behind `offset` ([`FsError::NoSuchOffset`]: none).
    pub async fn seek_data(self: &Arc<Self>, offset: u64) -> Result<u64, FsError> {
        todo!()
    }
    /// The first hole at or behind `offset`; the end of the file counts as one.
    pub async fn seek_hole(self: &Arc<Self>, offset: u64) -> Result<u64, FsError> {
        todo!()
    }
    /// The file was extended (fallocate) to `size` bytes, if it was shorter.
    pub fn extend(&self, size: u64) {
        todo!()
    }
    /// Forgets read-ahead (dirty data stays).
    pub fn drop_cache(&self) {
        todo!()
    }
}
