//! The contents of one inode: its state, and what all operations on it share.

use super::core::Millis;
use super::core::dirty::{Dirty, Job};
use super::path::DataPath;
use super::prefetched::Prefetched;
use super::primary::{Body, ChunkWrite};
use crate::engine::error::FsError;
use bytes::Bytes;
use cairn_proto::InodeId;
use futures::stream::{StreamExt, TryStreamExt};
use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Notify;

/// Bytes of one file being sent at once, at most (plus one piece).
const FLYING_BYTES: usize = 8 << 20;
/// Separate writes of one file being sent at once, at most (plus those of one piece, of which as many go at once).
/// Replicas remember the ids of the last 256 writes of a chunk.
const FLYING_EXTENTS: usize = 64;

/// The contents of one inode; shared by all who hold it open.
pub struct FileData {
    pub(super) inode: InodeId,
    pub(super) path: Arc<DataPath>,
    pub(super) state: Mutex<State>,
    /// Something ended that others may wait for.
    pub(super) progress: Notify,
}

pub(super) struct State {
    pub size: u64,
    pub dirty: Dirty,
    pub ahead: Prefetched,
    /// Chunks with acknowledged writes that are not known to be stable; the value is new with each such write.
    pub unsynced: HashMap<u64, u64>,
    acknowledged: u64,
    /// A write-back that failed and has not been reported.
    error: Option<FsError>,
    /// In the list of files with dirty data.
    registered: bool,
    /// The inode is gone.
    forgotten: bool,
}

impl FileData {
    pub(super) fn new(path: Arc<DataPath>, inode: InodeId, size: u64) -> Self {
        let state = State {
            size,
            dirty: Dirty::new(path.piece()),
            ahead: Prefetched::default(),
            unsynced: HashMap::new(),
            acknowledged: 0,
            error: None,
            registered: false,
            forgotten: false,
        };
        Self { inode, path, state: Mutex::new(state), progress: Notify::new() }
    }

    /// Whose contents.
    pub fn inode(&self) -> InodeId {
        self.inode
    }

    /// The size, dirty data included.
    pub fn size(&self) -> u64 {
        self.state.lock().size
    }

    /// What the master says (shared mode). Ignored while there is dirty data.
    pub fn set_known_size(&self, size: u64) {
        let mut s = self.state.lock();
        if s.dirty.is_clean() {
            s.size = size;
        }
    }

    /// The file was extended (fallocate) to `size` bytes, if it was shorter.
    pub fn extend(&self, size: u64) {
        let mut s = self.state.lock();
        s.size = s.size.max(size);
    }

    /// Dirty bytes, those in flight included.
    pub fn dirty_bytes(&self) -> u64 {
        self.state.lock().dirty.bytes()
    }

    /// Whether anything is dirty or in flight.
    pub fn dirty(&self) -> bool {
        !self.state.lock().dirty.is_clean()
    }

    /// The error of a write-back that failed since the last report, once.
    pub fn take_error(&self) -> Option<FsError> {
        self.state.lock().error.take()
    }

    pub(super) fn error(&self) -> Option<FsError> {
        self.state.lock().error.clone()
    }

    /// Forgets read-ahead (dirty data stays).
    pub fn drop_cache(&self) {
        self.state.lock().ahead.clear();
    }

    /// The master has dropped chunks with these indexes.
    pub fn forget_locations(&self, indexes: Range<u64>) {
        self.path.replicas.locations.forget(self.inode, indexes);
        self.state.lock().ahead.clear();
    }

    /// The inode is gone: nothing of it is sent any more.
    pub(super) fn forget(&self) {
        let mut s = self.state.lock();
        s.forgotten = true;
        s.error = None;
        s.ahead.clear();
        self.discard(&mut s, 0..u64::MAX);
        self.settle(&mut s);
        drop(s);
        self.progress.notify_waiters();
    }

    /// Drops dirty data.
    pub(super) fn discard(&self, s: &mut State, range: Range<u64>) {
        let before = s.dirty.memory();
        s.dirty.discard(range);
        self.path.memory.change(before, s.dirty.memory());
    }

