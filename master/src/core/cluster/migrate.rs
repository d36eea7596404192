//! Moves copies though none is missing: off servers that are too full, or have too much to do.
//!
//! A move is a repair of the least urgency: the chunk wants another copy because one of its members does not count, and
//! the new one takes that one's place in the same change of the epoch.

use cairn_proto::{ChunkId, ServerId};
use tracing::info;

use super::balance::{Balance, Move};
use super::node_states::State;
use super::repairs::Why;
use super::score::permille;
use super::server::Server;
use super::work::Work;
use super::{ChunkRecord, Cluster, Limits};

/// Chunks that are on their way off one server, at most.
const MOVES: usize = 16;
/// Replicas of a server that are looked at in one go.
const LOOK: usize = 512;
/// A copy takes so many bytes of a disk at least.
pub(super) const LEAST_BYTES: u64 = 8 << 10;

/// Chunks that are moved, or copied once more, and why; and how fast that may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Migration {
    /// Bytes a second that all copies may take at the moment.
    pub copy_rate: u64,
    /// Chunks that are to leave servers that are drained.
    pub draining: u64,
    /// Chunks that are to leave servers that are too full.
    pub disk: u64,
    /// Chunks that have left such servers since the master started.
    pub disk_moved: u64,
    /// Chunks that are to leave servers that have too much to do.
    pub load: u64,
    /// Chunks that have left such servers since the master started.
    pub load_moved: u64,
    /// Chunks that have, or are to have, more copies than wanted, as they are read so much.
    pub hot: u64,
}

impl Cluster {
    /// Looks where too much is, and plans what is to be moved.
    pub(super) fn balance_step(&mut self, work: &mut Work<'_>) {
        if !self.balance.is_due(work.now) || self.holding_still(work.now) {
            return;
        }
        let servers = &self.servers;
        let holds = |s: ServerId, c: ChunkId| servers.get(&s).is_some_and(|s| s.replicas.epoch(c).is_some());
        self.balance.pass(work.now, holds);
        self.review_moves(work);
        self.relieve_disks(work);
        self.relieve_servers(work);
        self.follow_heat(work);
    }

    /// Ends the moves that are done or have lost their reason.
    fn review_moves(&mut self, work: &mut Work<'_>) {
        for (chunk, planned) in self.balance.plans() {
            let record = match work.chunk(chunk) {
                Ok(Some(record)) => record,
                Ok(None) => {
                    self.balance.call_off(chunk);
                    continue;
                }
                Err(_) => continue,
            };
            if !record.has(planned.from) {
                self.balance.has_left(chunk);
            } else if self.repairs.flight(chunk).is_none() && self.is_pointless(work, chunk, planned) {
                self.balance.call_off(chunk);
            } else {
                continue;
            }
            self.note_copies(&record, work.now);
        }
    }

    fn is_pointless(&self, work: &Work<'_>, chunk: ChunkId, planned: Move) -> bool {
        let source = self.servers.get(&planned.from);
        let there = source.is_some_and(|s| s.is_alive() && !s.is_leaving());
        let goes_on = match planned.why {
            Why::Disk => self.balance.is_full(planned.from),
            Why::Load => self.balance.is_overloaded(planned.from),
            Why::Short | Why::Drain | Why::Hot => false,
        };
        !there || !goes_on || self.repairs.is_parked(chunk) || Balance::is_hopeless(planned, work.now)
    }

    /// Plans moves off servers that are too full.
    fn relieve_disks(&mut self, work: &mut Work<'_>) {
        for (id, server) in &self.servers {
            let (was, used) = (self.balance.is_full(*id), server.used_permille());
            if server.is_alive() && server.total_bytes() > 0 {
                self.balance.fills(*id, used);
            }
            let is = self.balance.is_full(*id);
            if was != is {
                info!(server = %id, used_permille = used, is, "chunks are to move off a full server");
            }
        }
        let low = u64::from(self.balance.limits.low_permille);
        let full =
            |s: &Server| s.state == State::Alive && s.is_settled() && self.balance.is_full(s.record.id);
        for id in self.servers_that(full) {
            let Some(server) = self.servers.get(&id) else { continue };
            let over = server.bytes_over(low).saturating_sub(self.balance.leaving_bytes(id));
            let room = MOVES.saturating_sub(self.balance.plans_from(id));
            let mut left = over;
            for (bytes, record) in self.movable(work, id, room) {
                if left == 0 {
                    break;
                }
                left = left.saturating_sub(bytes);
                self.balance.plan(record.chunk, Move::proposed(id, Why::Disk, bytes), work.now);
                self.note_copies(&record, work.now);
            }
        }
    }

