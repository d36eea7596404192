//! One chunk's replica as a state machine: who must have what, who may be asked what.
//!
//! Events in, effects out. Two type parameters stay opaque: `W` is a write's content (cheap to clone),
//! `A` where an answer goes. A driver performs the effects in order; everything of one chunk that goes
//! to one server must travel in that order.
//!
//! A primary is *level* when it knows that every member holds what it holds; only then it takes writes.
//! A replica is *trusted* when nothing is missing from it (not so after a crash, or while it is being
//! brought up to date); only then it is read from.

mod effect;
mod epochs;
mod event;
mod member;
mod ops;
mod primary;
mod room;
#[cfg(test)]
mod tests;

pub use effect::{Effect, Effects};
pub use event::{Event, Fault, MemberAnswer};

use super::Millis;
use super::layout::ChunkMeta;
use super::recent::Recent;
use cairn_proto::data::Status;
use ops::Op;
use room::HandOver;
use std::collections::{BTreeMap, BTreeSet};

/// Identifies an operation that waits for answers.
pub type OpId = u64;

/// Times, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// A member that has not been heard of for so long, while it owes an answer, has failed.
    pub member: Millis,
    /// A member that is heard of, but owes the answer to a write for so long, has failed.
    pub slow_write: Millis,
    /// The same for what has to be made stable.
    pub slow_sync: Millis,
    /// A report to the master is repeated after so long.
    pub report_again: Millis,
}

/// How a replica without content comes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Made {
    /// By a client's first write.
    ByClient,
    /// By a primary's first write.
    ByPrimary,
    /// Others have the content, or may have: it has to be compared, or brought up to date, first.
    InDoubt,
}

#[derive(Debug)]
struct Joining {
    target: u32,
    /// It holds everything: the master may have taken it into the set already.
    ready: bool,
}

/// A replica.
#[derive(Debug)]
pub struct Replica<W, A> {
    me: u32,
    times: Times,
    epoch: u64,
    /// Since this epoch the primary has been the same.
    primary_since: u64,
    in_sync: Vec<u32>,
    wanted: u32,
    seq: u64,
    recent: Recent,
    trusted: bool,
    /// Not so after it was taken into the set, until its primary has shown that nothing was missed in between: the
    /// primary may have given up on it after it had told the master.
    confirmed: bool,
    level: bool,
    /// Made by a client's write, none of which all members have taken yet: they may turn out to have had the chunk, which was lost
    /// here with a disk.
    newborn: bool,
    /// The primary gives numbers that it has given already: nothing of it counts before the replicas have been compared.
    renumbered: bool,
    comparing: bool,
    /// Something was found while the replicas were being compared: perhaps too late for that.
    doubted: bool,
    /// It is written down that this replica is in doubt.
    noted: bool,
    ops: BTreeMap<OpId, Op<A>>,
    next_op: OpId,
    joining: Option<Joining>,
    /// Members that failed at this epoch: the master is to drop them.
    failed: BTreeSet<u32>,
    fault: Option<Fault>,
    reported_at: Millis,
    /// As the primary without room: who waits for the master's word.
    hand_over: Option<HandOver<A>>,
    /// The replicas differ and cannot be made equal, as a member has no room.
    crowded: bool,
    heard: BTreeMap<u32, Millis>,
    _writes: std::marker::PhantomData<W>,
}

impl<W: Clone, A> Replica<W, A> {
    /// A replica as it is on the disk.
    pub fn new(me: u32, meta: &ChunkMeta, recent: Recent, times: Times) -> Self {
        Self {
            me,
            times,
            epoch: meta.epoch,
            primary_since: meta.epoch,
            in_sync: meta.in_sync.clone(),
            wanted: meta.wanted,
            seq: meta.seq,
            recent,
            trusted: !meta.suspect && meta.in_sync.contains(&me),
            confirmed: true,
            level: !meta.suspect,
            newborn: false,
            renumbered: false,
            comparing: false,
            doubted: false,
            noted: meta.suspect,
            ops: BTreeMap::new(),
            next_op: 1,
            joining: None,
            failed: BTreeSet::new(),
            fault: None,
            reported_at: 0,
            hand_over: None,
            crowded: false,
            heard: BTreeMap::new(),
            _writes: std::marker::PhantomData,
        }
    }

    /// Epoch, set and seq.
    pub fn meta(&self) -> ChunkMeta {
        ChunkMeta {
            epoch: self.epoch,
            in_sync: self.in_sync.clone(),
            wanted: self.wanted,
            seq: self.seq,
            suspect: !self.is_trusted(),
        }
    }

