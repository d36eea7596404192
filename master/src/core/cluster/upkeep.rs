//! What servers are asked to do so that every chunk comes to as many copies as wanted, and no more.

use cairn_proto::{ChunkId, ServerId, rpc};
use rpc::master_command::Cmd;
use tracing::{debug, info};

use super::place::Candidate;
use super::repairs::{Flight, Why};
use super::score::{self, Choice};
use super::server::Server;
use super::throttle::Throttle;
use super::work::Work;
use super::{ChunkRecord, Cluster, Effect, LinkId};
use crate::core::Millis;

/// Repairs looked at in one go.
const LOOK: usize = 128;
/// Of an old copy about this part is sent. (What is sent keeps to the rate, whatever it is.)
const STALE_PART: u64 = 64;
/// Every copy costs as much as so many bytes.
const LEAST_COST: u64 = 64 << 10;
/// Garbage records read in one go.
const GARBAGE: usize = 4_096;

/// What can be done for a chunk that wants a copy.
enum Plan {
    Go(LinkId, Flight),
    /// Every server that could take part has enough to do.
    Busy,
    /// No server could take part.
    Nobody,
}

impl Cluster {
    pub(super) fn tick(&mut self, work: &mut Work<'_>) {
        self.check_maintenance(work);
        self.check_leases(work);
        self.end_fences(work);
        self.read_garbage(work);
        self.audit_step(work);
        self.expel_strangers(work);
        // As long as it takes at the lowest rate, should another go before it.
        let least = Throttle::least(self.repair_rate()).max(1);
        let longest = |bytes: u64| bytes.saturating_mul(2_000) / least;
        for (chunk, flight) in self.repairs.flights() {
            if work.now.since(flight.since)
                >= self.settings.repair_timeout_ms.saturating_add(longest(flight.bytes))
            {
                self.repair_failed(work, chunk, "no result in time");
            }
        }
        self.watch_foreground(work.now);
        self.balance_step(work);
        self.start_repairs(work);
        self.deletes.expire(work.now);
        self.start_deletes(work);
    }

    pub(super) fn done(&mut self, work: &mut Work<'_>, link: LinkId, done: &rpc::CommandDone) {
        let Some(id) = self.sender(work, link) else { return };
        if self.fences.done(id, done.command) {
            self.end_fences(work);
        } else if let Some(chunks) =
            self.deletes.done(id, (done.command, done.ok), work.now, self.settings.deletes_per_second)
        {
            for chunk in chunks {
                if let Some(server) = self.servers.get_mut(&id) {
                    server.replicas.remove(chunk);
                }
                if self.deletes.cleared(id, chunk) {
                    work.push(Effect::ForgetGarbage(chunk));
                }
            }
            self.start_deletes(work);
        } else if !done.ok {
            let flights = self.repairs.flights();
            let failed = flights.iter().find(|(_, f)| f.command == done.command && f.primary == id);
            if let Some((chunk, _)) = failed {
                self.repair_failed(work, *chunk, &done.detail);
                self.start_repairs(work);
            }
        }
    }

    /// Asks primaries to bring servers up to date, the chunks with the fewest copies first.
    pub(super) fn start_repairs(&mut self, work: &mut Work<'_>) {
        if self.holding_still(work.now) {
            return;
        }
        self.repairs.wake(work.now);
        let rate = self.repair_rate();
        self.throttle.fill(work.now, rate, self.repairs.is_busy());
        for chunk in self.repairs.ready(LOOK) {
            // They are ordered: where this one may not begin yet, none behind it may.
            let urgent = self.repairs.is_last(chunk);
            if !self.throttle.may_begin(urgent, rate) {
                break;
            }
            let record = match work.chunk(chunk) {
                Ok(Some(record)) if self.wants_copy(&record) => record,
                Ok(_) => {
                    self.repairs.forget(chunk);
                    continue;
                }
                Err(_) => continue,
            };
            match self.plan(work, &record) {
                Plan::Go(link, flight) => {
                    self.throttle.take(flight.bytes);
                    self.repairs.fly(chunk, flight);
                    let copy_rate = self.copy_rate(flight.primary);
                    let target = flight.target.0;
                    let add = rpc::AddReplica { chunk: Some(record.info()), target, copy_rate };
                    work.send_numbered(link, flight.command, Cmd::AddReplica(add));
                }
                Plan::Busy => {}
                Plan::Nobody => self.repairs.park(chunk),
            }
        }
    }

