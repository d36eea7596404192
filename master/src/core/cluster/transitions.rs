//! How a chunk's record may change: every transition, each a pure function of the record.
//!
//! The table in `docs/design.md`, section 3, "Cluster", in code. All obey two rules: the epoch goes up by one with
//! each change of the set, and a set never falls below a majority of the wanted copies.

use cairn_proto::{Epoch, ServerId};

use super::ChunkRecord;

/// Why a record stays as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unchanged {
    /// Asked under another epoch than the record's.
    #[error("epoch {asked} was asked, it is {current}")]
    OtherEpoch {
        /// The epoch asked under.
        asked: Epoch,
        /// The record's.
        current: Epoch,
    },
    /// Only the primary may ask for this (and a member for its own removal).
    #[error("chunkserver {0} is not the primary")]
    NotPrimary(ServerId),
    /// None of the servers named is in the set.
    #[error("not in the in-sync set")]
    NotMember,
    /// It is in the set already.
    #[error("already in the in-sync set")]
    Member,
    /// A majority would not be left.
    #[error("{remaining} replicas would remain, {needed} are needed")]
    BelowMajority {
        /// So many would be left.
        remaining: usize,
        /// So many must be.
        needed: usize,
    },
    /// None of the servers named is known to be gone.
    #[error("not known to be gone yet")]
    NotGone,
    /// There are as many copies as wanted.
    #[error("there are copies enough")]
    Whole,
    /// The server that is to join is not alive, or must delete its old copy first.
    #[error("not fit to join")]
    Unfit,
}

type Transition = Result<ChunkRecord, Unchanged>;

/// The primary says that `failed` do not answer; or a member says that it is not whole itself.
pub fn reported_by_member(
    record: &ChunkRecord,
    from: ServerId,
    epoch: Epoch,
    failed: &[ServerId],
) -> Transition {
    same_epoch(record, epoch)?;
    if record.primary() != Some(from) && failed.iter().any(|s| *s != from) {
        return Err(Unchanged::NotPrimary(from));
    }
    without(record, |s| failed.contains(&s))
}

/// A client could not use `servers`. Those of them that are `gone` (dead, or their lease has run out) are
/// dropped; the others may still be serving, and only the primary can judge a member.
pub fn reported_by_client(
    record: &ChunkRecord,
    epoch: Epoch,
    servers: &[ServerId],
    gone: impl Fn(ServerId) -> bool,
) -> Transition {
    same_epoch(record, epoch)?;
    if !servers.iter().any(|s| record.has(*s)) {
        return Err(Unchanged::NotMember);
    }
    if !servers.iter().any(|s| record.has(*s) && gone(*s)) {
        return Err(Unchanged::NotGone);
    }
    without(record, |s| servers.contains(&s) && gone(s))
}

/// Some servers are dead.
pub fn servers_dead(record: &ChunkRecord, dead: impl Fn(ServerId) -> bool) -> Transition {
    without(record, dead)
}

/// A live member turns out not to hold the chunk, which others hold.
pub fn replica_lost(record: &ChunkRecord, server: ServerId) -> Transition {
    without(record, |s| s == server)
}

/// The primary says that `server` has caught up. `fit`: it is alive, and nothing is about to delete its copy.
pub fn caught_up(
    record: &ChunkRecord,
    from: ServerId,
    epoch: Epoch,
    server: ServerId,
    fit: bool,
) -> Transition {
    same_epoch(record, epoch)?;
    if record.primary() != Some(from) {
        return Err(Unchanged::NotPrimary(from));
    }
    if record.has(server) {
        return Err(Unchanged::Member);
    }
    if record.is_whole() {
        return Err(Unchanged::Whole);
    }
    if !fit {
        return Err(Unchanged::Unfit);
    }
    let mut in_sync = record.in_sync.clone();
    in_sync.push(server);
    Ok(next(record, in_sync))
}

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

/// Judges the replica of `record`'s chunk that `server` holds at `epoch`.
pub fn judge(record: &ChunkRecord, server: ServerId, epoch: Epoch) -> Verdict {
    match (record.has(server), epoch.cmp(&record.epoch)) {
        (true, std::cmp::Ordering::Equal) => Verdict::InStep,
        (true, std::cmp::Ordering::Less) => Verdict::TellEpoch,
        (true, std::cmp::Ordering::Greater) => Verdict::Ahead,
        // It would refuse what the primary sends at the record's epoch, so it cannot be brought up to date.
        (false, std::cmp::Ordering::Greater) => Verdict::Delete,
        (false, _) if record.is_whole() => Verdict::Delete,
        (false, _) => Verdict::BringUp,
    }
}

fn same_epoch(record: &ChunkRecord, asked: Epoch) -> Result<(), Unchanged> {
    if record.epoch == asked { Ok(()) } else { Err(Unchanged::OtherEpoch { asked, current: record.epoch }) }
}

fn without(record: &ChunkRecord, drop: impl Fn(ServerId) -> bool) -> Transition {
    let in_sync: Vec<_> = record.in_sync.iter().copied().filter(|s| !drop(*s)).collect();
    if in_sync.len() == record.in_sync.len() {
        return Err(Unchanged::NotMember);
    }
    if in_sync.len() < record.majority() {
        return Err(Unchanged::BelowMajority { remaining: in_sync.len(), needed: record.majority() });
    }
    Ok(next(record, in_sync))
}

