//! What was read of files while other mounts are there, for being read again: each file's under one lease.
//!
//! The leases themselves are elsewhere: whoever asks says under which one, and gets nothing that was read under another. Changes of this
//! mount's own recall no lease, so they are told here when they begin and when they end; what is read meanwhile is not kept.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use lru::LruCache;

use super::Millis;

/// What is kept of a stretch of a file besides its bytes, about.
const OVERHEAD: usize = 256;
/// Buffers are rounded up to so many bytes.
const UNIT: usize = 4096;

/// What was read, in memory.
#[derive(Debug)]
pub struct Kept {
    limit: usize,
    used: usize,
    /// For how long anything is kept, milliseconds.
    lifetime: Millis,
    eras: u64,
    files: HashMap<u64, File>,
    /// By inode and offset, without overlaps. The last used comes first.
    stretches: LruCache<(u64, u64), Stretch>,
}

#[derive(Debug, Default)]
struct File {
    lease: u64,
    /// New whenever what is being read now may be old when it is here.
    era: u64,
    /// Own changes under way.
    changing: u32,
    starts: BTreeSet<u64>,
}

#[derive(Debug)]
struct Stretch {
    data: Bytes,
    until: Millis,
}

impl Stretch {
    fn memory(&self) -> usize {
        self.data.len().next_multiple_of(UNIT) + OVERHEAD
    }
}

/// Bytes of a file that are about to be read from the replicas.
#[derive(Debug)]
pub struct Fetch {
    inode: u64,
    era: u64,
}

/// What is known of a range.
#[derive(Debug)]
pub enum Found {
    /// All of it.
    Here(Bytes),
    /// Not all: to be read, and then to be handed to [`Kept::store`].
    Missing(Fetch),
    /// To be read; what comes is not kept, as this mount is changing the file.
    Changing,
}

impl Kept {
    /// Nothing yet; `limit` bytes at most, each for `lifetime` milliseconds at most.
    pub fn new(limit: usize, lifetime: Millis) -> Self {
        let (files, stretches) = (HashMap::new(), LruCache::unbounded());
        Self { limit, used: 0, lifetime, eras: 0, files, stretches }
    }

    /// Bytes of memory in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// A range of a file on which this is the lease now.
    pub fn find(&mut self, inode: u64, lease: u64, range: Range<u64>, now: Millis) -> Found {
        let era = self.eras + 1;
        let file = self.files.entry(inode).or_insert_with(|| File { lease, era, ..File::default() });
        self.eras = self.eras.max(file.era);
        if file.changing > 0 {
            return Found::Changing;
        }
        if file.lease != lease {
            self.forget(inode);
            return self.find(inode, lease, range, now);
        }
        let era = file.era;
        self.collect(inode, range, now).map_or(Found::Missing(Fetch { inode, era }), Found::Here)
    }

    fn collect(&mut self, inode: u64, range: Range<u64>, now: Millis) -> Option<Bytes> {
        let file = self.files.get(&inode)?;
        let mut at = range.start;
        let mut parts = Vec::new();
        while at < range.end {
            let start = *file.starts.range(..=at).next_back()?;
            let stretch = self.stretches.get(&(inode, start)).filter(|s| s.until > now)?;
            let end = start + stretch.data.len() as u64;
            if end <= at {
                return None;
            }
            let upto = end.min(range.end);
            parts.push(stretch.data.slice((at - start) as usize..(upto - start) as usize));
            at = upto;
        }
        if let [_] = &parts[..] {
            return parts.pop();
        }
        let mut all = BytesMut::with_capacity((range.end - range.start) as usize);
        parts.iter().for_each(|part| all.extend_from_slice(part));
        Some(all.freeze())
    }

    /// What was to be read is here.
    pub fn store(&mut self, fetch: &Fetch, offset: u64, data: Bytes, now: Millis) {
        let Fetch { inode, era } = *fetch;
        if data.is_empty() || self.files.get(&inode).is_none_or(|file| file.era != era) {
            return;
        }
        self.drop_range(inode, offset..offset + data.len() as u64);
        let stretch = Stretch { data, until: now + self.lifetime };
        self.used += stretch.memory();
        self.stretches.put((inode, offset), stretch);
        if let Some(file) = self.files.get_mut(&inode) {
            file.starts.insert(offset);
        }
        while self.used > self.limit {
            let Some(((inode, start), stretch)) = self.stretches.pop_lru() else { return };
            self.used -= stretch.memory();
            if let Some(file) = self.files.get_mut(&inode) {
                file.starts.remove(&start);
            }
            self.tidy(inode);
        }
    }

    /// This mount begins to change a range of the file.
    pub fn change_began(&mut self, inode: u64, range: Range<u64>) {
        self.eras += 1;
        let era = self.eras;
        let file = self.files.entry(inode).or_default();
        file.changing += 1;
        file.era = era;
        self.drop_range(inode, range);
    }

    /// The change has come to its end, good or bad.
    pub fn change_ended(&mut self, inode: u64) {
        if let Some(file) = self.files.get_mut(&inode) {
            file.changing -= 1;
        }
        self.tidy(inode);
    }

    /// Nothing of this file is needed any more.
    pub fn forget(&mut self, inode: u64) {
        self.drop_range(inode, 0..u64::MAX);
        self.eras += 1;
        if let Some(file) = self.files.get_mut(&inode) {
            file.era = self.eras;
            file.lease = 0;
        }
        self.tidy(inode);
    }

    /// Nothing of any file is needed any more.
    pub fn clear(&mut self) {
        let inodes: Vec<u64> = self.files.keys().copied().collect();
        inodes.into_iter().for_each(|inode| self.forget(inode));
    }

    fn drop_range(&mut self, inode: u64, range: Range<u64>) {
        let Some(file) = self.files.get_mut(&inode) else { return };
        let before = file.starts.range(..range.start).next_back().copied();
        let overlapping: Vec<u64> =
            before.into_iter().chain(file.starts.range(range.clone()).copied()).collect();
        for start in overlapping {
            let key = (inode, start);
            let ends = self.stretches.peek(&key).map_or(0, |s| start + s.data.len() as u64);
            if start < range.start && ends <= range.start {
                continue;
            }
            file.starts.remove(&start);
            self.used -= self.stretches.pop(&key).map_or(0, |s| s.memory());
        }
    }

    /// Of a file of which nothing is kept nothing need be known.
    fn tidy(&mut self, inode: u64) {
        if self.files.get(&inode).is_some_and(|file| file.changing == 0 && file.starts.is_empty()) {
            self.files.remove(&inode);
        }
    }
}
