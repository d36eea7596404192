//! Mirrors `node/effects.rs` and `node/wire.rs`: performs what a replica's state machine asks for.

use super::chunk::{Chunk, ChunkEvent, Machine, Ticket, Write};
use super::compare;
use super::disk::DiskError;
use super::node::Node;
use crate::message::{Ask, Reply, Request};
use crate::net::ConnId;
use cairn_chunkserver::core::layout::ChunkMeta;
use cairn_chunkserver::core::replica::{Effect, Event, Fault, MemberAnswer, OpId};
use cairn_proto::data::Status;
use std::collections::VecDeque;
use std::rc::Rc;

type Events = VecDeque<ChunkEvent>;

/// Why blocks could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSent {
    Unreadable,
    Unreachable,
}

/// Blocks in one Install.
pub const INSTALL_BLOCKS: u32 = 3;

/// What a member's answer means.
pub fn member_answer(reply: Option<&Reply>) -> MemberAnswer {
    let Some(reply) = reply else { return MemberAnswer::Failed(Fault::Unreachable) };
    match reply.status {
        Status::Ok => MemberAnswer::Done,
        Status::NoSpace => MemberAnswer::Failed(Fault::NoSpace),
        Status::DiskError => MemberAnswer::Failed(Fault::Disk),
        Status::StaleEpoch | Status::NotPrimary => MemberAnswer::Failed(Fault::Stale),
        _ => MemberAnswer::NotLevel,
    }
}

fn fault(e: DiskError) -> Option<Fault> {
    match e {
        DiskError::Full => Some(Fault::NoSpace),
        DiskError::Deleted | DiskError::Stale | DiskError::Corrupt(_) => None,
    }
}

fn unreachable(op: OpId, server: u32) -> ChunkEvent {
    Event::Answered { op, server, answer: MemberAnswer::Failed(Fault::Unreachable) }
}

impl Chunk {
    pub fn perform(
        self: &Rc<Self>,
        node: &Rc<Node>,
        machine: &Machine,
        effect: Effect<Write, Ticket>,
        events: &mut Events,
    ) {
        match effect {
            Effect::Forward { op, to, seq, id: _, sync, write } => {
                let ChunkMeta { epoch, in_sync, wanted, .. } = machine.meta();
                let body = || Ask::Forward { change: write.clone(), seq, in_sync: in_sync.clone(), wanted };
                for server in to {
                    let request = Request { chunk: self.id, epoch, sync, body: body() };
                    if !node.send(server, request, self.then_answered(node, op, server)) {
                        events.push_back(unreachable(op, server));
                    }
                }
            }
            Effect::Apply { op, seq, sync, write, .. } => self.apply(node, op, seq, sync, &write, events),
            Effect::Mirror { to, .. } if events.iter().any(|e| matches!(e, Event::LocalFault { .. })) => {
                events.push_back(Event::JoinFailed { target: to });
            }
            Effect::Mirror { op, to, sync, write } => {
                if let Err(why) = self.mirror(node, &machine.meta(), op, to, sync, &write) {
                    events.push_back(Event::JoinFailed { target: to });
                    if why == NotSent::Unreadable {
                        events.push_back(Event::Doubt);
                    }
                }
            }
            Effect::SyncAll { op, to } => {
                for server in to {
                    let request = self.local_sync(machine.epoch());
                    if !node.send(server, request, self.then_answered(node, op, server)) {
                        events.push_back(unreachable(op, server));
                    }
                }
                self.sync_local(node, op);
            }
            Effect::Store { seq, id: _, sync, write, answer } => {
                self.store(node, machine.epoch(), seq, sync, write, answer, events);
            }
            Effect::Answer { to, status, .. } => self.answer(node, to, status, machine.epoch()),
            Effect::Record => self.record(node, machine.meta()),
            // Only a deleted replica could not.
            Effect::Suspect => drop(self.disk(node).and_then(|mut d| d.doubt(self.id))),
            Effect::HandOver => node.hand_over(self, machine.epoch()),
            Effect::Report { failed, fault } => node.report(self, machine.epoch(), failed, fault),
            Effect::Compare => compare::start(node, self, machine.meta()),
            Effect::AskPrimary => compare::ask_primary(node, self),
            // Its task looks before every step.
            Effect::AbortJoin { .. } => {}
            Effect::Probe { servers } => {
                for server in servers {
                    let (chunk, n) = (self.clone(), node.clone());
                    let ping = Request { chunk: 0, epoch: 0, sync: false, body: Ask::Ping };
                    node.send(server, ping, move |reply| {
                        if reply.is_some() {
                            chunk.handle(&n, Event::Heard { server });
                        }
                    });
                }
            }
        }
    }

    pub fn local_sync(&self, epoch: u64) -> Request {
        Request { chunk: self.id, epoch, sync: false, body: Ask::Sync { local: true } }
    }

