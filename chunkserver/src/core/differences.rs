//! How the replicas of a chunk differ, by what each tells of its blocks.

/// What a replica tells of a block: (checksum, version). See [`super::table::Entry::told`].
pub type Told = (u32, u64);

/// How good a block is: a bad one is worse than one that was never written.
pub fn rank((crc, version): Told) -> (u64, bool) {
    (version, !is_bad((crc, version)))
}

/// A bad block.
const BAD: Told = (1, 0);

/// Whether the replica that tells this cannot be asked for the block.
pub fn is_bad(told: Told) -> bool {
    told == BAD
}

/// Whether any block is bad: then a server that has none of them cannot be given the chunk.
pub fn any_bad(table: &[Told]) -> bool {
    table.iter().any(|t| is_bad(*t))
}

/// Whether a member's replica was made anew, and not made level yet: there is none, or one that is in doubt and has no write, while
/// others are at `seq`.
pub fn is_newcomer(exists: bool, unclean: bool, its: u64, seq: u64) -> bool {
    seq > 0 && (!exists || (unclean && its == 0))
}

/// What the table of a replica that was made anew, and has not been made level yet, says of that many blocks: of those that it does
/// not hold it knows nothing, so its holes are no better than a bad block.
pub fn of_newcomer(table: &[Told], blocks: usize) -> Vec<Told> {
    let known = |told: Told| if told.1 == 0 { BAD } else { told };
    (0..blocks).map(|block| known(at(table, block))).collect()
}

/// What a table says of a block; behind its end nothing was ever written.
pub fn at(table: &[Told], block: usize) -> Told {
    table.get(block).copied().unwrap_or_default()
}

/// Which rule decides what a block is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// One content has a higher version than all others.
    HigherVersion,
    /// Several contents have the highest version: what more replicas have than any other.
    Majority,
    /// Several contents have the highest version, and no majority: the primary's (or one of them, where the primary's is older).
    Primary,
}

/// What is decided about a block that not all replicas have alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whose block counts: one of the others, or the primary's own.
    pub from: Option<usize>,
    /// Why.
    pub rule: Rule,
}

/// Decides about a block of which `own` is the primary's. `None`: all have the same.
pub fn decide(own: &[Told], others: &[Vec<Told>], block: usize) -> Option<Decision> {
    let mine = at(own, block);
    if others.iter().all(|t| at(t, block) == mine) {
        return None;
    }
    let theirs: Vec<Told> = others.iter().map(|t| at(t, block)).collect();
    let best = theirs.iter().copied().map(rank).max()?.max(rank(mine));
    let votes = |told: Told| theirs.iter().chain([&mine]).filter(|t| **t == told).count();
    // The last of the maxima: the primary's own where it has as many.
    let contents = || theirs.iter().copied().enumerate().map(|(i, t)| (Some(i), t)).chain([(None, mine)]);
    let at_best = || contents().filter(|(_, t)| rank(*t) == best);
    let (from, content) = at_best().max_by_key(|(_, t)| votes(*t))?;
    let rivals = at_best().filter(|(_, t)| *t != content).map(|(_, t)| votes(t)).max();
    let rule = match rivals {
        None => Rule::HigherVersion,
        Some(n) if n < votes(content) => Rule::Majority,
        Some(_) => Rule::Primary,
    };
    // What is here already need not be fetched.
    Some(Decision { from: from.filter(|_| content != mine), rule })
}

/// How many blocks each rule has decided about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// [`Rule::HigherVersion`].
    pub higher_version: usize,
    /// [`Rule::Majority`].
    pub majority: usize,
    /// [`Rule::Primary`].
    pub primary: usize,
}

impl Decisions {
    /// Counts one.
    pub fn add(&mut self, rule: Rule) {
        match rule {
            Rule::HigherVersion => self.higher_version += 1,
            Rule::Majority => self.majority += 1,
            Rule::Primary => self.primary += 1,
        }
    }
}

