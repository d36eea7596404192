//! What was read in advance of one file: ranges that are here or on their way.

use super::core::Millis;
use super::core::read_ahead::{Plan, ReadAhead, cut};
use super::memory::{Lease, Memory};
use super::siblings::Sibling;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::watch;

/// Ranges read in advance.
#[derive(Default)]
pub(super) struct Prefetched {
    policy: ReadAhead,
    ranges: BTreeMap<u64, Entry>,
    next: u64,
    used: Millis,
}

struct Entry {
    end: u64,
    id: u64,
    content: Content,
    _memory: Lease,
}

/// The bytes of a range.
#[derive(Clone)]
pub(super) enum Content {
    Here(Bytes),
    /// The sender is dropped without a value when the fetch fails or is overtaken by a write.
    Coming(watch::Receiver<Option<Bytes>>),
}

/// A fetch to be made.
pub(super) struct Fetch {
    pub range: Range<u64>,
    id: u64,
    done: watch::Sender<Option<Bytes>>,
}

/// A part of a file that an entry holds or will hold.
#[derive(Clone)]
pub(super) struct Held {
    pub start: u64,
    pub end: u64,
    pub content: Content,
}

impl Prefetched {
    /// A read happens: what to fetch in advance for it.
    pub fn plan(
        &mut self,
        range: Range<u64>,
        size: u64,
        piece: u64,
        memory: &Arc<Memory>,
        now: Millis,
    ) -> Vec<Fetch> {
        self.used = now;
        let Plan { fetch, passed } = self.policy.read(range, size);
        if !passed.is_empty() {
            self.invalidate(passed);
        }
        let mut fetches = Vec::new();
        for range in cut(fetch, piece) {
            if self.overlapping(range.clone()).next().is_some() {
                continue;
            }
            let Some(lease) = memory.lease((range.end - range.start) as usize) else { break };
            let (done, coming) = watch::channel(None);
            self.next += 1;
            let id = self.next;
            let content = Content::Coming(coming);
            self.ranges.insert(range.start, Entry { end: range.end, id, content, _memory: lease });
            fetches.push(Fetch { range, id, done });
        }
        fetches
    }

    /// Takes over the beginning of the file, which was read in advance before the file was in use.
    pub fn adopt(&mut self, sibling: Sibling, now: Millis) {
        self.next += 1;
        self.used = now;
        let Sibling { size: end, content, memory, .. } = sibling;
        self.ranges.insert(0, Entry { end, id: self.next, content, _memory: memory });
    }

    /// A fetch has ended; `None`: it failed.
    pub fn fetched(&mut self, fetch: Fetch, data: Option<Bytes>) {
        let start = fetch.range.start;
        if let Some(entry) = self.ranges.get_mut(&start).filter(|e| e.id == fetch.id) {
            match &data {
                Some(data) => entry.content = Content::Here(data.clone()),
                None => drop(self.ranges.remove(&start)),
            }
        }
        // Those who began to wait before an invalidation may have it still: their reads overlap the write in time.
        if data.is_some() {
            let _ = fetch.done.send(data);
        }
    }

    /// Entries with bytes in the range, in order.
    pub fn overlapping(&self, range: Range<u64>) -> impl Iterator<Item = Held> + '_ {
        let first = self.ranges.range(..=range.start).next_back().map_or(range.start, |(s, _)| *s);
        self.ranges
            .range(first..range.end.max(first))
            .filter(move |(_, e)| e.end > range.start)
            .map(|(start, e)| Held { start: *start, end: e.end, content: e.content.clone() })
    }

    /// Whether all of the range is here.
    pub fn has(&self, range: Range<u64>) -> bool {
        let mut at = range.start;
        for held in self.overlapping(range.clone()) {
            if held.start > at || !matches!(held.content, Content::Here(_)) {
                return false;
            }
            at = held.end;
        }
        at >= range.end
    }

    /// Forgets what overlaps the range: it is written, or was read.
    pub fn invalidate(&mut self, range: Range<u64>) {
        if self.ranges.is_empty() {
            return;
        }
        let gone: Vec<u64> = self.overlapping(range).map(|h| h.start).collect();
        for start in gone {
            self.ranges.remove(&start);
        }
    }

    /// Forgets everything that was not asked for since `then`.
    pub fn expire(&mut self, then: Millis) {
        if self.used < then {
            self.clear();
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.ranges.clear();
        self.policy.reset();
    }

    /// Nothing is held.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}
