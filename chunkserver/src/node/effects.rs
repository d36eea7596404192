//! Performs what a replica's state machine asks for.

use super::answer::Answer;
use super::chunk::{Chunk, ChunkEvent, Machine, Write};
use super::state::Node;
use super::{compare, wire};
use crate::core::layout::ChunkMeta;
use crate::core::recent::WriteId;
use crate::core::replica::{Effect, Event, Fault, MemberAnswer, OpId};
use crate::disk::{Blocks, DiskError, Payload};
use bytes::Bytes;
use cairn_proto::block::BLOCK;
use cairn_proto::data::{Client, Frame, Header, Kind, Status, flags};
use cairn_proto::rpc::{InstallMeta, SyncMeta};
use prost::Message;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

type Events = VecDeque<ChunkEvent>;

/// Why blocks could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSent {
    /// They cannot be read here.
    Unreadable,
    /// There is no connection.
    Unreachable,
}

/// Blocks in one Install.
pub const INSTALL_BLOCKS: u32 = 256;

impl Chunk {
    pub(super) fn perform(
        self: &Arc<Self>,
        node: &Arc<Node>,
        machine: &mut Machine,
        effect: Effect<Write, Answer>,
        events: &mut Events,
    ) {
        match effect {
            Effect::Forward { op, to, seq, id: _, sync, write } => {
                self.forward(node, &machine.meta(), op, &to, seq, sync, &write, events);
            }
            Effect::Apply { op, seq, sync, write, .. } => self.apply(node, op, seq, sync, &write, events),
            // It would be sent what is here, as if that were the write.
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
            Effect::SyncAll { op, to } => self.sync_all(node, machine.epoch(), op, &to, events),
            Effect::Store { seq, sync, write, answer, id } => {
                self.store(node, machine.epoch(), (seq, id), sync, write, answer, events);
            }
            Effect::Answer { to, status, seq } => Self::answer(node, to, status, machine.epoch(), seq),
            Effect::Record => self.record(node, machine.meta()),
            Effect::Suspect => self.suspect(),
            Effect::Report { failed, fault } => {
                tracing::info!(chunk = self.id, epoch = machine.epoch(), ?failed, ?fault, "members failed");
                if fault == Fault::Silent {
                    failed.iter().for_each(|s| node.peers.reset(*s));
                }
                node.master.report(node, self, machine.epoch(), failed, fault);
            }
            Effect::HandOver => node.master.hand_over(self, node.config.id, machine.epoch()),
            Effect::Compare => compare::start(node, self, machine),
            Effect::AskPrimary => compare::ask_primary(node, self),
            // Its task looks before every step.
            Effect::AbortJoin { target } => {
                tracing::info!(chunk = self.id, target, "bringing up to date ended")
            }
            Effect::Probe { servers } => servers.into_iter().for_each(|s| self.probe(node, s)),
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn forward(
        self: &Arc<Self>,
        node: &Arc<Node>,
        meta: &ChunkMeta,
        op: OpId,
        to: &[u32],
        seq: u64,
        sync: bool,
        write: &Write,
        events: &mut Events,
    ) {
        let (header, wire_meta) = wire::forward(self.id, meta, write, seq, sync);
        let encoded = wire_meta.encode_to_vec();
        let data = match &write.payload {
            Payload::Data(d, _) => d.clone(),
            Payload::Zeros(_) => Bytes::new(),
        };
        for server in to {
            let then = self.then_answered(node, op, *server);
            if !node.peers.send(*server, header, &encoded, data.clone(), then) {
                events.push_back(unreachable(op, *server));
            }
        }
    }

    /// Passes a member's answer on to the state machine.
    fn then_answered(
        self: &Arc<Self>,
        node: &Arc<Node>,
        op: OpId,
        server: u32,
    ) -> impl FnOnce(Option<Frame>) + Send + use<> {
        let (chunk, node) = (self.clone(), node.clone());
        move |frame| {
            let answer = wire::member_answer(frame.as_ref());
            chunk.handle(&node, Event::Answered { op, server, answer });
        }
    }

    fn apply(
        self: &Arc<Self>,
        node: &Arc<Node>,
        op: OpId,
        seq: u64,
        sync: bool,
        write: &Write,
        events: &mut Events,
    ) {
        match self.unit.disk.apply(&self.file, write, seq) {
            Ok(()) if sync => self.sync_local(node, op),
            Ok(()) => events.push_back(Event::LocalDone { op }),
            Err(e) => {
                tracing::warn!(chunk = self.id, seq, "cannot apply a write: {e}");
                events.push_back(Event::LocalFault { seq: Some(seq), fault: fault(&e) });
            }
        }
    }

    fn sync_local(self: &Arc<Self>, node: &Arc<Node>, op: OpId) {
        let (chunk, node) = (self.clone(), node.clone());
        self.unit.syncer.sync(self.file.clone(), move |done| {
            let event = match done {
                Ok(()) => Event::LocalDone { op },
                Err(e) => Event::LocalFault { seq: None, fault: fault(&e) },
            };
            chunk.handle(&node, event);
        });
    }

    fn sync_all(self: &Arc<Self>, node: &Arc<Node>, epoch: u64, op: OpId, to: &[u32], events: &mut Events) {
        let header = Header::request(Kind::Sync, self.id, epoch as u32, 0);
        let meta = SyncMeta { local: true }.encode_to_vec();
        for server in to {
            let then = self.then_answered(node, op, *server);
            if !node.peers.send(*server, header, &meta, Bytes::new(), then) {
                events.push_back(unreachable(op, *server));
            }
        }
        self.sync_local(node, op);
    }

    #[allow(clippy::too_many_arguments)]
    fn store(
        self: &Arc<Self>,
        node: &Arc<Node>,
        epoch: u64,
        (seq, _id): (u64, WriteId),
        sync: bool,
        write: Option<Write>,
        answer: Answer,
        events: &mut Events,
    ) {
        if let Some(write) = write
            && let Err(e) = self.unit.disk.apply(&self.file, &write, seq)
        {
            tracing::warn!(chunk = self.id, seq, "cannot apply a forwarded write: {e}");
            answer.refuse(e.status(), epoch, &e.to_string());
            return events.push_back(Event::LocalFault { seq: Some(seq), fault: None });
        }
        if sync {
            self.sync_then_answer(node, epoch, seq, answer);
        } else {
            answer.written(Status::Ok, epoch, seq);
        }
    }

    /// Makes the chunk stable here, then answers.
    pub(super) fn sync_then_answer(
        self: &Arc<Self>,
        _node: &Arc<Node>,
        epoch: u64,
        seq: u64,
        answer: Answer,
    ) {
        self.unit.syncer.sync(self.file.clone(), move |done| match done {
            Ok(()) => answer.written(Status::Ok, epoch, seq),
            Err(e) => answer.refuse(e.status(), epoch, &e.to_string()),
        });
    }

    fn record(self: &Arc<Self>, node: &Arc<Node>, meta: ChunkMeta) {
        if self.is_retired() {
            return;
        }
        let epoch = meta.epoch;
        tracing::debug!(chunk = self.id, epoch, set = ?meta.in_sync, "epoch");
        if let Err(e) = self.unit.disk.set_meta(&self.file, meta) {
            tracing::warn!(chunk = self.id, "cannot record an epoch: {e}");
        }
        let before = self.count_epoch(epoch);
        node.digest_change(self.id, before, epoch);
    }

    fn suspect(&self) {
        if !self.is_retired()
            && let Err(e) = self.unit.disk.doubt(&self.file)
        {
            tracing::warn!(chunk = self.id, "cannot record a doubt: {e}");
        }
    }

    fn probe(self: &Arc<Self>, node: &Arc<Node>, server: u32) {
        let (chunk, n) = (self.clone(), node.clone());
        let header = Header::request(Kind::Ping, 0, 0, 0);
        // Unreachable: then its answers do not come either, which is noticed.
        node.peers.send(server, header, &[], Bytes::new(), move |frame| {
            if frame.is_some() {
                chunk.handle(&n, Event::Heard { server });
            }
        });
    }

    /// Sends what a write touched, as it is now, to a server that is being brought up to date.
    fn mirror(
        self: &Arc<Self>,
        node: &Arc<Node>,
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
            let sent = self.install_at(node, meta, (to, None), (at, n), sync && last, move |frame| {
                if last {
                    then(frame);
                } else if wire::member_answer(frame.as_ref()) != MemberAnswer::Done {
                    chunk.handle(&node2, Event::JoinFailed { target: to });
                }
            });
            sent?;
            at += n;
        }
        Ok(())
    }

    /// Sends blocks (first, count; none: only the chunk's seq) as they are now. The lock is held, so that
    /// nothing changes them before they are on their way. With a connection given, on that one or not at all.
    pub(super) fn install_at(
        &self,
        node: &Arc<Node>,
        meta: &ChunkMeta,
        (to, on): (u32, Option<&Client>),
        (first, count): (u32, u32),
        sync: bool,
        then: impl FnOnce(Option<Frame>) + Send + 'static,
    ) -> Result<(), NotSent> {
        let blocks = match count {
            0 => None,
            _ => Some(self.read_here(first, count)?),
        };
        self.install_blocks(
            node,
            meta,
            (to, on),
            first,
            blocks,
            if sync { flags::SYNC } else { 0 },
            false,
            then,
        )
    }

    /// As `install_at`, for a copy of the whole chunk: what was read before is sent if it is still so.
    pub(super) fn copy_at(
        &self,
        node: &Arc<Node>,
        meta: &ChunkMeta,
        (to, on): (u32, &Client),
        (first, count): (u32, u32),
        read: Option<Blocks>,
        then: impl FnOnce(Option<Frame>) + Send + 'static,
    ) -> Result<(), NotSent> {
        let still = |b: &Blocks| self.unit.disk.are_still(&self.file, first, b).unwrap_or(false);
        let blocks = match read.filter(still) {
            Some(blocks) => blocks,
            None => self.read_here(first, count)?,
        };
        self.install_blocks(node, meta, (to, Some(on)), first, Some(blocks), 0, true, then)
    }

    fn read_here(&self, first: u32, count: u32) -> Result<Blocks, NotSent> {
        self.unit.disk.read(&self.file, first, count).map_err(|e| {
            tracing::warn!(chunk = self.id, first, "cannot read blocks for another replica: {e}");
            NotSent::Unreadable
        })
    }

    #[allow(clippy::too_many_arguments)]
    fn install_blocks(
        &self,
        node: &Arc<Node>,
        meta: &ChunkMeta,
        (to, on): (u32, Option<&Client>),
        first: u32,
        blocks: Option<Blocks>,
        flags: u8,
        copying: bool,
        then: impl FnOnce(Option<Frame>) + Send + 'static,
    ) -> Result<(), NotSent> {
        let mut header = Header::request(Kind::Install, self.id, meta.epoch as u32, first * BLOCK as u32);
        header.flags |= flags;
        let mut install =
            InstallMeta { in_sync: meta.in_sync.clone(), seq: meta.seq, copying, ..InstallMeta::default() };
        let mut data = Bytes::new();
        if let Some(blocks) = blocks {
            let holes = blocks.told.iter().all(|t| t.1 == 0);
            install.blocks = blocks.crcs.len() as u64;
            install.crcs = blocks.crcs;
            install.versions = blocks.told.iter().map(|t| t.1).collect();
            data = if holes { Bytes::new() } else { blocks.data };
        }
        let sent = match on {
            Some(client) => client.start_then(header, &install.encode_to_vec(), data, then),
            None => node.peers.send(to, header, &install.encode_to_vec(), data, then),
        };
        if sent { Ok(()) } else { Err(NotSent::Unreachable) }
    }

    /// Counts what a client wrote.
    pub(super) fn count_written(node: &Node, bytes: usize) {
        node.traffic.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

fn unreachable(op: OpId, server: u32) -> ChunkEvent {
    Event::Answered { op, server, answer: MemberAnswer::Failed(Fault::Unreachable) }
}

/// What of a disk's errors means that others have to go on without this replica.
fn fault(e: &DiskError) -> Option<Fault> {
    match e {
        DiskError::NoSpace => Some(Fault::NoSpace),
        DiskError::Io(_) | DiskError::Failed => Some(Fault::Disk),
        DiskError::Corrupt { .. } | DiskError::Range | DiskError::Deleted | DiskError::Stale => None,
    }
}