/// The runs of blocks (first, count), at most `most` in each, in which another table differs from `own`.
/// Blocks that are bad here are left out: they cannot be sent.
pub fn differing(own: &[Told], other: &[Told], most: u32) -> Vec<(u32, u32)> {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for block in 0..own.len().max(other.len()) {
        let mine = at(own, block);
        if mine == at(other, block) || is_bad(mine) {
            continue;
        }
        let block = block as u32;
        match runs.last_mut() {
            Some(r) if r.0 + r.1 == block && r.1 < most => r.1 += 1,
            _ => runs.push((block, 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differing_blocks_come_in_runs_and_bad_ones_are_left_out() {
        let own = [(5, 1), (6, 2), (0, 0), (1, 0), (7, 3)];
        let other = [(5, 1), (6, 1), (9, 1), (4, 4)];
        assert_eq!(differing(&own, &other, 256), [(1, 2), (4, 1)]);
        assert_eq!(differing(&own, &other, 1), [(1, 1), (2, 1), (4, 1)]);
    }

    #[test]
    fn of_different_contents_of_one_version_that_of_the_majority_counts() {
        let (a, b) = (vec![(3, 7)], vec![(4, 7)]);
        let majority = |from| Some(Decision { from, rule: Rule::Majority });
        let primary = |from| Some(Decision { from, rule: Rule::Primary });
        assert_eq!(decide(&a, &[b.clone(), b.clone()], 0), majority(Some(1)));
        assert_eq!(decide(&a, &[b.clone(), a.clone()], 0), majority(None));
        assert_eq!(decide(&a, std::slice::from_ref(&b), 0), primary(None));
        assert_eq!(decide(&a, &[b.clone(), vec![(5, 7)]], 0), primary(None));
        assert_eq!(decide(&[(9, 6)], &[a.clone(), b.clone(), b.clone()], 0), majority(Some(2)));
        assert_eq!(decide(&[(9, 6)], &[a.clone(), b], 0), primary(Some(1)));
        assert_eq!(decide(&a, &[], 0), None);
        assert_eq!(decide(&a, std::slice::from_ref(&a), 0), None);
    }

    #[test]
    fn what_a_newcomer_lacks_does_not_count_as_never_written() {
        let (own, third) = (vec![BAD, BAD, (5, 4)], vec![BAD, (0, 0), (5, 4)]);
        let newcomer = vec![(7, 3)];
        let from = |others: &[Vec<Told>], block| decide(&own, others, block).and_then(|d| d.from);
        let told = of_newcomer(&newcomer, 3);
        assert_eq!(told, [(7, 3), BAD, BAD]);
        let others = [third.clone(), told];
        assert_eq!(from(&others, 0), Some(1), "what it has counts");
        assert_eq!(from(&others, 1), Some(0), "a hole of one that was always there");
        assert_eq!(decide(&own, &others, 2).map(|d| d.from), Some(None));
        let empty = [third, of_newcomer(&[], 3)];
        assert_eq!(decide(&own, &empty, 0), None, "nobody has it: it is not made zeros");
        assert!(is_newcomer(true, true, 0, 9) && is_newcomer(false, false, 0, 9));
        let others = [(true, false, 0, 9), (true, true, 3, 9), (true, true, 0, 0)];
        assert!(
            !others.into_iter().any(|(exists, unclean, its, seq)| is_newcomer(exists, unclean, its, seq))
        );
    }

    #[test]
    fn decisions_are_counted_by_their_rule() {
        let mut counts = Decisions::default();
        [Rule::Majority, Rule::HigherVersion, Rule::Majority, Rule::Primary]
            .into_iter()
            .for_each(|r| counts.add(r));
        assert_eq!(counts, Decisions { higher_version: 1, majority: 2, primary: 1 });
    }

    #[test]
    fn the_highest_version_is_the_best_and_a_bad_block_the_worst() {
        let others = [vec![(3, 7), (1, 0)], vec![(4, 8), (0, 0)]];
        let from = |own: &[Told], block| {
            let decision = decide(own, &others, block).unwrap();
            assert_eq!(decision.rule, Rule::HigherVersion);
            decision.from
        };
        assert_eq!(from(&[(2, 5), (1, 0)], 0), Some(1));
        assert_eq!(from(&[(2, 9)], 0), None);
        assert_eq!(from(&[(2, 9), (1, 0)], 1), Some(1));
        assert_eq!(from(&[(2, 9), (0, 0)], 1), None);
    }
}
