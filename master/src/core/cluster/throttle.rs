//! How fast copies may be made: a token bucket whose rate follows how the foreground fares.

use crate::core::Millis;

/// The bucket holds what comes in so many milliseconds.
const BURST_MS: u64 = 1_000;
/// A rate is looked at again after so long, milliseconds.
const LOOK_MS: u64 = 1_000;
/// The rate falls to this part of the full one, in thousandths, and no further.
const LEAST_PERMILLE: u64 = 125;
/// A chunk that is down to one copy may take so many times the rate.
const URGENT: u64 = 4;

/// Tokens are bytes. What is taken may exceed what is there (a chunk is copied as a whole): then it is paid off first.
#[derive(Clone, Debug)]
pub(super) struct Throttle {
    tokens: i64,
    filled: Millis,
    /// Of the full rate, in thousandths.
    permille: u64,
    looked: Millis,
    /// What the foreground's answers took (99 of 100, microseconds) while nothing was copied; slowly forgotten.
    calm_us: u64,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { tokens: 0, filled: Millis(0), permille: 1_000, looked: Millis(0), calm_us: 0 }
    }
}

impl Throttle {
    /// Time has passed; `full` is the full rate in bytes a second.
    pub(super) fn fill(&mut self, now: Millis, full: u64) {
        let rate = u128::from(full) * u128::from(self.permille) / 1_000;
        let passed = now.since(self.filled).min(BURST_MS);
        self.filled = now;
        let bytes = |ms: u64| i64::try_from(rate * u128::from(ms) / 1_000).unwrap_or(i64::MAX / 2);
        self.tokens = self.tokens.saturating_add(bytes(passed)).min(bytes(BURST_MS).max(1));
    }

    /// Whether a copy may begin now. `urgent`: of a chunk that is down to one.
    pub(super) fn may_begin(&self, urgent: bool, full: u64) -> bool {
        let debt = i64::try_from(full.saturating_mul(URGENT - 1)).unwrap_or(i64::MAX);
        self.tokens > if urgent { -debt } else { 0 }
    }

    /// One begins, of so many bytes.
    pub(super) fn take(&mut self, bytes: u64) {
        self.tokens = self.tokens.saturating_sub(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The slowest server's answers to the foreground take `p99_us` now (0: nobody asks anything); `copying`: copies are under way.
    /// More than twice what it was in calm: half the rate; else a quarter more, up to the full one.
    pub(super) fn observe(&mut self, now: Millis, p99_us: u64, copying: bool) {
        if now.since(self.looked) < LOOK_MS {
            return;
        }
        self.looked = now;
        if !copying && p99_us > 0 {
            self.calm_us = if self.calm_us == 0 { p99_us } else { (self.calm_us * 7 + p99_us) / 8 };
        }
        let suffers = copying && self.calm_us > 0 && p99_us > 2 * self.calm_us;
        self.permille = if suffers {
            (self.permille / 2).max(LEAST_PERMILLE)
        } else {
            (self.permille * 5 / 4).min(1_000)
        };
    }

    /// Of the full rate, in thousandths.
    pub(super) fn permille(&self) -> u64 {
        self.permille
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: u64 = 100 << 20;

    /// Bytes begun in ten seconds, in copies of 16 MiB, when as many as may begin do.
    fn begun(t: &mut Throttle, urgent: bool) -> u64 {
        let mut sum = 0;
        for ms in (0..10_000).step_by(100) {
            t.fill(Millis(1_000_000 + ms), FULL);
            while t.may_begin(urgent, FULL) {
                t.take(16 << 20);
                sum += 16 << 20;
            }
        }
        sum
    }

    #[test]
    fn the_rate_is_kept_and_bursts_are_bounded() {
        let sum = begun(&mut Throttle::default(), false);
        assert!((9 * FULL..=11 * FULL + (32 << 20)).contains(&sum), "{sum}");
    }

    #[test]
    fn a_chunk_down_to_one_copy_goes_ahead_of_the_rate() {
        let mut t = Throttle::default();
        t.fill(Millis(5), FULL);
        t.take(2 * FULL);
        assert!(!t.may_begin(false, FULL) && t.may_begin(true, FULL));
        t.take(2 * FULL);
        assert!(!t.may_begin(true, FULL), "but not without end");
    }

    #[test]
    fn it_slows_down_while_the_foreground_suffers_and_comes_back() {
        let mut t = Throttle::default();
        let mut now = 1_000;
        let mut look = |t: &mut Throttle, p99, copying| {
            now += 1_000;
            t.observe(Millis(now), p99, copying);
            t.permille()
        };
        for _ in 0..5 {
            assert_eq!(look(&mut t, 500, false), 1_000);
        }
        assert_eq!(look(&mut t, 900, true), 1_000, "below twice as much");
        assert_eq!(look(&mut t, 1_500, true), 500);
        for _ in 0..9 {
            look(&mut t, 1_500, true);
        }
        assert_eq!(t.permille(), LEAST_PERMILLE);
        for _ in 0..12 {
            look(&mut t, 600, true);
        }
        assert_eq!(t.permille(), 1_000);
        let slow = begun(&mut Throttle { permille: 125, ..Throttle::default() }, false);
        assert!(slow < 2 * FULL, "{slow}");
    }

    #[test]
    fn without_foreground_there_is_nothing_to_slow_down_for() {
        let mut t = Throttle::default();
        (2..20).for_each(|s| t.observe(Millis(s * 1_000), 0, true));
        assert_eq!(t.permille(), 1_000);
    }
}
