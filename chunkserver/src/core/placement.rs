//! Which of a server's disks gets a new replica.

/// A disk that works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// So much of it is used that new replicas had better go elsewhere.
    pub filling: bool,
    /// Bytes that are free for data.
    pub room: u64,
}

/// One at random, the more room it has the more often; those that are filling up only if all are. `random`: uniform. `None`: there is none.
pub fn choose(disks: &[Candidate], random: u64) -> Option<usize> {
    let all_filling = disks.iter().all(|d| d.filling);
    // In MiB, so that nothing overflows.
    let weight = |d: &Candidate| if d.filling && !all_filling { 0 } else { u128::from(d.room >> 20) + 1 };
    let sum: u128 = disks.iter().map(weight).sum();
    let mut at = (u128::from(random) * sum) >> 64;
    disks.iter().position(|d| {
        let w = weight(d);
        let here = at < w;
        at = at.saturating_sub(w);
        here
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(filling: bool, room: u64) -> Candidate {
        Candidate { filling, room }
    }

    /// How often each is chosen.
    fn shares(disks: &[Candidate]) -> Vec<usize> {
        let mut n = vec![0; disks.len()];
        (0..1000u64).for_each(|i| n[choose(disks, i * (u64::MAX / 1000)).unwrap()] += 1);
        n
    }

    #[test]
    fn disks_are_chosen_by_their_room_and_those_that_fill_up_last() {
        let n = shares(&[disk(false, 3 << 40), disk(false, 1 << 40), disk(true, 9 << 40)]);
        assert!((740..760).contains(&n[0]) && (240..260).contains(&n[1]) && n[2] == 0, "{n:?}");
        let n = shares(&[disk(true, 0), disk(true, 0)]);
        assert!((490..=510).contains(&n[0]), "{n:?}");
        assert_eq!(choose(&[], 7), None);
        assert_eq!(choose(&[disk(false, u64::MAX), disk(false, u64::MAX)], u64::MAX), Some(1));
    }
}
