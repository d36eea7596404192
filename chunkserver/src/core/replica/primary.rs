//! What a primary does: orders writes, forwards them, waits for all members, reports those that fail.

use super::ops::Op;
use super::{Effect, Effects, Fault, Joining, MemberAnswer, OpId, Replica};
use crate::core::Millis;
use crate::core::recent::WriteId;
use cairn_proto::data::Status;

impl<W: Clone, A> Replica<W, A> {
    /// Whether a client's request under this epoch is for this server to order.
    pub(super) fn may_order(&self, epoch: u64) -> Result<(), Status> {
        match epoch.cmp(&self.epoch) {
            std::cmp::Ordering::Less => Err(Status::StaleEpoch),
            std::cmp::Ordering::Greater => Err(Status::Behind),
            _ if !self.is_primary() => Err(Status::NotPrimary),
            _ if self.crowded => Err(Status::NoSpace),
            _ if !self.level || !self.trusted => Err(Status::Busy),
            _ => Ok(()),
        }
    }

    #[allow(clippy::too_many_arguments)]
    pub(super) fn client_write(
        &mut self,
        now: Millis,
        id: WriteId,
        epoch: u64,
        sync: bool,
        write: W,
        answer: A,
        out: &mut Effects<W, A>,
    ) {
        // A retry of a write that is under way waits for it, whatever the epoch.
        let same = self.ops.values_mut().find(|op| id.write != 0 && op.id == id && (op.sync || !sync));
        if let Some(op) = same {
            op.answers.push(answer);
            return;
        }
        if let Err(status) = self.may_order(epoch) {
            return out.push(Effect::Answer { to: answer, status, seq: self.seq });
        }
        if self.recent.seq_of(id).is_some() {
            // Applied and answered before (or the epoch has ended in between, and then all hold it).
            return if sync {
                self.start_sync(now, answer, out);
            } else {
                out.push(Effect::Answer { to: answer, status: Status::Ok, seq: self.seq });
            };
        }
        self.seq += 1;
        let seq = self.seq;
        self.recent.add(id, seq);
        let (op, members, joining) = self.start_op(now, (id, seq, true), sync, answer);
        if !members.is_empty() {
            out.push(Effect::Forward { op, to: members, seq, id, sync, write: write.clone() });
        }
        out.push(Effect::Apply { op, seq, id, sync, write: write.clone() });
        if let Some(to) = joining {
            out.push(Effect::Mirror { op, to, sync, write });
        }
    }

    pub(super) fn client_sync(&mut self, now: Millis, epoch: u64, answer: A, out: &mut Effects<W, A>) {
        match self.may_order(epoch) {
            Ok(()) => self.start_sync(now, answer, out),
            Err(status) => out.push(Effect::Answer { to: answer, status, seq: self.seq }),
        }
    }

    fn start_sync(&mut self, now: Millis, answer: A, out: &mut Effects<W, A>) {
        let (op, mut to, joining) = self.start_op(now, (WriteId::default(), self.seq, false), true, answer);
        to.extend(joining);
        out.push(Effect::SyncAll { op, to });
    }

    /// Registers an operation; returns the members to be asked, and the server that is being brought up to
    /// date. Members that have failed are owed for, too: it ends when the master has dropped them.
    fn start_op(
        &mut self,
        now: Millis,
        (id, seq, writes): (WriteId, u64, bool),
        sync: bool,
        answer: A,
    ) -> (OpId, Vec<u32>, Option<u32>) {
        let members: Vec<u32> = self.in_sync[1..].to_vec();
        let joining = self.joining();
        let owed = members.iter().copied().chain(joining).collect();
        let op = self.next_op;
        self.next_op += 1;
        self.ops
            .insert(op, Op { id, seq, writes, sync, local: true, owed, answers: vec![answer], since: now });
        (op, members.into_iter().filter(|s| !self.failed.contains(s)).collect(), joining)
    }

    pub(super) fn answered(
        &mut self,
        now: Millis,
        op: OpId,
        server: u32,
        answer: MemberAnswer,
        out: &mut Effects<W, A>,
    ) {
        match answer {
            MemberAnswer::Done => {
                self.heard.insert(server, now);
                if let Some(op) = self.ops.get_mut(&op) {
                    op.owed.retain(|s| *s != server);
                }
                self.finish_ops(out);
            }
            // What it misses is found by the comparison, which also settles what is owed.
            MemberAnswer::NotLevel if self.joining() != Some(server) => self.doubt(out),
            MemberAnswer::NotLevel => self.abort_join(server, out),
            MemberAnswer::Failed(fault) => self.fail(now, server, fault, out),
        }
    }

    /// A server has failed: a member is reported, a joining one is given up.
    pub(super) fn fail(&mut self, now: Millis, server: u32, fault: Fault, out: &mut Effects<W, A>) {
        if self.joining() == Some(server) {
            return self.abort_join(server, out);
        }
        if !self.is_primary() || !self.in_sync.contains(&server) || !self.failed.insert(server) {
            return;
        }
        self.fault.get_or_insert(fault);
        self.report(now, out);
    }

