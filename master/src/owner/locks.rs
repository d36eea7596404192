//! File locks: what mounts ask of the table, and what becomes of it.
//!
//! What is held is a record, durable before it is answered, so that a restart of the master lets nothing go and gives nothing
//! away. Who waits is not: a mount that comes back asks again. All requests may be sent twice.

use cairn_locks::{Effects, Lock, Outcome, Ticket};
use cairn_proto::rpc::reply::Result as ReplyResult;
use cairn_proto::rpc::{self, op::Op as Body};
use cairn_proto::{InodeId, SessionId};

use super::operations::refusal;
use super::state::State;
use super::turn::Turn;
use crate::core::errno::{self, Errno};
use crate::core::view::View;
use crate::core::{keys, locks};
use crate::store::Room;

/// The answer, or why not.
type Answer = Result<Option<ReplyResult>, (Errno, &'static str)>;

fn granted(granted: bool) -> Answer {
    Ok(Some(ReplyResult::Lock(rpc::LockReply { granted, conflict: None })))
}

impl State {
    /// The reply to an operation on locks; `None`: it is of another kind.
    pub(super) fn lock_operation(
        &mut self,
        turn: &mut Turn<'_>,
        session: SessionId,
        id: u64,
        op: &Body,
    ) -> Option<rpc::Reply> {
        let parse = |lock| locks::from_wire(session, lock).ok_or((errno::EINVAL, "that is no lock"));
        let ticket = |number| Ticket { session: session.0, number };
        let answer = match op {
            Body::Lock(op) => parse(op.lock.as_ref())
                .and_then(|lock| self.lock(turn, &lock, (op.wait != 0).then(|| ticket(op.wait)))),
            Body::Unlock(op) => parse(op.lock.as_ref()).and_then(|lock| self.unlock(turn, &lock)),
            Body::TestLock(op) => {
                parse(op.lock.as_ref()).map(|lock| Some(ReplyResult::Lock(self.test_lock(&lock))))
            }
            Body::CancelLock(op) => {
                parse(op.lock.as_ref()).and_then(|lock| granted(self.locks.cancel(ticket(op.wait), &lock)))
            }
            Body::HoldLocks(op) => self.hold_locks(turn, session, &op.locks),
            Body::TakeLocks(_) => Ok(Some(self.take_locks(session))),
            _ => return None,
        };
        Some(match answer {
            Ok(result) => rpc::Reply { id, result, ..rpc::Reply::default() },
            Err((errno, detail)) => refusal(id, errno, detail),
        })
    }

    fn lock(&mut self, turn: &mut Turn<'_>, lock: &Lock, wait: Option<Ticket>) -> Answer {
        if turn.room.0 != Room::Ample {
            return Err((errno::ENOLCK, "the master's disk is nearly full"));
        }
        match turn.scratch.get(&keys::inode(InodeId(lock.key.inode))) {
            Ok(Some(_)) => {}
            Ok(None) => return Err((errno::ESTALE, "the file is gone")),
            Err(e) => {
                tracing::error!("an inode cannot be read: {e}");
                return Err((errno::EIO, "the store cannot be read"));
            }
        }
        let (outcome, effects) = self.locks.lock(lock, wait);
        self.lock_effects(turn, effects);
        locks::refusal(outcome).map_or_else(|| granted(outcome == Outcome::Granted), Err)
    }

    fn unlock(&mut self, turn: &mut Turn<'_>, lock: &Lock) -> Answer {
        let full = (errno::ENOLCK, "the mount has too many locks for one to be split");
        let effects = self.locks.unlock(lock.key, lock.range).ok_or(full)?;
        self.lock_effects(turn, effects);
        Ok(None)
    }

    fn test_lock(&self, lock: &Lock) -> rpc::LockReply {
        let machine = |session| self.sessions.record(SessionId(session)).map(|r| r.boot_id.as_str());
        let conflict = self.locks.test(lock).map(|other| {
            let told = locks::to_wire(&other);
            // Elsewhere the number may be another process's.
            let near = machine(other.key.owner.session) == machine(lock.key.owner.session);
            rpc::FileLock { pid: if near { told.pid } else { 0 }, ..told }
        });
        rpc::LockReply { granted: conflict.is_none(), conflict }
    }

    /// The session tells all that it holds.
    fn hold_locks(&mut self, turn: &mut Turn<'_>, session: SessionId, held: &[rpc::FileLock]) -> Answer {
        let read: Option<Vec<_>> = held.iter().map(|l| locks::from_wire(session, Some(l))).collect();
        let read = read.ok_or((errno::EINVAL, "that is no lock"))?;
        let mut effects = self.locks.end_session(session.0);
        let mut failed = None;
        for lock in &read {
            let (outcome, more) = self.locks.lock(lock, None);
            failed = failed.or(locks::refusal(outcome));
            effects.granted.extend(more.granted);
            effects.changed.extend(more.changed);
        }
        self.lock_effects(turn, effects);
        failed.map_or(Ok(None), Err)
    }

    fn take_locks(&mut self, session: SessionId) -> ReplyResult {
        self.locks.stop_waiting(session.0);
        let own = self.locks.held().filter(|l| l.key.owner.session == session.0);
        ReplyResult::HeldLocks(rpc::HeldLocks { locks: own.map(|l| locks::to_wire(&l)).collect() })
    }

    /// A session is over.
    pub(super) fn end_locks(&mut self, turn: &mut Turn<'_>, session: SessionId) {
        let effects = self.locks.end_session(session.0);
        if !effects.changed.is_empty() {
            tracing::info!(session = session.0, places = effects.changed.len(), "its locks are let go");
        }
        self.lock_effects(turn, effects);
    }

    /// Stores what has changed, and tells those who have waited. A mount that is away finds out when it asks again.
    fn lock_effects(&mut self, turn: &mut Turn<'_>, effects: Effects) {
        for key in effects.changed {
            match locks::encode(self.locks.held_at(key)) {
                Some(record) => turn.scratch.put(locks::key(key), record),
                None => turn.scratch.delete(locks::key(key)),
            }
        }
        for Ticket { session, number } in effects.granted {
            if let Some(to) = self.sessions.connection_of(SessionId(session)) {
                turn.event(to, 0, rpc::event::Event::LockGranted(rpc::LockGranted { wait: number }));
            }
        }
    }

    /// For people: all locks, held and waited for.
    pub(super) fn list_locks(&self) -> rpc::LocksReply {
        let status = |lock: &Lock, waiting| {
            let session = lock.key.owner.session;
            let record = self.sessions.record(SessionId(session));
            rpc::LockStatus {
                lock: Some(locks::to_wire(lock)),
                dir: record.map(|r| r.mount_dir.clone()).unwrap_or_default(),
                host: record.map(|r| r.host.clone()).unwrap_or_default(),
                session,
                waiting,
            }
        };
        let held = self.locks.held().map(|l| status(&l, false));
        let waiting = self.locks.waiting().map(|(_, l)| status(&l, true));
        rpc::LocksReply { locks: held.chain(waiting).collect() }
    }
}
