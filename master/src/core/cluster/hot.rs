//! Chunks that are read so much that more copies are to help for as long.

use std::collections::BTreeMap;

use cairn_proto::ChunkId;

use crate::core::Millis;

/// Copies beyond those wanted, at most.
const EXTRA: usize = 2;
/// Every copy has to take each write: a chunk gets more only if it is read so many times as much as it is written,
const READ_MOSTLY: u64 = 4;
/// and keeps them while it is read so many times as much,
const STILL_READ: u64 = 2;
/// and at least this part of what earned them.
const COOLED: u64 = 4;

/// How much a chunk is used on all its servers, bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    /// Read, on all of them together.
    pub(super) read: u64,
    /// Written, on the one where it is most: all have to take it.
    pub(super) written: u64,
}

/// What decides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    /// Bytes a second that earn a copy; 0: none do.
    pub(super) rate: u64,
    /// For so long, milliseconds.
    pub(super) sustained_ms: u64,
    /// Servers that could hold copies beyond those wanted.
    pub(super) spare_servers: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Hot {
    extra: usize,
    /// Since when it has earned more.
    since: Option<Millis>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct HotChunks(BTreeMap<ChunkId, Hot>);

impl HotChunks {
    /// How many copies beyond those wanted the chunk is to have.
    pub(super) fn extra(&self, chunk: ChunkId) -> usize {
        self.0.get(&chunk).map_or(0, |h| h.extra)
    }

    /// How many chunks have, or are to have, more copies than wanted.
    pub(super) fn count(&self) -> usize {
        self.0.values().filter(|h| h.extra > 0).count()
    }

    /// The chunk is gone.
    pub(super) fn forget(&mut self, chunk: ChunkId) {
        self.0.remove(&chunk);
    }

    /// Looks at how much chunks are used now. Returns those that are to have another number of copies than before.
    pub(super) fn observe(
        &mut self,
        now: Millis,
        used: &BTreeMap<ChunkId, Used>,
        terms: Terms,
    ) -> Vec<ChunkId> {
        for (chunk, used) in used {
            if earned(*used, terms) > 0 {
                self.0.entry(*chunk).or_default();
            }
        }
        let mut changed = Vec::new();
        for (chunk, hot) in &mut self.0 {
            let before = hot.extra;
            hot.look(now, used.get(chunk).copied().unwrap_or_default(), terms);
            if hot.extra != before {
                changed.push(*chunk);
            }
        }
        self.0.retain(|_, h| h.extra > 0 || h.since.is_some());
        changed
    }
}

impl Hot {
    fn look(&mut self, now: Millis, used: Used, terms: Terms) {
        let earned = earned(used, terms);
        if earned > self.extra {
            if now.since(*self.since.get_or_insert(now)) >= terms.sustained_ms {
                (self.extra, self.since) = (earned, None);
            }
        } else {
            self.since = None;
            self.extra = self.extra.min(kept(used, terms));
        }
    }
}

/// How many copies it has earned.
fn earned(used: Used, terms: Terms) -> usize {
    let copies = used.read.checked_div(terms.rate).unwrap_or(0);
    let mostly_read = used.written.saturating_mul(READ_MOSTLY) <= used.read;
    if mostly_read { (copies.min(EXTRA as u64) as usize).min(terms.spare_servers) } else { 0 }
}

/// How many of those that it has it keeps.
fn kept(used: Used, terms: Terms) -> usize {
    let copies = used.read.checked_div(terms.rate.div_ceil(COOLED)).unwrap_or(0);
    let still_read = used.written.saturating_mul(STILL_READ) <= used.read;
    if still_read { (copies.min(EXTRA as u64) as usize).min(terms.spare_servers) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const C: ChunkId = ChunkId(7);
    const TERMS: Terms = Terms { rate: 100, sustained_ms: 10_000, spare_servers: 5 };

    /// Looks once a second for so many seconds; the copies that it is to have after each.
    fn watch(h: &mut HotChunks, from: u64, seconds: u64, used: (u64, u64), terms: Terms) -> Vec<usize> {
        let used = BTreeMap::from([(C, Used { read: used.0, written: used.1 })]);
        let mut copies = Vec::new();
        for second in from..from + seconds {
            let before = h.extra(C);
            let changed = h.observe(Millis(second * 1_000), &used, terms);
            assert_eq!(changed.contains(&C), h.extra(C) != before);
            copies.push(h.extra(C));
        }
        copies
    }

    #[test]
    fn a_chunk_gets_copies_when_it_has_been_hot_for_long_enough() {
        let mut h = HotChunks::default();
        assert_eq!(watch(&mut h, 0, 10, (150, 0), TERMS), [0; 10]);
        assert_eq!(watch(&mut h, 10, 1, (150, 0), TERMS), [1]);
        assert_eq!(watch(&mut h, 11, 12, (900, 0), TERMS)[9..], [1, 2, 2], "never more than two");
        // What is hot only now and then gets none.
        let mut h = HotChunks::default();
        for n in 0..10 {
            watch(&mut h, n * 10, 9, (900, 0), TERMS);
            assert_eq!(watch(&mut h, n * 10 + 9, 1, (99, 0), TERMS), [0]);
        }
        assert_eq!(h.0.len(), 0);
    }

    #[test]
    fn they_go_when_it_has_cooled_and_not_before() {
        let mut h = HotChunks::default();
        watch(&mut h, 0, 20, (400, 0), TERMS);
        assert_eq!(watch(&mut h, 20, 20, (50, 0), TERMS), [2; 20]);
        assert_eq!(watch(&mut h, 40, 2, (49, 0), TERMS), [1, 1]);
        assert_eq!(watch(&mut h, 42, 1, (24, 0), TERMS), [0]);
        assert_eq!((h.count(), h.0.len()), (0, 0));
    }

    #[test]
    fn what_is_written_much_gets_none() {
        let mut h = HotChunks::default();
        assert_eq!(watch(&mut h, 0, 20, (400, 101), TERMS), [0; 20]);
        assert_eq!(watch(&mut h, 20, 11, (400, 100), TERMS)[10], 2);
        assert_eq!(watch(&mut h, 31, 3, (400, 200), TERMS), [2; 3]);
        assert_eq!(watch(&mut h, 34, 1, (400, 201), TERMS), [0]);
    }

    #[test]
    fn no_more_than_there_are_servers_for_and_none_where_it_is_switched_off() {
        let mut h = HotChunks::default();
        let one = Terms { spare_servers: 1, ..TERMS };
        assert_eq!(watch(&mut h, 0, 20, (900, 0), one)[19], 1);
        assert_eq!(watch(&mut h, 20, 1, (900, 0), Terms { spare_servers: 0, ..TERMS }), [0]);
        assert_eq!(watch(&mut h, 21, 20, (900, 0), TERMS)[19], 2);
        assert_eq!(watch(&mut h, 41, 20, (u64::MAX, u64::MAX), Terms { rate: 0, ..TERMS })[19], 0);
    }
}
