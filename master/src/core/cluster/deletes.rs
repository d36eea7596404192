//! Replicas that are to be deleted: which server still has to confirm what.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{ChunkId, ServerId};

use crate::core::Millis;

/// Chunks in one command, at most.
pub(super) const BATCH: usize = 1_024;
/// A batch that was not confirmed for so long (milliseconds), or failed, is sent again.
const AGAIN_MS: u64 = 30_000;

#[derive(Debug, Default)]
struct Queue {
    waiting: BTreeSet<ChunkId>,
    flight: Option<Batch>,
    not_before: Millis,
}

#[derive(Debug)]
struct Batch {
    command: u64,
    chunks: BTreeSet<ChunkId>,
    since: Millis,
}

/// For each server a queue, of which one batch is under way; and the chunks that are garbage.
#[derive(Debug, Default)]
pub(super) struct Deletes {
    queues: BTreeMap<ServerId, Queue>,
    garbage: BTreeMap<ChunkId, BTreeSet<ServerId>>,
}

impl Deletes {
    /// `server` is to delete its replica.
    pub(super) fn add(&mut self, server: ServerId, chunk: ChunkId) {
        if !self.is_pending(server, chunk) {
            self.queues.entry(server).or_default().waiting.insert(chunk);
        }
    }

    /// The chunk is garbage; each of `servers` is to delete it, and its record stays until all have.
    pub(super) fn add_garbage(&mut self, chunk: ChunkId, servers: impl IntoIterator<Item = ServerId>) {
        self.garbage.entry(chunk).or_default();
        for server in servers {
            self.add(server, chunk);
            if let Some(holders) = self.garbage.get_mut(&chunk) {
                holders.insert(server);
            }
        }
    }

    pub(super) fn is_garbage(&self, chunk: ChunkId) -> bool {
        self.garbage.contains_key(&chunk)
    }

    /// Whether the server's replica is, or is about to be, deleted.
    pub(super) fn is_pending(&self, server: ServerId, chunk: ChunkId) -> bool {
        self.queues.get(&server).is_some_and(|q| {
            q.waiting.contains(&chunk) || q.flight.as_ref().is_some_and(|b| b.chunks.contains(&chunk))
        })
    }

    /// Servers for which something waits and nothing is under way.
    pub(super) fn idle(&self, now: Millis) -> Vec<ServerId> {
        let due = |q: &Queue| q.flight.is_none() && !q.waiting.is_empty() && q.not_before <= now;
        self.queues.iter().filter(|(_, q)| due(q)).map(|(s, _)| *s).collect()
    }

    /// Takes the server's next batch off its queue.
    pub(super) fn take(&mut self, server: ServerId) -> BTreeSet<ChunkId> {
        let Some(queue) = self.queues.get_mut(&server) else { return BTreeSet::new() };
        match queue.waiting.iter().nth(BATCH).copied() {
            Some(first_left) => {
                let rest = queue.waiting.split_off(&first_left);
                std::mem::replace(&mut queue.waiting, rest)
            }
            None => std::mem::take(&mut queue.waiting),
        }
    }

    /// The batch has been sent under this number.
    pub(super) fn sent(&mut self, server: ServerId, command: u64, chunks: BTreeSet<ChunkId>, now: Millis) {
        let queue = self.queues.entry(server).or_default();
        queue.flight = Some(Batch { command, chunks, since: now });
    }

    /// The server has answered the command. `Some`: the chunks whose deletion it confirms; the next ones follow so that it
    /// deletes `per_second` on average.
    pub(super) fn done(
        &mut self,
        server: ServerId,
        (command, ok): (u64, bool),
        now: Millis,
        per_second: u64,
    ) -> Option<BTreeSet<ChunkId>> {
        let queue = self.queues.get_mut(&server)?;
        let batch = queue.flight.take_if(|b| b.command == command)?;
        if ok {
            queue.not_before = now.plus(batch.chunks.len() as u64 * 1_000 / per_second.max(1));
            return Some(batch.chunks);
        }
        queue.waiting.extend(batch.chunks);
        queue.not_before = now.plus(AGAIN_MS);
        None
    }

    /// `server` does not hold the garbage any more, or is not known any more. True: nobody does.
    pub(super) fn cleared(&mut self, server: ServerId, chunk: ChunkId) -> bool {
        let Some(holders) = self.garbage.get_mut(&chunk) else { return false };
        holders.remove(&server);
        if holders.is_empty() {
            self.garbage.remove(&chunk);
            return true;
        }
        false
    }

    /// The server's connection has ended: what was not confirmed is to be sent again.
    pub(super) fn disconnected(&mut self, server: ServerId) {
        if let Some(queue) = self.queues.get_mut(&server) {
            if let Some(batch) = queue.flight.take() {
                queue.waiting.extend(batch.chunks);
            }
            queue.not_before = Millis(0);
        }
    }

    /// Batches that were not confirmed for too long are to be sent again.
    pub(super) fn expire(&mut self, now: Millis) {
        for queue in self.queues.values_mut() {
            if let Some(batch) = queue.flight.take_if(|b| now.since(b.since) >= AGAIN_MS) {
                queue.waiting.extend(batch.chunks);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ServerId = ServerId(1);
    const B: ServerId = ServerId(2);

    #[test]
    fn garbage_is_clear_when_every_holder_has_confirmed() {
        let mut d = Deletes::default();
        d.add_garbage(ChunkId(1), [A, B]);
        assert_eq!(d.idle(Millis(0)), [A, B]);
        for (server, command, last) in [(A, 10, false), (B, 11, true)] {
            let batch = d.take(server);
            d.sent(server, command, batch, Millis(0));
            assert!(d.is_pending(server, ChunkId(1)));
            let confirmed = d.done(server, (command, true), Millis(1), 1_000).unwrap();
            assert_eq!(confirmed, BTreeSet::from([ChunkId(1)]));
            assert_eq!(d.cleared(server, ChunkId(1)), last);
            assert!(!d.is_pending(server, ChunkId(1)));
        }
        assert!(!d.is_garbage(ChunkId(1)));
    }

    #[test]
    fn batches_are_bounded_and_one_at_a_time() {
        let mut d = Deletes::default();
        (0..2_500).for_each(|c| d.add(A, ChunkId(c)));
        let batch = d.take(A);
        assert_eq!((batch.len(), batch.last()), (BATCH, Some(&ChunkId(1_023))));
        d.sent(A, 1, batch, Millis(0));
        assert!(d.idle(Millis(0)).is_empty());
        assert_eq!(d.done(A, (7, true), Millis(0), 1_000), None, "another command's number");
        assert!(d.done(A, (1, true), Millis(0), 1_000).is_some());
        assert!(d.idle(Millis(1_023)).is_empty(), "a thousand a second");
        assert_eq!(d.idle(Millis(1_024)), [A]);
        assert_eq!(d.take(A).first(), Some(&ChunkId(1_024)));
    }

    #[test]
    fn what_failed_or_was_cut_off_is_sent_again() {
        let mut d = Deletes::default();
        d.add(A, ChunkId(1));
        let batch = d.take(A);
        d.sent(A, 1, batch, Millis(0));
        assert_eq!(d.done(A, (1, false), Millis(0), 1_000), None);
        assert!(d.idle(Millis(AGAIN_MS - 1)).is_empty());
        assert_eq!(d.idle(Millis(AGAIN_MS)), [A]);
        let batch = d.take(A);
        d.sent(A, 2, batch, Millis(AGAIN_MS));
        d.disconnected(A);
        assert_eq!(d.idle(Millis(AGAIN_MS)), [A]);
    }
}
