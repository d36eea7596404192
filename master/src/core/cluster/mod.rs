//! The chunkservers and the replicas: who is alive, who holds what, who must copy what to whom.
//!
//! A state machine: [`Event`]s in, [`Effect`]s out. What must survive a restart is in [`ChunkRecord`]s and
//! [`ServerRecord`]s, which the effects put; everything else is learned again from the chunkservers.

mod arrivals;
mod audit;
mod balance;
mod changes;
mod deletes;
mod digest_watch;
mod effect;
mod event;
mod fences;
mod health;
mod hot;
mod liveness;
mod migrate;
mod node_changes;
pub mod node_states;
mod opinion;
mod place;
mod records;
mod registration;
mod relief;
mod repairs;
mod replicas;
mod score;
mod server;
mod settings;
#[cfg(test)]
mod tests;
mod throttle;
pub mod transitions;
mod upkeep;
pub mod verdicts;
mod work;

pub use balance::Limits;
pub use effect::{Down, Effect, Refusal};
pub use event::{Event, LinkId, Token};
pub use fences::Sessions;
pub use migrate::Migration;
pub use node_changes::{NodeChange, Order};
pub use records::{ChunkRecord, ChunkView, Duty, GarbageRecord, ServerRecord, Unreadable, majority};
pub use score::Weights;
pub use settings::Settings;

use std::collections::BTreeMap;

use cairn_proto::{ChunkId, ServerId, rpc};
use rpc::master_command::Cmd;

use crate::core::Millis;
use audit::Audit;
use balance::Balance;
use deletes::Deletes;
use fences::Fences;
use node_states::State;
use repairs::Repairs;
use server::Server;
use throttle::Throttle;
use work::Work;

/// The cluster's state.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    started: bool,
    servers: BTreeMap<ServerId, Server>,
    links: BTreeMap<LinkId, ServerId>,
    audit: Audit,
    repairs: Repairs,
    balance: Balance,
    throttle: Throttle,
    weights: Weights,
    deletes: Deletes,
    fences: Fences,
    /// How far the garbage records that a former master left have been read; `None`: all.
    garbage_cursor: Option<ChunkId>,
    next_command: u64,
    was_holding_still: bool,
    /// The last tick; and until when nobody is called late, since ticks had stopped.
    ticked: Millis,
    lenient_until: Millis,
    /// To be told to everybody at the end of the event.
    servers_changed: bool,
}

/// Space for data, in bytes, already divided by the number of copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// All of it.
    pub total_bytes: u64,
    /// What is free.
    pub free_bytes: u64,
}

/// How many chunks there are, and how they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All chunks.
    pub total: u64,
    /// Chunks with fewer in-sync replicas than wanted.
    pub under_replicated: u64,
    /// Chunks of whose in-sync replicas none is on a live server. A chunk to which nothing was ever written counts too:
    /// that it is empty only its servers can say.
    pub missing: u64,
}

/// Why there is no place for a new chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Fewer servers are alive than a majority of the copies.
    #[error("{alive} chunkservers are alive, {needed} are needed")]
    TooFew {
        /// So many are alive.
        alive: usize,
        /// So many are needed.
        needed: usize,
    },
    /// Enough servers are alive, but too few of them have space.
    #[error("{with_space} chunkservers have space left, {needed} are needed")]
    Full {
        /// So many have space.
        with_space: usize,
        /// So many are needed.
        needed: usize,
    },
}

impl Cluster {
    /// A cluster whose master has just started; `servers` are all that ever registered.
    pub fn new(settings: Settings, servers: Vec<ServerRecord>) -> Self {
        let servers = servers.into_iter().map(|r| (r.id, Server::new(r, Millis(u64::MAX)))).collect();
        Self {
            settings,
            started: false,
            servers,
            links: BTreeMap::new(),
            audit: Audit::default(),
            repairs: Repairs::default(),
            balance: Balance::default(),
            throttle: Throttle::default(),
            weights: Weights::default(),
            deletes: Deletes::default(),
            fences: Fences::default(),
            garbage_cursor: Some(ChunkId(0)),
            next_command: 1,
            was_holding_still: false,
            ticked: Millis(0),
            lenient_until: Millis(0),
            servers_changed: false,
        }
    }

    /// Handles one event. `now` never goes back; `random` gives uniform 64-bit numbers.
    pub fn handle(
        &mut self,
        now: Millis,
        view: &dyn ChunkView,
        event: Event,
        random: &mut dyn FnMut() -> u64,
    ) -> Vec<Effect> {
        let mut work = Work::new(now, view, self.settings.term, random);
        if !std::mem::replace(&mut self.started, true) {
            self.start(&mut work);
        }
        self.dispatch(&mut work, event);
        if std::mem::take(&mut self.servers_changed) {
            self.tell_servers(&mut work);
        }
        work.into_effects()
    }

