//! Spreads copies evenly over time.

/// Who was held up may make up for so much, microseconds: timers are not exact.
const SLACK: u64 = 20_000;
/// Nobody is told to wait longer at once, microseconds: the rate may change.
const LOOK: u64 = 100_000;

/// A rate, and when the next piece may go. Times are microseconds of a monotonic clock.
#[derive(Debug, Default)]
pub struct Pacer {
    /// Bytes a second; 0: no bound.
    rate: u64,
    next: u64,
}

impl Pacer {
    /// From now on so many bytes a second; 0: as before.
    pub fn set(&mut self, now: u64, rate: u64) {
        if rate == 0 || rate == self.rate {
            return;
        }
        // What is still to be waited for was reckoned at the old rate.
        let left = self.next.saturating_sub(now);
        if self.rate > 0 {
            let left = u128::from(left) * u128::from(self.rate) / u128::from(rate);
            self.next = now.saturating_add(u64::try_from(left).unwrap_or(u64::MAX));
        }
        self.rate = rate;
    }

    /// Whether a piece of so many bytes may go now.
    ///
    /// # Errors
    /// Not yet: to be asked again after so many microseconds.
    pub fn turn(&mut self, now: u64, bytes: u64) -> Result<(), u64> {
        if self.next > now {
            return Err((self.next - now).min(LOOK));
        }
        if let Some(takes) = bytes.saturating_mul(1_000_000).checked_div(self.rate) {
            self.next = self.next.max(now.saturating_sub(SLACK)).saturating_add(takes);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that go within a second, in pieces of 1,000, if it is asked again whenever told, `late` microseconds late.
    fn sent(pacer: &mut Pacer, from: u64, late: u64) -> u64 {
        let (mut now, mut sum) = (from, 0);
        while now < from + 1_000_000 {
            match pacer.turn(now, 1_000) {
                Ok(()) => sum += 1_000,
                Err(wait) => now += wait + late,
            }
        }
        sum
    }

    #[test]
    fn the_rate_is_kept_though_timers_are_late() {
        let mut pacer = Pacer::default();
        pacer.set(5_000_000, 1_000_000);
        for late in [0, 1_000, 9_000] {
            let sum = sent(&mut pacer, 5_000_000 + late * 1_000_000, late);
            assert!((950_000..=1_050_000).contains(&sum), "{late}: {sum}");
        }
    }

    #[test]
    fn what_waits_at_a_low_rate_follows_a_higher_one() {
        let mut pacer = Pacer::default();
        pacer.set(0, 10);
        assert_eq!(pacer.turn(0, 1_000), Ok(()));
        assert_eq!(pacer.turn(1, 1_000), Err(LOOK), "a hundred seconds, but asked again sooner");
        pacer.set(1, 0);
        assert_eq!(pacer.turn(2, 1_000), Err(LOOK), "nothing was said");
        pacer.set(2, 1_000_000);
        assert_eq!(pacer.turn(2_000, 1_000), Ok(()));
    }

    #[test]
    fn without_a_rate_nothing_waits() {
        let mut pacer = Pacer::default();
        assert!((0..100).all(|_| pacer.turn(7, 1 << 30).is_ok()));
    }
}
