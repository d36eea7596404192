//! A set of byte offsets as sorted ranges.

use std::ops::Range;

/// Sorted ranges that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// Adds a range; what it overlaps or touches is merged.
    pub fn insert(&mut self, r: Range<u64>) {
        if r.is_empty() {
            return;
        }
        let from = self.0.partition_point(|x| x.end < r.start);
        let to = self.0.partition_point(|x| x.start <= r.end);
        let start = self.0.get(from).map_or(r.start, |x| x.start.min(r.start));
        if from == to {
            self.0.insert(from, r);
            return;
        }
        let end = self.0[to - 1].end.max(r.end);
        self.0[from] = start..end;
        self.0.drain(from + 1..to);
    }

    /// Takes a range out.
    pub fn remove(&mut self, r: Range<u64>) {
        if r.is_empty() {
            return;
        }
        let from = self.0.partition_point(|x| x.end <= r.start);
        let to = self.0.partition_point(|x| x.start < r.end);
        if from >= to {
            return;
        }
        let left = self.0[from].start..r.start;
        let right = r.end..self.0[to - 1].end;
        self.0.splice(from..to, [left, right].into_iter().filter(|x| !x.is_empty()));
    }

    /// The ranges that have bytes in common with `r`, cut to it.
    pub fn within(&self, r: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let from = self.0.partition_point(|x| x.end <= r.start);
        self.0[from..]
            .iter()
            .map(move |x| x.start.max(r.start)..x.end.min(r.end))
            .take_while(|x| x.start < x.end)
    }

    /// All ranges.
    pub fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }

    /// How many ranges.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Bytes in all of them.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    #[test]
    fn equals_a_set_of_bytes() {
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut ranges = Ranges::default();
            let mut model = [false; 200];
            for _ in 0..200 {
                let a = rng.random_range(0..200usize);
                let b = rng.random_range(a..=200);
                let add = rng.random_bool(0.5);
                let r = a as u64..b as u64;
                if add {
                    ranges.insert(r)
                } else {
                    ranges.remove(r)
                }
                model[a..b].fill(add);
                let mut got = [false; 200];
                let mut last = None;
                for r in ranges.iter() {
                    assert!(r.start < r.end && last.is_none_or(|l| l < r.start), "{ranges:?}");
                    last = Some(r.end);
                    got[r.start as usize..r.end as usize].fill(true);
                }
                assert_eq!(got, model, "seed {seed}");
                let cut: u64 = ranges.within(50..90).map(|r| r.end - r.start).sum();
                assert_eq!(cut as usize, model[50..90].iter().filter(|x| **x).count());
            }
        }
    }
}