    fn report(&mut self, now: Millis, out: &mut Effects<W, A>) {
        self.reported_at = now;
        let fault = self.fault.unwrap_or(Fault::Unreachable);
        out.push(Effect::Report { failed: self.failed.iter().copied().collect(), fault });
    }

    /// The set stays as it is: too few would be left. What the failed members owe cannot be had, so
    /// the clients hear of it; the replicas differ now and are compared before anything is written.
    pub(super) fn refused(&mut self, epoch: u64, out: &mut Effects<W, A>) {
        if epoch != self.epoch || self.failed.is_empty() {
            return;
        }
        let full = self.fault == Some(Fault::NoSpace);
        let status = if full { Status::NoSpace } else { Status::MemberFailed };
        let failed = std::mem::take(&mut self.failed);
        self.fault = None;
        let me = self.me;
        let stuck =
            |op: &Op<A>| op.owed.iter().any(|s| failed.contains(s)) || (op.local && failed.contains(&me));
        while let Some(id) = self.ops.iter().find(|(_, op)| stuck(op)).map(|(id, _)| *id) {
            self.end_op(id, status, out);
        }
        self.level = false;
        self.crowded = full;
        self.compare(out);
    }

    pub(super) fn compare(&mut self, out: &mut Effects<W, A>) {
        // What it fetches would not reach a server that is being brought up to date.
        self.drop_joining(out);
        if self.is_primary() && !self.comparing {
            self.comparing = true;
            self.doubted = false;
            out.push(Effect::Compare);
        }
    }

    pub(super) fn compared(
        &mut self,
        now: Millis,
        epoch: u64,
        result: Result<u64, (u32, Fault)>,
        out: &mut Effects<W, A>,
    ) {
        self.comparing = false;
        if !self.is_primary() || self.level {
            return;
        }
        match result {
            _ if epoch != self.epoch || self.doubted => self.compare(out),
            Ok(seq) => {
                self.seq = self.seq.max(seq);
                self.level = true;
                self.crowded = false;
                self.trusted = true;
                self.confirmed = true;
                if std::mem::take(&mut self.newborn) {
                    // Members that had the chunk have other writes under these numbers. The clients send theirs again.
                    self.ops.values().for_each(|op| self.recent.forget(op.seq));
                    self.end_all(Status::Busy, out);
                }
                // What was written nowhere does not count; the client may send it again.
                while let Some((id, lost)) =
                    self.ops.iter().find(|(_, op)| op.seq > seq).map(|(id, op)| (*id, op.seq))
                {
                    self.recent.forget(lost);
                    self.end_op(id, Status::Busy, out);
                }
                // Everyone holds, durably, what else was under way.
                self.failed.clear();
                self.fault = None;
                self.ops.values_mut().for_each(|op| op.local = false);
                self.forgive(|_| true);
                self.finish_ops(out);
            }
            Err((server, _)) if self.failed.contains(&server) => {}
            Err((server, fault)) => {
                self.fail(now, server, fault, out);
                // Not to be dropped: a bad block here, or a server that has left the set already.
                if !self.failed.contains(&server) {
                    self.compare(out);
                }
            }
        }
    }

    pub(super) fn join(&mut self, target: u32) {
        if self.is_primary() && self.level && !self.newborn && !self.in_sync.contains(&target) {
            self.joining = Some(Joining { target, ready: false });
        }
    }

    pub(super) fn abort_join(&mut self, target: u32, out: &mut Effects<W, A>) {
        if self.joining() == Some(target) {
            self.joining = None;
            self.forgive(|s| s == target);
            out.push(Effect::AbortJoin { target });
            self.finish_ops(out);
        }
    }

    pub(super) fn tick(&mut self, now: Millis, out: &mut Effects<W, A>) {
        let mut silent = Vec::new();
        let mut slow = Vec::new();
        for op in self.ops.values() {
            let age = now.saturating_sub(op.since);
            let bound = if op.sync { self.times.slow_sync } else { self.times.slow_write };
            for s in &op.owed {
                let heard = self.heard.get(s).copied().unwrap_or(0).max(op.since);
                if now.saturating_sub(heard) >= self.times.member || age >= bound {
                    silent.push(*s);
                } else if age >= self.times.member / 4 {
                    slow.push(*s);
                }
            }
        }
        for s in silent {
            self.fail(now, s, Fault::Silent, out);
        }
        slow.sort_unstable();
        slow.dedup();
        if !slow.is_empty() {
            out.push(Effect::Probe { servers: slow });
        }
        if !self.failed.is_empty() && now.saturating_sub(self.reported_at) >= self.times.report_again {
            self.report(now, out);
        }
        self.tick_hand_over(now, out);
    }
}
