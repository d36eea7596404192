//! How fast copies may be made: a token bucket whose rate follows how the foreground fares.

use crate::core::Millis;

/// The bucket holds what comes in so many milliseconds.
const BURST_MS: u64 = 1_000;
/// A rate is looked at again after so long, milliseconds: heartbeats tell no more often how the foreground fares.
const LOOK_MS: u64 = 1_000;
/// The rate falls to this part of the full one, in thousandths, and no further.
const LEAST_PERMILLE: u64 = 62;
/// With this part it begins.
const FIRST_PERMILLE: u64 = 125;
/// And grows by this part a second, once it is known what the foreground bears.
const STEP_PERMILLE: u64 = 30;
/// What the foreground's answers may take, in thousandths of what they took in calm: below, the rate grows; above the
/// first it is held back a little, above the second it is halved.
const BEARABLE: u64 = 1_400;
const HEAVY: u64 = 1_700;
const TOO_MUCH: u64 = 3_000;
/// After copies have ended, what they left in caches is still on its way to the disks for so long, milliseconds: no calm yet.
const SETTLE_MS: u64 = 10_000;
/// A chunk that is down to one copy may take so many times the full rate, however the foreground fares.
const URGENT: u64 = 4;

/// What 99 of 100 of the foreground's answers took at most on the slowest server, microseconds: reads, writes. 0: there were none.
pub(super) type Foreground = [u64; 2];

/// Tokens are bytes. What is taken may exceed what is there (a chunk is copied as a whole): then it is paid off first.
#[derive(Clone, Debug)]
pub(super) struct Throttle {
    tokens: i64,
    filled: Millis,
    /// What could have been copied while there was something to copy, bytes.
    allowed: u64,
    /// Of the full rate, in thousandths.
    permille: u64,
    /// The foreground has not been heard of since the copies began: the rate grows quickly.
    searching: bool,
    looked: Millis,
    /// When there was last something to copy.
    busy: Option<Millis>,
    /// The foreground while nothing was copied; slowly forgotten. And of late.
    calm: Foreground,
    late: Foreground,
}

impl Default for Throttle {
    fn default() -> Self {
        Self {
            tokens: 0,
            filled: Millis(0),
            allowed: 0,
            permille: FIRST_PERMILLE,
            searching: true,
            looked: Millis(0),
            busy: None,
            calm: [0; 2],
            late: [0; 2],
        }
    }
}

impl Throttle {
    /// Bytes a second, where `full` is what may be taken at most. `urgent`: a chunk is down to one copy.
    pub(super) fn rate(&self, full: u64, urgent: bool) -> u64 {
        if urgent {
            full.saturating_mul(URGENT)
        } else {
            full / 1_000 * self.permille + full % 1_000 * self.permille / 1_000
        }
    }

    /// Bytes a second that are there in any case.
    pub(super) fn least(full: u64) -> u64 {
        full / 1_000 * LEAST_PERMILLE
    }

    /// Time has passed; `full` is the full rate in bytes a second, `busy`: there is something to copy.
    pub(super) fn fill(&mut self, now: Millis, full: u64, busy: bool) {
        let rate = u128::from(self.rate(full, false));
        let passed = now.since(self.filled).min(BURST_MS);
        self.filled = now;
        let bytes = |ms: u64| i64::try_from(rate * u128::from(ms) / 1_000).unwrap_or(i64::MAX / 2);
        self.tokens = self.tokens.saturating_add(bytes(passed)).min(bytes(BURST_MS).max(1));
        if busy {
            self.allowed = self.allowed.saturating_add(bytes(passed).unsigned_abs());
        }
    }

