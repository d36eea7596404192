//! Operations that wait for answers.

use super::{Effect, Effects, Replica};
use crate::core::Millis;
use crate::core::recent::WriteId;
use cairn_proto::data::Status;

/// A write or a sync of which someone still owes an answer.
#[derive(Debug)]
pub(super) struct Op<A> {
    /// Of a write.
    pub id: WriteId,
    pub seq: u64,
    /// It is a write, not only a sync.
    pub writes: bool,
    pub sync: bool,
    /// This server's own part is not done yet.
    pub local: bool,
    /// Members that owe an answer.
    pub owed: Vec<u32>,
    /// Whom to answer: the client, and whoever sent the same write again.
    pub answers: Vec<A>,
    pub since: Millis,
}

impl<W: Clone, A> Replica<W, A> {
    /// Answers the operations that everyone has done; not where this server has reported itself: by now the others may have
    /// gone on without it, and only the master's answer tells.
    pub(super) fn finish_ops(&mut self, out: &mut Effects<W, A>) {
        if self.failed.contains(&self.me) {
            return;
        }
        let done = |op: &Op<A>| !op.local && op.owed.is_empty();
        while let Some(id) = self.ops.iter().find(|(_, op)| done(op)).map(|(id, _)| *id) {
            // A sync tells nothing: members have it done for a chunk that they do not know, too.
            self.newborn &= self.ops.get(&id).is_none_or(|op| !op.writes);
            self.end_op(id, Status::Ok, out);
        }
    }

    /// Ends an operation with this answer.
    pub(super) fn end_op(&mut self, id: u64, status: Status, out: &mut Effects<W, A>) {
        let Some(op) = self.ops.remove(&id) else { return };
        let seq = op.seq;
        out.extend(op.answers.into_iter().map(|to| Effect::Answer { to, status, seq }));
    }

    /// Ends all operations: the set that they were begun under is not this server's to speak for.
    pub(super) fn end_all(&mut self, status: Status, out: &mut Effects<W, A>) {
        while let Some(id) = self.ops.keys().next().copied() {
            self.end_op(id, status, out);
        }
    }

    /// The replica is deleted: nobody waits any more.
    pub fn abandon(&mut self) -> Effects<W, A> {
        let mut out = Vec::new();
        self.end_hand_over(Status::NoChunk, &mut out);
        self.end_all(Status::NoChunk, &mut out);
        out
    }

    /// These servers owe nothing any more.
    pub(super) fn forgive(&mut self, owes_nothing: impl Fn(u32) -> bool) {
        for op in self.ops.values_mut() {
            op.owed.retain(|s| !owes_nothing(*s));
        }
    }
}
