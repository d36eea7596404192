//! Whether a history of locks is one that docs/semantics.md, "Locks", allows. Each lock was granted at some moment of the call that asked for it and let go at some moment
//! of the one that gave it back. So two that exclude each other must not both have been held for certain at any moment; and whoever was
//! refused one must have met another that somebody may have held.

use std::collections::BTreeMap;
use std::ops::Range;

/// What can be locked on its own: by `flock` the whole of a file, by `fcntl` its ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Whole { file: usize },
    Ranges { file: usize },
}

impl Place {
    pub fn file(self) -> usize {
        match self {
            Self::Whole { file } | Self::Ranges { file } => file,
        }
    }
}

/// A lock as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lock {
    pub place: Place,
    /// Of a whole file always the same.
    pub range: Range<u64>,
    pub exclusive: bool,
    /// The open file description. What one holds is never in its own way.
    pub owner: u64,
}

impl Lock {
    fn excludes(&self, other: &Lock) -> bool {
        self.place == other.place
            && self.owner != other.owner
            && (self.exclusive || other.exclusive)
            && self.range.start < other.range.end
            && other.range.start < self.range.end
    }
}

/// A lock that was held, or may have been. Times are nanoseconds since the run's beginning.
#[derive(Clone, Debug)]
pub struct Hold {
    pub lock: Lock,
    /// From here on it may have been held.
    pub asked: u64,
    /// From here on it was held for certain,
    pub granted: u64,
    /// up to here. Before `granted`: it was held at some moment between the two, no more is known.
    pub let_go: u64,
    /// From here on nobody can have met it any more.
    pub gone: u64,
    /// Who did it: mount and thread.
    pub by: (usize, usize),
}

impl Hold {
    /// [`Self::let_go`] of what may never have been held at all.
    pub const NEVER: u64 = 0;
}

/// A request that was told that the lock is another's.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub lock: Lock,
    pub start: u64,
    pub end: u64,
    pub by: (usize, usize),
    /// What it was, for people.
    pub what: &'static str,
}

/// All that was done to locks.
#[derive(Debug, Default)]
pub struct Locked {
    pub holds: Vec<Hold>,
    pub refusals: Vec<Refusal>,
}

#[derive(Debug)]
pub enum Fault {
    /// Both were held at once.
    Both(Hold, Hold),
    /// Nobody can have held what would be in the way.
    Refused(Refusal),
}

impl Fault {
    /// When it had happened.
    pub fn time(&self) -> u64 {
        match self {
            Self::Both(one, other) => one.granted.max(other.granted),
            Self::Refused(refusal) => refusal.end,
        }
    }
}

/// All faults, place by place.
pub fn check(locked: Locked) -> Vec<Fault> {
    let mut places: BTreeMap<Place, Locked> = BTreeMap::new();
    locked.holds.into_iter().for_each(|h| places.entry(h.lock.place).or_default().holds.push(h));
    locked.refusals.into_iter().for_each(|r| places.entry(r.lock.place).or_default().refusals.push(r));
    places.into_values().flat_map(check_place).collect()
}

fn check_place(Locked { mut holds, refusals }: Locked) -> Vec<Fault> {
    let mut faults = held_at_once(&mut holds);
    holds.sort_by_key(|h| h.asked);
    // The last moment at which one of those up to here may have been met.
    let mut latest = 0;
    let latest: Vec<u64> = holds
        .iter()
        .map(|h| {
            latest = latest.max(h.gone);
            latest
        })
        .collect();
    let explained = |refusal: &Refusal| {
        let begun = holds.partition_point(|h| h.asked <= refusal.end);
        let met = (0..begun).rev().take_while(|i| latest[*i] >= refusal.start);
        met.map(|i| &holds[i]).any(|h| h.gone >= refusal.start && h.lock.excludes(&refusal.lock))
    };
    faults.extend(refusals.into_iter().filter(|r| !explained(r)).map(Fault::Refused));
    faults
}

