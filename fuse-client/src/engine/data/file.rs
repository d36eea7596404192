//! The contents of one inode: its state, and what all operations on it share.

use super::core::Millis;
use super::core::dirty::Dirty;
use super::path::DataPath;
use super::prefetched::Prefetched;
use super::siblings::Sibling;
use crate::engine::error::FsError;
use cairn_proto::InodeId;
use parking_lot::{Mutex, MutexGuard};
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::Notify;

/// The contents of one inode; shared by all who hold it open.
pub struct FileData {
    pub(super) inode: InodeId,
    pub(super) path: Arc<DataPath>,
    /// The size when this mount began to use it: what lies behind has no chunks but those made since.
    pub(super) size_before: u64,
    pub(super) state: Mutex<State>,
    /// Something ended that others may wait for.
    pub(super) progress: Notify,
}

pub(super) struct State {
    pub size: u64,
    pub dirty: Dirty,
    /// The session under which what is dirty was written.
    pub session: u64,
    pub ahead: Prefetched,
    /// Chunks with acknowledged writes that are not known to be stable; the value is new with each such write.
    pub unsynced: HashMap<u64, u64>,
    acknowledged: u64,
    /// A write-back that failed and has not been reported.
    pub error: Option<FsError>,
    /// In the list of files with dirty data.
    registered: bool,
    /// The inode is gone.
    pub forgotten: bool,
}

impl FileData {
    pub(super) fn new(path: Arc<DataPath>, inode: InodeId, size: u64) -> Self {
        let state = State {
            size,
            dirty: Dirty::new(path.piece()),
            session: path.session(),
            ahead: Prefetched::default(),
            unsynced: HashMap::new(),
            acknowledged: 0,
            error: None,
            registered: false,
            forgotten: false,
        };
        Self { inode, path, size_before: size, state: Mutex::new(state), progress: Notify::new() }
    }

    /// Whose contents.
    pub fn inode(&self) -> InodeId {
        self.inode
    }

    /// The size, dirty data included.
    pub fn size(&self) -> u64 {
        self.state.lock().size
    }

    /// Whether a chunk can only be there if it was made since this mount uses the file.
    pub(super) fn is_new(&self, index: u64) -> bool {
        self.path.is_exclusive() && index * self.path.chunk_size() >= self.size_before
    }

    /// What the master says (shared mode). It must know of all that was written here.
    pub fn set_known_size(&self, size: u64) {
        self.state.lock().size = size;
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

    /// Takes over what was read in advance, before others see the file.
    pub(super) fn adopt(self: &Arc<Self>, sibling: Sibling) {
        let now = self.path.now();
        self.state.lock().ahead.adopt(sibling, now);
        self.path.note_reader(self);
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

    /// What waits to be sent under an earlier session is lost, as what is being sent may be. True: nobody knew yet.
    pub(super) fn abandon(&self) -> bool {
        let lost = self.enter_session(&mut self.state.lock());
        self.progress.notify_waiters();
        lost
    }

    /// From now on what becomes dirty belongs to the present session. True: something is lost, and nobody knew yet.
    pub(super) fn enter_session(&self, s: &mut State) -> bool {
        let session = self.path.session();
        if std::mem::replace(&mut s.session, session) == session || s.dirty.is_clean() {
            return false;
        }
        self.discard(s, 0..u64::MAX);
        self.settle(s);
        s.fail(&FsError::Fenced)
    }

    /// What was written is lost with its session, whatever of it arrived. True: nobody knew yet.
    pub fn lose(&self) -> bool {
        self.state.lock().fail(&FsError::Fenced)
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
        self.start(&mut s);
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

    /// Written data is lost. True: whoever wrote it does not know yet that any is.
    pub(super) fn fail(&mut self, error: &FsError) -> bool {
        let first = self.error.is_none();
        self.error.get_or_insert_with(|| error.clone());
        first
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
        self.file.start(&mut s);
        drop(s);
        self.file.progress.notify_waiters();
    }
}

impl Drop for FileData {
    fn drop(&mut self) {
        self.path.closed(self.inode);
    }
}
