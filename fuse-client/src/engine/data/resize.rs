//! Changes that are not writes: truncation, punched holes; and the search for data and holes.

use super::core::read_ahead::cut;
use super::file::{Busy, FileData};
use crate::engine::error::FsError;
use futures::future::try_join_all;
use std::ops::Range;
use std::sync::Arc;

/// Chunks asked about at once by the first step of a search; doubled after each step that finds none.
const FIRST_STEP: u32 = 64;
const WIDEST_STEP: u32 = 1 << 30;

impl FileData {
    /// Sets the size. When it shrinks: dirty data behind is dropped and the tail of the last chunk that stays is zero
    /// at the replicas when this returns; only then tell the master, then call [`Self::forget_locations`] for the
    /// chunks that it dropped.
    pub async fn truncate(self: &Arc<Self>, size: u64) -> Result<(), FsError> {
        if size > i64::MAX as u64 {
            return Err(FsError::TooLarge);
        }
        let session = self.path.session();
        let behind = size..u64::MAX;
        let mut was = None;
        let shrinks = self
            .wait(|s| {
                let old = *was.get_or_insert(s.size);
                s.size = size;
                if size >= old {
                    return Some(false);
                }
                self.discard(s, behind.clone());
                s.ahead.invalidate(behind.clone());
                if s.dirty.in_flight(behind.clone()) {
                    return None;
                }
                s.dirty.begin_busy(behind.clone());
                Some(true)
            })
            .await;
        if !shrinks {
            return Ok(());
        }
        let _busy = Busy { file: self, range: behind };
        let old = was.unwrap_or(size);
        let chunk_size = self.path.chunk_size();
        let locations = &self.path.replicas.locations;
        locations.forget(self.inode, size.div_ceil(chunk_size)..old.div_ceil(chunk_size));
        let tail = size..size.next_multiple_of(chunk_size);
        let zeroed = self.zero_part(session, tail).await;
        let mut s = self.state.lock();
        self.settle(&mut s);
        if zeroed.is_err() {
            s.size = old;
        }
        zeroed
    }

    /// Makes `[offset, offset + len)` zeros without changing the size. Partial chunks are zeroed here; returned are
    /// the indexes of chunks that lie wholly inside (may be empty), which the caller has the master drop
    /// (`DropChunks`), and then passes to [`Self::forget_locations`].
    pub async fn punch(self: &Arc<Self>, offset: u64, len: u64) -> Result<Range<u64>, FsError> {
        let (chunk_size, session) = (self.path.chunk_size(), self.path.session());
        let end = offset.checked_add(len).filter(|e| *e <= i64::MAX as u64).ok_or(FsError::TooLarge)?;
        let range = offset..end;
        let size = self
            .wait(|s| {
                self.discard(s, range.clone());
                s.ahead.invalidate(range.clone());
                if s.dirty.in_flight(range.clone()) {
                    return None;
                }
                s.dirty.begin_busy(range.clone());
                Some(s.size)
            })
            .await;
        let _busy = Busy { file: self, range: range.clone() };
        // Behind the end of the file there is nothing: the last chunk may be dropped though it is longer.
        let end = if end >= size { size.next_multiple_of(chunk_size).max(offset) } else { end };
        let whole = offset.div_ceil(chunk_size)..end / chunk_size;
        let parts = if whole.start < whole.end {
            vec![offset..whole.start * chunk_size, whole.end * chunk_size..end]
        } else {
            cut(offset..end, chunk_size).collect()
        };
        try_join_all(parts.into_iter().map(|part| self.zero_part(session, part))).await?;
        self.settle(&mut self.state.lock());
        Ok(whole.start..whole.end.max(whole.start))
    }

    /// Zeroes a range within one chunk at the replicas.
    async fn zero_part(&self, session: u64, range: Range<u64>) -> Result<(), FsError> {
        if range.is_empty() {
            return Ok(());
        }
        let chunk_size = self.path.chunk_size();
        let (index, offset) = (range.start / chunk_size, (range.start % chunk_size) as u32);
        self.path.replicas.zero(session, (self.inode, index), offset, range.end - range.start).await?;
        self.state.lock().acknowledged(index);
        Ok(())
    }

    /// The first data at or behind `offset` ([`FsError::NoSuchOffset`]: none).
    pub async fn seek_data(self: &Arc<Self>, offset: u64) -> Result<u64, FsError> {
        self.drain(false).await;
        let size = self.size();
        let chunk_size = self.path.chunk_size();
        let (mut index, mut step) = (offset / chunk_size, FIRST_STEP);
        while offset < size && index < size.div_ceil(chunk_size) {
            let mut chunks = self.path.replicas.locations.list(self.inode, index, step).await?;
            chunks.sort_unstable_by_key(|c| c.index);
            for chunk in chunks {
                let base = chunk.index * chunk_size;
                let from = offset.max(base);
                let map = self.path.replicas.map((self.inode, chunk.index), (from - base) as u32).await?;
                let found = map.iter().find(|e| base + u64::from(e.end) > from);
                if let Some(extent) = found {
                    let data = from.max(base + u64::from(extent.start));
                    return if data < size { Ok(data) } else { Err(FsError::NoSuchOffset) };
                }
            }
            index += u64::from(step);
            step = (step * 2).min(WIDEST_STEP);
        }
        Err(FsError::NoSuchOffset)
    }

    /// The first hole at or behind `offset`; the end of the file counts as one.
    pub async fn seek_hole(self: &Arc<Self>, offset: u64) -> Result<u64, FsError> {
        self.drain(false).await;
        let size = self.size();
        if offset >= size {
            return Err(FsError::NoSuchOffset);
        }
        let chunk_size = self.path.chunk_size();
        let mut at = offset;
        while at < size {
            let (index, base) = (at / chunk_size, at / chunk_size * chunk_size);
            let map = self.path.replicas.map((self.inode, index), (at - base) as u32).await?;
            for extent in map {
                if base + u64::from(extent.start) > at {
                    return Ok(at.min(size));
                }
                at = at.max(base + u64::from(extent.end));
            }
            if at < base + chunk_size {
                return Ok(at.min(size));
            }
        }
        Ok(size)
    }
}
