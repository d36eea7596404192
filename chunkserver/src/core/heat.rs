//! How much is read and written here of late, and of which chunks most.
//!
//! Counts fade with a half-life of 20 s, so that what is told is a rate: steady use of R bytes a second comes to R. Of the
//! chunks only a bounded number is counted: when there are more, the half that is used least is forgotten, and who comes
//! later starts from what the most used of those had (as in the Space-Saving algorithm, Metwally, Agrawal and El Abbadi
//! 2005), so that chunks which come and go do not push out those that are used steadily. That start is not told.

use std::collections::HashMap;

/// Chunks counted, at most; half of them after some were forgotten.
const COUNTED: usize = 512;
/// Chunks told of, at most.
const TOLD: usize = 16;
/// What is used less is not told of, bytes a second.
const LEAST: u64 = 1 << 20;
/// The half-life of 20 s, divided by ln 2: milliseconds.
const MEAN_LIFE_MS: u64 = 28_854;

/// How much one chunk is used, in bytes a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// The chunk.
    pub chunk: u64,
    /// Read by clients.
    pub read: u64,
    /// Written, by clients or by a primary.
    pub written: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Count {
    read: u64,
    written: u64,
    /// What it started from.
    start: u64,
}

impl Count {
    fn weight(&self) -> u64 {
        self.start.saturating_add(self.read).saturating_add(self.written)
    }
}

/// The counts.
#[derive(Debug, Default)]
pub struct Heat {
    counts: HashMap<u64, Count>,
    all: u64,
    /// What the next new chunk starts from.
    start: u64,
    faded: u64,
}

impl Heat {
    /// So many bytes of a chunk were read.
    pub fn read(&mut self, chunk: u64, bytes: u64) {
        let count = self.count(chunk, bytes);
        count.read = count.read.saturating_add(bytes);
    }

    /// So many bytes of a chunk were written.
    pub fn written(&mut self, chunk: u64, bytes: u64) {
        let count = self.count(chunk, bytes);
        count.written = count.written.saturating_add(bytes);
    }

    fn count(&mut self, chunk: u64, bytes: u64) -> &mut Count {
        self.all = self.all.saturating_add(bytes);
        if self.counts.len() >= COUNTED && !self.counts.contains_key(&chunk) {
            self.forget();
        }
        let start = self.start;
        self.counts.entry(chunk).or_insert(Count { start, ..Count::default() })
    }

    /// Forgets the half that is used least.
    fn forget(&mut self) {
        let mut by_weight: Vec<_> = self.counts.iter().map(|(chunk, c)| (c.weight(), *chunk)).collect();
        by_weight.sort_unstable();
        by_weight.truncate(COUNTED / 2);
        self.start = by_weight.last().map_or(self.start, |(weight, _)| *weight);
        for (_, chunk) in by_weight {
            self.counts.remove(&chunk);
        }
    }

    /// All that is used here in bytes a second, and what is used most, the most used first. To be asked about once a second; `now` in milliseconds.
    pub fn tell(&mut self, now: u64) -> (u64, Vec<Use>) {
        self.fade(now);
        let rate = |count: u64| rate(count);
        let used =
            |(chunk, c): (&u64, &Count)| Use { chunk: *chunk, read: rate(c.read), written: rate(c.written) };
        let all_of = |u: &Use| u.read.saturating_add(u.written);
        let mut told: Vec<_> = self.counts.iter().map(used).filter(|u| all_of(u) >= LEAST).collect();
        told.sort_unstable_by_key(|u| (std::cmp::Reverse(all_of(u)), u.chunk));
        told.truncate(TOLD);
        (rate(self.all), told)
    }

    fn fade(&mut self, now: u64) {
        let since = now.saturating_sub(self.faded).min(MEAN_LIFE_MS);
        self.faded = self.faded.max(now);
        // For a second the chord is within 2 % of the curve, and what steady use comes to does not depend on it.
        let left = |n: &mut u64| *n -= (u128::from(*n) * u128::from(since) / u128::from(MEAN_LIFE_MS)) as u64;
        left(&mut self.all);
        left(&mut self.start);
        self.counts
            .values_mut()
            .for_each(|c| [&mut c.read, &mut c.written, &mut c.start].into_iter().for_each(left));
        self.counts.retain(|_, c| c.weight() > 0);
    }
}

fn rate(count: u64) -> u64 {
    (u128::from(count) * 1_000 / u128::from(MEAN_LIFE_MS)) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    #[test]
    fn steady_use_comes_to_its_rate_and_fades_when_it_ends() {
        let mut h = Heat::default();
        let mut told = Vec::new();
        for second in 1..=200 {
            h.read(7, 40 * MB);
            h.written(7, 10 * MB);
            told.push(h.tell(second * 1_000));
        }
        let (all, used) = told.last().unwrap();
        assert!((48 * MB..=50 * MB).contains(all), "{all}");
        assert!((38 * MB..=40 * MB).contains(&used[0].read) && (9 * MB..=10 * MB).contains(&used[0].written));
        // Half of it is known after a half-life, and half is forgotten after one.
        assert!((23 * MB..=26 * MB).contains(&told[19].0), "{}", told[19].0);
        let after: Vec<_> = (201..=220).map(|s| h.tell(s * 1_000).0).collect();
        assert!((23 * MB..=26 * MB).contains(&after[19]), "{}", after[19]);
        assert_eq!(h.tell(1_000_000), (0, Vec::new()));
        assert!(h.counts.is_empty());
    }

    #[test]
    fn what_is_used_most_is_told_first_and_what_is_hardly_used_not_at_all() {
        let mut h = Heat::default();
        for second in 1..=60 {
            for chunk in 1..=40 {
                h.read(chunk, chunk * MB / 4);
            }
            h.tell(second * 1_000);
        }
        let (_, told) = h.tell(60_000);
        let chunks: Vec<_> = told.iter().map(|u| u.chunk).collect();
        assert_eq!(chunks, (25..=40).rev().collect::<Vec<_>>());
        let mut h = Heat::default();
        h.read(1, 10 * MB);
        assert_eq!(h.tell(1_000).1, []);
    }

    #[test]
    fn many_that_come_and_go_do_not_push_out_a_steady_one_nor_take_memory() {
        let mut h = Heat::default();
        for second in 1..=60 {
            for n in 0..2_000 {
                h.read(1_000_000 + second * 10_000 + n, MB / 10);
                if n % 20 == 0 {
                    h.read(7, MB / 10);
                }
                assert!(h.counts.len() <= COUNTED);
            }
            h.tell(second * 1_000);
        }
        let (_, told) = h.tell(60_000);
        assert_eq!(told.iter().map(|u| u.chunk).collect::<Vec<_>>(), [7]);
        assert!((6 * MB..=10 * MB).contains(&told[0].read), "{told:?}");
    }
}
