//! Exponential backoff with full jitter.

use std::time::Duration;

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

    /// Back to the first delay: something succeeded.
    pub fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_up_to_the_bound() {
        let ms = Duration::from_millis;
        let mut b = Backoff::new(ms(10), ms(50));
        let ceilings: Vec<_> = (0..5).map(|_| b.next(1.0)).collect();
        assert_eq!(ceilings, [ms(10), ms(20), ms(40), ms(50), ms(50)]);
        b.reset();
        assert_eq!(b.next(0.5), ms(5));
    }
}
