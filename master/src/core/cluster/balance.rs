//! What is on its way from one chunkserver to another though no copy is missing, and why.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{ChunkId, ServerId};

use super::hot::HotChunks;
use super::repairs::Why;
use crate::core::Millis;

/// What counts as too much. All of it can be set while the master runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// A server that is fuller than this gets nothing new where others can take it, and chunks move off it; in thousandths.
    pub full_permille: u32,
    /// They move until it is no fuller than this, and only to servers that stay below it.
    pub low_permille: u32,
    /// A chunk of which so many bytes a second are read is to have another copy, and a second at twice as many; 0: none is.
    pub hot_rate: u64,
    /// A server that is used by so many bytes a second more than the others (or more, where they differ much) is relieved of chunks; 0: none is.
    pub over_rate: u64,
    /// Both only after so long, milliseconds.
    pub sustained_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            full_permille: 850,
            low_permille: 800,
            hot_rate: 32 << 20,
            over_rate: 16 << 20,
            sustained_ms: 30_000,
        }
    }
}

/// Between looks, milliseconds.
const LOOK_MS: u64 = 1_000;
/// A copy that has left shows in the server's free space after so long (milliseconds) at the latest: its file goes a
/// little after its deletion, and the heartbeat tells it a second later.
const SHOWS_MS: u64 = 5_000;
/// A move for which nothing could be done for so long (milliseconds) is called off.
const GIVE_UP_MS: u64 = 600_000;

/// A chunk that is to leave one of its servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Move {
    pub(super) from: ServerId,
    pub(super) why: Why,
    pub(super) bytes: u64,
    since: Millis,
}

/// Bytes that have left a server or come to one, but need not show in its free space yet.
#[derive(Clone, Copy, Debug)]
struct Passing {
    bytes: u64,
    /// Since when its deletion is confirmed.
    gone: Option<Millis>,
}

#[derive(Debug, Default)]
pub(super) struct Balance {
    pub(super) limits: Limits,
    looked: Millis,
    moves: BTreeMap<ChunkId, Move>,
    left: BTreeMap<(ServerId, ChunkId), Passing>,
    arrived: BTreeMap<(ServerId, ChunkId), (Millis, u64)>,
    /// Servers that are fuller than they should be.
    full: BTreeSet<ServerId>,
    /// Up to where each one's replicas have been looked at.
    cursors: BTreeMap<ServerId, ChunkId>,
    moved: BTreeMap<Why, u64>,
    /// Servers that have far more to do than others, since when, or since when after they were last relieved.
    over: BTreeMap<ServerId, Millis>,
    pub(super) hot: HotChunks,
}

impl Move {
    /// One that is only thought about.
    pub(super) fn proposed(from: ServerId, why: Why, bytes: u64) -> Self {
        Self { from, why, bytes, since: Millis(0) }
    }
}

impl Balance {
    /// Whether it is time for another look.
    pub(super) fn is_due(&mut self, now: Millis) -> bool {
        let due = now.since(self.looked) >= LOOK_MS;
        if due {
            self.looked = now;
        }
        due
    }

    /// The chunk is to leave that server.
    pub(super) fn plan(&mut self, chunk: ChunkId, planned: Move, now: Millis) {
        self.moves.insert(chunk, Move { since: now, ..planned });
    }

    /// What is planned for the chunk.
    pub(super) fn planned(&self, chunk: ChunkId) -> Option<Move> {
        self.moves.get(&chunk).copied()
    }

    /// All that is planned.
    pub(super) fn plans(&self) -> Vec<(ChunkId, Move)> {
        self.moves.iter().map(|(c, m)| (*c, *m)).collect()
    }

    /// How many chunks are to leave the server.
    pub(super) fn plans_from(&self, server: ServerId) -> usize {
        self.moves.values().filter(|m| m.from == server).count()
    }

    /// The move is off.
    pub(super) fn call_off(&mut self, chunk: ChunkId) {
        self.moves.remove(&chunk);
    }

    /// Whether nothing could be done for it for too long.
    pub(super) fn is_hopeless(planned: Move, now: Millis) -> bool {
        now.since(planned.since) >= GIVE_UP_MS
    }

    /// The chunk has left the server, whose copy is to be deleted yet.
    pub(super) fn has_left(&mut self, chunk: ChunkId) {
        if let Some(Move { from, why, bytes, .. }) = self.moves.remove(&chunk) {
            self.left.insert((from, chunk), Passing { bytes, gone: None });
            *self.moved.entry(why).or_insert(0) += 1;
        }
    }

    /// A server has been sent a copy.
    pub(super) fn has_arrived(&mut self, server: ServerId, chunk: ChunkId, bytes: u64, now: Millis) {
        self.arrived.insert((server, chunk), (now, bytes));
    }

    /// Forgets what shows in the servers' free space by now. `holds`: whether a server still has its copy.
    pub(super) fn pass(&mut self, now: Millis, holds: impl Fn(ServerId, ChunkId) -> bool) {
        self.arrived.retain(|_, (since, _)| now.since(*since) < SHOWS_MS);
        self.left.retain(|(server, chunk), passing| {
            if holds(*server, *chunk) {
                return true;
            }
            now.since(*passing.gone.get_or_insert(now)) < SHOWS_MS
        });
    }