fn held_at_once(holds: &mut [Hold]) -> Vec<Fault> {
    holds.sort_by_key(|h| h.granted);
    let mut faults = Vec::new();
    let mut held: Vec<&Hold> = Vec::new();
    for hold in &*holds {
        held.retain(|h| h.let_go > hold.granted);
        let others = held.iter().filter(|h| hold.let_go > h.granted && h.lock.excludes(&hold.lock));
        faults.extend(others.map(|h| Fault::Both((*h).clone(), hold.clone())));
        held.push(hold);
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(owner: u64, exclusive: bool, range: Range<u64>) -> Lock {
        Lock { place: Place::Ranges { file: 0 }, range, exclusive, owner }
    }

    fn hold(lock: Lock, [asked, granted, let_go, gone]: [u64; 4]) -> Hold {
        Hold { lock, asked, granted, let_go, gone, by: (0, 0) }
    }

    fn exclusive(owner: u64, times: [u64; 4]) -> Hold {
        hold(lock(owner, true, 0..10), times)
    }

    fn faults(holds: &[Hold], refusals: &[Refusal]) -> usize {
        check(Locked { holds: holds.to_vec(), refusals: refusals.to_vec() }).len()
    }

    #[test]
    fn two_that_exclude_each_other_are_not_held_at_once() {
        let first = exclusive(1, [10, 20, 30, 40]);
        assert_eq!(faults(&[first.clone(), exclusive(2, [22, 25, 35, 45])], &[]), 1);
        assert_eq!(faults(&[exclusive(2, [5, 15, 50, 60]), first.clone()], &[]), 1);
        // Let go and granted at some moment between 30 and 40.
        assert_eq!(faults(&[first.clone(), exclusive(2, [15, 31, 50, 60])], &[]), 0);
        assert_eq!(faults(&[first.clone(), exclusive(1, [22, 25, 35, 45])], &[]), 0, "its own");
        assert_eq!(
            faults(&[first.clone(), hold(lock(2, true, 10..11), [22, 25, 35, 45])], &[]),
            0,
            "beside it"
        );
        assert_eq!(faults(&[first, hold(lock(2, false, 9..11), [22, 25, 35, 45])], &[]), 1);
    }

    #[test]
    fn those_that_are_shared_are_held_at_once() {
        let shared = |owner| hold(lock(owner, false, 0..10), [10, 20, 30, 40]);
        assert_eq!(faults(&[shared(1), shared(2), shared(3)], &[]), 0);
        assert_eq!(faults(&[shared(1), exclusive(2, [20, 25, 26, 27]), shared(3)], &[]), 2);
    }

    #[test]
    fn a_lock_that_was_held_for_a_moment_is_not_granted_while_another_is_held_all_the_time() {
        let held = exclusive(1, [10, 20, 50, 60]);
        assert_eq!(faults(&[held.clone(), exclusive(2, [25, 35, 25, u64::MAX])], &[]), 1);
        assert_eq!(faults(&[held.clone(), exclusive(2, [25, 55, 25, u64::MAX])], &[]), 0, "after it");
        assert_eq!(faults(&[held.clone(), exclusive(2, [15, 35, 15, u64::MAX])], &[]), 0, "before it");
        assert_eq!(faults(&[held, exclusive(2, [25, 35, Hold::NEVER, u64::MAX])], &[]), 0, "perhaps never");
    }

    #[test]
    fn a_refusal_is_explained_by_what_may_have_been_held() {
        let held = exclusive(1, [10, 20, 30, 40]);
        let refused = |owner, start, end| Refusal {
            lock: lock(owner, false, 5..6),
            start,
            end,
            by: (0, 0),
            what: "try",
        };
        for (start, end) in [(2, 10), (15, 16), (40, 50), (1, 90)] {
            assert_eq!(faults(std::slice::from_ref(&held), &[refused(2, start, end)]), 0, "{start} to {end}");
        }
        for (start, end) in [(2, 9), (41, 50)] {
            assert_eq!(faults(std::slice::from_ref(&held), &[refused(2, start, end)]), 1, "{start} to {end}");
        }
        assert_eq!(faults(&[held], &[refused(1, 15, 16)]), 1, "only its own");
        let shared = hold(lock(1, false, 0..10), [10, 20, 30, 40]);
        assert_eq!(faults(&[shared], &[refused(2, 15, 16)]), 1, "both shared");
        let unknown = exclusive(1, [10, 20, Hold::NEVER, u64::MAX]);
        assert_eq!(faults(&[unknown], &[refused(2, 1000, 1001)]), 0);
    }
}
