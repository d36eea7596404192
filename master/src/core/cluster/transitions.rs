//! How a chunk's record may change: every transition, each a pure function of the record.
//!
//! The table "Chunk transitions" in `docs/design.md`, section 3, in code; a test compares them. All obey two rules: the
//! epoch goes up by one with each change of the set, and a set never falls below a majority of the wanted copies.

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
    /// Too few servers have room for the chunk.
    #[error("{with_room} servers have room for it, {needed} are needed")]
    NoRoom {
        /// So many have.
        with_room: usize,
        /// So many must.
        needed: usize,
    },
    /// There are as many copies as wanted.
    #[error("there are copies enough")]
    Whole,
    /// The server that is to join is not alive, or must delete its old copy first.
    #[error("not fit to join")]
    Unfit,
    /// There are no more copies than wanted, without those that the chunk is to leave.
    #[error("no copy can be spared")]
    Needed,
    /// One of those that would stay is not alive.
    #[error("not all that would stay are alive")]
    NotAlive,
}

type Transition = Result<ChunkRecord, Unchanged>;

/// What a change of a record starts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The primary says that members do not answer; or a member says that it is not whole itself.
    ReportedByMember,
    /// A client could not use replicas.
    ReportedByClient,
    /// The primary has no room for a write.
    NoRoom,
    /// Servers are dead.
    ServersDead,
    /// A live member turns out not to hold the chunk, which others hold.
    ReplicaLost,
    /// The primary says that a server has caught up.
    CaughtUp,
    /// There are more members than wanted.
    Surplus,
}

/// What must hold for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It was asked for under the record's epoch.
    SameEpoch,
    /// The primary asks.
    ByPrimary,
    /// The primary asks, or a member for its own removal.
    ByPrimaryOrItself,
    /// One of the servers named is in the set.
    Member,
    /// One of them is certainly gone: dead, or its lease has run out.
    Gone,
    /// Among those that would stay, and those that could take a copy, as many have room as make a majority.
    Room,
    /// A majority of the wanted copies is left.
    MajorityLeft,
    /// The server is not in the set.
    NotMember,
    /// Fewer members than wanted are there to stay.
    CopyWanted,
    /// The server is alive and not leaving, and nothing is about to delete its copy.
    Fit,
    /// As many as wanted are left that are there to stay.
    CopiesLeft,
    /// All that are left are alive.
    OthersAlive,
}

/// What becomes of the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// Without the servers named; the next in order is primary.
    Without,
    /// Without those of them that are gone.
    WithoutGone,
    /// With the server, as the last; while there are more than wanted, without the last that the chunk is to leave.
    With,
}

/// A transition: the change, the conditions in the order in which they are looked at, the new set.
pub type Rule = (Change, &'static [Condition], Set);

/// All of them.
pub const RULES: [Rule; 7] = {
    use Condition::*;
    [
        (Change::ReportedByMember, &[SameEpoch, ByPrimaryOrItself, Member, MajorityLeft], Set::Without),
        (Change::ReportedByClient, &[SameEpoch, Member, Gone, MajorityLeft], Set::WithoutGone),
        (Change::NoRoom, &[SameEpoch, ByPrimary, Room, MajorityLeft], Set::Without),
        (Change::ServersDead, &[Member, MajorityLeft], Set::Without),
        (Change::ReplicaLost, &[Member, MajorityLeft], Set::Without),
        (Change::CaughtUp, &[SameEpoch, ByPrimary, NotMember, CopyWanted, Fit], Set::With),
        (Change::Surplus, &[Member, CopiesLeft, OthersAlive, MajorityLeft], Set::Without),
    ]
};

impl Change {
    /// In a few words.
    pub fn text(self) -> &'static str {
        match self {
            Self::ReportedByMember => "a member reports that members failed",
            Self::ReportedByClient => "a client reports that members failed",
            Self::NoRoom => "the primary has no room for a write",
            Self::ServersDead => "servers are dead",
            Self::ReplicaLost => "a live member turns out to hold nothing, others do",
            Self::CaughtUp => "a server has caught up",
            Self::Surplus => "there are more copies than wanted",
        }
    }
}

