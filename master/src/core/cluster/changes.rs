//! Changes of in-sync sets: who asks for them, and who is told.

use cairn_proto::{ChunkId, Epoch, ServerId, rpc};
use rpc::master_command::Cmd;
use tracing::{info, warn};

use super::repairs::{Need, Why};
use super::transitions::{self, Aim, Unchanged};
use super::work::Work;
use super::{ChunkRecord, Cluster, Effect, LinkId, Refusal, Token};
use crate::core::Millis;

/// A member that was dropped is brought up to date after so long (milliseconds) at the earliest: what it
/// stumbled over may still be there.
const REPAIR_AFTER_MS: u64 = 200;

/// Members that a replica's header has room for.
const MAX_SET: usize = 15;

impl Cluster {
    /// A primary says that members failed; or a member, that it is not whole.
    pub(super) fn problem(&mut self, work: &mut Work<'_>, link: LinkId, problem: &rpc::ReplicaProblem) {
        let Some(from) = self.sender(work, link) else { return };
        let Some(record) = known(work, link, problem.req, (problem.chunk, problem.epoch)) else { return };
        if problem.hands_over {
            return self.hand_over(work, link, (from, problem.req), &record, Epoch(problem.epoch));
        }
        let failed: Vec<_> = problem.failed.iter().map(|s| ServerId(*s)).collect();
        match transitions::reported_by_member(&record, from, Epoch(problem.epoch), &failed) {
            Ok(next) => {
                info!(chunk = %record.chunk, epoch = %next.epoch, primary = %from, failed = ?problem.failed,
                    why = problem.failure().as_str_name(), "replicas dropped");
                let record = self.adopt(work, &record, next, Some(from));
                reply(work, link, problem.req, Some(&record), "");
            }
            Err(why) => reply(work, link, problem.req, Some(&record), &why.to_string()),
        }
    }

    /// A primary has no room for a write: the others go on without it, if they have.
    fn hand_over(
        &mut self,
        work: &mut Work<'_>,
        link: LinkId,
        (from, req): (ServerId, u64),
        record: &ChunkRecord,
        epoch: Epoch,
    ) {
        let room = |s| self.servers.get(&s).is_some_and(|s| s.is_alive() && s.has_room());
        let elsewhere = self.servers.values().filter(|s| self.may_take(record, s) && s.has_room()).count();
        match transitions::no_room(record, (from, epoch), room, elsewhere) {
            Ok(next) => {
                info!(chunk = %record.chunk, epoch = %next.epoch, primary = %from, "a full primary hands over");
                let record = self.adopt(work, record, next, Some(from));
                reply(work, link, req, Some(&record), "");
            }
            Err(why) => {
                // With another copy, which is about to be made, it can.
                let later = matches!(why, Unchanged::BelowMajority { .. }) && self.wants_copy(record);
                if later {
                    self.repairs.asked_for(record.chunk);
                }
                answer(
                    work,
                    link,
                    rpc::ChunkReply { req, chunk: Some(record.info()), detail: why.to_string(), later },
                );
            }
        }
    }

    /// A client could not use replicas.
    pub(super) fn client_report(
        &mut self,
        work: &mut Work<'_>,
        token: Token,
        (chunk, epoch): (ChunkId, Epoch),
        servers: &[ServerId],
    ) {
        let mut record = match work.chunk(chunk) {
            Ok(Some(record)) => record,
            Ok(None) => return work.push(Effect::AnswerClient { token, chunk: None }),
            // It will ask again.
            Err(_) => return,
        };
        self.repairs.asked_for(chunk);
        let gone = |s| self.servers.get(&s).is_some_and(|s| s.is_gone(work.now));
        if let Ok(next) = transitions::reported_by_client(&record, epoch, servers, gone) {
            info!(chunk = %chunk, epoch = %next.epoch, failed = ?servers, "replicas dropped for a client");
            record = self.adopt(work, &record, next, None);
        }
        work.push(Effect::AnswerClient { token, chunk: Some(record.info()) });
    }

