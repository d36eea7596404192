//! Heartbeats and leases: who is alive, and what each one holds.

use std::collections::BTreeMap;

use cairn_proto::{ChunkId, Epoch, ServerId, rpc};
use rpc::master_command::Cmd;
use tracing::warn;

use super::arrivals::Pace;
use super::node_states::{Happening, State};
use super::opinion::PEERS;
use super::server::Server;
use super::work::Work;
use super::{Cluster, Duty, LinkId, Refusal};
use crate::core::Millis;

/// Disks of one server that are remembered.
const DISKS: usize = 256;
/// Chunks that one server tells of as used most.
const HOT: usize = 16;
/// Replicas in a piece of a report, at most.
const PIECE: usize = 16_384;
/// Replicas of one server, at most.
const REPLICAS: usize = 1 << 26;
/// Replicas of a server that are looked at, one by one, before it is given a lease.
const FENCED: usize = 32_768;
/// When no tick came for so long (milliseconds) the master had stopped, and nobody is judged for so long afterwards.
const AWAY_MS: u64 = 1_500;
const LENIENT_MS: u64 = 300;
/// Servers that died no longer ago than this (milliseconds) count as gone together.
const TOGETHER_MS: u64 = 300_000;

impl Cluster {
    /// Renews the lease; before that, tells the server everything that it missed while it had none.
    pub(super) fn heartbeat(&mut self, work: &mut Work<'_>, link: LinkId, beat: rpc::Heartbeat) {
        let Some(id) = self.sender(work, link) else { return };
        let lease_until = work.now.plus(self.settings.lease_ms + self.settings.lease_margin_ms);
        let pace = self.pace();
        let Some(server) = self.servers.get_mut(&id) else { return };
        server.last_heartbeat = work.now;
        server.unreachable = None;
        let next_ms = server.arrivals.came(work.now, pace, (work.random)());
        (server.load_permille, server.rtt_us) = (beat.load_permille, beat.rtt_us);
        server.foreground = [beat.read_p99_us.into(), beat.write_p99_us.into()];
        let came_back = !std::mem::replace(&mut server.beats, true);
        server.lease_until = lease_until;
        (server.chunks, server.bytes_in, server.bytes_out) = (beat.chunks, beat.bytes_in, beat.bytes_out);
        (server.use_rate, server.hot) = (beat.use_rate, beat.hot);
        server.hot.truncate(HOT);
        let space = |s: &Server| s.has_space(self.settings.chunk_size, self.settings.full_permille);
        let was_full = !space(server);
        server.disks = beat.disks;
        server.disks.truncate(DISKS);
        if was_full && space(server) {
            // It may take what no server could take.
            self.repairs.unpark();
        }
        let report_wanted = self.compare(id, beat.digest);
        self.pay_owed(work, id, link);
        let (next_ms, copy_rate) = (u32::try_from(next_ms).unwrap_or(0), self.copy_rate(id));
        work.send(link, Cmd::Ack(rpc::HeartbeatAck { seq: beat.seq, next_ms, copy_rate }));
        if report_wanted {
            work.send(link, Cmd::ReportWanted(rpc::ReportWanted {}));
        }
        self.happened(work, id, self.heartbeat_of(id));
        if came_back {
            self.settled();
        }
    }

    /// Which heartbeat it was: what is ordered for the server decides.
    fn heartbeat_of(&self, id: ServerId) -> Happening {
        match self.servers.get(&id).map(|s| s.record.duty).unwrap_or_default() {
            Duty::InService => Happening::Heartbeat,
            Duty::Draining => Happening::HeartbeatDraining,
            Duty::Maintenance { .. } => Happening::HeartbeatMaintenance,
        }
    }

    /// Compares the server's digest with what it should be. True: its full list is wanted.
    fn compare(&mut self, id: ServerId, digest: u64) -> bool {
        let Some(server) = self.servers.get_mut(&id) else { return false };
        if server.replicas.digest() != digest {
            return server.watch.differs();
        }
        let came_to_know = !server.watch.is_settled();
        server.watch.matched();
        server.replicas.confirm();
        self.audit.confirmed();
        if came_to_know {
            self.settled();
        }
        false
    }