    /// Bytes a second for all copies, when the foreground does not suffer.
    pub(super) fn repair_rate(&self) -> u64 {
        let alive = self.servers.values().filter(|s| s.is_alive()).count();
        self.settings.repair_rate.saturating_mul(alive as u64)
    }

    /// About how many bytes a copy takes. Of an old one only what it misses is sent, and how much that is only the servers know.
    fn cost(&self, work: &Work<'_>, record: &ChunkRecord, target: ServerId) -> u64 {
        let stale = self.servers.get(&target).is_some_and(|s| s.replicas.epoch(record.chunk).is_some());
        let bytes = work.view().bytes_of(record);
        (if stale { bytes / STALE_PART } else { bytes }).max(LEAST_COST)
    }

    /// How the foreground fares decides how fast copies may be made.
    fn watch_foreground(&mut self, now: Millis) {
        let slowest = |kind: usize| {
            let alive = self.servers.values().filter(|s| s.is_alive());
            alive.map(|s| s.foreground[kind]).max().unwrap_or(0)
        };
        let foreground = [slowest(0), slowest(1)];
        let before = self.throttle.permille();
        self.throttle.observe(now, foreground, self.repairs.is_busy());
        let permille = self.throttle.permille();
        if permille < before && self.repairs.is_busy() {
            let [reads_us, writes_us] = foreground;
            debug!(reads_us, writes_us, permille, "copies are slowed down for the foreground");
        }
    }

    /// Bytes a second that the copies which a server makes may take: of what all may take its part of those under way.
    pub(super) fn copy_rate(&self, server: ServerId) -> u64 {
        let (own, all) = self.repairs.sending(server);
        let rate = self.throttle.rate(self.repair_rate(), self.repairs.is_urgent());
        let share = u128::from(rate) * u128::from(own.max(1)) / u128::from(all.max(own).max(1));
        u64::try_from(share).unwrap_or(u64::MAX).max(1)
    }

    pub(super) fn repair_failed(&mut self, work: &mut Work<'_>, chunk: ChunkId, why: &str) {
        if let Some(flight) = self.repairs.flight(chunk) {
            info!(%chunk, target = %flight.target, why, "a repair failed and will be tried again");
            let random = (work.random)();
            self.repairs.fail(chunk, work.now, self.settings.repair_backoff_ms, random);
        }
    }

    fn plan(&mut self, work: &mut Work<'_>, record: &ChunkRecord) -> Plan {
        let planned = self
            .balance
            .planned(record.chunk)
            .filter(|m| m.why.is_optional() && self.repairs.why(record.chunk) == Some(m.why));
        // What is only moved leaves room for what is missing.
        let optional = self.repairs.why(record.chunk).is_some_and(Why::is_optional);
        let most = self.settings.repairs_per_server / if optional { 2 } else { 1 };
        let Some(primary) = record.primary() else { return Plan::Nobody };
        let Some(link) = self.servers.get(&primary).filter(|s| s.is_alive()).and_then(|s| s.link) else {
            return Plan::Nobody;
        };
        let extra = self.repairs.why(record.chunk) == Some(Why::Hot);
        let suits = |s: &&Server| planned.map_or(!extra || !self.is_filling(s), |m| self.suits(record, m, s));
        let fit: Vec<_> = self.servers.values().filter(|s| self.may_take(record, s)).filter(suits).collect();
        if fit.is_empty() || self.is_spared(record, &fit) {
            return Plan::Nobody;
        }
        let free: Vec<_> = fit.iter().copied().filter(|s| self.repairs.load(s.record.id) < most).collect();
        let failed = self.repairs.last_target(record.chunk);
        let stale = |s: &&Server| {
            s.replicas.epoch(record.chunk).is_some() && s.has_room() && Some(s.record.id) != failed
        };
        // What an old copy lacks is sent sooner than a new one, even if it has to wait; and so is a rack of its own worth a wait.
        let taken = self.racks_taken(record);
        let apart = |s: &&Server| !taken.contains(&s.record.rack.as_str());
        let waits = (fit.iter().any(stale) && !free.iter().any(stale))
            || (fit.iter().any(apart) && !free.iter().any(apart) && !free.iter().any(stale));
        let enough = self.repairs.under_way() >= self.settings.repairs_at_once;
        if enough || free.is_empty() || waits || self.repairs.load(primary) >= most {
            return Plan::Busy;
        }
        let Some(target) = self.choose(work, record, &free, &taken) else { return Plan::Busy };
        let command = self.next_command();
        let bytes = self.cost(work, record, target);
        Plan::Go(link, Flight { primary, target, bytes, command, since: work.now })
    }