    /// A primary says that a server holds all of a chunk.
    pub(super) fn caught_up(&mut self, work: &mut Work<'_>, link: LinkId, message: &rpc::CaughtUp) {
        let Some(from) = self.sender(work, link) else { return };
        let (chunk, server) = (ChunkId(message.chunk), ServerId(message.server));
        let Some(record) = known(work, link, message.req, (message.chunk, message.epoch)) else { return };
        let fit = self.servers.get(&server).is_some_and(|s| s.is_alive() && !s.is_leaving())
            && !self.deletes.is_pending(server, chunk);
        let asked = (from, Epoch(message.epoch));
        let leaving = |s| self.leaves(chunk, s);
        let aim = Aim { copies: self.copies_wanted(&record), leaving: &leaving };
        match transitions::caught_up(&record, asked, server, fit, aim) {
            Ok(next) => {
                if let Some(s) = self.servers.get_mut(&server) {
                    s.replicas.expect(chunk, next.epoch, work.now);
                }
                let flight = self.repairs.flight(chunk).filter(|f| f.target == server);
                if let Some(flight) = flight {
                    self.balance.has_arrived(server, chunk, flight.bytes, work.now);
                }
                let record = self.adopt(work, &record, next, Some(from));
                self.repairs.made(flight);
                self.repairs.succeeded(chunk);
                self.delete_superfluous(&record);
                reply(work, link, message.req, Some(&record), "");
            }
            Err(why) => {
                if !matches!(why, Unchanged::Member)
                    && self.repairs.flight(chunk).is_some_and(|f| f.target == server)
                {
                    self.repair_failed(work, chunk, &why.to_string());
                }
                reply(work, link, message.req, Some(&record), &why.to_string());
            }
        }
        self.start_repairs(work);
    }

    /// The chunk is whole: old copies elsewhere are not needed any more.
    pub(super) fn delete_superfluous(&mut self, record: &ChunkRecord) {
        if !self.wants_copy(record) {
            for (id, server) in &self.servers {
                if !record.has(*id) && server.replicas.epoch(record.chunk).is_some() {
                    self.deletes.add(*id, record.chunk);
                }
            }
        }
    }

    /// Makes `next` the chunk's record, and tells everybody whom it concerns; `asker` is answered by the caller.
    /// Those who were dropped are told as well, so that they stop serving it.
    pub(super) fn adopt(
        &mut self,
        work: &mut Work<'_>,
        before: &ChunkRecord,
        next: ChunkRecord,
        asker: Option<ServerId>,
    ) -> ChunkRecord {
        work.put_chunk(next.clone());
        let dropped = before.in_sync.iter().copied().filter(|s| !next.has(*s));
        for server in next.in_sync.iter().copied().chain(dropped) {
            if Some(server) == asker {
                self.expect_epoch(work.now, server, &next);
            } else {
                self.tell_epoch(work, server, &next);
            }
        }
        if let Some(flight) = self.repairs.flight(next.chunk)
            && (next.primary() != Some(flight.primary) || next.has(flight.target))
        {
            self.repairs.replan(next.chunk);
        }
        self.note_copies(&next, work.now.plus(REPAIR_AFTER_MS));
        next
    }

    /// Whether the chunk wants a copy; if so, it may be repaired `from` then on.
    pub(super) fn note_copies(&mut self, record: &ChunkRecord, from: Millis) {
        if self.wants_copy(record) {
            let leaves = |s: &ServerId| self.leaves(record.chunk, *s);
            let leaving: Vec<_> = record.in_sync.iter().copied().filter(leaves).collect();
            let there = |s: &&ServerId| self.servers.get(s).is_some_and(|s| s.may_serve());
            let copies = record.in_sync.iter().filter(there).count();
            let why = match self.balance.planned(record.chunk) {
                _ if copies < record.wanted as usize => Why::Short,
                _ if leaving.iter().any(|s| self.is_leaving(*s)) => Why::Drain,
                Some(planned) => planned.why,
                None if self.balance.hot.extra(record.chunk) > 0 => Why::Hot,
                None => Why::Short,
            };
            let need = Need { copies, short: !record.is_whole(), why, leaving };
            self.repairs.want(record.chunk, need, from);
        } else {
            self.repairs.forget(record.chunk);
        }
    }