impl Condition {
    /// In a few words.
    pub fn text(self) -> &'static str {
        match self {
            Self::SameEpoch => "epoch equal",
            Self::ByPrimary => "from the primary",
            Self::ByPrimaryOrItself => "from the primary, or from a member about itself",
            Self::Member => "one named is in the set",
            Self::Gone => "one of them is dead or its lease has run out",
            Self::Room => {
                "a majority of the wanted copies has room: members that stay, servers that could take a copy"
            }
            Self::MajorityLeft => "a majority of the wanted copies is left",
            Self::NotMember => "it is not in the set",
            Self::CopyWanted => "fewer members than wanted are there to stay",
            Self::Fit => "it is alive, not drained, and its copy not about to be deleted",
            Self::CopiesLeft => "as many as wanted are left that are there to stay",
            Self::OthersAlive => "all that are left are alive",
        }
    }
}

impl Set {
    /// In a few words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Without => "set − those named",
            Self::WithoutGone => "set − those of them that are gone",
            Self::With => {
                "set + it, last; − one that the chunk is to leave, where that makes more than wanted"
            }
        }
    }
}

/// A change that is asked for.
struct Asked<'a> {
    record: &'a ChunkRecord,
    from: Option<ServerId>,
    epoch: Epoch,
    /// Whether a server is one of those named.
    named: &'a dyn Fn(ServerId) -> bool,
    gone: &'a dyn Fn(ServerId) -> bool,
    aim: Aim<'a>,
    /// Whether a member has room for a write.
    room: &'a dyn Fn(ServerId) -> bool,
    /// How many servers that are no members have room for a copy.
    room_elsewhere: usize,
    /// The one that is to join.
    joins: Option<ServerId>,
    fit: bool,
    alive: &'a dyn Fn(ServerId) -> bool,
    /// Whether all those named are the one that asks.
    itself: bool,
}

impl<'a> Asked<'a> {
    fn of(record: &'a ChunkRecord, named: &'a dyn Fn(ServerId) -> bool) -> Self {
        let (gone, room, alive) = (&|_| false, &|_| false, &|_| false);
        let aim = Aim { copies: record.wanted as usize, leaving: &|_| false };
        let (from, epoch, joins) = (None, record.epoch, None);
        let (room_elsewhere, fit, itself) = (0, false, false);
        Self { record, from, epoch, named, gone, aim, room, room_elsewhere, joins, fit, alive, itself }
    }

    fn decide(&self, change: Change) -> Transition {
        let Some((_, conditions, set)) = RULES.iter().find(|(c, ..)| *c == change) else {
            return Err(Unchanged::NotMember);
        };
        let in_sync = self.set(*set);
        for condition in *conditions {
            self.check(*condition, &in_sync)?;
        }
        Ok(ChunkRecord { epoch: Epoch(self.record.epoch.0 + 1), in_sync, ..self.record.clone() })
    }

    fn set(&self, set: Set) -> Vec<ServerId> {
        let keep = |s: &ServerId| match set {
            Set::Without => !(self.named)(*s),
            Set::WithoutGone => !((self.named)(*s) && (self.gone)(*s)),
            Set::With => true,
        };
        let mut in_sync: Vec<_> = self.record.in_sync.iter().copied().filter(keep).collect();
        if set == Set::With {
            in_sync.extend(self.joins);
            while in_sync.len() > self.aim.copies
                && let Some(last) = in_sync.iter().rposition(|s| (self.aim.leaving)(*s))
            {
                in_sync.remove(last);
            }
        }
        in_sync
    }

    fn check(&self, condition: Condition, after: &[ServerId]) -> Result<(), Unchanged> {
        let record = self.record;
        let by_primary = self.from == record.primary();
        let asker = self.from.unwrap_or_default();
        let named = |s: &ServerId| (self.named)(*s);
        let (holds, otherwise) = match condition {
            Condition::SameEpoch => (
                self.epoch == record.epoch,
                Unchanged::OtherEpoch { asked: self.epoch, current: record.epoch },
            ),
            Condition::ByPrimary => (by_primary, Unchanged::NotPrimary(asker)),
            Condition::ByPrimaryOrItself => (by_primary || self.itself, Unchanged::NotPrimary(asker)),
            Condition::Member => (record.in_sync.iter().any(named), Unchanged::NotMember),
            Condition::Gone => {
                (record.in_sync.iter().any(|s| named(s) && (self.gone)(*s)), Unchanged::NotGone)
            }
            Condition::Room => {
                let with_room = after.iter().filter(|s| (self.room)(**s)).count() + self.room_elsewhere;
                let needed = record.majority();
                (with_room >= needed, Unchanged::NoRoom { with_room, needed })
            }
            Condition::MajorityLeft => {
                let (remaining, needed) = (after.len(), record.majority());
                (remaining >= needed, Unchanged::BelowMajority { remaining, needed })
            }
            Condition::NotMember => (!self.joins.is_some_and(|s| record.has(s)), Unchanged::Member),
            Condition::CopyWanted => (wants_copy(record, self.aim), Unchanged::Whole),
            Condition::Fit => (self.fit, Unchanged::Unfit),
            Condition::CopiesLeft => (
                after.iter().filter(|s| !(self.aim.leaving)(**s)).count() >= self.aim.copies,
                Unchanged::Needed,
            ),
            Condition::OthersAlive => (after.iter().all(|s| (self.alive)(*s)), Unchanged::NotAlive),
        };
        if holds { Ok(()) } else { Err(otherwise) }
    }
}

