//! Checkpoints: what only the journal and memory hold goes into the chunk files, and the journal's
//! segments become free.

use super::chunk_file::{ChunkFile, path};
use super::error::DiskError;
use super::storage::StorageFile;
use super::store::{Disk, table};
use crate::core::layout::encode_header;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// With more files than this one sync of the whole file system is cheaper.
const ONE_BY_ONE: usize = 64;

/// The parts of a chunk file that have changed: (offset, bytes).
struct Changed {
    /// Opened while the chunk was known to be there: by its name another one may be found later.
    file: Arc<dyn StorageFile>,
    dir: String,
    chunk: Arc<ChunkFile>,
    parts: Vec<(u64, Vec<u8>)>,
    fresh: bool,
}

impl Disk {
    /// Whether the journal waits for one.
    pub fn wants_checkpoint(&self) -> bool {
        !self.has_failed() && self.journal.wants_checkpoint()
    }

    /// Whether anything has changed since the last.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.lock().is_empty() || !self.blanked.lock().is_empty()
    }

    /// Makes one. Everything recorded before the call is in the chunk files, durably, when this returns.
    pub fn checkpoint(&self) -> Result<(), DiskError> {
        let _one_at_a_time = self.checkpointing.lock();
        if self.has_failed() {
            return Err(DiskError::Failed);
        }
        let upto = self.stable_value(self.journal.rotate())?;
        let dirty = std::mem::take(&mut *self.dirty.lock());
        let blanked = self.blanked.lock().clone();
        let mut all = Vec::with_capacity(dirty.len());
        for chunk in dirty.into_values() {
            all.extend(self.collect(&chunk)?);
        }
        // A table must not be on the disk before the records of what it says are.
        self.stable(self.journal.sync())?;
        let one_by_one = all.len() + blanked.len() <= ONE_BY_ONE;
        let mut dirs = BTreeSet::new();
        for c in &all {
            if self.write_back(c)? && one_by_one {
                self.stable(c.file.sync())?;
                if c.fresh {
                    dirs.insert(c.dir.clone());
                }
            }
        }
        if one_by_one {
            for id in blanked.keys() {
                match self.storage.open(&path(*id), false).and_then(|f| f.sync()) {
                    // Its chunk came back meanwhile.
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                    other => self.stable(other)?,
                }
            }
        } else {
            self.stable(self.storage.sync_all())?;
        }
        for dir in dirs {
            self.stable(self.storage.sync_dir(&dir))?;
        }
        for c in &all {
            c.chunk.state.lock().imaged_before.clear();
        }
        self.keep(&blanked)?;
        self.stable(self.journal.release(upto))
    }

    /// False: the replica was deleted, and its file may be another's any moment.
    fn write_back(&self, c: &Changed) -> Result<bool, DiskError> {
        let state = c.chunk.state.lock();
        if state.deleted {
            return Ok(false);
        }
        for (at, bytes) in &c.parts {
            self.stable(c.file.write_at(&[bytes], *at))?;
        }
        Ok(true)
    }

    fn collect(&self, chunk: &Arc<ChunkFile>) -> Result<Option<Changed>, DiskError> {
        let mut state = chunk.state.lock();
        state.registered = false;
        if state.deleted {
            return Ok(None);
        }
        let file = self.file(chunk, &mut state)?;
        let mut parts = Vec::new();
        let at = self.settings.geometry.table();
        parts.extend(table(&mut state).take_dirty_pages().into_iter().map(|(o, b)| (at + o, b)));
        state.stored = table(&mut state).len();
        // Last: the header says how much of the table counts.
        parts.push((0, encode_header(chunk.id, &state.header(), state.stored).to_vec()));
        state.header_dirty = false;
        let fresh = std::mem::take(&mut state.fresh);
        state.imaged_before = std::mem::take(&mut state.imaged);
        Ok(Some(Changed { file, dir: chunk.dir(), chunk: chunk.clone(), parts, fresh }))
    }

    /// Drops the tables of chunks that have not been used since the last call.
    pub fn drop_tables<'a>(&self, chunks: impl Iterator<Item = &'a Arc<ChunkFile>>) {
        let _not_while_pages_are_under_way = self.checkpointing.lock();
        for c in chunks {
            let mut state = c.state.lock();
            if state.registered || std::mem::take(&mut state.used) {
                continue;
            }
            if let Some(t) = state.table.take() {
                if t.is_dirty() {
                    state.table = Some(t);
                } else {
                    let less = |b: u64| Some(b.saturating_sub(t.memory() as u64));
                    let _ = self.table_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
                }
            }
        }
    }

    fn stable_value<T>(&self, r: std::io::Result<T>) -> Result<T, DiskError> {
        r.map_err(|e| {
            self.fail(&e);
            DiskError::Io(e)
        })
    }
}
