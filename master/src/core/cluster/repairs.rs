//! The chunks that have fewer in-sync replicas than wanted, and how far each one's repair is.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{ChunkId, ServerId, rpc};

use crate::core::Millis;

/// A repair that a primary has been asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flight {
    pub(super) primary: ServerId,
    pub(super) target: ServerId,
    /// About what is sent.
    pub(super) bytes: u64,
    pub(super) command: u64,
    pub(super) since: Millis,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Ready,
    Waiting(Millis),
    /// There is no server that could take it.
    Parked,
    Flying(Flight),
}

/// Why a chunk wants a copy; the most urgent first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Why {
    /// It has too few.
    Short,
    /// It is to leave a server that is being drained.
    Drain,
    /// It is to leave a server that is too full.
    Disk,
    /// It is to leave a server that is used much more than others.
    Load,
    /// It is read so much that one more is to help.
    Hot,
}

impl Why {
    /// Whether no harm is done if it is not made.
    pub(super) fn is_optional(self) -> bool {
        match self {
            Self::Short | Self::Drain => false,
            Self::Disk | Self::Load | Self::Hot => true,
        }
    }
}

/// What a chunk that wants a copy has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Need {
    /// In-sync replicas that it has on servers that are there.
    pub(super) copies: usize,
    /// Its in-sync set is smaller than wanted. (Else some of it is only to be moved.)
    pub(super) short: bool,
    /// Why it wants another.
    pub(super) why: Why,
    /// Members that it is to leave.
    pub(super) leaving: Vec<ServerId>,
}

#[derive(Clone, Debug)]
struct Wound {
    need: Need,
    /// How often somebody has run into what is missing.
    heat: u32,
    tries: u32,
    last_target: Option<ServerId>,
    stage: Stage,
}

/// Ordered by the reason, then by copies left, the fewest first, then by heat.
#[derive(Debug, Default)]
pub(super) struct Repairs {
    wounds: BTreeMap<ChunkId, Wound>,
    ready: BTreeSet<Rank>,
    waiting: BTreeSet<(Millis, ChunkId)>,
    parked: BTreeSet<ChunkId>,
    flying: BTreeSet<ChunkId>,
    load: BTreeMap<ServerId, usize>,
    /// Bytes on their way to each server.
    arriving: BTreeMap<ServerId, u64>,
    /// Chunks with fewer in-sync replicas than wanted.
    short: u64,
    /// How many chunks want a copy, by the reason.
    wanted: BTreeMap<Why, u64>,
    /// For each server: the chunks that are to be moved off it, and those of them that are parked.
    leaving: BTreeMap<ServerId, (u64, u64)>,
    /// Copies made, and attempts that came to nothing.
    done: u64,
    failed: u64,
    /// Bytes of the copies made.
    copied: u64,
}

type Rank = (Why, usize, Reverse<u32>, ChunkId);

impl Wound {
    fn rank(&self, chunk: ChunkId) -> Rank {
        (self.need.why, self.need.copies, Reverse(self.heat), chunk)
    }
}

impl Repairs {
    /// How many chunks have fewer in-sync replicas than wanted.
    pub(super) fn short(&self) -> u64 {
        self.short
    }

    /// How far they are; rates are not known here.
    pub(super) fn status(&self) -> rpc::RepairStatus {
        rpc::RepairStatus {
            waiting: (self.wounds.len() - self.flying.len()) as u64,
            blocked: self.parked.len() as u64,
            running: self.flying.len() as u64,
            done: self.done,
            failed: self.failed,
            copied_bytes: self.copied,
            ..rpc::RepairStatus::default()
        }
    }

    /// How many chunks are to be moved off a server, and how many of them have nowhere to go.
    pub(super) fn leaving(&self, server: ServerId) -> (u64, u64) {
        self.leaving.get(&server).copied().unwrap_or_default()
    }

    /// How many chunks want a copy for that reason.
    pub(super) fn wanted(&self, why: Why) -> u64 {
        self.wanted.get(&why).copied().unwrap_or(0)
    }

    /// Why the chunk wants a copy, if it does.
    pub(super) fn why(&self, chunk: ChunkId) -> Option<Why> {
        self.wounds.get(&chunk).map(|w| w.need.why)
    }

