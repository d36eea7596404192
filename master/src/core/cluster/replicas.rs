//! What one chunkserver holds, as far as the master knows.

use std::collections::BTreeMap;

use cairn_proto::digest::replica_hash;
use cairn_proto::{ChunkId, Epoch};

use crate::core::Millis;

/// The replicas of one server: what it reported, changed by what it has been told since.
///
/// Entries that follow only from what it was told, or must soon be told by a client, are *unsure* until its digest or a report confirms them.
#[derive(Debug, Default)]
pub(super) struct Replicas {
    held: BTreeMap<ChunkId, u32>,
    unsure: BTreeMap<ChunkId, Millis>,
    digest: u64,
}

impl Replicas {
    /// The sum that the server's heartbeat should carry.
    pub(super) fn digest(&self) -> u64 {
        self.digest
    }

    /// The epoch at which the chunk is held.
    pub(super) fn epoch(&self, chunk: ChunkId) -> Option<Epoch> {
        self.held.get(&chunk).map(|e| Epoch(u64::from(*e)))
    }

    /// Whether the entry, or its absence, has been confirmed.
    pub(super) fn is_sure(&self, chunk: ChunkId) -> bool {
        !self.unsure.contains_key(&chunk)
    }

    /// The server has been told to hold the chunk at this epoch, or will be.
    pub(super) fn expect(&mut self, chunk: ChunkId, epoch: Epoch, now: Millis) {
        self.set(chunk, Some(epoch));
        self.unsure.insert(chunk, now);
    }

    /// The server has been told the chunk's epoch: if it holds the chunk, then under that one.
    pub(super) fn tell(&mut self, chunk: ChunkId, epoch: Epoch, now: Millis) {
        if self.epoch(chunk).is_some_and(|held| held < epoch) {
            self.set(chunk, Some(epoch));
        }
        self.unsure.insert(chunk, now);
    }

    /// Everything unsure: where the server's connection breaks, it may never have heard of it.
    pub(super) fn unsure(&self) -> impl Iterator<Item = ChunkId> {
        self.unsure.keys().copied()
    }

    /// The server holds the chunk no more.
    pub(super) fn remove(&mut self, chunk: ChunkId) {
        self.set(chunk, None);
        self.unsure.remove(&chunk);
    }

    /// The server's digest is the expected one: all of it is true.
    pub(super) fn confirm(&mut self) {
        self.unsure.clear();
    }

    /// The server's full list. An unsure entry stays for `doubt_ms`: the list may have been made before.
    pub(super) fn replace(&mut self, reported: BTreeMap<ChunkId, u32>, now: Millis, doubt_ms: u64) {
        self.unsure.retain(|_, since| now.since(*since) < doubt_ms);
        let before = std::mem::replace(&mut self.held, reported);
        for chunk in self.unsure.keys() {
            if let Some(expected) = before.get(chunk) {
                let epoch = self.held.entry(*chunk).or_insert(*expected);
                *epoch = (*epoch).max(*expected);
            }
        }
        self.digest = self.held.iter().fold(0, |sum, (c, e)| sum.wrapping_add(hash(*c, *e)));
    }

    /// Those with ids in [from, to], in order.
    pub(super) fn range(&self, from: ChunkId, to: ChunkId) -> impl Iterator<Item = (ChunkId, Epoch)> {
        self.held.range(from..=to).map(|(c, e)| (*c, Epoch(u64::from(*e))))
    }

    fn set(&mut self, chunk: ChunkId, epoch: Option<Epoch>) {
        // Epochs stay below 2^32 (see `Epoch`).
        let epoch = epoch.map(|e| e.0 as u32);
        let before = match epoch {
            Some(e) => self.held.insert(chunk, e),
            None => self.held.remove(&chunk),
        };
        if let Some(before) = before {
            self.digest = self.digest.wrapping_sub(hash(chunk, before));
        }
        if let Some(epoch) = epoch {
            self.digest = self.digest.wrapping_add(hash(chunk, epoch));
        }
    }
}

fn hash(chunk: ChunkId, epoch: u32) -> u64 {
    replica_hash(chunk.0, u64::from(epoch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_follows_every_change() {
        let mut r = Replicas::default();
        r.expect(ChunkId(1), Epoch(1), Millis(0));
        r.expect(ChunkId(2), Epoch(1), Millis(0));
        r.expect(ChunkId(1), Epoch(2), Millis(0));
        r.remove(ChunkId(2));
        r.remove(ChunkId(3));
        assert_eq!(r.digest(), replica_hash(1, 2));
        r.replace(BTreeMap::from([(ChunkId(5), 1)]), Millis(20_000), 10_000);
        assert_eq!(r.digest(), replica_hash(5, 1));
    }

    #[test]
    fn a_report_does_not_undo_what_was_told_meanwhile() {
        let mut r = Replicas::default();
        r.replace(BTreeMap::from([(ChunkId(1), 1)]), Millis(0), 10_000);
        r.expect(ChunkId(1), Epoch(2), Millis(1_000));
        r.expect(ChunkId(2), Epoch(1), Millis(1_000));
        r.replace(BTreeMap::from([(ChunkId(1), 1)]), Millis(2_000), 10_000);
        assert_eq!(r.epoch(ChunkId(1)), Some(Epoch(2)));
        assert_eq!(r.epoch(ChunkId(2)), Some(Epoch(1)));
        assert!(!r.is_sure(ChunkId(2)));
        r.replace(BTreeMap::from([(ChunkId(1), 1)]), Millis(12_000), 10_000);
        assert_eq!(r.epoch(ChunkId(1)), Some(Epoch(1)));
        assert_eq!(r.epoch(ChunkId(2)), None);
        assert!(r.is_sure(ChunkId(2)));
    }
}