/// What a chunk's set should come to.
#[derive(Clone, Copy)]
pub struct Aim<'a> {
    /// So many members are to be there to stay.
    pub copies: usize,
    /// Whether the chunk is to leave a server.
    pub leaving: &'a dyn Fn(ServerId) -> bool,
}

/// Whether fewer members than wanted are there to stay.
pub fn wants_copy(record: &ChunkRecord, aim: Aim<'_>) -> bool {
    record.in_sync.iter().filter(|s| !(aim.leaving)(**s)).count() < aim.copies
}

/// The primary says that `failed` do not answer; or a member says that it is not whole itself.
pub fn reported_by_member(
    record: &ChunkRecord,
    from: ServerId,
    epoch: Epoch,
    failed: &[ServerId],
) -> Transition {
    let named = |s| failed.contains(&s);
    let itself = failed.iter().all(|s| *s == from);
    Asked { from: Some(from), epoch, itself, ..Asked::of(record, &named) }.decide(Change::ReportedByMember)
}

/// A client could not use `servers`. Those of them that are `gone` (dead, or their lease has run out) are
/// dropped; the others may still be serving, and only the primary can judge a member.
pub fn reported_by_client(
    record: &ChunkRecord,
    epoch: Epoch,
    servers: &[ServerId],
    gone: impl Fn(ServerId) -> bool,
) -> Transition {
    let named = |s| servers.contains(&s);
    Asked { epoch, gone: &gone, ..Asked::of(record, &named) }.decide(Change::ReportedByClient)
}

/// The primary has no room for a write, and asks whether the others go on without it. `room`: whether a member has any;
/// `elsewhere`: how many others could take a copy. [`Unchanged::BelowMajority`]: they can, but first have to.
pub fn no_room(
    record: &ChunkRecord,
    (from, epoch): (ServerId, Epoch),
    room: impl Fn(ServerId) -> bool,
    elsewhere: usize,
) -> Transition {
    let named = |s| s == from;
    let asked = Asked::of(record, &named);
    Asked { from: Some(from), epoch, room: &room, room_elsewhere: elsewhere, ..asked }.decide(Change::NoRoom)
}

/// Some servers are dead.
pub fn servers_dead(record: &ChunkRecord, dead: impl Fn(ServerId) -> bool) -> Transition {
    Asked::of(record, &dead).decide(Change::ServersDead)
}

/// A live member turns out not to hold the chunk, which others hold.
pub fn replica_lost(record: &ChunkRecord, server: ServerId) -> Transition {
    Asked::of(record, &|s| s == server).decide(Change::ReplicaLost)
}

/// The primary says that `server` has caught up. `fit`: it is alive, and nothing is about to delete its copy.
/// It takes the place of a member that is leaving, where there are members enough.
pub fn caught_up(
    record: &ChunkRecord,
    (from, epoch): (ServerId, Epoch),
    server: ServerId,
    fit: bool,
    aim: Aim<'_>,
) -> Transition {
    let named = |s| s == server;
    let asked = Asked::of(record, &named);
    Asked { from: Some(from), epoch, joins: Some(server), fit, aim, ..asked }.decide(Change::CaughtUp)
}

