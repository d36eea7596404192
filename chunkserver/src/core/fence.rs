//! Whose writes count: a mount whose session is over may still send what it had not written back.

use std::collections::BTreeSet;

/// The sessions whose writes are taken. At first all are: a server that has not heard of them has no lease either.
#[derive(Debug, Default)]
pub struct Fence {
    below: u64,
    alive: BTreeSet<u64>,
}

impl Fence {
    /// As the master says it: sessions from `below` on, and those in `alive`.
    pub fn new(below: u64, alive: impl IntoIterator<Item = u64>) -> Self {
        Self { below, alive: alive.into_iter().collect() }
    }

    /// Whether writes of the session are taken.
    pub fn admits(&self, session: u64) -> bool {
        session >= self.below || self.alive.contains(&session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_are_over_are_shut_out_and_those_that_come_are_not() {
        assert!(Fence::default().admits(0) && Fence::default().admits(7));
        let fence = Fence::new(10, [3, 8]);
        let admitted: Vec<_> = (0..12).filter(|session| fence.admits(*session)).collect();
        assert_eq!(admitted, [3, 8, 10, 11]);
    }
}