    /// Whether there is no server that could take a copy of it.
    pub(super) fn is_parked(&self, chunk: ChunkId) -> bool {
        self.parked.contains(&chunk)
    }

    /// Bytes that the server is being sent.
    pub(super) fn arriving(&self, server: ServerId) -> u64 {
        self.arriving.get(&server).copied().unwrap_or(0)
    }

    /// The chunk wants a copy. A new one is repaired from `from` on.
    pub(super) fn want(&mut self, chunk: ChunkId, need: Need, from: Millis) {
        match self.wounds.get(&chunk) {
            None => {
                let wound = Wound { need, heat: 0, tries: 0, last_target: None, stage: Stage::Waiting(from) };
                self.put(chunk, wound);
            }
            Some(wound) if wound.need != need => {
                let wound = Wound { need, ..wound.clone() };
                self.put(chunk, wound);
            }
            Some(_) => {}
        }
    }

    /// Somebody has run into what is missing of the chunk.
    pub(super) fn asked_for(&mut self, chunk: ChunkId) {
        if let Some(wound) = self.take(chunk) {
            self.put(chunk, Wound { heat: wound.heat.saturating_add(1), ..wound });
        }
    }

    /// Whether a copy is under way, or could be.
    pub(super) fn is_busy(&self) -> bool {
        !self.ready.is_empty() || !self.flying.is_empty()
    }

    /// Copies under way.
    pub(super) fn under_way(&self) -> usize {
        self.flying.len()
    }

    /// Whether a chunk that is down to one copy is being copied, or could be.
    pub(super) fn is_urgent(&self) -> bool {
        let flying = || self.flying.iter().any(|c| self.is_last(*c));
        self.ready.first().is_some_and(|(.., c)| self.is_last(*c)) || flying()
    }

    /// Whether copies are missing, and at most one is there.
    pub(super) fn is_last(&self, chunk: ChunkId) -> bool {
        self.wounds.get(&chunk).is_some_and(|w| w.need.why == Why::Short && w.need.copies <= 1)
    }

    /// Copies under way that the server makes, and those of all servers.
    pub(super) fn sending(&self, server: ServerId) -> (u64, u64) {
        let own = self.flying.iter().filter_map(|c| self.flight(*c)).filter(|f| f.primary == server).count();
        (own as u64, self.flying.len() as u64)
    }

    /// The chunk is whole, or gone.
    pub(super) fn forget(&mut self, chunk: ChunkId) {
        self.take(chunk);
    }

    /// The repairs whose pause is over are ready.
    pub(super) fn wake(&mut self, now: Millis) {
        while let Some((at, chunk)) = self.waiting.first().copied() {
            if at > now {
                break;
            }
            self.restage(chunk, Stage::Ready);
        }
    }

    /// A server came, or got space: those that had nowhere to go may try again.
    pub(super) fn unpark(&mut self) {
        for chunk in std::mem::take(&mut self.parked) {
            self.restage(chunk, Stage::Ready);
        }
    }

    /// Up to `limit` chunks that are ready, the most urgent first.
    pub(super) fn ready(&self, limit: usize) -> Vec<ChunkId> {
        self.ready.iter().take(limit).map(|(.., c)| *c).collect()
    }

    pub(super) fn park(&mut self, chunk: ChunkId) {
        self.restage(chunk, Stage::Parked);
    }

    pub(super) fn fly(&mut self, chunk: ChunkId, flight: Flight) {
        if let Some(wound) = self.wounds.get_mut(&chunk) {
            wound.last_target = Some(flight.target);
        }
        self.restage(chunk, Stage::Flying(flight));
    }

    pub(super) fn flight(&self, chunk: ChunkId) -> Option<Flight> {
        match self.wounds.get(&chunk)?.stage {
            Stage::Flying(flight) => Some(flight),
            _ => None,
        }
    }

    /// The target of the last attempt, if that failed.
    pub(super) fn last_target(&self, chunk: ChunkId) -> Option<ServerId> {
        self.wounds.get(&chunk)?.last_target
    }

    /// The repair under way has come to nothing: again after a pause that doubles, from `backoff.0` to
    /// `backoff.1`, with full jitter.
    pub(super) fn fail(&mut self, chunk: ChunkId, now: Millis, backoff: (u64, u64), random: u64) {
        let Some(wound) = self.wounds.get_mut(&chunk) else { return };
        let ceiling = backoff.0.saturating_mul(1 << wound.tries.min(20)).clamp(1, backoff.1.max(1));
        wound.tries += 1;
        self.failed += 1;
        self.restage(chunk, Stage::Waiting(now.plus(random % ceiling)));
    }