    /// Waits until `ready` gives something; it is asked again whenever something has ended.
    pub(super) async fn wait<T>(&self, mut ready: impl FnMut(&mut MutexGuard<'_, State>) -> Option<T>) -> T {
        loop {
            let progress = self.progress.notified();
            tokio::pin!(progress);
            progress.as_mut().enable();
            if let Some(t) = ready(&mut self.state.lock()) {
                return t;
            }
            progress.await;
        }
    }

    /// Starts as many of the wanted writes as may be in flight. `sync`: chunks in which a write is to be made stable at once.
    pub(super) fn start(self: &Arc<Self>, s: &mut State, sync: &HashSet<u64>) {
        loop {
            let flying = s.dirty.flying();
            if flying.bytes >= FLYING_BYTES || flying.extents >= FLYING_EXTENTS {
                return;
            }
            let Some(job) = s.dirty.take() else { return };
            let index = job.piece * self.path.piece() / self.path.chunk_size();
            let sync = sync.contains(&index).then(|| s.unsynced.get(&index).copied());
            self.path.runtime.spawn(self.clone().send(job, index, sync));
        }
    }

    /// Sends a piece. `sync`: to be made stable at once, together with what was acknowledged before under that number.
    async fn send(self: Arc<Self>, job: Job, index: u64, sync: Option<Option<u64>>) {
        let result = self.send_extents(job.extents, index, sync.is_some()).await;
        let mut s = self.state.lock();
        match (&result, sync) {
            (Ok(()), Some(before)) => s.made_stable(index, before),
            (Ok(()), None) => s.acknowledged(index),
            (Err(_), _) if s.forgotten => {}
            (Err(e), _) => {
                tracing::error!(inode = self.inode.0, chunk_index = index, "written data is lost: {e}");
                s.error.get_or_insert_with(|| e.clone());
                // What of the piece did arrive is unsynced.
                s.acknowledged(index);
            }
        }
        let before = s.dirty.memory();
        let range = s.dirty.done(job.piece);
        self.path.memory.change(before, s.dirty.memory());
        s.ahead.invalidate(range);
        self.start(&mut s, &HashSet::new());
        let clean = self.settle(&mut s);
        drop(s);
        self.progress.notify_waiters();
        if clean {
            self.path.written_back(self.inode);
        }
    }

    async fn send_extents(&self, extents: Vec<(u64, Bytes)>, index: u64, sync: bool) -> Result<(), FsError> {
        let base = index * self.path.chunk_size();
        let write = |(at, data): (u64, Bytes)| {
            let write = ChunkWrite { offset: (at - base) as u32, body: Body::Data(data), sync };
            self.path.replicas.write((self.inode, index), write)
        };
        if let [_] = &extents[..] {
            let mut extents = extents;
            return match extents.pop() {
                Some(only) => write(only).await,
                None => Ok(()),
            };
        }
        futures::stream::iter(extents.into_iter().map(write))
            .buffer_unordered(FLYING_EXTENTS)
            .try_collect::<()>()
            .await
    }

    /// Takes the file from the list of those with dirty data when it has none. True: it has none.
    pub(super) fn settle(&self, s: &mut State) -> bool {
        let clean = s.dirty.is_clean();
        if clean && s.registered {
            s.registered = false;
            self.path.unregister(self.inode);
        }
        clean
    }

    /// Enters the file in the list of those with dirty data.
    pub(super) fn register(self: &Arc<Self>, s: &mut State) {
        if !s.registered {
            s.registered = true;
            self.path.register(self);
        }
    }

    /// Called from time to time: sends what began before `written`, forgets read-ahead not used since `read`.
    pub(super) fn tick(self: &Arc<Self>, written: Option<Millis>, read: Millis) {
        let mut s = self.state.lock();
        if let Some(then) = written {
            s.dirty.want_older(then);
        }
        self.start(&mut s, &HashSet::new());
        s.ahead.expire(read);
        if !s.ahead.is_empty() {
            self.path.note_reader(self);
        }
    }
}

impl State {
    pub(super) fn acknowledged(&mut self, index: u64) {
        self.acknowledged += 1;
        self.unsynced.insert(index, self.acknowledged);
    }

    /// Everything acknowledged of a chunk when its number was `before` is stable.
    pub(super) fn made_stable(&mut self, index: u64, before: Option<u64>) {
        if self.unsynced.get(&index).copied() == before {
            self.unsynced.remove(&index);
        }
    }

    /// Write-back has failed and nobody has heard of it yet.
    pub(super) fn has_failed(&self) -> bool {
        self.error.is_some()
    }

    /// Chunks in which exactly one write is to be sent, and none is in flight.
    pub(super) fn single_writes(&self, chunk_size: u64) -> HashSet<u64> {
        let mut counts: HashMap<u64, usize> = HashMap::new();
        for (at, extents) in self.dirty.gathering() {
            *counts.entry(at / chunk_size).or_default() += extents;
        }
        let idle = |i: &u64| !self.dirty.in_flight(i * chunk_size..(i + 1) * chunk_size);
        counts.into_iter().filter(|(i, n)| *n == 1 && idle(i)).map(|(i, _)| i).collect()
    }
}

/// A direct operation on the replicas: while it lasts nothing that overlaps is sent.
pub(super) struct Busy<'a> {
    pub file: &'a Arc<FileData>,
    pub range: Range<u64>,
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        let mut s = self.file.state.lock();
        s.dirty.end_busy(&self.range);
        s.ahead.invalidate(self.range.clone());
        self.file.start(&mut s, &HashSet::new());
        drop(s);
        self.file.progress.notify_waiters();
    }
}

impl Drop for FileData {
    fn drop(&mut self) {
        self.path.closed(self.inode);
    }
}