/// There are more members than wanted: `server` is the one that is not needed.
pub fn surplus(
    record: &ChunkRecord,
    server: ServerId,
    alive: impl Fn(ServerId) -> bool,
    aim: Aim<'_>,
) -> Transition {
    let named = |s| s == server;
    Asked { alive: &alive, aim, ..Asked::of(record, &named) }.decide(Change::Surplus)
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
    fn a_primary_without_room_leaves_where_others_have_some() {
        let r = record(1, &[A, B, C]);
        let roomy = |with: &'static [ServerId]| move |s| with.contains(&s);
        assert_eq!(no_room(&r, (A, Epoch(1)), roomy(&[B, C]), 0), Ok(record(2, &[B, C])));
        assert_eq!(no_room(&r, (A, Epoch(1)), roomy(&[C]), 1), Ok(record(2, &[B, C])));
        let nobody = Err(Unchanged::NoRoom { with_room: 1, needed: 2 });
        assert_eq!(no_room(&r, (A, Epoch(1)), roomy(&[A, C]), 0), nobody, "its own does not count");
        assert_eq!(no_room(&r, (B, Epoch(1)), roomy(&[A, C]), 0), Err(Unchanged::NotPrimary(B)));
        let late = Err(Unchanged::OtherEpoch { asked: Epoch(0), current: Epoch(1) });
        assert_eq!(no_room(&r, (A, Epoch(0)), roomy(&[B, C]), 0), late);
        let first = Err(Unchanged::BelowMajority { remaining: 1, needed: 2 });
        assert_eq!(no_room(&record(2, &[A, B]), (A, Epoch(2)), roomy(&[B]), 1), first);
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
        let aim = Aim { copies: 3, leaving: &|_| false };
        let joins = |r: &ChunkRecord, from, server, fit| caught_up(r, from, server, fit, aim);
        assert_eq!(joins(&r, (B, Epoch(2)), A, true), Ok(record(3, &[B, C, A])));
        assert_eq!(joins(&r, (C, Epoch(2)), A, true), Err(Unchanged::NotPrimary(C)));
        assert_eq!(joins(&r, (B, Epoch(2)), C, true), Err(Unchanged::Member));
        assert_eq!(joins(&r, (B, Epoch(2)), A, false), Err(Unchanged::Unfit));
        assert_eq!(joins(&record(2, &[A, B, C]), (A, Epoch(2)), D, true), Err(Unchanged::Whole));
        let late = Err(Unchanged::OtherEpoch { asked: Epoch(1), current: Epoch(2) });
        assert_eq!(joins(&r, (B, Epoch(1)), A, true), late);
    }

    #[test]
    fn who_has_caught_up_takes_the_place_of_one_that_leaves() {
        let r = record(2, &[A, B, C]);
        let leaves = |leaving: &'static [ServerId]| {
            move |r: &ChunkRecord| {
                let aim = Aim { copies: 3, leaving: &|s| leaving.contains(&s) };
                caught_up(r, (r.in_sync[0], r.epoch), D, true, aim).map(|r| r.in_sync)
            }
        };
        assert_eq!(leaves(&[B])(&r), Ok(vec![A, C, D]));
        assert_eq!(leaves(&[A])(&r), Ok(vec![B, C, D]), "even the primary");
        assert_eq!(leaves(&[A, B])(&r), Ok(vec![A, C, D]), "one for one");
        assert_eq!(leaves(&[A])(&record(2, &[A, B])), Ok(vec![A, B, D]), "not before there are enough");
        let wants = |server| wants_copy(&r, Aim { copies: 3, leaving: &|s| s == server });
        assert!(wants(A) && !wants(D));
    }

    #[test]
    fn who_is_not_needed_leaves_where_as_many_as_wanted_stay() {
        let r = record(4, &[A, B, C, D]);
        let aim = |copies| Aim { copies, leaving: &|_| false };
        assert_eq!(surplus(&r, D, |_| true, aim(3)), Ok(record(5, &[A, B, C])));
        assert_eq!(surplus(&r, A, |_| true, aim(3)), Ok(record(5, &[B, C, D])));
        assert_eq!(surplus(&r, D, |s| s == D, aim(3)), Err(Unchanged::NotAlive));
        assert_eq!(
            surplus(&r, D, |s| s != D, aim(3)),
            Ok(record(5, &[A, B, C])),
            "it need not be there itself"
        );
        assert_eq!(surplus(&r, D, |_| true, aim(4)), Err(Unchanged::Needed));
        let leaves = Aim { copies: 3, leaving: &|s| s == B };
        assert_eq!(
            surplus(&r, D, |_| true, leaves),
            Err(Unchanged::Needed),
            "one of those that stay is leaving"
        );
        assert_eq!(surplus(&r, B, |_| true, leaves), Ok(record(5, &[A, C, D])));
        assert_eq!(surplus(&record(4, &[A, B, C]), D, |_| true, aim(3)), Err(Unchanged::NotMember));
    }
}