    /// Whether fewer members than wanted are there to stay.
    pub(super) fn wants_copy(&self, record: &ChunkRecord) -> bool {
        let leaving = |s| self.leaves(record.chunk, s);
        transitions::wants_copy(record, Aim { copies: self.copies_wanted(record), leaving: &leaving })
    }

    /// How many members the chunk is to have.
    pub(super) fn copies_wanted(&self, record: &ChunkRecord) -> usize {
        let wanted = record.wanted as usize;
        (wanted + self.balance.hot.extra(record.chunk)).min(MAX_SET.max(wanted))
    }

    /// Whether the chunk is to leave that server.
    pub(super) fn leaves(&self, chunk: ChunkId, server: ServerId) -> bool {
        self.is_leaving(server) || self.balance.planned(chunk).is_some_and(|m| m.from == server)
    }

    /// Tells a server a chunk's epoch and set; if it cannot be told now, before it is given a lease again.
    pub(super) fn tell_epoch(&mut self, work: &mut Work<'_>, server: ServerId, record: &ChunkRecord) {
        let Some(s) = self.servers.get_mut(&server) else {
            warn!(chunk = %record.chunk, %server, "in an in-sync set, but unknown");
            return;
        };
        match s.reachable() {
            Some(link) => {
                work.send(link, Cmd::SetEpoch(record.info()));
                self.expect_epoch(work.now, server, record);
            }
            None => drop(s.owed.insert(record.chunk)),
        }
    }

    fn expect_epoch(&mut self, now: Millis, server: ServerId, record: &ChunkRecord) {
        let Some(s) = self.servers.get_mut(&server) else { return };
        s.replicas.tell(record.chunk, record.epoch, now);
        if record.has(server) && s.replicas.epoch(record.chunk).is_none() {
            self.audit.doubt();
        }
    }

    /// The server at the other end of a connection; if there is none, the connection is ended.
    pub(super) fn sender(&self, work: &mut Work<'_>, link: LinkId) -> Option<ServerId> {
        let server = self.links.get(&link).copied();
        if server.is_none() {
            work.close(link, Refusal::NotRegistered);
        }
        server
    }
}

/// The record of the chunk that a server asks about under an epoch. If there is none, the server is answered.
fn known(work: &mut Work<'_>, link: LinkId, req: u64, (chunk, epoch): (u64, u64)) -> Option<ChunkRecord> {
    match work.chunk(ChunkId(chunk)) {
        Ok(Some(record)) => return Some(record),
        Ok(None) => reply(work, link, req, None, "deleted"),
        Err(why) => {
            // As it was asked: refused, for now.
            let chunk = Some(rpc::ChunkInfo { chunk, epoch, ..rpc::ChunkInfo::default() });
            answer(work, link, rpc::ChunkReply { req, chunk, detail: why.to_string(), later: true });
        }
    }
    None
}

fn reply(work: &mut Work<'_>, link: LinkId, req: u64, record: Option<&ChunkRecord>, detail: &str) {
    let chunk = Some(record.map(ChunkRecord::info).unwrap_or_default());
    answer(work, link, rpc::ChunkReply { req, chunk, detail: detail.to_owned(), later: false });
}

fn answer(work: &mut Work<'_>, link: LinkId, reply: rpc::ChunkReply) {
    work.send(link, Cmd::Chunk(reply));
}