fn next(record: &ChunkRecord, in_sync: Vec<ServerId>) -> ChunkRecord {
    ChunkRecord { epoch: Epoch(record.epoch.0 + 1), in_sync, ..record.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::{ChunkId, InodeId};

    const A: ServerId = ServerId(1);
    const B: ServerId = ServerId(2);
    const C: ServerId = ServerId(3);
    const D: ServerId = ServerId(4);

    fn record(epoch: u64, in_sync: &[ServerId]) -> ChunkRecord {
        let (chunk, inode) = (ChunkId(7), InodeId(9));
        ChunkRecord { chunk, epoch: Epoch(epoch), in_sync: in_sync.to_vec(), wanted: 3, inode, index: 0 }
    }

    #[test]
    fn a_primary_drops_members_down_to_a_majority() {
        let r = record(4, &[A, B, C]);
        assert_eq!(reported_by_member(&r, A, Epoch(4), &[C]), Ok(record(5, &[A, B])));
        let kept = Err(Unchanged::BelowMajority { remaining: 1, needed: 2 });
        assert_eq!(reported_by_member(&r, A, Epoch(4), &[B, C]), kept);
        assert_eq!(reported_by_member(&record(5, &[A, B]), A, Epoch(5), &[B]), kept);
        assert_eq!(reported_by_member(&r, A, Epoch(4), &[D]), Err(Unchanged::NotMember));
        let late = Err(Unchanged::OtherEpoch { asked: Epoch(3), current: Epoch(4) });
        assert_eq!(reported_by_member(&r, A, Epoch(3), &[C]), late);
    }

    #[test]
    fn a_member_may_drop_itself_and_nobody_else() {
        let r = record(1, &[A, B, C]);
        assert_eq!(reported_by_member(&r, B, Epoch(1), &[B]), Ok(record(2, &[A, C])));
        assert_eq!(reported_by_member(&r, B, Epoch(1), &[C]), Err(Unchanged::NotPrimary(B)));
        assert_eq!(reported_by_member(&r, A, Epoch(1), &[A]), Ok(record(2, &[B, C])));
        assert_eq!(reported_by_member(&r, D, Epoch(1), &[D]), Err(Unchanged::NotMember));
    }

    #[test]
    fn a_client_drops_only_what_is_gone() {
        let r = record(1, &[A, B, C]);
        assert_eq!(reported_by_client(&r, Epoch(1), &[A], |s| s == A), Ok(record(2, &[B, C])));
        assert_eq!(reported_by_client(&r, Epoch(1), &[A, B], |s| s == A), Ok(record(2, &[B, C])));
        assert_eq!(reported_by_client(&r, Epoch(1), &[A], |_| false), Err(Unchanged::NotGone));
        assert_eq!(reported_by_client(&r, Epoch(1), &[D], |_| true), Err(Unchanged::NotMember));
        let late = Err(Unchanged::OtherEpoch { asked: Epoch(9), current: Epoch(1) });
        assert_eq!(reported_by_client(&r, Epoch(9), &[A], |_| true), late);
        let two = record(2, &[A, B]);
        let kept = Err(Unchanged::BelowMajority { remaining: 1, needed: 2 });
        assert_eq!(reported_by_client(&two, Epoch(2), &[A], |_| true), kept);
    }

    #[test]
    fn a_dead_server_leaves_where_a_majority_stays() {
        assert_eq!(servers_dead(&record(1, &[A, B, C]), |s| s == B), Ok(record(2, &[A, C])));
        let kept = Err(Unchanged::BelowMajority { remaining: 1, needed: 2 });
        assert_eq!(servers_dead(&record(2, &[A, B]), |s| s == B), kept);
        let single = ChunkRecord { wanted: 1, ..record(1, &[A]) };
        let kept = Err(Unchanged::BelowMajority { remaining: 0, needed: 1 });
        assert_eq!(servers_dead(&single, |s| s == A), kept);
    }

    #[test]
    fn who_has_caught_up_joins_last() {
        let r = record(2, &[B, C]);
        assert_eq!(caught_up(&r, B, Epoch(2), A, true), Ok(record(3, &[B, C, A])));
        assert_eq!(caught_up(&r, C, Epoch(2), A, true), Err(Unchanged::NotPrimary(C)));
        assert_eq!(caught_up(&r, B, Epoch(2), C, true), Err(Unchanged::Member));
        assert_eq!(caught_up(&r, B, Epoch(2), A, false), Err(Unchanged::Unfit));
        assert_eq!(caught_up(&record(2, &[A, B, C]), A, Epoch(2), D, true), Err(Unchanged::Whole));
        let late = Err(Unchanged::OtherEpoch { asked: Epoch(1), current: Epoch(2) });
        assert_eq!(caught_up(&r, B, Epoch(1), A, true), late);
    }

    #[test]
    fn a_reported_replica_is_judged_by_set_and_epoch() {
        let whole = record(5, &[A, B, C]);
        assert_eq!(judge(&whole, A, Epoch(5)), Verdict::InStep);
        assert_eq!(judge(&whole, A, Epoch(4)), Verdict::TellEpoch);
        assert_eq!(judge(&whole, A, Epoch(6)), Verdict::Ahead);
        assert_eq!(judge(&whole, D, Epoch(4)), Verdict::Delete);
        assert_eq!(judge(&whole, D, Epoch(6)), Verdict::Delete);
        let wounded = record(5, &[A, B]);
        assert_eq!(judge(&wounded, C, Epoch(4)), Verdict::BringUp);
        assert_eq!(judge(&wounded, C, Epoch(5)), Verdict::BringUp);
        assert_eq!(judge(&wounded, C, Epoch(6)), Verdict::Delete);
    }
}