    fn dispatch(&mut self, work: &mut Work<'_>, event: Event) {
        match event {
            Event::Registered { link, register } => self.registered(work, link, register),
            Event::Heartbeat { link, heartbeat } => self.heartbeat(work, link, heartbeat),
            Event::Report { link, report } => self.report(work, link, &report),
            Event::Problem { link, problem } => self.problem(work, link, &problem),
            Event::CaughtUp { link, caught_up } => self.caught_up(work, link, &caught_up),
            Event::Probed { link, probed } => self.probed(work, link, probed),
            Event::Done { link, done } => self.done(work, link, &done),
            Event::Disconnected { link } => self.disconnected(work, link),
            Event::Refused { link } => self.refused(work, link),
            // What a client saw is no evidence: it may be the client that is cut off.
            Event::ClientReport { token, chunk, epoch, servers, failure: _ } => {
                self.client_report(work, token, (chunk, epoch), &servers);
            }
            Event::ChunkAllocated(record) => self.chunk_allocated(work.now, &record),
            Event::ChunkDeleted { chunk, servers } => self.chunk_deleted(work, chunk, &servers),
            Event::SessionOver { session, sessions } => self.fence_session(work, session, sessions),
            Event::Ordered { server, order } => self.ordered(work, server, order),
            Event::Tick => self.tick(work),
        }
    }

    /// The master has started. A lease that a former one gave may still be running.
    fn start(&mut self, work: &mut Work<'_>) {
        let lease_until = work.now.plus(self.settings.lease_ms + self.settings.lease_margin_ms);
        for server in self.servers.values_mut() {
            server.lease_until = lease_until;
        }
        // Commands of a former master may still be answered: none of those numbers may be used again.
        self.next_command = ((work.random)() >> 1) | 1;
        self.audit.request();
    }

    fn chunk_allocated(&mut self, now: Millis, record: &ChunkRecord) {
        self.audit.allocated(record.chunk);
        self.note_copies(record, now);
        for server in &record.in_sync {
            if let Some(server) = self.servers.get_mut(server) {
                server.replicas.expect(record.chunk, record.epoch, now);
            }
        }
    }

    /// The number of the next command that is to be confirmed.
    fn next_command(&mut self) -> u64 {
        let command = self.next_command;
        self.next_command += 1;
        command
    }

    fn tell_servers(&self, work: &mut Work<'_>) {
        work.push(Effect::ServersChanged);
        let servers = rpc::Servers { servers: self.servers() };
        for server in self.servers.values() {
            if let Some(link) = server.reachable() {
                work.send(link, Cmd::Servers(servers.clone()));
            }
        }
    }

    /// Servers for a new chunk, the primary first: as many of `copies` as can be had, at least a majority.
    ///
    /// # Errors
    /// Fewer than a majority of `copies` are alive, or have space.
    pub fn place(&self, copies: u32, random: &mut dyn FnMut() -> u64) -> Result<Vec<ServerId>, PlaceError> {
        let alive = self.servers.values().filter(|s| s.takes_new());
        let candidates: Vec<_> = alive.map(|s| self.candidate(s)).collect();
        place::place(&candidates, copies, random)
    }

    /// What counts how much where a new copy's server is chosen.
    pub fn weights(&self) -> Weights {
        self.weights
    }

    /// Sets that, from the next choice on.
    pub fn set_weights(&mut self, weights: Weights) {
        self.weights = weights;
    }

    /// Every known server, ordered by id.
    pub fn servers(&self) -> Vec<rpc::ServerInfo> {
        self.servers.values().map(Server::info).collect()
    }

    /// The connections of the servers that can be told something now.
    pub fn links(&self) -> Vec<(ServerId, LinkId)> {
        self.servers.iter().filter_map(|(id, s)| Some((*id, s.reachable()?))).collect()
    }

    /// Space on the servers that are not dead.
    pub fn totals(&self) -> Totals {
        let copies = u64::from(self.settings.copies.max(1));
        let present = || self.servers.values().filter(|s| s.state != State::Dead);
        Totals {
            total_bytes: present().map(Server::total_bytes).fold(0, u64::saturating_add) / copies,
            free_bytes: present().map(Server::free_bytes).fold(0, u64::saturating_add) / copies,
        }
    }

    /// How far copies are.
    pub fn repair_status(&self) -> rpc::RepairStatus {
        rpc::RepairStatus {
            rate: self.throttle.rate(self.repair_rate(), self.repairs.is_urgent()),
            rate_permille: self.throttle.permille() as u32,
            allowed_bytes: self.throttle.allowed(),
            ..self.repairs.status()
        }
    }

    /// Whether nothing is done on the master's own account, as most servers went at once.
    pub fn holds_back(&self) -> bool {
        self.was_holding_still
    }

    /// Servers whose leases have run out, but which most of their peers reach.
    pub fn out_of_reach(&self) -> Vec<ServerId> {
        self.servers_that(|s| s.unreachable.is_some())
    }

    /// For people: how each server is, ordered by id.
    pub fn status(&self) -> Vec<rpc::ChunkserverStatus> {
        let status = |s: &Server| rpc::ChunkserverStatus {
            full: self.balance.is_full(s.record.id),
            ..s.status(self.pace())
        };
        self.servers.values().map(status).collect()
    }

    /// How many chunks there are, and how they are. After a start of the master all three grow until the
    /// first walk through the chunk table is complete.
    pub fn counts(&self) -> Counts {
        Counts {
            total: self.audit.total,
            under_replicated: self.repairs.short(),
            missing: self.audit.missing,
        }
    }
}
