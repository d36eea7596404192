//! Leases of mounts: given with answers, recalled for changes, which wait meanwhile.

use std::collections::BTreeSet;

use cairn_proto::rpc::{self, op::Op as Body, reply::Result as Answer};
use cairn_proto::{InodeId, SessionId};

use super::state::State;
use super::turn::Turn;
use crate::core::errno;
use crate::core::keys;
use crate::core::leases::Effect;
use crate::core::scratch::Scratch;
use crate::core::sessions::ConnectionId;

/// An operation, and where its answer goes.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) from: ConnectionId,
    pub(super) session: SessionId,
    pub(super) op: rpc::Op,
    /// Its place among the changes that wait, if it has been among them.
    pub(super) place: Option<u64>,
}

impl State {
    /// Whether a change that was just executed has to wait for leases of others. It is then taken back, and executed again later.
    pub(super) fn must_wait(&mut self, turn: &mut Turn<'_>, asked: &Asked) -> bool {
        if self.leases.is_idle() || !turn.scratch.changed() {
            return false;
        }
        let Asked { from, session, place, .. } = *asked;
        let what = || (from, asked.op.clone());
        let Some(effects) = self.leases.hold(turn.now, session, touched(&turn.scratch), place, what) else {
            return false;
        };
        turn.scratch.rollback();
        self.lease_effects(turn, effects);
        true
    }

    /// Executes the changes that nothing stands in the way of any more.
    pub(super) fn go_on(&mut self, turn: &mut Turn<'_>) {
        while let Some(ready) = self.leases.ready() {
            let (from, op) = ready.what;
            self.carry_out(turn, Asked { from, session: ready.by, op, place: Some(ready.place) });
        }
    }

    /// Whether the operation waits already: it was sent again over another connection, where its answer goes then.
    pub(super) fn waits(&mut self, from: ConnectionId, session: SessionId, id: u64) -> bool {
        let Some((to, _)) = self.leases.waiting(session).find(|(_, op)| op.id == id) else { return false };
        *to = from;
        true
    }

    /// Gives leases on what a reply speaks of, if they were asked for.
    pub(super) fn give_leases(
        &mut self,
        turn: &mut Turn<'_>,
        session: SessionId,
        op: &rpc::Op,
        reply: &mut rpc::Reply,
    ) {
        let Some(body) = op.op.as_ref().filter(|_| op.lease) else { return };
        let (leased, effect) = self.leases.grant(turn.now, session, spoken_of(body, reply));
        reply.leased = leased.into_iter().map(|i| i.0).collect();
        self.lease_effects(turn, effect);
    }

    /// A mount has given leases up, and holds `open` open.
    pub(super) fn lease_given_up(
        &mut self,
        turn: &mut Turn<'_>,
        from: ConnectionId,
        session: SessionId,
        ack: rpc::EventAck,
    ) {
        self.held_open(turn, from, session, ack.open);
        let given_back = ack.given_back.into_iter().map(InodeId);
        if self.leases.acknowledged(turn.now, session, ack.id, given_back) {
            self.go_on(turn);
        }
    }

    /// A mount holds these inodes open, of which it has not told before.
    pub(super) fn held_open(
        &mut self,
        turn: &mut Turn<'_>,
        from: ConnectionId,
        session: SessionId,
        inodes: Vec<u64>,
    ) {
        if inodes.is_empty() {
            return;
        }
        let op = Some(Body::Opened(rpc::Opened { inodes }));
        let op = rpc::Op { op, ..rpc::Op::default() };
        if let Some(refused) =
            self.execute(turn, &Asked { from, session, op, place: None }).filter(|r| r.errno != 0)
        {
            tracing::error!(session = session.0, "what is open cannot be recorded: {}", refused.detail);
        }
    }

    /// Ends the sessions that have not given up leases in time.
    pub(super) fn lease_tick(&mut self, turn: &mut Turn<'_>) {
        for session in self.leases.tick(turn.now) {
            tracing::warn!(session = session.0, "a mount does not give up its leases: its session ends");
            let effects = self.sessions.expire(turn.now, session, &mut turn.scratch.counters.next_session);
            self.session_effects(turn, effects);
        }
        self.go_on(turn);
    }

    fn lease_effects(&mut self, turn: &mut Turn<'_>, effects: impl IntoIterator<Item = Effect>) {
        for effect in effects {
            let (session, id, event) = match effect {
                Effect::Recall { session, event, inodes } => {
                    let inodes = inodes.into_iter().map(|i| i.0).collect();
                    (session, event, rpc::event::Event::LeaseRecall(rpc::LeaseRecall { inodes }))
                }
                Effect::Trim { session, event, keep } => {
                    let keep = u32::try_from(keep).unwrap_or(u32::MAX);
                    (session, event, rpc::event::Event::Trim(rpc::Trim { keep }))
                }
            };
            // One that has no connection holds no lease any more once it says hello.
            if let Some(to) = self.sessions.connection_of(session) {
                turn.event(to, id, event);
            }
        }
    }
}

/// The inodes of which something has changed since the last savepoint that a lease covers.
fn touched(scratch: &Scratch<'_>) -> BTreeSet<InodeId> {
    let covered = |key: &&[u8]| {
        matches!(key.first(), Some(&(keys::INODE | keys::ENTRY | keys::XATTR | keys::FILE_CHUNK)))
    };
    scratch.touched().filter(covered).filter_map(keys::head_id).map(InodeId).collect()
}

/// The inodes of which a reply says something that a lease would keep true.
fn spoken_of(op: &Body, reply: &rpc::Reply) -> Vec<InodeId> {
    let mut inodes = Vec::new();
    let about = match op {
        // That there is no such name is something, too.
        Body::Lookup(op) if reply.errno == 0 || reply.errno == errno::ENOENT.0 => Some(op.parent),
        _ if reply.errno != 0 => None,
        Body::ReadDir(op) => Some(op.inode),
        Body::GetChunks(op) if op.count > 0 => Some(op.inode),
        Body::AllocChunks(op) => Some(op.inode),
        _ => None,
    };
    inodes.extend(about);
    match &reply.result {
        Some(Answer::Attr(attr)) => inodes.push(attr.inode),
        Some(Answer::Dir(page)) => inodes.extend(page.entries.iter().filter_map(|e| Some(e.attr?.inode))),
        Some(Answer::Rename(r)) => inodes.extend(r.moved.iter().chain(&r.replaced).map(|a| a.inode)),
        _ => {}
    }
    inodes.extend(reply.parents.iter().map(|a| a.inode));
    inodes.into_iter().map(InodeId).collect()
}
