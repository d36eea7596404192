//! What a primary does that has no room for a write: it gives the chunk up, if the master knows others that have.
//!
//! The write has not been ordered, so nothing is missing here, and the replica is read from as before.

use super::{Effect, Effects, Replica};
use crate::core::Millis;
use cairn_proto::data::Status;

/// The master has been asked to go on without this replica.
#[derive(Debug)]
pub(super) struct HandOver<A> {
    since: Millis,
    /// Clients whose writes have no room.
    answers: Vec<A>,
}

impl<W: Clone, A> Replica<W, A> {
    pub(super) fn no_room(&mut self, now: Millis, epoch: u64, answer: A, out: &mut Effects<W, A>) {
        if let Err(status) = self.may_order(epoch) {
            return out.push(Effect::Answer { to: answer, status, seq: self.seq });
        }
        match &mut self.hand_over {
            Some(asked) => asked.answers.push(answer),
            None => {
                self.hand_over = Some(HandOver { since: now, answers: vec![answer] });
                out.push(Effect::HandOver);
            }
        }
    }

    pub(super) fn stays(&mut self, epoch: u64, later: bool, out: &mut Effects<W, A>) {
        if epoch == self.epoch {
            self.end_hand_over(if later { Status::Busy } else { Status::NoSpace }, out);
        }
    }

    /// Those who wait for the master's word are answered.
    pub(super) fn end_hand_over(&mut self, status: Status, out: &mut Effects<W, A>) {
        let answers = self.hand_over.take().map(|h| h.answers).unwrap_or_default();
        let seq = self.seq;
        out.extend(answers.into_iter().map(|to| Effect::Answer { to, status, seq }));
    }

    /// The master may not have heard the question; who comes again has it asked again.
    pub(super) fn tick_hand_over(&mut self, now: Millis, out: &mut Effects<W, A>) {
        let late = |h: &HandOver<A>| now.saturating_sub(h.since) >= self.times.report_again;
        if self.hand_over.as_ref().is_some_and(late) {
            self.end_hand_over(Status::Busy, out);
        }
    }
}
