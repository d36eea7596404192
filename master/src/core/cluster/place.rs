//! Where new replicas go.

use cairn_proto::ServerId;

use super::{PlaceError, majority};

/// A server that is alive.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) id: ServerId,
    pub(super) rack: &'a str,
    pub(super) free_bytes: u64,
    pub(super) has_space: bool,
    /// It has space, but others are to get what is new, where there are others.
    pub(super) is_full: bool,
}

/// Chooses up to `copies` distinct servers, each with a probability that goes with its free space, on distinct
/// racks while there are racks that have none; a full one only where there is no other. The first, the primary, is any of them: primaries work
/// more, and that should not gather where the space is.
pub(super) fn place(
    alive: &[Candidate<'_>],
    copies: u32,
    random: &mut dyn FnMut() -> u64,
) -> Result<Vec<ServerId>, PlaceError> {
    let needed = majority(copies);
    if alive.len() < needed {
        return Err(PlaceError::TooFew { alive: alive.len(), needed });
    }
    let mut free: Vec<_> = alive.iter().copied().filter(|c| c.has_space).collect();
    if free.len() < needed {
        return Err(PlaceError::Full { with_space: free.len(), needed });
    }
    let mut chosen: Vec<Candidate<'_>> = Vec::new();
    while chosen.len() < copies as usize {
        let racks: Vec<_> = chosen.iter().map(|c| c.rack).collect();
        let Some(next) = pick(&free, &racks, random) else { break };
        free.retain(|c| c.id != next.id);
        chosen.push(next);
    }
    let primary = below(random, chosen.len());
    chosen.swap(0, primary);
    Ok(chosen.into_iter().map(|c| c.id).collect())
}

/// One of `free` by weight of free space; if there is one on a rack that is none of `racks`, such a one; of those, one that is not full.
pub(super) fn pick<'a>(
    free: &[Candidate<'a>],
    racks: &[&str],
    random: &mut dyn FnMut() -> u64,
) -> Option<Candidate<'a>> {
    let elsewhere: Vec<_> = free.iter().copied().filter(|c| !racks.contains(&c.rack)).collect();
    let from = if elsewhere.is_empty() { free } else { &elsewhere };
    let roomy: Vec<_> = from.iter().copied().filter(|c| !c.is_full).collect();
    let from = if roomy.is_empty() { from } else { &roomy };
    // In MiB, and 1 at least, so that sums do not overflow and a full cluster still has an order.
    let weight = |c: &Candidate<'_>| (c.free_bytes >> 20).max(1);
    let sum = from.iter().map(weight).fold(0, u64::saturating_add);
    let mut left = if sum == 0 { 0 } else { random() % sum };
    for c in from {
        match left.checked_sub(weight(c)) {
            Some(rest) => left = rest,
            None => return Some(*c),
        }
    }
    from.last().copied()
}

fn below(random: &mut dyn FnMut() -> u64, bound: usize) -> usize {
    if bound == 0 { 0 } else { (random() % bound as u64) as usize }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn random() -> impl FnMut() -> u64 {
        let mut n = 0;
        move || {
            n += 1;
            cairn_proto::digest::replica_hash(n, 0)
        }
    }

    fn candidate(id: u32, rack: &str, gib: u64) -> Candidate<'_> {
        Candidate { id: ServerId(id), rack, free_bytes: gib << 30, has_space: gib > 0, is_full: false }
    }

    #[test]
    fn servers_are_distinct_and_each_is_primary_about_as_often() {
        let all = [candidate(1, "", 10), candidate(2, "", 10), candidate(3, "", 10)];
        let mut random = random();
        let mut primaries = BTreeMap::new();
        for _ in 0..3000 {
            let set = place(&all, 3, &mut random).unwrap();
            assert_eq!(set.iter().collect::<BTreeSet<_>>().len(), 3);
            *primaries.entry(set[0]).or_insert(0) += 1;
        }
        assert!(primaries.values().all(|n| (800..1200).contains(n)), "{primaries:?}");
    }

    #[test]
    fn racks_differ_while_they_can() {
        let all = [candidate(1, "a", 90), candidate(2, "a", 90), candidate(3, "b", 1), candidate(4, "b", 1)];
        let mut random = random();
        for _ in 0..200 {
            let two = place(&all, 2, &mut random).unwrap();
            assert_ne!(two[0].0 <= 2, two[1].0 <= 2, "{two:?}");
        }
    }

    #[test]
    fn a_full_server_is_taken_only_where_there_is_no_other() {
        let full = |id, rack| Candidate { is_full: true, ..candidate(id, rack, 90) };
        let all = [full(1, ""), candidate(2, "", 1), candidate(3, "", 1), candidate(4, "", 1)];
        let mut random = random();
        for _ in 0..200 {
            assert!(!place(&all, 3, &mut random).unwrap().contains(&ServerId(1)));
        }
        assert_eq!(place(&all, 4, &mut random).unwrap().len(), 4);
        // A rack of its own counts for more.
        let racks = [full(1, "b"), candidate(2, "a", 1), candidate(3, "a", 1)];
        assert!((0..50).all(|_| place(&racks, 2, &mut random).unwrap().contains(&ServerId(1))));
    }

    #[test]
    fn more_space_takes_more() {
        let all = [candidate(1, "", 30), candidate(2, "", 10)];
        let mut random = random();
        let ones = (0..4000).filter(|_| place(&all, 1, &mut random).unwrap()[0] == ServerId(1)).count();
        assert!((2800..3200).contains(&ones), "{ones}");
    }

    #[test]
    fn a_majority_is_enough_and_less_is_not() {
        let mut random = random();
        let two = [candidate(1, "", 9), candidate(2, "", 9)];
        assert_eq!(place(&two, 3, &mut random).unwrap().len(), 2);
        let too_few = PlaceError::TooFew { alive: 1, needed: 2 };
        assert_eq!(place(&two[..1], 3, &mut random), Err(too_few));
        let full = [candidate(1, "", 9), candidate(2, "", 0), candidate(3, "", 0)];
        assert_eq!(place(&full, 3, &mut random), Err(PlaceError::Full { with_space: 1, needed: 2 }));
    }
}
