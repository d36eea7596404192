//! The data path of one mount: what all its files share.

use super::core::Millis;
use super::file::FileData;
use super::locations::Locations;
use super::memory::Memory;
use super::peers::Peers;
use super::primary::Replicas;
use super::siblings::Siblings;
use super::{ChunkService, DataConfig, WriteBackObserver};
use crate::engine::error::FsError;
use cairn_proto::InodeId;
use cairn_proto::block::PIECE;
use cairn_proto::data::Buffer;
use cairn_proto::rpc::{ChunkInfo, ServerInfo};
use futures::future::join_all;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Read-ahead that nobody wanted for so long is forgotten, milliseconds.
const READ_AHEAD_KEPT: Millis = 5_000;
/// The part of the memory that read-ahead may take: one in so many.
const READ_AHEAD_SHARE: usize = 4;

/// The data path of one mount.
pub struct DataPath {
    config: DataConfig,
    pub(super) replicas: Replicas,
    pub(super) runtime: tokio::runtime::Handle,
    /// For dirty data.
    pub(super) memory: Arc<Memory>,
    /// For read-ahead.
    pub(super) read_memory: Arc<Memory>,
    files: Mutex<HashMap<InodeId, Weak<FileData>>>,
    /// Files with dirty data, kept alive though nobody holds them open.
    dirty: Mutex<HashMap<InodeId, Arc<FileData>>>,
    /// Files that may hold read-ahead.
    readers: Mutex<HashMap<InodeId, Weak<FileData>>>,
    /// Small files that may be opened next.
    pub(super) siblings: Siblings,
    observer: RwLock<Option<Arc<dyn WriteBackObserver>>>,
    started: Instant,
}

/// Bytes moved since the mount began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Received from chunkservers.
    pub read: u64,
    /// Sent to chunkservers and acknowledged.
    pub written: u64,
    /// Requests that were sent again.
    pub retries: u64,
}

impl DataPath {
    /// `runtime` must be driven for as long as the data path lives; the async functions are to be called on it.
    pub fn new(
        config: DataConfig,
        chunks: Arc<dyn ChunkService>,
        runtime: tokio::runtime::Handle,
    ) -> Arc<Self> {
        // Fresh memory is dear, and what is in use is bounded by `memory`.
        Buffer::keep((config.memory / PIECE).max(16));
        let peers = Peers::new(config.cluster, config.session, config.boot_id.clone());
        let locations = Arc::new(Locations::new(chunks, config.locations));
        let read_ahead = config.memory / READ_AHEAD_SHARE;
        let path = Arc::new(Self {
            replicas: Replicas::new(peers, locations, config.outage),
            memory: Memory::new(config.memory - read_ahead),
            read_memory: Memory::new(read_ahead),
            config,
            runtime: runtime.clone(),
            files: Mutex::default(),
            dirty: Mutex::default(),
            readers: Mutex::default(),
            siblings: Siblings::default(),
            observer: RwLock::default(),
            started: Instant::now(),
        });
        runtime.spawn(run_ticks(Arc::downgrade(&path), path.config.flush_delay));
        path
    }

    /// Who hears of finished write-back.
    pub fn set_observer(&self, observer: Arc<dyn WriteBackObserver>) {
        *self.observer.write() = Some(observer);
    }

    /// The chunkservers there are; replaces the earlier list.
    pub fn set_servers(&self, servers: Vec<ServerInfo>) {
        self.replicas.peers.set_servers(servers);
    }

    /// The master says that this chunk has changed. What waits for its old primary tries again at once.
    pub fn chunk_changed(&self, chunk: ChunkInfo) {
        self.replicas.locations.changed(chunk);
    }

    /// The session was renewed: later connections and writes carry the new id. What had not been written back is lost: it is an error
    /// of the files that are returned.
    pub fn set_session(&self, session: u64) -> Vec<InodeId> {
        self.replicas.peers.set_session(session);
        self.live_files().iter().filter(|f| f.abandon()).map(|f| f.inode).collect()
    }

    /// The present session.
    pub fn session(&self) -> u64 {
        self.replicas.peers.session()
    }

    /// False: nothing is cached from now on (call [`Self::flush_all`] and [`Self::drop_caches`] after it).
    pub fn set_exclusive(&self, exclusive: bool) {
        self.replicas.locations.set_exclusive(exclusive);
        self.siblings.clear();
        // What a reader of the other mode still puts there is not looked at.
        self.live_files().iter().for_each(|f| f.drop_cache());
    }

    pub(super) fn is_exclusive(&self) -> bool {
        self.replicas.locations.is_exclusive()
    }

    /// The inode is gone: its dirty data is dropped unsent, without an error.
    pub fn forget_inode(&self, inode: InodeId) {
        let file = self.files.lock().get(&inode).and_then(Weak::upgrade);
        if let Some(file) = file {
            file.forget();
        }
    }