    /// Up to `limit` chunks that may leave the server, the largest of those looked at first.
    fn movable(&mut self, work: &Work<'_>, from: ServerId, limit: usize) -> Vec<(u64, ChunkRecord)> {
        let Some(server) = self.servers.get(&from).filter(|_| limit > 0) else { return Vec::new() };
        let start = self.balance.cursor(from);
        let held: Vec<_> =
            server.replicas.range(start, ChunkId(u64::MAX)).take(LOOK).map(|(c, _)| c).collect();
        let last = held.last().copied().filter(|_| held.len() == LOOK);
        let records = held.into_iter().filter_map(|c| work.chunk(c).ok().flatten());
        let mut found: Vec<_> = records
            .map(|record| (work.view().bytes_of(&record).max(LEAST_BYTES), record))
            .filter(|(bytes, record)| self.may_move(record, Move::proposed(from, Why::Disk, *bytes)))
            .collect();
        found.sort_by_key(|(bytes, record)| (std::cmp::Reverse(*bytes), record.chunk));
        found.truncate(limit);
        // Where more was found than may be planned they are looked at again.
        if found.len() < limit {
            self.balance.looked_up_to(from, last);
        }
        found
    }

    /// Whether the chunk is at rest, whole, and there is somewhere to go.
    pub(super) fn may_move(&self, record: &ChunkRecord, planned: Move) -> bool {
        let alive = |s: &ServerId| self.servers.get(s).is_some_and(Server::is_alive);
        record.has(planned.from)
            && record.is_whole()
            && record.in_sync.iter().all(alive)
            && self.repairs.why(record.chunk).is_none()
            && self.servers.values().any(|s| self.may_take(record, s) && self.suits(record, planned, s))
    }

    /// Whether a server is not only able to take the copy, but better off than the one that it comes from.
    pub(super) fn suits(&self, record: &ChunkRecord, planned: Move, server: &Server) -> bool {
        let better_off = match planned.why {
            Why::Load => !self.is_filling(server) && self.is_relief(record.chunk, planned.from, server),
            Why::Disk | Why::Short | Why::Drain | Why::Hot => self.stays_low(server, planned.bytes),
        };
        better_off && self.keeps_racks(record, planned.from, server)
    }

    /// Whether the server is not too full, neither now nor with so many bytes more.
    fn stays_low(&self, server: &Server, bytes: u64) -> bool {
        let id = server.record.id;
        let coming = self.repairs.arriving(id).saturating_add(self.balance.arrived_bytes(id));
        let used = server.used_bytes().saturating_add(coming).saturating_add(bytes);
        permille(used, server.total_bytes()) < u64::from(self.balance.limits.low_permille)
    }

    /// Whether the copies stand on as many racks as before when one goes from `from` to `to`.
    fn keeps_racks(&self, record: &ChunkRecord, from: ServerId, to: &Server) -> bool {
        let rack = |s: ServerId| self.servers.get(&s).map(|s| s.record.rack.as_str());
        let others = || record.in_sync.iter().copied().filter(|s| *s != from).filter_map(rack);
        let shared = |rack: &str| others().any(|r| r == rack);
        !shared(&to.record.rack) || rack(from).is_none_or(shared)
    }

    /// What is moved, and why.
    pub fn migration(&self) -> Migration {
        Migration {
            copy_rate: self.throttle.rate(self.repair_rate(), self.repairs.is_urgent()),
            draining: self.repairs.wanted(Why::Drain),
            disk: self.repairs.wanted(Why::Disk),
            disk_moved: self.balance.moved(Why::Disk),
            load: self.repairs.wanted(Why::Load),
            load_moved: self.balance.moved(Why::Load),
            hot: self.balance.hot.count() as u64,
        }
    }

    /// What counts as too much.
    pub fn limits(&self) -> Limits {
        self.balance.limits
    }

    /// Sets that.
    pub fn set_limits(&mut self, limits: Limits) {
        self.balance.limits = limits;
        self.repairs.unpark();
    }
}