    /// Bytes that will be free at the server when what is planned is done.
    pub(super) fn leaving_bytes(&self, server: ServerId) -> u64 {
        let planned = self.moves.values().filter(|m| m.from == server).map(|m| m.bytes);
        let of = (server, ChunkId(0))..=(server, ChunkId(u64::MAX));
        let left = self.left.range(of).map(|(_, p)| p.bytes);
        planned.chain(left).fold(0, u64::saturating_add)
    }

    /// Bytes that came to the server and may not show yet.
    pub(super) fn arrived_bytes(&self, server: ServerId) -> u64 {
        let of = (server, ChunkId(0))..=(server, ChunkId(u64::MAX));
        self.arrived.range(of).map(|(_, (_, bytes))| *bytes).fold(0, u64::saturating_add)
    }

    /// Notes how full a server is, in thousandths. Full is one from the upper limit on until it is down at the lower one.
    pub(super) fn fills(&mut self, server: ServerId, used_permille: u64) {
        if used_permille > u64::from(self.limits.full_permille) {
            self.full.insert(server);
        } else if used_permille <= u64::from(self.limits.low_permille) {
            self.full.remove(&server);
        }
    }

    /// Whether chunks are to move off the server because it is full.
    pub(super) fn is_full(&self, server: ServerId) -> bool {
        self.full.contains(&server)
    }

    /// These servers, and no others, have far more to do than the rest.
    pub(super) fn note_overloaded(&mut self, servers: BTreeSet<ServerId>, now: Millis) {
        self.over.retain(|s, _| servers.contains(s));
        for server in servers {
            self.over.entry(server).or_insert(now);
        }
    }

    /// Those that have had for so long, and have not been relieved in that time.
    pub(super) fn overloaded(&self, now: Millis, sustained_ms: u64) -> Vec<ServerId> {
        self.over.iter().filter(|(_, since)| now.since(**since) >= sustained_ms).map(|(s, _)| *s).collect()
    }

    /// Whether the server has far more to do than the rest.
    pub(super) fn is_overloaded(&self, server: ServerId) -> bool {
        self.over.contains_key(&server)
    }

    /// A chunk is on its way off it: whether that was enough is seen later.
    pub(super) fn relieved(&mut self, server: ServerId, now: Millis) {
        self.over.entry(server).and_modify(|since| *since = now);
    }

    /// From where on the server's replicas are to be looked at next.
    pub(super) fn cursor(&self, server: ServerId) -> ChunkId {
        self.cursors.get(&server).copied().unwrap_or_default()
    }

    /// They have been looked at up to here; `None`: to the end.
    pub(super) fn looked_up_to(&mut self, server: ServerId, last: Option<ChunkId>) {
        match last.and_then(|c| c.0.checked_add(1)) {
            Some(next) => drop(self.cursors.insert(server, ChunkId(next))),
            None => drop(self.cursors.remove(&server)),
        }
    }

    /// Chunks moved since the master started.
    pub(super) fn moved(&self, why: Why) -> u64 {
        self.moved.get(&why).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ServerId = ServerId(1);

    #[test]
    fn a_server_is_full_from_the_upper_limit_until_it_is_down_at_the_lower_one() {
        let mut b = Balance::default();
        let mut at = |permille| {
            b.fills(A, permille);
            b.is_full(A)
        };
        assert!(!at(850) && at(851) && at(820) && !at(800) && !at(840));
    }

    #[test]
    fn what_has_left_counts_until_it_shows() {
        let mut b = Balance::default();
        b.plan(ChunkId(1), Move::proposed(A, Why::Disk, 100), Millis(0));
        b.plan(ChunkId(2), Move::proposed(A, Why::Disk, 50), Millis(0));
        b.plan(ChunkId(3), Move::proposed(ServerId(2), Why::Disk, 7), Millis(0));
        assert_eq!((b.leaving_bytes(A), b.plans_from(A)), (150, 2));
        b.has_left(ChunkId(1));
        b.call_off(ChunkId(2));
        b.pass(Millis(60_000), |_, _| true);
        assert_eq!((b.leaving_bytes(A), b.moved(Why::Disk)), (100, 1));
        b.pass(Millis(61_000), |_, _| false);
        b.pass(Millis(65_999), |_, _| false);
        assert_eq!(b.leaving_bytes(A), 100);
        b.pass(Millis(66_000), |_, _| false);
        assert_eq!(b.leaving_bytes(A), 0);
    }

    #[test]
    fn what_has_arrived_counts_until_it_shows() {
        let mut b = Balance::default();
        b.has_arrived(A, ChunkId(1), 100, Millis(0));
        b.has_arrived(A, ChunkId(2), 10, Millis(4_000));
        assert_eq!(b.arrived_bytes(A), 110);
        b.pass(Millis(5_000), |_, _| true);
        assert_eq!(b.arrived_bytes(A), 10);
    }

    #[test]
    fn a_server_s_replicas_are_looked_at_in_turn() {
        let mut b = Balance::default();
        b.looked_up_to(A, Some(ChunkId(7)));
        assert_eq!(b.cursor(A), ChunkId(8));
        b.looked_up_to(A, None);
        assert_eq!(b.cursor(A), ChunkId(0));
    }
}