    /// Whether the server can be brought up to date: it has an old copy, or may take a new one.
    pub(super) fn may_take(&self, record: &ChunkRecord, server: &Server) -> bool {
        let id = server.record.id;
        let held = server.replicas.epoch(record.chunk);
        server.is_settled()
            && !server.is_leaving()
            && !record.has(id)
            && !self.deletes.is_pending(id, record.chunk)
            && held.is_none_or(|epoch| epoch <= record.epoch)
            && (held.is_some() || (server.takes_new() && self.has_space(server)))
    }

    /// Whether the copies that are missing are on servers in maintenance, which will be back. Not while fewer than a majority are
    /// alive; and what is there of them is brought up to date. `fit`: those that could take a copy.
    fn is_spared(&self, record: &ChunkRecord, fit: &[&Server]) -> bool {
        let stale = |s: &Server| !record.has(s.record.id) && s.replicas.epoch(record.chunk).is_some();
        if fit.iter().any(|s| stale(s)) {
            return false;
        }
        let staying = record.in_sync.iter().filter(|s| !self.leaves(record.chunk, **s)).count();
        let missing = self.copies_wanted(record).saturating_sub(staying);
        let spared = self.servers.values().filter(|s| s.is_spared() && stale(s)).count();
        let alive = |s: &&ServerId| self.servers.get(s).is_some_and(Server::is_alive);
        spared >= missing && record.in_sync.iter().filter(alive).count() >= record.majority()
    }

    /// One with an old copy if there is one, the newest first; else the best by score, on another rack if
    /// possible; else an old copy where there is no room, as it may need none. The one that failed last only if there is no other.
    fn choose(
        &self,
        work: &mut Work<'_>,
        record: &ChunkRecord,
        free: &[&Server],
        taken: &[&str],
    ) -> Option<ServerId> {
        let failed = self.repairs.last_target(record.chunk);
        let others: Vec<_> = free.iter().copied().filter(|s| Some(s.record.id) != failed).collect();
        let free = if others.is_empty() { free } else { &others };
        let held = |s: &&&Server| s.replicas.epoch(record.chunk);
        let newest = |with_room: bool| {
            let old = free.iter().filter(|s| held(s).is_some() && s.has_room() == with_room);
            old.max_by_key(|s| held(s)).map(|s| s.record.id)
        };
        if let Some(server) = newest(true) {
            return Some(server);
        }
        let rack = |s: &ServerId| self.servers.get(s).map(|s| s.record.rack.as_str());
        let source = record.primary().as_ref().and_then(rack).unwrap_or_default();
        let choices: Vec<_> = free.iter().filter(|s| held(s).is_none()).map(|s| self.as_choice(s)).collect();
        score::best(&choices, self.weights, (source, taken), work.random).or_else(|| newest(false))
    }

    /// Racks on which copies stand. (One that is leaving takes none.)
    fn racks_taken(&self, record: &ChunkRecord) -> Vec<&str> {
        let stays = |s: &&ServerId| !self.leaves(record.chunk, **s);
        let rack = |s: &ServerId| self.servers.get(s).map(|s| s.record.rack.as_str());
        record.in_sync.iter().filter(stays).filter_map(rack).collect()
    }

