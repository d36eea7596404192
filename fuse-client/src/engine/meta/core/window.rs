//! The operations that were sent and not answered.
//!
//! The master keeps the reply to operation `id` in slot `id mod 256` of the session, so that it can give the
//! same answer again. So no two unanswered operations may have ids with one slot: an id whose slot is taken (by a change that waits
//! for others' leases, say) is left out.

use std::collections::BTreeMap;

use cairn_proto::rpc;

/// Unanswered operations, at most.
pub const WINDOW: u64 = 256;

/// Unanswered operations in order of their ids, each with whoever waits for the answer.
#[derive(Debug)]
pub struct Window<W> {
    next: u64,
    unanswered: BTreeMap<u64, (rpc::Op, W)>,
}

impl<W> Default for Window<W> {
    fn default() -> Self {
        Self { next: 1, unanswered: BTreeMap::new() }
    }
}

impl<W> Window<W> {
    /// Whether an operation may start now.
    pub fn has_room(&self) -> bool {
        (self.unanswered.len() as u64) < WINDOW
    }

    /// Starts an operation and returns it as it goes over the wire. Only when there [is room](Self::has_room).
    /// `at`: when it was carried out here, if it was. `lease`: leases are asked for with it.
    pub fn start(&mut self, op: rpc::op::Op, at: Option<rpc::Time>, lease: bool, waiter: W) -> rpc::Op {
        debug_assert!(self.has_room());
        let oldest = self.unanswered.first_key_value().map_or(self.next, |(id, _)| *id);
        // Usually they are all within one window, and no two can have one slot.
        while self.next >= oldest + WINDOW
            && self.unanswered.keys().any(|id| id % WINDOW == self.next % WINDOW)
        {
            self.next += 1;
        }
        let id = self.next;
        self.next += 1;
        let op = rpc::Op { id, at, lease, op: Some(op) };
        self.unanswered.insert(id, (op.clone(), waiter));
        op
    }

    /// The id of the last operation that was started.
    pub fn last(&self) -> u64 {
        self.next - 1
    }

    /// Whether everything up to and including this id has been answered that was carried out here before it was sent. The
    /// callers of all others are still waiting.
    pub fn settled(&self, id: u64) -> bool {
        !self.unanswered.range(..=id).any(|(_, (op, _))| op.at.is_some())
    }

    /// An answer arrived: the operation and its waiter. None for an answer to nothing, or a second one.
    pub fn finish(&mut self, id: u64) -> Option<(rpc::Op, W)> {
        self.unanswered.remove(&id)
    }

    /// What has to be sent again on a new connection, in order.
    pub fn unanswered(&self) -> impl Iterator<Item = rpc::Op> + '_ {
        self.unanswered.values().map(|(op, _)| op.clone())
    }

    /// Gives up on operations by their waiters, and hands out what is given up.
    pub fn give_up(&mut self, which: impl Fn(&W) -> bool) -> Vec<rpc::Op> {
        self.unanswered.extract_if(.., |_, (_, waiter)| which(waiter)).map(|(_, (op, _))| op).collect()
    }

    /// Gives up on everything: the waiters, in order.
    pub fn abandon(&mut self) -> Vec<W> {
        std::mem::take(&mut self.unanswered).into_values().map(|(_, w)| w).collect()
    }
}

/// Whether the operation changes anything at the master: if it does and its answer was not waited for,
/// what is cached may be wrong.
pub fn changes(op: &rpc::op::Op) -> bool {
    use rpc::op::Op;
    match op {
        Op::SetAttr(_)
        | Op::Make(_)
        | Op::Unlink(_)
        | Op::Rmdir(_)
        | Op::Rename(_)
        | Op::Link(_)
        | Op::SetXattr(_)
        | Op::RemoveXattr(_)
        | Op::DropChunks(_)
        | Op::Grow(_) => true,
        Op::Lookup(_)
        | Op::GetAttr(_)
        | Op::ReadLink(_)
        | Op::ReadDir(_)
        | Op::GetXattr(_)
        | Op::ListXattr(_)
        | Op::Statfs(_)
        | Op::Opened(_)
        | Op::Closed(_)
        | Op::GetChunks(_)
        | Op::AllocChunks(_)
        | Op::ReplicaFailed(_)
        | Op::ReserveInodes(_)
        | Op::Lock(_)
        | Op::Unlock(_)
        | Op::TestLock(_)
        | Op::CancelLock(_)
        | Op::HoldLocks(_)
        | Op::TakeLocks(_)
        | Op::Barrier(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op() -> rpc::op::Op {
        rpc::op::Op::Statfs(rpc::Statfs {})
    }

    #[test]
    fn an_old_unanswered_operation_keeps_its_slot() {
        let mut w = Window::default();
        let here = Some(rpc::Time::default());
        for n in 0..WINDOW {
            assert!(w.has_room());
            assert_eq!(w.start(op(), here, false, n).id, n + 1);
        }
        assert!(!w.has_room());
        assert!(w.finish(2).is_some());
        assert!(!w.settled(1) && !w.settled(2), "what comes after an unanswered one is not settled");
        assert!(w.has_room());
        assert_eq!(w.start(op(), None, false, 0).id, WINDOW + 2, "slot 1 is still taken");
        assert!(!w.has_room());
        assert_eq!(w.finish(1).map(|(_, waiter)| waiter), Some(0));
        assert!(w.finish(1).is_none(), "answered twice");
        assert!(w.settled(2) && !w.settled(3));
        (3..=WINDOW).for_each(|id| drop(w.finish(id)));
        assert!(w.settled(WINDOW + 2), "whose caller waits for it himself");
    }

    #[test]
    fn what_is_unanswered_is_sent_again_in_order() {
        let mut w = Window::default();
        for n in 0..5 {
            w.start(op(), None, false, n);
        }
        w.finish(3);
        assert_eq!(w.unanswered().map(|o| o.id).collect::<Vec<_>>(), [1, 2, 4, 5]);
        assert_eq!(w.give_up(|waiter| *waiter == 3).iter().map(|o| o.id).collect::<Vec<_>>(), [4]);
        assert_eq!(w.abandon(), [0, 1, 4]);
        assert_eq!(w.unanswered().count(), 0);
    }
}