    /// Forgets locations and read-ahead of every file (dirty data stays).
    pub fn drop_caches(&self) {
        self.replicas.locations.clear();
        self.siblings.clear();
        self.live_files().iter().for_each(|f| f.drop_cache());
    }

    /// Everything dirty in any file is acknowledged when this returns. The first error of a write-back, which stays
    /// recorded with its file.
    pub async fn flush_all(self: &Arc<Self>) -> Result<(), FsError> {
        // All files, as a writer may be about to enter its own into the list of the dirty ones.
        let files = self.live_files();
        join_all(files.iter().map(|f| f.drain(false))).await;
        files.iter().find_map(|f| f.error()).map_or(Ok(()), Err)
    }

    /// Bytes moved so far.
    pub fn traffic(&self) -> Traffic {
        Traffic {
            read: self.replicas.read_bytes.load(Ordering::Relaxed),
            written: self.replicas.written_bytes.load(Ordering::Relaxed),
            retries: self.replicas.retries.load(Ordering::Relaxed),
        }
    }

    /// Memory in use, bytes: dirty data, read-ahead.
    pub fn memory_used(&self) -> (usize, usize) {
        (self.memory.used(), self.read_memory.used())
    }

    /// The contents of an inode; the same object for all who hold it. `size` counts only where it is not in use yet.
    pub fn file(self: &Arc<Self>, inode: InodeId, size: u64) -> Arc<FileData> {
        let mut files = self.files.lock();
        if let Some(file) = files.get(&inode).and_then(Weak::upgrade) {
            return file;
        }
        let file = Arc::new(FileData::new(self.clone(), inode, size));
        if let Some(sibling) = self.siblings.take(inode).filter(|_| self.is_exclusive()) {
            file.adopt(sibling);
        }
        files.insert(inode, Arc::downgrade(&file));
        file
    }

    /// Does something while nobody can begin to use the inode, if nobody uses it.
    pub(super) fn unless_in_use<T>(&self, inode: InodeId, then: impl FnOnce() -> Option<T>) -> Option<T> {
        let files = self.files.lock();
        if files.get(&inode).is_some_and(|f| f.strong_count() > 0) {
            return None;
        }
        then()
    }

    /// Starts to write back everything dirty in any file.
    pub(super) fn push_all(&self) {
        for file in self.dirty_files() {
            file.push();
        }
    }

    pub(super) fn register(&self, file: &Arc<FileData>) {
        self.dirty.lock().insert(file.inode, file.clone());
    }

    /// The caller holds the file, so that this does not drop it.
    pub(super) fn unregister(&self, inode: InodeId) {
        self.dirty.lock().remove(&inode);
    }

    pub(super) fn note_reader(&self, file: &Arc<FileData>) {
        self.readers.lock().entry(file.inode).or_insert_with(|| Arc::downgrade(file));
    }

    /// The last reference to a file is gone.
    pub(super) fn closed(&self, inode: InodeId) {
        for map in [&self.files, &self.readers] {
            let mut map = map.lock();
            if map.get(&inode).is_some_and(|f| f.strong_count() == 0) {
                map.remove(&inode);
            }
        }
    }

    fn observer(&self) -> Option<Arc<dyn WriteBackObserver>> {
        self.observer.read().clone()
    }

    pub(super) fn written_back(&self, inode: InodeId) {
        if let Some(observer) = self.observer() {
            observer.written_back(inode);
        }
    }

    pub(super) fn lost(&self, inode: InodeId, why: &FsError) {
        if let Some(observer) = self.observer() {
            observer.lost(inode, why);
        }
    }

    /// Bytes in the pieces by which files are cut: 1 MiB, or a chunk if that is less.
    pub(super) fn piece(&self) -> u64 {
        self.config.chunk_size.min(PIECE as u64)
    }

    pub(super) fn chunk_size(&self) -> u64 {
        self.config.chunk_size
    }

    /// Milliseconds since the mount began.
    pub fn now(&self) -> Millis {
        self.started.elapsed().as_millis() as Millis
    }

    fn live_files(&self) -> Vec<Arc<FileData>> {
        self.files.lock().values().filter_map(Weak::upgrade).collect()
    }

    fn dirty_files(&self) -> Vec<Arc<FileData>> {
        self.dirty.lock().values().cloned().collect()
    }

    fn tick(&self) {
        let now = self.now();
        let written = now.checked_sub(self.config.flush_delay.as_millis() as Millis);
        let read = now.saturating_sub(READ_AHEAD_KEPT);
        self.siblings.expire(read);
        let mut files = self.dirty_files();
        files.extend(self.readers.lock().drain().filter_map(|(_, f)| f.upgrade()));
        for file in files {
            file.tick(written, read);
        }
    }
}

/// Drives what happens by time alone, until the data path is gone.
async fn run_ticks(path: Weak<DataPath>, flush_delay: Duration) {
    let every = (flush_delay / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        tokio::time::sleep(every).await;
        match path.upgrade() {
            Some(path) => path.tick(),
            None => return,
        }
    }
}
