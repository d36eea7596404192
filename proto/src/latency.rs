//! How long requests take until they are answered.

use crate::monitor::Value;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Four for each doubling, from a microsecond to over an hour.
const BUCKETS: usize = 128;
/// A histogram shows times from 2^6 to 2^24 microseconds.
const SHORTEST: usize = 6;
const LONGEST: usize = 24;

/// Counts of times, by size, since the start.
#[derive(Debug)]
pub struct Latency {
    buckets: [AtomicU64; BUCKETS],
    /// Microseconds in all.
    sum: AtomicU64,
    /// The counts at the last look.
    looked: Mutex<[u64; BUCKETS]>,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            buckets: std::array::from_fn(|_| AtomicU64::new(0)),
            sum: AtomicU64::new(0),
            looked: Mutex::new([0; BUCKETS]),
        }
    }
}

impl Latency {
    /// An answer took so long.
    pub fn record(&self, took: Duration) {
        let us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        self.buckets[bucket(us)].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(us.into(), Ordering::Relaxed);
    }

    fn counts(&self) -> [u64; BUCKETS] {
        std::array::from_fn(|n| self.buckets[n].load(Ordering::Relaxed))
    }

    /// At most so many microseconds 99 of 100 took since the last call; 0: there were none.
    pub fn take_p99(&self) -> u32 {
        let now = self.counts();
        let before = std::mem::replace(&mut *self.looked.lock(), now);
        let since = |n: usize| now[n] - before[n];
        let mut beyond = (0..BUCKETS).map(since).sum::<u64>() / 100;
        for n in (0..BUCKETS).rev() {
            if since(n) > beyond {
                return most(n);
            }
            beyond -= since(n);
        }
        0
    }

    /// All of them, in doublings.
    pub fn histogram(&self) -> Value {
        let counts = self.counts();
        let bounds = (SHORTEST..LONGEST).map(|doublings| (doublings - 1) * 4 + 3);
        let until = |n: usize| counts[..=n].iter().sum::<u64>();
        Value::Histogram {
            buckets: bounds.map(|n| (f64::from(most(n)) / 1e6, until(n))).collect(),
            sum: self.sum.load(Ordering::Relaxed) as f64 / 1e6,
            count: counts.iter().sum(),
        }
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

    #[test]
    fn a_histogram_has_all_there_ever_was() {
        let l = Latency::default();
        (0..3).for_each(|_| l.record(Duration::from_micros(100)));
        l.take_p99();
        l.record(Duration::from_secs(3_000));
        let Value::Histogram { buckets, sum, count } = l.histogram() else { panic!("no histogram") };
        assert!(count == 4 && (sum - 3_000.000_3).abs() < 1e-6, "{count} {sum}");
        assert!(buckets.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1), "{buckets:?}");
        assert!(buckets[0] == (127e-6, 3) && buckets.last().is_some_and(|b| b.1 == 3), "{buckets:?}");
    }
}