    /// What could have been copied while there was something to copy, bytes.
    pub(super) fn allowed(&self) -> u64 {
        self.allowed
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

    /// How the foreground fares now; `busy`: copies are under way or wait. Multiplicative decrease, additive increase.
    pub(super) fn observe(&mut self, now: Millis, foreground: Foreground, busy: bool) {
        if now.since(self.looked) < LOOK_MS {
            return;
        }
        self.looked = now;
        if busy {
            if self.busy.is_none() {
                self.late = self.calm;
            }
            self.busy = Some(now);
            self.follow(foreground);
            return;
        }
        if self.busy.is_some_and(|busy| now.since(busy) < SETTLE_MS) {
            return;
        }
        (self.busy, self.permille, self.searching) = (None, FIRST_PERMILLE, true);
        for (calm, now) in self.calm.iter_mut().zip(foreground).filter(|(_, now)| *now > 0) {
            *calm = if *calm == 0 { now } else { (*calm * 7 + now) / 8 };
        }
    }

    fn follow(&mut self, foreground: Foreground) {
        // One slow answer among few is no trend: three quarters of what was counts on.
        for (late, now) in self.late.iter_mut().zip(foreground) {
            *late = if now == 0 || *late == 0 { now } else { (*late * 3 + now) / 4 };
        }
        // A master that has just started has not seen calm yet: copies still being slow, this is as good as it gets.
        for (calm, now) in self.calm.iter_mut().zip(foreground).filter(|(calm, _)| **calm == 0) {
            *calm = now;
        }
        let worse = |(late, calm): (u64, u64)| (calm > 0).then(|| late.saturating_mul(1_000) / calm);
        let worst = self.late.into_iter().zip(self.calm).filter_map(worse).max().unwrap_or(0);
        let before = self.permille;
        self.permille = match worst {
            TOO_MUCH.. => before / 2,
            HEAVY.. => before * 4 / 5,
            BEARABLE.. => before,
            _ if self.searching => before * 3 / 2,
            _ => before + STEP_PERMILLE,
        }
        .clamp(LEAST_PERMILLE, 1_000);
        self.searching &= worst < BEARABLE;
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

    fn at(permille: u64) -> Throttle {
        Throttle { permille, ..Throttle::default() }
    }

    /// Bytes begun in ten seconds, in copies of 16 MiB, when as many as may begin do.
    fn begun(t: &mut Throttle, urgent: bool) -> u64 {
        let mut sum = 0;
        for ms in (0..10_000).step_by(100) {
            t.fill(Millis(1_000_000 + ms), FULL, true);
            while t.may_begin(urgent, FULL) {
                t.take(16 << 20);
                sum += 16 << 20;
            }
        }
        sum
    }

    #[test]
    fn the_rate_is_kept_and_bursts_are_bounded() {
        let mut t = at(1_000);
        let sum = begun(&mut t, false);
        assert!((9 * FULL..=11 * FULL + (32 << 20)).contains(&sum), "{sum}");
        assert!((9 * FULL..=11 * FULL).contains(&t.allowed()), "{}", t.allowed());
        let slow = begun(&mut at(125), false);
        assert!((FULL..2 * FULL).contains(&slow), "{slow}");
    }

    #[test]
    fn only_what_could_have_been_used_counts_as_allowed() {
        let mut t = at(1_000);
        (0..50).for_each(|n| t.fill(Millis(1_000_000 + n * 100), FULL, false));
        assert_eq!(t.allowed(), 0);
    }

    #[test]
    fn a_chunk_down_to_one_copy_goes_ahead_of_the_rate() {
        let mut t = at(LEAST_PERMILLE);
        t.fill(Millis(5), FULL, true);
        t.take(2 * FULL);
        assert!(!t.may_begin(false, FULL) && t.may_begin(true, FULL));
        t.take(2 * FULL);
        assert!(!t.may_begin(true, FULL), "but not without end");
        assert!(t.rate(FULL, true) > FULL && t.rate(FULL, false) < FULL / 10);
    }

    /// A throttle, and looks at it a second apart.
    struct Looks(Throttle, u64);

    impl Looks {
        fn look(&mut self, foreground: Foreground, busy: bool) -> u64 {
            self.1 += LOOK_MS;
            self.0.observe(Millis(self.1), foreground, busy);
            self.0.permille()
        }

        fn looks(&mut self, times: usize, foreground: Foreground, busy: bool) {
            for _ in 0..times {
                self.look(foreground, busy);
            }
        }

        /// In calm reads took 500 µs and writes 4 ms.
        fn calm() -> Self {
            let mut looks = Self(Throttle::default(), 1_000);
            for _ in 0..9 {
                looks.look([500, 4_000], false);
            }
            looks
        }
    }

    #[test]
    fn copies_begin_slowly_and_are_fast_soon_where_nobody_suffers() {
        for foreground in [[500, 4_000], [0, 0]] {
            let mut looks = Looks::calm();
            assert!(looks.look(foreground, true) <= 200);
            looks.looks(5, foreground, true);
            assert_eq!(looks.0.permille(), 1_000);
        }
        let mut unknown = Looks(Throttle::default(), 1_000);
        unknown.looks(6, [9_000, 0], true);
        assert_eq!(unknown.0.permille(), 1_000, "it was never better");
        unknown.looks(12, [90_000, 0], true);
        assert_eq!(unknown.0.permille(), LEAST_PERMILLE);
    }

    #[test]
    fn they_are_held_back_for_reads_as_for_writes_and_come_back_step_by_step() {
        for suffering in [[2_500, 4_000], [500, 20_000]] {
            let mut looks = Looks::calm();
            looks.looks(6, [500, 4_000], true);
            looks.looks(12, suffering, true);
            assert_eq!(looks.0.permille(), LEAST_PERMILLE);
            looks.looks(5, [500, 4_000], true);
            let after = looks.0.permille();
            assert!(looks.look([500, 4_000], true) <= after + STEP_PERMILLE);
            looks.looks(40, [500, 4_000], true);
            assert_eq!(looks.0.permille(), 1_000);
        }
    }

    #[test]
    fn what_copies_did_to_the_foreground_is_not_taken_for_calm() {
        let mut looks = Looks::calm();
        looks.look([500, 4_000], true);
        looks.looks(9, [50_000, 50_000], false);
        assert_eq!(looks.0.calm, [500, 4_000]);
        looks.looks(5, [1_000, 4_000], false);
        assert!(looks.0.calm[0] > 600, "but the times may change");
    }

    #[test]
    fn one_slow_second_is_no_trend() {
        let mut looks = Looks::calm();
        let before = looks.look([500, 4_000], true);
        assert!(looks.look([900, 4_000], true) >= before);
    }
}
