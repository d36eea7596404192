//! When a chunkserver's heartbeats came, and so when the next one is late.

use std::collections::VecDeque;

use crate::core::Millis;

/// Gaps that are remembered.
const WINDOW: usize = 10;
/// Heartbeats after a suspicion that are asked for at the shorter interval.
const NARROW: u32 = 8;

/// The times that bound it, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// Between heartbeats, when nothing is the matter.
    pub(super) heartbeat: u64,
    /// The lease that a heartbeat renews.
    pub(super) lease: u64,
}

/// The last gaps between heartbeats, each as what it was beyond the interval that had been asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals {
    last: Option<Millis>,
    interval: u64,
    beyond: VecDeque<u64>,
    narrow: u32,
}

impl Arrivals {
    /// It has connected anew: the time before its first heartbeat says nothing.
    pub(super) fn connected(&mut self) {
        self.last = None;
    }

    /// It was suspected: it is looked at more often for a while.
    pub(super) fn suspected(&mut self) {
        self.narrow = NARROW;
    }

    /// A heartbeat came. Returns after how many milliseconds the next is wanted: sooner after a suspicion, later and less
    /// evenly from a server whose heartbeats come unevenly, so that they do not come in step.
    pub(super) fn came(&mut self, now: Millis, pace: Pace, random: u64) -> u64 {
        if let Some(last) = self.last.replace(now) {
            if self.beyond.len() == WINDOW {
                self.beyond.pop_front();
            }
            self.beyond.push_back(now.since(last).saturating_sub(self.interval));
        }
        let next = if self.narrow > 0 {
            self.narrow -= 1;
            pace.heartbeat / 4
        } else {
            let wider = self.deviation().min(pace.heartbeat / 4);
            pace.heartbeat + if wider == 0 { 0 } else { wider / 2 + random % wider.div_ceil(2) }
        };
        // Two in a row may be lost before the lease runs out.
        self.interval = next.clamp(1, (pace.lease * 5 / 12).max(1));
        self.interval
    }

    /// For so long after the last heartbeat (milliseconds) the next is not late: the interval that was asked for, the mean and four times the
    /// mean deviation of what the last ones took beyond; a quarter of an interval at least, and well within the lease.
    pub(super) fn timeout(&self, pace: Pace) -> u64 {
        let interval = if self.interval == 0 { pace.heartbeat } else { self.interval };
        let beyond = (self.mean() + 4 * self.deviation()).max(pace.heartbeat / 4);
        (interval + beyond).min(pace.lease * 5 / 6)
    }

    /// The mean of what the last gaps were beyond the interval, milliseconds.
    pub(super) fn mean(&self) -> u64 {
        self.beyond.iter().sum::<u64>() / (self.beyond.len() as u64).max(1)
    }

    /// Their mean deviation from that, milliseconds.
    pub(super) fn deviation(&self) -> u64 {
        let mean = self.mean();
        self.beyond.iter().map(|b| b.abs_diff(mean)).sum::<u64>() / (self.beyond.len() as u64).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { heartbeat: 1_000, lease: 3_000 };

    /// Heartbeats, each so much later than asked for.
    fn after(beyond: impl IntoIterator<Item = u64>) -> Arrivals {
        let (mut a, mut now) = (Arrivals::default(), Millis(5_000));
        let mut next = a.came(now, PACE, 0);
        for b in beyond {
            now = now.plus(next + b);
            next = a.came(now, PACE, 0);
        }
        a
    }

    #[test]
    fn an_even_server_is_suspected_soon_and_an_uneven_one_later() {
        assert_eq!(Arrivals::default().timeout(PACE), 1_250);
        assert_eq!(after([1; 20]).timeout(PACE), 1_250);
        let uneven = after([0, 200].repeat(8));
        assert!((1_500..1_700).contains(&uneven.timeout(PACE)), "{}", uneven.timeout(PACE));
    }

    #[test]
    fn it_is_suspected_before_its_lease_runs_out_whatever_came_before() {
        assert_eq!(after([0, 60_000].repeat(8)).timeout(PACE), 2_500);
        assert_eq!(after([u64::MAX / 64; 3]).timeout(PACE), 2_500);
    }

    #[test]
    fn only_the_last_ten_gaps_count() {
        let mut long_ago = vec![900; 5];
        long_ago.extend([0; 10]);
        assert_eq!(after(long_ago).timeout(PACE), 1_250);
    }

    #[test]
    fn a_suspected_server_is_looked_at_more_often_for_a_while() {
        let mut a = after([0; 10]);
        a.suspected();
        let next: Vec<_> = (0..10).map(|n| a.came(Millis(100_000 + n * 250), PACE, 0)).collect();
        assert_eq!(next[..8], [250; 8]);
        assert!(next[9] >= 1_000, "{next:?}");
    }

    #[test]
    fn an_uneven_server_is_asked_less_often_and_unevenly() {
        let next = |random| after([0, 300].repeat(8)).came(Millis(1 << 20), PACE, random);
        let (one, two) = (next(3), next(50));
        assert!(one > 1_050 && two > 1_050 && one != two, "{one} {two}");
        assert!(one.max(two) <= 1_250, "{one} {two}");
    }

    #[test]
    fn a_new_connection_is_no_gap() {
        let mut a = after([0; 3]);
        a.connected();
        a.came(Millis(1 << 30), PACE, 0);
        assert_eq!(a.timeout(PACE), 1_250);
    }
}
