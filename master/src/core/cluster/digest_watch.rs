//! When to ask a chunkserver for the full list of its replicas.

/// Compares digests, heartbeat after heartbeat.
///
/// While chunks are made and deleted, what the master expects and what the server has differ now and
/// then for a moment; so a difference must last. While they differ all the time, lists are asked for ever more seldom.
#[derive(Debug)]
pub(super) struct DigestWatch {
    settled: bool,
    differed: u32,
    patience: u32,
    /// Heartbeats since a list was asked for that has not arrived yet.
    asked: Option<u32>,
}

/// Heartbeats for which a difference must last, at first and at most.
const PATIENCE: (u32, u32) = (2, 64);
/// Heartbeats after which a list that has not arrived is asked for again.
const GIVE_UP: u32 = 30;

impl Default for DigestWatch {
    fn default() -> Self {
        Self { settled: false, differed: 0, patience: PATIENCE.0, asked: None }
    }
}

impl DigestWatch {
    /// Whether what the server holds has been known since it came (back).
    pub(super) fn is_settled(&self) -> bool {
        self.settled
    }

    /// The server came (back): nothing is certain until its first digest or list.
    pub(super) fn doubt(&mut self) {
        *self = Self::default();
    }

    /// A heartbeat's digest is the expected one.
    pub(super) fn matched(&mut self) {
        *self = Self { settled: true, ..Self::default() };
    }

    /// It is another one. True: ask for the full list now.
    pub(super) fn differs(&mut self) -> bool {
        if let Some(beats) = &mut self.asked {
            *beats += 1;
            if *beats < GIVE_UP {
                return false;
            }
        } else {
            self.differed += 1;
            if self.settled && self.differed < self.patience {
                return false;
            }
            if self.settled {
                self.patience = (self.patience * 2).min(PATIENCE.1);
            }
        }
        self.differed = 0;
        self.asked = Some(0);
        true
    }

    /// The full list has arrived.
    pub(super) fn listed(&mut self) {
        self.settled = true;
        self.asked = None;
        self.differed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asks_at_once_when_nothing_is_known_then_with_patience() {
        let mut w = DigestWatch::default();
        assert!(w.differs());
        assert!(!w.differs(), "one list at a time");
        w.listed();
        assert_eq!((0..2).map(|_| w.differs()).collect::<Vec<_>>(), [false, true]);
        w.listed();
        assert_eq!((0..4).map(|_| w.differs()).collect::<Vec<_>>(), [false, false, false, true]);
        w.matched();
        assert_eq!((0..2).map(|_| w.differs()).collect::<Vec<_>>(), [false, true]);
    }

    #[test]
    fn a_list_that_does_not_come_is_asked_for_again() {
        let mut w = DigestWatch::default();
        assert!(w.differs());
        assert_eq!((0..GIVE_UP).filter(|_| w.differs()).count(), 1);
    }
}
