//! What goes wrong, and when: all of it from the seed.

use std::time::Duration;

use crate::network::Cut;
use crate::rng::Rng;

/// Chunkservers; each chunk has three copies on them.
pub const SERVERS: usize = 4;

/// Something goes wrong with one server, lasts, and is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    pub victim: usize,
    pub lasts: Duration,
    /// Quiet before it.
    pub pause: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `kill -9`; it is over when the process is started again.
    Kill,
    /// SIGSTOP.
    Stop,
    Cut(Cut),
}

const KINDS: [Kind; 5] =
    [Kind::Kill, Kind::Stop, Kind::Cut(Cut::Both), Kind::Cut(Cut::To), Kind::Cut(Cut::From)];

/// Faults without end: every kind once in an order drawn anew, then again.
pub struct Schedule {
    rng: Rng,
    longest: u64,
    waiting: Vec<Kind>,
}

impl Schedule {
    /// In a run of less than five minutes faults last 5 s at most, so that every kind has its turn.
    pub fn new(seed: u64, length: Duration) -> Self {
        let longest = if length < Duration::from_secs(300) { 5_000 } else { 20_000 };
        Self { rng: Rng::new(seed), longest, waiting: Vec::new() }
    }

    pub fn draw(&mut self) -> Fault {
        if self.waiting.is_empty() {
            self.waiting = KINDS.to_vec();
        }
        let drawn = self.rng.below(self.waiting.len() as u64) as usize;
        Fault {
            kind: self.waiting.swap_remove(drawn),
            victim: self.rng.between(1, SERVERS as u64) as usize,
            lasts: Duration::from_millis(self.rng.between(200, self.longest)),
            pause: Duration::from_millis(self.rng.between(0, 1_500)),
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_schedule() {
    let take = |seed| {
        let mut schedule = Schedule::new(seed, Duration::from_secs(600));
        (0..100).map(|_| schedule.draw()).collect::<Vec<_>>()
    };
    assert_eq!(take(7), take(7));
    assert_ne!(take(7), take(8));
    for kind in KINDS {
        assert!(take(7)[..KINDS.len()].iter().any(|f| f.kind == kind), "{kind:?}");
    }
}