    /// The repair under way is pointless (the set has changed under it): plan it anew.
    pub(super) fn replan(&mut self, chunk: ChunkId) {
        if self.flying.contains(&chunk) {
            self.restage(chunk, Stage::Ready);
        }
    }

    /// The copy that was under way has been made.
    pub(super) fn made(&mut self, flight: Option<Flight>) {
        self.done += 1;
        self.copied = self.copied.saturating_add(flight.map_or(0, |f| f.bytes));
    }

    /// The server copied a chunk: whatever was in its way is not any more.
    pub(super) fn succeeded(&mut self, chunk: ChunkId) {
        if let Some(wound) = self.wounds.get_mut(&chunk) {
            (wound.tries, wound.last_target) = (0, None);
            self.replan(chunk);
        }
    }

    /// Repairs in which the server sends or receives.
    pub(super) fn load(&self, server: ServerId) -> usize {
        self.load.get(&server).copied().unwrap_or(0)
    }

    /// The chunks that are being repaired, with their flights.
    pub(super) fn flights(&self) -> Vec<(ChunkId, Flight)> {
        self.flying.iter().filter_map(|c| Some((*c, self.flight(*c)?))).collect()
    }

    fn restage(&mut self, chunk: ChunkId, stage: Stage) {
        if let Some(wound) = self.take(chunk) {
            self.put(chunk, Wound { stage, ..wound });
        }
    }

    fn put(&mut self, chunk: ChunkId, wound: Wound) {
        self.take(chunk);
        self.count(&wound, u64::wrapping_add);
        match wound.stage {
            Stage::Ready => drop(self.ready.insert(wound.rank(chunk))),
            Stage::Waiting(at) => drop(self.waiting.insert((at, chunk))),
            Stage::Parked => drop(self.parked.insert(chunk)),
            Stage::Flying(flight) => {
                self.flying.insert(chunk);
                for server in [flight.primary, flight.target] {
                    *self.load.entry(server).or_insert(0) += 1;
                }
                *self.arriving.entry(flight.target).or_insert(0) += flight.bytes;
            }
        }
        self.wounds.insert(chunk, wound);
    }

    fn count(&mut self, wound: &Wound, change: impl Fn(u64, u64) -> u64) {
        self.short = change(self.short, u64::from(wound.need.short));
        let of_this = self.wanted.entry(wound.need.why).or_insert(0);
        *of_this = change(*of_this, 1);
        for server in &wound.need.leaving {
            let (all, parked) = self.leaving.get(server).copied().unwrap_or_default();
            let counts = (change(all, 1), change(parked, u64::from(wound.stage == Stage::Parked)));
            if counts == (0, 0) {
                self.leaving.remove(server);
            } else {
                self.leaving.insert(*server, counts);
            }
        }
    }

