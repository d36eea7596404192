//! A second opinion: do the peers of a silent server reach it?

use std::collections::BTreeSet;

use cairn_proto::ServerId;

use crate::core::Millis;

/// Peers that are asked, at most.
pub(super) const PEERS: usize = 5;
/// They are waited for so long, milliseconds.
const PATIENCE_MS: u64 = 1_000;
/// Between questions about the same server, milliseconds.
const AGAIN_MS: u64 = 2_000;

/// What the peers say about one server.
#[derive(Clone, Debug, Default)]
pub(super) struct Opinion {
    asked: BTreeSet<ServerId>,
    since: Millis,
    reached: usize,
    not_reached: usize,
    /// What the last round came to.
    verdict: bool,
}

impl Opinion {
    /// Whether it is time to ask.
    pub(super) fn is_due(&self, now: Millis) -> bool {
        self.since == Millis(0) || now.since(self.since) >= AGAIN_MS
    }

    /// These are being asked.
    pub(super) fn ask(&mut self, peers: impl IntoIterator<Item = ServerId>, now: Millis) {
        let verdict = self.verdict;
        *self = Self { asked: peers.into_iter().collect(), since: now, verdict, ..Self::default() };
    }

    /// One of them has answered.
    pub(super) fn answered(&mut self, peer: ServerId, reached: bool) {
        if self.asked.contains(&peer) && self.reached + self.not_reached < self.asked.len() {
            if reached {
                self.reached += 1;
            } else {
                self.not_reached += 1;
            }
        }
    }

    /// `Some`: whether most of those asked reach it. `None`: they are still waited for.
    pub(super) fn verdict(&mut self, now: Millis) -> Option<bool> {
        if self.since == Millis(0) {
            return Some(false);
        }
        let most = self.asked.len() / 2 + 1;
        if self.reached >= most {
            self.verdict = true;
        } else if self.not_reached >= most || now.since(self.since) >= PATIENCE_MS {
            self.verdict = false;
        } else if !self.verdict {
            return None;
        }
        Some(self.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: [ServerId; 3] = [ServerId(1), ServerId(2), ServerId(3)];

    #[test]
    fn most_of_those_asked_decide() {
        let mut o = Opinion::default();
        assert_eq!(o.verdict(Millis(9)), Some(false), "nobody was asked");
        o.ask(P, Millis(10));
        o.answered(P[0], true);
        assert_eq!(o.verdict(Millis(20)), None);
        o.answered(ServerId(9), true);
        assert_eq!(o.verdict(Millis(20)), None, "who was not asked does not count");
        o.answered(P[1], true);
        assert_eq!(o.verdict(Millis(20)), Some(true));
        // While they are asked again it stands.
        o.ask(P, Millis(3_000));
        assert_eq!(o.verdict(Millis(3_100)), Some(true));
        o.answered(P[0], false);
        o.answered(P[1], false);
        assert_eq!(o.verdict(Millis(3_200)), Some(false));
    }

    #[test]
    fn who_does_not_answer_in_time_does_not_vouch() {
        let mut o = Opinion::default();
        o.ask(P, Millis(10));
        o.answered(P[0], true);
        assert_eq!(o.verdict(Millis(1_010)), Some(false));
        assert!(!o.is_due(Millis(1_010)) && o.is_due(Millis(2_010)));
        o.ask([], Millis(5_000));
        assert_eq!(o.verdict(Millis(6_000)), Some(false), "nobody is there to vouch");
    }
}
