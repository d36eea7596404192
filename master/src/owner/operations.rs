//! Operations of mounts: executed once each.

use cairn_proto::rpc::{self, op::Op as Body};
use cairn_proto::{ChunkId, Epoch, ServerId, SessionId};
use rand::RngCore;

use super::leases::Asked;
use super::state::{State, put_reply, slot};
use super::turn::{LazyRoom, Turn};
use crate::core::cluster::{Event, Token};
use crate::core::errno;
use crate::core::namespace::{self, Context, NOBODY};
use crate::core::sessions::ConnectionId;
use crate::store::Room;

/// Operations that are taken though the disk is full, until it is not. A mount has 256 under way at most.
const MOST_OVER: u32 = 4096;

/// How long an inode stays in company that has lost its last name: the time from the answer to a look-up to the question that
/// the kernel asks next, on a busy machine.
const LINGER_MS: u64 = 2_000;
/// Inodes that stay at a time; beyond, the oldest go with the next tick.
const MOST_LINGERING: usize = 16_384;

impl State {
    /// An operation arrives.
    pub(super) fn operation(
        &mut self,
        turn: &mut Turn<'_>,
        from: ConnectionId,
        session: SessionId,
        op: rpc::Op,
    ) {
        *self.operations.entry(session).or_default() += 1;
        if !self.waits(from, session, op.id) {
            self.carry_out(turn, Asked { from, session, op, place: None });
        }
    }

    /// Executes an operation, or repeats the reply that it had. A change that leases of others stand in the way of waits.
    pub(super) fn carry_out(&mut self, turn: &mut Turn<'_>, asked: Asked) {
        let Asked { from, session, ref op, .. } = asked;
        let Some(body) = &op.op else {
            turn.reply(from, refusal(op.id, errno::EINVAL, "an operation without content"));
            return;
        };
        if let Body::ReplicaFailed(report) = body {
            self.replica_failed(turn, from, op.id, report);
            return;
        }
        if let Some(reply) = self.lock_operation(turn, session, op.id, body) {
            turn.reply(from, reply);
            return;
        }
        if !namespace::is_change(body) {
            if let Some(mut reply) = self.execute(turn, &asked) {
                self.give_leases(turn, session, op, &mut reply);
                turn.reply(from, reply);
            }
            return;
        }
        if let Some(kept) = self.kept.get(&session).and_then(|kept| kept.get(&slot(op.id)))
            && kept.id == op.id
        {
            let reply = kept.clone();
            turn.reply(from, reply);
            return;
        }
        let room = turn.room.0;
        if !self.has_room_for(room, op, body) {
            let refusal = refusal(op.id, errno::ENOSPC, "the master's disk is full");
            turn.reply(from, rpc::Reply { scarce: true, ..refusal });
            return;
        }
        let Some(mut reply) = self.execute(turn, &asked) else { return };
        reply.scarce = room != Room::Ample;
        if reply.errno == 0 && turn.scratch.changed() && must_keep(body) {
            put_reply(&mut turn.scratch, session, &reply);
            self.kept.entry(session).or_default().insert(slot(reply.id), reply.clone());
        }
        // Not kept: given with this answer, not with one that is repeated.
        self.give_leases(turn, session, op, &mut reply);
        turn.reply(from, reply);
    }

    /// What a mount has answered already is taken as long as it is little: the log has its place, and the mount hears that it
    /// is to stop answering ahead.
    fn has_room_for(&mut self, room: Room, op: &rpc::Op, body: &Body) -> bool {
        match room {
            Room::Ample => {
                self.over = 0;
                return true;
            }
            Room::Scarce if namespace::is_release(body) => return true,
            Room::Scarce | Room::None if namespace::announces(body) => return true,
            Room::Scarce | Room::None => {}
        }
        let taken = op.at.is_some() && self.over < MOST_OVER;
        self.over += u32::from(taken);
        taken
    }

