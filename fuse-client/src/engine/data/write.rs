//! Writing to a file, and bringing what was written to the replicas.

use super::core::read_ahead::cut;
use super::file::{Busy, FileData};
use super::primary::{Body, ChunkWrite};
use crate::engine::error::FsError;
use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// While memory is short, writers look again at least this often.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The largest file, bytes.
const LARGEST: u64 = i64::MAX as u64;

fn range_of(offset: u64, len: usize) -> Result<Range<u64>, FsError> {
    let end = offset.checked_add(len as u64).filter(|end| *end <= LARGEST);
    Ok(offset..end.ok_or(FsError::TooLarge)?)
}

impl FileData {
    /// Takes the data into memory if that needs no waiting; false: nothing was taken, use [`Self::write`].
    pub fn try_write(self: &Arc<Self>, offset: u64, data: &[u8]) -> bool {
        let Ok(range) = range_of(offset, data.len()) else { return false };
        if range.is_empty() {
            return true;
        }
        let path = &self.path;
        if path.memory.is_short() {
            return false;
        }
        let mut s = self.state.lock();
        // Looked at under the lock: once the mode has changed and the lock was taken, nothing becomes dirty.
        if !path.is_exclusive() || s.dirty.is_busy(range.clone()) || s.has_failed() {
            return false;
        }
        self.enter_session(&mut s);
        let before = s.dirty.memory();
        let full = s.dirty.write(offset, data, path.now());
        path.memory.change(before, s.dirty.memory());
        s.size = s.size.max(range.end);
        s.ahead.invalidate(range);
        self.register(&mut s);
        let tight = path.memory.is_tight();
        if tight {
            s.dirty.want_all();
        }
        if full || tight {
            self.start(&mut s);
        }
        true
    }

    /// Takes the data into memory, after waiting for room. In shared mode, and once a write-back has failed, the same
    /// as `write_through(.., false)`, so that the writer hears of a full disk.
    pub async fn write(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<(), FsError> {
        range_of(offset, data.len())?;
        let deadline = super::primary::deadline(self.path.replicas.outage);
        loop {
            let freed = self.path.memory.freed.notified();
            let progress = self.progress.notified();
            tokio::pin!(freed, progress);
            freed.as_mut().enable();
            progress.as_mut().enable();
            if self.try_write(offset, data) {
                return Ok(());
            }
            if !self.path.is_exclusive() || self.state.lock().has_failed() {
                return self.write_through(offset, Bytes::copy_from_slice(data), false).await;
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(FsError::TimedOut("no memory: write-back does not get on".into()));
            }
            self.path.push_all();
            tokio::select! {
                () = freed => {}
                () = progress => {}
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    /// Returns when the in-sync set has acknowledged it; with `sync`, made it stable.
    pub async fn write_through(
        self: &Arc<Self>,
        offset: u64,
        data: Bytes,
        sync: bool,
    ) -> Result<(), FsError> {
        let range = range_of(offset, data.len())?;
        if range.is_empty() {
            return Ok(());
        }
        let session = self.path.session();
        // What was written before and waits in memory must not land on top of this later.
        self.wait(|s| {
            if s.dirty.gathers(range.clone()) {
                s.dirty.want_all();
                self.start(s);
                return None;
            }
            if s.dirty.in_flight(range.clone()) {
                return None;
            }
            s.dirty.begin_busy(range.clone());
            s.ahead.invalidate(range.clone());
            Some(())
        })
        .await;
        let _busy = Busy { file: self, range: range.clone() };
        let piece = self.path.piece();
        let parts = cut(range.clone(), self.path.chunk_size()).flat_map(|chunk| {
            let start = chunk.start;
            cut(0..chunk.end - start, piece).map(move |r| r.start + start..r.end + start)
        });
        let part = |r: Range<u64>| {
            let data = data.slice((r.start - offset) as usize..(r.end - offset) as usize);
            self.write_part(session, r.start, data, sync)
        };
        try_join_all(parts.map(part)).await?;
        let mut s = self.state.lock();
        s.size = s.size.max(range.end);
        Ok(())
    }

    async fn write_part(&self, session: u64, at: u64, data: Bytes, sync: bool) -> Result<(), FsError> {
        let chunk_size = self.path.chunk_size();
        let (index, offset) = (at / chunk_size, (at % chunk_size) as u32);
        let before = self.state.lock().unsynced.get(&index).copied();
        let new = self.is_new(index);
        let write = ChunkWrite { session, offset, body: Body::Data(data), new, sync };
        self.path.replicas.write((self.inode, index), write).await?;
        let mut s = self.state.lock();
        if sync {
            s.made_stable(index, before)
        } else {
            s.acknowledged(index)
        }
        Ok(())
    }

    /// Starts to write back everything that is dirty now; does not wait.
    pub fn push(self: &Arc<Self>) {
        let mut s = self.state.lock();
        s.dirty.want_all();
        self.start(&mut s);
    }

    /// Everything written before is acknowledged when this returns. Reports (and clears) a recorded error.
    pub async fn flush(self: &Arc<Self>) -> Result<(), FsError> {
        self.drain(false).await;
        self.take_error().map_or(Ok(()), Err)
    }

    /// Everything written before is stable at every in-sync replica when this returns. Reports (and clears) a
    /// recorded error.
    pub async fn fsync(self: &Arc<Self>) -> Result<(), FsError> {
        self.drain(true).await;
        let synced = self.sync_chunks().await;
        self.take_error().map_or(synced, Err)
    }

    /// Sends everything that is dirty now and waits for it. With `sync`, a chunk's only write is made stable at once.
    pub(super) async fn drain(self: &Arc<Self>, sync: bool) {
        let (upto, taken) = {
            let mut s = self.state.lock();
            if s.dirty.is_clean() {
                return;
            }
            let single = if sync { s.single_writes(self.path.chunk_size()) } else { HashSet::new() };
            let upto = s.dirty.want_all();
            (upto, self.take(&mut s, &single))
        };
        self.start_here(taken);
        self.wait(|s| s.dirty.reached(upto).then_some(())).await;
    }

    /// Makes every acknowledged write stable; chunks that have none are not asked.
    async fn sync_chunks(&self) -> Result<(), FsError> {
        let chunks: Vec<(u64, u64)> = self.state.lock().unsynced.iter().map(|(i, n)| (*i, *n)).collect();
        let results = join_all(chunks.into_iter().map(|(index, acknowledged)| async move {
            self.path.replicas.sync((self.inode, index)).await?;
            self.state.lock().made_stable(index, Some(acknowledged));
            Ok(())
        }));
        results.await.into_iter().collect()
    }
}