    fn take(&mut self, chunk: ChunkId) -> Option<Wound> {
        let wound = self.wounds.remove(&chunk)?;
        self.count(&wound, u64::wrapping_sub);
        match wound.stage {
            Stage::Ready => drop(self.ready.remove(&wound.rank(chunk))),
            Stage::Waiting(at) => drop(self.waiting.remove(&(at, chunk))),
            Stage::Parked => drop(self.parked.remove(&chunk)),
            Stage::Flying(flight) => {
                self.flying.remove(&chunk);
                for server in [flight.primary, flight.target] {
                    if let Some(load) = self.load.get_mut(&server) {
                        *load = load.saturating_sub(1);
                    }
                }
                if let Some(bytes) = self.arriving.get_mut(&flight.target) {
                    *bytes = bytes.saturating_sub(flight.bytes);
                }
            }
        }
        Some(wound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLIGHT: Flight =
        Flight { primary: ServerId(1), target: ServerId(2), bytes: 9, command: 5, since: Millis(0) };

    fn need(copies: usize) -> Need {
        Need { copies, short: true, why: Why::Short, leaving: Vec::new() }
    }

    #[test]
    fn what_leaves_a_server_is_counted_until_it_has_gone() {
        let mut r = Repairs::default();
        for chunk in 1..=3 {
            let need = Need { copies: 3, short: false, why: Why::Drain, leaving: vec![ServerId(4)] };
            r.want(ChunkId(chunk), need, Millis(0));
        }
        assert_eq!((r.leaving(ServerId(4)), r.short()), ((3, 0), 0));
        r.park(ChunkId(1));
        r.park(ChunkId(2));
        assert_eq!(r.leaving(ServerId(4)), (3, 2));
        r.unpark();
        r.forget(ChunkId(1));
        r.want(ChunkId(2), need(2), Millis(0));
        assert_eq!((r.leaving(ServerId(4)), r.short()), ((1, 0), 1));
        r.forget(ChunkId(3));
        assert_eq!(r.leaving(ServerId(4)), (0, 0));
    }

    #[test]
    fn fewest_copies_come_first() {
        let mut r = Repairs::default();
        for (chunk, copies) in [(1, 2), (2, 1), (3, 2)] {
            r.want(ChunkId(chunk), need(copies), Millis(0));
        }
        assert!(r.ready(9).is_empty());
        r.wake(Millis(0));
        assert_eq!(r.ready(9), [ChunkId(2), ChunkId(1), ChunkId(3)]);
        r.want(ChunkId(3), need(1), Millis(0));
        assert_eq!(r.ready(2), [ChunkId(2), ChunkId(3)]);
        // Of those with as many copies the one that somebody has asked for.
        r.asked_for(ChunkId(3));
        assert_eq!(r.ready(3), [ChunkId(3), ChunkId(2), ChunkId(1)]);
    }

    #[test]
    fn what_is_missing_comes_before_what_is_only_to_be_moved() {
        let mut r = Repairs::default();
        for (chunk, copies, why) in [(1, 2, Why::Disk), (2, 3, Why::Drain), (3, 4, Why::Short)] {
            r.want(ChunkId(chunk), Need { why, ..need(copies) }, Millis(0));
        }
        r.wake(Millis(0));
        assert_eq!(r.ready(9), [ChunkId(3), ChunkId(2), ChunkId(1)]);
        assert_eq!((r.wanted(Why::Disk), r.why(ChunkId(2))), (1, Some(Why::Drain)));
        r.forget(ChunkId(1));
        assert_eq!((r.wanted(Why::Disk), r.why(ChunkId(1))), (0, None));
    }

    #[test]
    fn load_counts_both_ends_and_ends_with_the_flight() {
        let mut r = Repairs::default();
        r.want(ChunkId(1), need(2), Millis(0));
        r.fly(ChunkId(1), FLIGHT);
        assert_eq!((r.load(ServerId(1)), r.load(ServerId(2)), r.arriving(ServerId(2))), (1, 1, 9));
        r.fail(ChunkId(1), Millis(0), (500, 30_000), 499);
        assert_eq!((r.load(ServerId(1)), r.load(ServerId(2)), r.arriving(ServerId(2))), (0, 0, 0));
        r.wake(Millis(498));
        assert!(r.ready(1).is_empty());
        r.wake(Millis(499));
        assert_eq!(r.ready(1), [ChunkId(1)]);
        r.fly(ChunkId(1), FLIGHT);
        r.forget(ChunkId(1));
        assert_eq!((r.load(ServerId(1)), r.short()), (0, 0));
    }

    #[test]
    fn pauses_double_up_to_the_bound() {
        let mut r = Repairs::default();
        r.want(ChunkId(1), need(2), Millis(0));
        let mut pauses = Vec::new();
        for _ in 0..5 {
            r.fly(ChunkId(1), FLIGHT);
            r.fail(ChunkId(1), Millis(0), (100, 500), u64::MAX - u64::MAX % 2_000_000 - 1);
            pauses.push(r.waiting.first().map(|(at, _)| at.0));
        }
        assert_eq!(pauses, [Some(99), Some(199), Some(399), Some(499), Some(499)]);
    }

    #[test]
    fn parked_ones_wait_for_a_server() {
        let mut r = Repairs::default();
        r.want(ChunkId(1), need(2), Millis(0));
        r.park(ChunkId(1));
        r.wake(Millis(1 << 40));
        assert!(r.ready(1).is_empty());
        r.unpark();
        assert_eq!(r.ready(1), [ChunkId(1)]);
    }
}