    /// `None`: it has to wait.
    pub(super) fn execute(&mut self, turn: &mut Turn<'_>, asked: &Asked) -> Option<rpc::Reply> {
        let Asked { session, ref op, .. } = *asked;
        let (cluster, random, copies) = (&self.cluster, &mut self.random, self.config.copies);
        let mut context = Context {
            session,
            now: op.at.filter(|at| at.nanos < 1_000_000_000).unwrap_or(turn.wall),
            copies,
            chunk_size: self.identity.chunk_size,
            place: &mut || cluster.place(copies, &mut || random.next_u64()),
            space: space(cluster, &turn.room, op),
            linger: self.sessions.record(session).is_some_and(|s| !s.exclusive),
            events: Vec::new(),
            lingering: Vec::new(),
        };
        let reply = namespace::execute(&mut turn.scratch, &mut context, op);
        let Context { events, lingering, .. } = context;
        if self.must_wait(turn, asked) {
            return None;
        }
        if op.op.as_ref().is_some_and(namespace::announces) {
            // Nobody had a lease, or has any more: there is nothing to be made durable.
            turn.scratch.rollback();
        }
        self.lingering.extend(lingering.into_iter().map(|inode| (turn.now.plus(LINGER_MS), inode)));
        self.note_changes(turn);
        for event in events {
            self.cluster_event(turn, event);
        }
        Some(reply)
    }

    /// A session is over: what it held open goes, and all that is kept for it.
    pub(super) fn end_session(&mut self, turn: &mut Turn<'_>, session: SessionId) {
        self.kept.remove(&session);
        self.operations.remove(&session);
        self.leases.ended(session);
        self.end_locks(turn, session);
        self.letting_go(turn, session, |turn, context| {
            if let Err(e) = namespace::end_session(&mut turn.scratch, context, session) {
                tracing::error!(session = session.0, "what an ended session held cannot be let go: {e}");
            }
        });
    }

    /// Inodes that have stayed long enough since they lost their last name go.
    pub(super) fn end_lingering(&mut self, turn: &mut Turn<'_>) {
        let over = self.lingering.len().saturating_sub(MOST_LINGERING);
        let due = self.lingering.iter().take_while(|(until, _)| *until <= turn.now).count();
        let inodes: Vec<u64> = self.lingering.drain(..due.max(over)).map(|(_, inode)| inode.0).collect();
        if inodes.is_empty() {
            return;
        }
        let op = rpc::Op { op: Some(Body::Closed(rpc::Closed { inodes })), ..rpc::Op::default() };
        self.letting_go(turn, NOBODY, |turn, context| {
            let reply = namespace::execute(&mut turn.scratch, context, &op);
            if reply.errno != 0 {
                tracing::error!(
                    errno = reply.errno,
                    "files without a name cannot be let go: {}",
                    reply.detail
                );
            }
        });
    }

    /// Runs what only takes away, and tells the cluster core what went.
    fn letting_go(
        &mut self,
        turn: &mut Turn<'_>,
        session: SessionId,
        run: impl FnOnce(&mut Turn<'_>, &mut Context<'_>),
    ) {
        let mut context = Context {
            session,
            now: turn.wall,
            copies: self.config.copies,
            chunk_size: self.identity.chunk_size,
            place: &mut || Ok(Vec::new()),
            space: rpc::StatfsReply::default(),
            linger: false,
            events: Vec::new(),
            lingering: Vec::new(),
        };
        run(turn, &mut context);
        let events = context.events;
        for event in events {
            self.cluster_event(turn, event);
        }
    }

    fn replica_failed(
        &mut self,
        turn: &mut Turn<'_>,
        from: ConnectionId,
        id: u64,
        report: &rpc::ReplicaFailed,
    ) {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.reports.insert(token, (from, id));
        let event = Event::ClientReport {
            token,
            chunk: ChunkId(report.chunk),
            epoch: Epoch(report.epoch),
            servers: report.servers.iter().map(|s| ServerId(*s)).collect(),
            failure: report.failure(),
        };
        self.cluster_event(turn, event);
    }
}

/// Whether doing it twice would not be the same as doing it once.
fn must_keep(op: &Body) -> bool {
    !matches!(op, Body::AllocChunks(_) | Body::Opened(_) | Body::Closed(_) | Body::ReserveInodes(_))
}

/// What statfs says; only looked up for it.
fn space(cluster: &crate::core::cluster::Cluster, room: &LazyRoom<'_>, op: &rpc::Op) -> rpc::StatfsReply {
    /// What an inode and its name take in the store, roughly.
    const BYTES_PER_FILE: u64 = 256;
    if !matches!(op.op, Some(Body::Statfs(_))) {
        return rpc::StatfsReply::default();
    }
    let totals = cluster.totals();
    rpc::StatfsReply {
        total_bytes: totals.total_bytes,
        free_bytes: totals.free_bytes,
        files: 0,
        free_files: room.1 / BYTES_PER_FILE,
    }
}

pub(super) fn refusal(id: u64, errno: errno::Errno, detail: &str) -> rpc::Reply {
    rpc::Reply { id, errno: errno.0, detail: detail.into(), ..rpc::Reply::default() }
}
