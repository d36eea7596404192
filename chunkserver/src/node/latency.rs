//! How long clients wait for their answers.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Four for each doubling, from a microsecond to over an hour.
const BUCKETS: usize = 128;

/// Counts of times, by size.
#[derive(Debug)]
pub struct Latency {
    buckets: [AtomicU32; BUCKETS],
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| AtomicU32::new(0)) }
    }
}

impl Latency {
    /// An answer took so long.
    pub fn record(&self, took: Duration) {
        let us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.buckets[bucket(us)].fetch_add(1, Ordering::Relaxed);
    }

    /// At most so many microseconds 99 of 100 took since the last call; 0: there were none.
    pub fn take_p99(&self) -> u32 {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.swap(0, Ordering::Relaxed).into()).collect();
        let all: u64 = counts.iter().sum();
        let mut beyond = all / 100;
        for (n, count) in counts.iter().enumerate().rev() {
            if *count > beyond {
                return most(n);
            }
            beyond -= count;
        }
        0
    }
}

/// Where a time of so many microseconds is counted.
fn bucket(us: u32) -> usize {
    if us < 4 {
        return us as usize;
    }
    let doublings = us.ilog2();
    let quarter = (us >> (doublings - 2)) & 3;
    (doublings as usize - 1) * 4 + quarter as usize
}

/// The longest time that is counted there, microseconds.
fn most(bucket: usize) -> u32 {
    if bucket < 4 {
        return bucket as u32;
    }
    let (doublings, quarter) = (bucket / 4 + 1, bucket % 4);
    let end = (5 + quarter as u64) << (doublings - 2);
    u32::try_from(end - 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_counted_where_it_belongs() {
        let mut last = 0;
        for us in (0..5_000).chain([65_535, 65_536, 1 << 30, u32::MAX]) {
            let n = bucket(us);
            assert!(n < BUCKETS && n >= last && us <= most(n), "{us}: {n}");
            assert!(most(n) <= us.saturating_add(us / 4), "{us}: {}", most(n));
            last = n;
        }
    }

    #[test]
    fn one_of_a_hundred_may_be_slower() {
        let l = Latency::default();
        assert_eq!(l.take_p99(), 0);
        (0..990).for_each(|_| l.record(Duration::from_micros(100)));
        (0..9).for_each(|_| l.record(Duration::from_secs(1)));
        let p99 = l.take_p99();
        assert!((100..=125).contains(&p99), "{p99}");
        (0..10).for_each(|_| l.record(Duration::from_micros(100)));
        l.record(Duration::from_millis(50));
        assert!(l.take_p99() >= 50_000, "few answers: the slowest");
        assert_eq!(l.take_p99(), 0, "since the last call");
    }
}