    fn pay_owed(&mut self, work: &mut Work<'_>, id: ServerId, link: LinkId) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        for chunk in std::mem::take(&mut server.owed) {
            let Ok(Some(record)) = work.chunk(chunk) else { continue };
            if record.epoch == Epoch(1) {
                // It comes with the first write; told of it, a server would wait for content that nobody has.
                continue;
            }
            work.send(link, Cmd::SetEpoch(record.info()));
            server.replicas.tell(chunk, record.epoch, work.now);
        }
    }

    /// It has become known what a server holds.
    fn settled(&mut self) {
        self.audit.request();
        self.repairs.unpark();
    }

    pub(super) fn report(&mut self, work: &mut Work<'_>, link: LinkId, report: &rpc::ChunkReport) {
        let Some(id) = self.sender(work, link) else { return };
        let Some(server) = self.servers.get_mut(&id) else { return };
        if report.first {
            server.incoming = Some(BTreeMap::new());
        }
        let Some(incoming) = &mut server.incoming else { return };
        if report.replicas.len() > PIECE || incoming.len() > REPLICAS {
            return work.close(link, Refusal::Bad("report too long"));
        }
        for replica in &report.replicas {
            let epoch = u32::try_from(replica.epoch).unwrap_or(u32::MAX);
            incoming.insert(ChunkId(replica.chunk), epoch);
        }
        if report.last {
            let reported = server.incoming.take().unwrap_or_default();
            let returns = server.state != State::Alive && reported.len() <= FENCED;
            let chunks: Vec<_> = reported.keys().copied().filter(|_| returns).collect();
            server.replicas.replace(reported, work.now, self.settings.doubt_ms);
            server.watch.listed();
            self.settled();
            self.fence(work, id, &chunks);
        }
    }

    /// A server that comes back hears at once of the epochs that it missed, and so before its lease, even
    /// where a former master was to tell it. (With more replicas than [`FENCED`] it hears of them in the course of the audit.)
    fn fence(&mut self, work: &mut Work<'_>, id: ServerId, chunks: &[ChunkId]) {
        for chunk in chunks {
            let Ok(Some(record)) = work.chunk(*chunk) else { continue };
            let held = self.servers.get(&id).and_then(|s| s.replicas.epoch(*chunk));
            if held.is_some_and(|held| held < record.epoch) {
                self.tell_epoch(work, id, &record);
            }
        }
    }

    pub(super) fn pace(&self) -> Pace {
        Pace { heartbeat: self.settings.heartbeat_ms, lease: self.settings.lease_ms }
    }

    /// Those whose heartbeats are late are suspected; those whose lease has run out are dead, or only out of the master's reach.
    pub(super) fn check_leases(&mut self, work: &mut Work<'_>) {
        let now = work.now;
        if now.since(self.ticked) > AWAY_MS && self.ticked != Millis(0) {
            // The master itself had stopped: what came meanwhile has yet to be read.
            self.lenient_until = now.plus(LENIENT_MS);
        }
        self.ticked = now;
        if now < self.lenient_until {
            return;
        }
        let pace = self.pace();
        for id in self.servers_that(|s| s.beats && now.since(s.last_heartbeat) > s.arrivals.timeout(pace)) {
            self.happened(work, id, Happening::Late);
        }
        self.ask_peers(work);
        for id in self.servers_that(|s| s.state != State::Dead && now >= s.lease_until) {
            self.lease_over(work, id);
        }
        let still = self.holding_still(now);
        if still != self.was_holding_still {
            self.was_holding_still = still;
            if still {
                warn!("more than half of the chunkservers are gone: nothing is repaired until some are back");
            } else {
                self.settled();
            }
        }
    }

    /// A server that is silent, though its connection stands, is dead only if most of its peers do not reach it either: without a
    /// lease it serves nothing, but its copies are there.
    fn lease_over(&mut self, work: &mut Work<'_>, id: ServerId) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let silent = server.link.is_some();
        let since = server.unreachable.unwrap_or(work.now);
        let happening = match server.opinion.verdict(work.now) {
            None if silent => return,
            Some(true) if silent && work.now.since(since) < self.settings.unreachable_ms => {
                if server.unreachable.replace(since).is_none() {
                    warn!(server = %id, "its lease has run out, but most of its peers reach it: not replaced yet");
                }
                Happening::UnreachableHere
            }
            _ => {
                server.unreachable = None;
                Happening::LeaseOver
            }
        };
        self.happened(work, id, happening);
    }

    /// Asks some of the others whether they reach those that have become silent.
    fn ask_peers(&mut self, work: &mut Work<'_>) {
        let now = work.now;
        let silent = |s: &Server| s.state == State::Suspected && s.link.is_some() && s.opinion.is_due(now);
        for id in self.servers_that(silent) {
            let alive = |(peer, s): (&ServerId, &Server)| s.link.filter(|_| s.is_alive()).map(|l| (*peer, l));
            let mut peers: Vec<_> = self.servers.iter().filter_map(alive).collect();
            if !peers.is_empty() {
                let first = (work.random)() % peers.len() as u64;
                peers.rotate_left(first as usize);
            }
            peers.truncate(PEERS);
            for (_, link) in &peers {
                work.send(*link, Cmd::Probe(rpc::Probe { server: id.0 }));
            }
            if let Some(server) = self.servers.get_mut(&id) {
                server.opinion.ask(peers.into_iter().map(|(peer, _)| peer), now);
            }
        }
    }

    /// A peer says whether it reaches a server.
    pub(super) fn probed(&mut self, work: &mut Work<'_>, link: LinkId, probed: rpc::Probed) {
        let Some(peer) = self.sender(work, link) else { return };
        if let Some(server) = self.servers.get_mut(&ServerId(probed.server)) {
            server.opinion.answered(peer, probed.reached);
        }
    }

    /// When most servers vanish together it is more likely the master that is cut off: nothing is then done
    /// on its own account. What clients and primaries ask for is.
    pub(super) fn holding_still(&self, now: Millis) -> bool {
        let recently = |s: &&Server| s.died.is_some_and(|died| now.since(died) < TOGETHER_MS);
        // Those that have come back since are not gone.
        let gone = self.servers.values().filter(|s| s.state == State::Dead).filter(recently).count();
        let others = self.servers.values().filter(|s| s.state != State::Dead).count();
        gone > others
    }

    pub(super) fn servers_that(&self, are: impl Fn(&Server) -> bool) -> Vec<ServerId> {
        self.servers.iter().filter(|(_, s)| are(s)).map(|(id, _)| *id).collect()
    }
}