    fn as_choice<'a>(&self, server: &'a Server) -> Choice<'a> {
        Choice {
            id: server.record.id,
            rack: &server.record.rack,
            free_bytes: server.free_bytes(),
            is_full: self.is_filling(server),
            load_permille: server.load_permille.into(),
            copies: self.repairs.load(server.record.id),
            rtt_us: server.rtt_us.into(),
        }
    }

    pub(super) fn candidate<'a>(&self, server: &'a Server) -> Candidate<'a> {
        Candidate {
            id: server.record.id,
            rack: &server.record.rack,
            free_bytes: server.free_bytes(),
            has_space: self.has_space(server),
            is_full: self.is_filling(server),
        }
    }

    /// Whether others are to get what is new, where there are others.
    pub(super) fn is_filling(&self, server: &Server) -> bool {
        server.used_permille() > u64::from(self.balance.limits.full_permille)
    }

    pub(super) fn has_space(&self, server: &Server) -> bool {
        server.has_space(self.settings.chunk_size, self.settings.full_permille)
    }

    pub(super) fn chunk_deleted(&mut self, work: &mut Work<'_>, chunk: ChunkId, servers: &[ServerId]) {
        self.audit.deleted(chunk);
        self.repairs.forget(chunk);
        self.garbage(work, chunk, servers);
    }

    /// The chunk is to be deleted at `servers` and wherever else a copy is known.
    fn garbage(&mut self, work: &mut Work<'_>, chunk: ChunkId, servers: &[ServerId]) {
        let may_hold = |id: &ServerId, s: &Server| servers.contains(id) || s.replicas.epoch(chunk).is_some();
        let holders: Vec<_> =
            self.servers.iter().filter(|(id, s)| may_hold(id, s)).map(|(id, _)| *id).collect();
        if holders.is_empty() {
            work.push(Effect::ForgetGarbage(chunk));
        } else {
            self.deletes.add_garbage(chunk, holders);
        }
    }

    /// After the master's start: takes up what is still to be deleted, a part each tick.
    fn read_garbage(&mut self, work: &mut Work<'_>) {
        let Some(from) = self.garbage_cursor else { return };
        let Ok(records) = work.view().garbage_from(from, GARBAGE) else { return };
        let next = records.last().filter(|_| records.len() >= GARBAGE).and_then(|r| r.chunk.0.checked_add(1));
        self.garbage_cursor = next.map(ChunkId);
        for record in records {
            if !self.deletes.is_garbage(record.chunk) {
                self.garbage(work, record.chunk, &record.servers);
            }
        }
    }

    /// Deletions come after repairs, unless space is short.
    fn start_deletes(&mut self, work: &mut Work<'_>) {
        let pressing = |s: &Server| s.is_alive() && self.balance.is_full(s.record.id);
        if self.repairs.is_busy() && !self.servers.values().any(pressing) {
            return;
        }
        for id in self.deletes.idle(work.now) {
            let Some(link) = self.servers.get(&id).filter(|s| s.is_alive()).and_then(|s| s.link) else {
                continue;
            };
            let mut batch = self.deletes.take(id);
            batch.retain(|chunk| self.may_delete(work, id, *chunk));
            if batch.is_empty() {
                continue;
            }
            let command = self.next_command();
            let chunks = batch.iter().map(|c| c.0).collect();
            work.send_numbered(link, command, Cmd::Delete(rpc::DeleteChunks { chunks }));
            self.deletes.sent(id, command, batch, work.now);
        }
    }

    /// Looked at again just before the command goes out: a copy may have become precious since.
    fn may_delete(&self, work: &Work<'_>, id: ServerId, chunk: ChunkId) -> bool {
        let record = match work.chunk(chunk) {
            Ok(Some(record)) => record,
            known => return known == Ok(None),
        };
        let held = self.servers.get(&id).and_then(|s| s.replicas.epoch(chunk));
        let is_target = self.repairs.flight(chunk).is_some_and(|f| f.target == id);
        let superfluous = !self.wants_copy(&record) || held.is_some_and(|e| e > record.epoch);
        !record.has(id) && !is_target && superfluous
    }
}
