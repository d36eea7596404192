//! How the replicas of a chunk differ, by what each tells of its blocks.

/// What a replica tells of a block: (checksum, version). See [`super::table::Entry::told`].
pub type Told = (u32, u64);

/// How good a block is: a bad one is worse than one that was never written.
pub fn rank((crc, version): Told) -> (u64, bool) {
    (version, !is_bad((crc, version)))
}

/// Whether the replica that tells this cannot be asked for the block.
pub fn is_bad((crc, version): Told) -> bool {
    version == 0 && crc == 1
}

/// Whether any block is bad: then a server that has none of them cannot be given the chunk.
pub fn any_bad(table: &[Told]) -> bool {
    table.iter().any(|t| is_bad(*t))
}

/// What a table says of a block; behind its end nothing was ever written.
pub fn at(table: &[Told], block: usize) -> Told {
    table.get(block).copied().unwrap_or_default()
}

/// Which of the others, if any, has a better block than `own`: a higher version, or, where several contents have
/// the highest, what more replicas have.
pub fn better(own: &[Told], others: &[Vec<Told>], block: usize) -> Option<usize> {
    let mine = at(own, block);
    let theirs: Vec<Told> = others.iter().map(|t| at(t, block)).collect();
    let best = theirs.iter().copied().map(rank).max()?;
    let same = |told: Told| theirs.iter().filter(|t| **t == told).count();
    let at_best = theirs.iter().enumerate().filter(|(_, t)| rank(**t) == best);
    let (i, votes) = at_best.map(|(i, t)| (i, same(*t))).max_by_key(|(_, votes)| *votes)?;
    let outvoted = best == rank(mine) && theirs[i] != mine && votes > same(mine) + 1;
    (best > rank(mine) || outvoted).then_some(i)
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
        assert_eq!(better(&a, &[b.clone(), b.clone()], 0), Some(1));
        assert_eq!(better(&a, &[b.clone(), a.clone()], 0), None);
        assert_eq!(better(&a, std::slice::from_ref(&b), 0), None);
        assert_eq!(better(&[(9, 6)], &[a.clone(), b.clone(), b], 0), Some(2));
        assert_eq!(better(&a, &[], 0), None);
    }

    #[test]
    fn the_highest_version_is_the_best_and_a_bad_block_the_worst() {
        let others = [vec![(3, 7), (1, 0)], vec![(4, 8), (0, 0)]];
        assert_eq!(better(&[(2, 5), (1, 0)], &others, 0), Some(1));
        assert_eq!(better(&[(2, 9)], &others, 0), None);
        assert_eq!(better(&[(2, 9), (1, 0)], &others, 1), Some(1));
        assert_eq!(better(&[(2, 9), (0, 0)], &others, 1), None);
    }
}
