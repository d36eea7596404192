//! What becomes of a replica that a server says it has, by the record of its chunk.
//!
//! The table "Reported replicas" in `docs/design.md`, section 3, in code; a test compares them.

use cairn_proto::{Epoch, ServerId};

use super::ChunkRecord;

/// What to do about a replica that a server says it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is as it should be.
    InStep,
    /// In the set, but the server has not heard of the record's epoch: tell it.
    TellEpoch,
    /// Not in the set, and a copy is wanted: bring it up to date.
    BringUp,
    /// Not needed: delete it.
    Delete,
    /// In the set at an epoch that was never given. Nothing is safe to do: a person must look.
    Ahead,
}

impl Verdict {
    /// In a few words.
    pub fn text(self) -> &'static str {
        match self {
            Self::InStep => "nothing",
            Self::TellEpoch => "`SetEpoch` to it",
            Self::BringUp => "`AddReplica` to the primary",
            Self::Delete => "`Delete` to it",
            Self::Ahead => "nothing; an error is logged: was the master's data set back?",
        }
    }
}

/// How the epoch of a replica compares with the record's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Below it.
    Below,
    /// Equal.
    Equal,
    /// Above it.
    Above,
}

/// What is judged: whether the server is in the set, its replica's epoch, and whether a copy is wanted (`None`: either way).
pub type Replica = (bool, Held, Option<bool>);

/// For each kind of reported replica what is done about it.
pub const VERDICTS: [(Replica, Verdict); 8] = [
    ((true, Held::Equal, None), Verdict::InStep),
    ((true, Held::Below, None), Verdict::TellEpoch),
    ((true, Held::Above, None), Verdict::Ahead),
    // It would refuse what the primary sends at the record's epoch, so it cannot be brought up to date.
    ((false, Held::Above, None), Verdict::Delete),
    ((false, Held::Below, Some(true)), Verdict::BringUp),
    ((false, Held::Equal, Some(true)), Verdict::BringUp),
    ((false, Held::Below, Some(false)), Verdict::Delete),
    ((false, Held::Equal, Some(false)), Verdict::Delete),
];

/// Judges the replica of `record`'s chunk that `server` holds at `epoch`. `wanted`: see [`super::transitions::wants_copy`].
pub fn judge(record: &ChunkRecord, server: ServerId, epoch: Epoch, wanted: bool) -> Verdict {
    let held = match epoch.cmp(&record.epoch) {
        std::cmp::Ordering::Less => Held::Below,
        std::cmp::Ordering::Equal => Held::Equal,
        std::cmp::Ordering::Greater => Held::Above,
    };
    let fits =
        |(member, h, w): Replica| member == record.has(server) && h == held && w.is_none_or(|w| w == wanted);
    let found = VERDICTS.iter().find(|(replica, _)| fits(*replica));
    found.map_or(Verdict::InStep, |(_, verdict)| *verdict)
}

#[cfg(test)]
mod tests {
    use cairn_proto::{ChunkId, InodeId};

    use super::*;

    const A: ServerId = ServerId(1);
    const B: ServerId = ServerId(2);
    const C: ServerId = ServerId(3);
    const D: ServerId = ServerId(4);

    fn record(epoch: u64, in_sync: &[ServerId]) -> ChunkRecord {
        let (chunk, inode) = (ChunkId(7), InodeId(9));
        ChunkRecord { chunk, epoch: Epoch(epoch), in_sync: in_sync.to_vec(), wanted: 3, inode, index: 0 }
    }

    #[test]
    fn a_reported_replica_is_judged_by_set_and_epoch() {
        let whole = record(5, &[A, B, C]);
        assert_eq!(judge(&whole, A, Epoch(5), false), Verdict::InStep);
        assert_eq!(judge(&whole, A, Epoch(4), false), Verdict::TellEpoch);
        assert_eq!(judge(&whole, A, Epoch(6), false), Verdict::Ahead);
        assert_eq!(judge(&whole, D, Epoch(4), false), Verdict::Delete);
        assert_eq!(judge(&whole, D, Epoch(6), false), Verdict::Delete);
        let wounded = record(5, &[A, B]);
        assert_eq!(judge(&wounded, C, Epoch(4), true), Verdict::BringUp);
        assert_eq!(judge(&wounded, C, Epoch(5), true), Verdict::BringUp);
        assert_eq!(judge(&wounded, C, Epoch(6), true), Verdict::Delete);
    }
}
