//! The ids of a chunk's last writes, so that a retry is applied once.

use std::collections::VecDeque;

/// Ids kept for each chunk.
pub const KEPT: usize = 256;

/// A write's id: the session that sent it, and its number there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct WriteId {
    /// The session.
    pub session: u64,
    /// Unique within the session. 0: no id, never a retry.
    pub write: u64,
}

/// The last [`KEPT`] writes: id and sequence number.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    writes: VecDeque<(WriteId, u64)>,
}

impl Recent {
    /// Remembers a write.
    pub fn add(&mut self, id: WriteId, seq: u64) {
        if id.write == 0 {
            return;
        }
        if self.writes.len() == KEPT {
            self.writes.pop_front();
        }
        self.writes.push_back((id, seq));
    }

    /// Forgets what came after `seq`: the replica was made what another was then, so those writes are not in it any more.
    pub fn forget_after(&mut self, seq: u64) {
        self.writes.retain(|(_, s)| *s <= seq);
    }

    /// Forgets a write that was not applied after all.
    pub fn forget(&mut self, seq: u64) {
        self.writes.retain(|(_, s)| *s != seq);
    }

    /// The sequence number of a write that was applied. Retries are rare and recent: searched from the end.
    pub fn seq_of(&self, id: WriteId) -> Option<u64> {
        if id.write == 0 {
            return None;
        }
        self.writes.iter().rev().find(|(i, _)| *i == id).map(|(_, seq)| *seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_writes_are_known() {
        let mut r = Recent::default();
        let id = |write| WriteId { session: 1, write };
        (1..=300).for_each(|n| r.add(id(n), n + 10));
        assert_eq!(r.seq_of(id(300)), Some(310));
        assert_eq!(r.seq_of(id(45)), Some(55));
        assert_eq!(r.seq_of(id(44)), None);
        assert_eq!(r.seq_of(id(0)), None);
        r.forget_after(309);
        assert_eq!((r.seq_of(id(300)), r.seq_of(id(299))), (None, Some(309)));
    }
}