    /// The epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Of the last write.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Whether this is the primary.
    pub fn is_primary(&self) -> bool {
        self.in_sync.first() == Some(&self.me)
    }

    /// Whether this replica is in the set.
    pub fn is_member(&self) -> bool {
        self.in_sync.contains(&self.me)
    }

    /// Whether nothing is missing from this replica.
    pub fn is_trusted(&self) -> bool {
        self.trusted && self.confirmed
    }

    /// As the primary: whether all members are known to hold what this one holds.
    pub fn is_level(&self) -> bool {
        self.level
    }

    /// The server that is being brought up to date.
    pub fn joining(&self) -> Option<u32> {
        self.joining.as_ref().map(|j| j.target)
    }

    /// Whether anything waits, so that time has to be told.
    pub fn wants_ticks(&self) -> bool {
        !self.ops.is_empty() || !self.failed.is_empty() || self.hand_over.is_some()
    }

    /// Whether a read under this epoch may be answered from here.
    pub fn may_read(&self, epoch: u64) -> Result<(), Status> {
        match epoch.cmp(&self.epoch) {
            std::cmp::Ordering::Less => Err(Status::StaleEpoch),
            std::cmp::Ordering::Greater => Err(Status::Behind),
            _ if !self.is_member() => Err(Status::StaleEpoch),
            _ if !self.is_trusted() || self.newborn => Err(Status::Busy),
            _ => Ok(()),
        }
    }

    /// Something may be missing: not to be read before it has been compared. Whoever says so has written it down.
    pub fn distrust(&mut self) {
        self.trusted = false;
        self.level = false;
        self.noted = true;
    }

    /// It is made by a client's write.
    pub fn is_born(&mut self) {
        self.newborn = self.in_sync.len() > 1;
    }

    /// Whether it has to be compared with the others before it is used as it should be.
    fn is_in_doubt(&self) -> bool {
        self.is_member() && (!self.is_trusted() || (self.is_primary() && !self.level))
    }

    /// A doubt must outlive the process: after a restart the replica would pass for what it is not, and a
    /// primary would give a number that another member has seen already to another write.
    fn note_doubt(&mut self, out: &mut Effects<W, A>) {
        if self.is_in_doubt() && !std::mem::replace(&mut self.noted, true) {
            out.insert(0, Effect::Suspect);
        }
    }

    /// Handles an event; `now` never goes back.
    pub fn handle(&mut self, now: Millis, event: Event<W, A>) -> Effects<W, A> {
        let mut out = Vec::new();
        match event {
            Event::Start => self.start(&mut out),
            Event::Write { id, epoch, sync, write, answer } => {
                self.client_write(now, id, epoch, sync, write, answer, &mut out);
            }
            Event::NoRoom { epoch, answer } => self.no_room(now, epoch, answer, &mut out),
            Event::Stays { epoch, later } => self.stays(epoch, later, &mut out),
            Event::Sync { epoch, answer } => self.client_sync(now, epoch, answer, &mut out),
            Event::Forward { from, meta, id, sync, write, answer } => {
                self.forwarded(from, meta, id, sync, write, answer, &mut out);
            }
            Event::LocalDone { op } => {
                if let Some(op) = self.ops.get_mut(&op) {
                    op.local = false;
                }
                self.finish_ops(&mut out);
            }
            Event::LocalFault { seq, fault } => self.local_fault(now, seq, fault, &mut out),
            Event::Answered { op, server, answer } => self.answered(now, op, server, answer, &mut out),
            Event::Heard { server } => {
                self.heard.insert(server, now);
            }
            Event::Epoch(meta) => self.new_epoch(meta, &mut out),
            Event::Refused { epoch } => self.refused(epoch, &mut out),
            Event::Join { target } => self.join(target),
            Event::Joined { target } => {
                if let Some(j) = self.joining.as_mut().filter(|j| j.target == target) {
                    j.ready = true;
                }
            }
            Event::JoinFailed { target } => self.abort_join(target, &mut out),
            Event::Doubt => self.doubt(&mut out),
            Event::Compared { epoch, result } => {
                // It may have come so far that the note is gone.
                self.noted = false;
                self.compared(now, epoch, result, &mut out);
            }
            Event::Leveled { seq } => {
                self.noted = false;
                // Where it was not trusted it may have had writes that never counted.
                self.seq = if self.trusted { self.seq.max(seq) } else { seq };
                self.recent.forget_after(self.seq);
                self.trusted = true;
                self.confirmed = true;
                self.newborn = false;
                self.renumbered = false;
            }
            Event::Tick => self.tick(now, &mut out),
        }
        self.note_doubt(&mut out);
        out
    }
}