    fn then_answered(
        self: &Rc<Self>,
        node: &Rc<Node>,
        op: OpId,
        server: u32,
    ) -> impl FnOnce(Option<Reply>) + 'static + use<> {
        let (chunk, node) = (self.clone(), node.clone());
        move |reply| {
            let answer = member_answer(reply.as_ref());
            chunk.handle(&node, Event::Answered { op, server, answer });
        }
    }

    fn apply(
        self: &Rc<Self>,
        node: &Rc<Node>,
        op: OpId,
        seq: u64,
        sync: bool,
        write: &Write,
        events: &mut Events,
    ) {
        let done = self.apply_faulty(node, write, seq);
        match done {
            Ok(()) if sync => self.sync_local(node, op),
            Ok(()) => events.push_back(Event::LocalDone { op }),
            Err(e) => events.push_back(Event::LocalFault { seq: Some(seq), fault: fault(e) }),
        }
    }

    fn sync_local(self: &Rc<Self>, node: &Rc<Node>, op: OpId) {
        let chunk = self.clone();
        node.sync(self.id, move |node| chunk.handle(node, Event::LocalDone { op }));
    }

    #[allow(clippy::too_many_arguments)]
    fn store(
        self: &Rc<Self>,
        node: &Rc<Node>,
        epoch: u64,
        seq: u64,
        sync: bool,
        write: Option<Write>,
        answer: Ticket,
        events: &mut Events,
    ) {
        if let Some(write) = write
            && let Err(e) = self.apply_faulty(node, &write, seq)
        {
            node.refuse(answer, e.status(), epoch);
            return events.push_back(Event::LocalFault { seq: Some(seq), fault: None });
        }
        if sync {
            node.sync(self.id, move |node| node.refuse(answer, Status::Ok, epoch));
        } else {
            node.refuse(answer, Status::Ok, epoch);
        }
    }

    fn record(self: &Rc<Self>, node: &Rc<Node>, meta: ChunkMeta) {
        if self.is_retired() {
            return;
        }
        let epoch = meta.epoch;
        trace!(node.world, "s{} c{} epoch {epoch} {:?}", node.id, self.id, meta.in_sync);
        // Only a deleted replica could not.
        let _ = self.disk(node).and_then(|mut d| d.set_meta(self.id, meta));
        let before = self.count_epoch(epoch);
        node.digest_change(self.id, before, epoch);
        node.world.epoch_seen(node.id, self.id, epoch);
    }

    /// Sends what a write touched, as it is now, to a server that is being brought up to date.
    fn mirror(
        self: &Rc<Self>,
        node: &Rc<Node>,
        meta: &ChunkMeta,
        op: OpId,
        to: u32,
        sync: bool,
        write: &Write,
    ) -> Result<(), NotSent> {
        let (mut at, end) = write.blocks();
        while at < end {
            let n = (end - at).min(INSTALL_BLOCKS);
            let last = at + n == end;
            let then = self.then_answered(node, op, to);
            let (chunk, node2) = (self.clone(), node.clone());
            let sent = self.install_at(node, meta, (to, None), (at, n), sync && last, move |reply| {
                if last {
                    then(reply);
                } else if member_answer(reply.as_ref()) != MemberAnswer::Done {
                    chunk.handle(&node2, Event::JoinFailed { target: to });
                }
            });
            sent?;
            at += n;
        }
        Ok(())
    }

    /// Sends blocks (first, count; none: only the chunk's seq) as they are now.
    pub fn install_at(
        &self,
        node: &Rc<Node>,
        meta: &ChunkMeta,
        (to, on): (u32, Option<ConnId>),
        (first, count): (u32, u32),
        sync: bool,
        then: impl FnOnce(Option<Reply>) + 'static,
    ) -> Result<(), NotSent> {
        let read = self.disk(node).and_then(|mut d| d.read(self.id, first, count));
        let (data, crcs, told) = read.map_err(|_| NotSent::Unreadable)?;
        let ChunkMeta { epoch, in_sync, seq, .. } = meta.clone();
        let body = Ask::Install { first, told, crcs, data, in_sync, seq };
        let request = Request { chunk: self.id, epoch, sync, body };
        let sent = match on {
            Some(conn) => node.world.ask(conn, request, then),
            None => node.send(to, request, then),
        };
        if sent { Ok(()) } else { Err(NotSent::Unreachable) }
    }

    /// Now and then a disk turns out to be full only while it is written to.
    fn apply_faulty(&self, node: &Node, write: &Write, seq: u64) -> Result<(), DiskError> {
        if node.world.rng.borrow_mut().permille(node.world.late_full.get()) {
            trace!(node.world, "s{} c{} fault: full while written to", node.id, self.id);
            return Err(DiskError::Full);
        }
        self.disk(node)?.apply(self.id, write, seq)
    }
}
