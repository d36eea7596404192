//! When to try again: exponential backoff with full jitter, a budget for retries, a circuit breaker.

use std::time::{Duration, Instant};

/// Delays that double from `first` up to `most`; each is drawn from [0, that].
///
/// Full jitter: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    tries: u32,
}

impl Backoff {
    /// No delay has been asked for yet.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, tries: 0 }
    }

    /// The next delay. `random` is uniform in [0, 1).
    pub fn next(&mut self, random: f64) -> Duration {
        let ceiling = self.first.saturating_mul(1 << self.tries.min(20)).min(self.most);
        self.tries += 1;
        ceiling.mul_f64(random.clamp(0.0, 1.0))
    }

    /// The longest delay, half of it by chance.
    pub fn longest(&self, random: f64) -> Duration {
        self.most.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0)
    }

    /// Back to the first delay: something succeeded.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

/// A circuit breaker for one peer: once it could not be reached, it is left alone for a time that doubles with each further
/// failure. The first attempt after that decides.
#[derive(Clone, Debug)]
pub struct Breaker {
    backoff: Backoff,
    closed_again: Option<Instant>,
}

impl Breaker {
    /// For a peer that nothing is known of. The times are those of a [`Backoff`].
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { backoff: Backoff::new(first, most), closed_again: None }
    }

    /// Whether the peer may be tried.
    pub fn allows(&self, now: Instant) -> bool {
        self.closed_again.is_none_or(|at| now >= at)
    }

    /// It could not be reached. `random` is uniform in [0, 1). Returns for how long it is left alone.
    pub fn failed(&mut self, now: Instant, random: f64) -> Duration {
        let pause = self.backoff.next(random);
        self.closed_again = Some(now + pause);
        pause
    }

    /// It was reached.
    pub fn succeeded(&mut self) {
        self.backoff.reset();
        self.closed_again = None;
    }

    /// Somebody says that it may be there again: one attempt may be made at once.
    pub fn try_again(&mut self) {
        self.closed_again = None;
    }
}

/// How many retries there may be beside the first attempts, so that they do not make up most of the traffic when something is
/// wrong for longer.
///
/// Each first attempt pays for a fifth of a retry, and some are kept in reserve for a fault that hits all at once.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    /// Fifths of a retry.
    left: u32,
}

const SHARE: u32 = 5;
/// Retries in reserve: those of some hundred operations at once over a failover.
const RESERVE: u32 = 1_000;

impl Default for RetryBudget {
    /// The whole reserve.
    fn default() -> Self {
        Self { left: RESERVE * SHARE }
    }
}

impl RetryBudget {
    /// A first attempt is made.
    pub fn attempt(&mut self) {
        self.left = (self.left + 1).min(RESERVE * SHARE);
    }

    /// Takes a retry out. False: there is none left, so it had better be put off for as long as may be.
    pub fn retry(&mut self) -> bool {
        let may = self.left >= SHARE;
        if may {
            self.left -= SHARE;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_cannot_be_reached_is_left_alone_longer_each_time() {
        let ms = Duration::from_millis;
        let (start, mut b) = (Instant::now(), Breaker::new(ms(10), ms(50)));
        assert!(b.allows(start));
        assert_eq!([1.0, 1.0, 1.0, 0.5].map(|r| b.failed(start, r)), [ms(10), ms(20), ms(40), ms(25)]);
        assert!(!b.allows(start + ms(24)) && b.allows(start + ms(25)));
        b.try_again();
        assert!(b.allows(start));
        assert_eq!(b.failed(start, 1.0), ms(50), "one attempt, which did not go well either");
        b.succeeded();
        assert!(b.allows(start));
        assert_eq!(b.failed(start, 1.0), ms(10));
    }

    #[test]
    fn retries_are_a_share_of_the_traffic_once_the_reserve_is_used_up() {
        let mut budget = RetryBudget::default();
        assert_eq!((0..5_000).filter(|_| budget.retry()).count(), RESERVE as usize);
        let mut done = 0;
        for _ in 0..1_000 {
            budget.attempt();
            done += u32::from(budget.retry());
        }
        assert_eq!(done, 200);
        (0..20_000).for_each(|_| budget.attempt());
        assert_eq!((0..5_000).filter(|_| budget.retry()).count(), RESERVE as usize);
    }

    #[test]
    fn doubles_up_to_the_bound() {
        let ms = Duration::from_millis;
        let mut b = Backoff::new(ms(10), ms(50));
        let ceilings: Vec<_> = (0..5).map(|_| b.next(1.0)).collect();
        assert_eq!(ceilings, [ms(10), ms(20), ms(40), ms(50), ms(50)]);
        assert_eq!([b.longest(0.0), b.longest(1.0)], [ms(25), ms(50)]);
        b.reset();
        assert_eq!(b.next(0.5), ms(5));
    }
}
