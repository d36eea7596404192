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
    /// The seed of what else there is to choose.
    pub detail: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `kill -9`; it is over when the process is started again.
    Kill,
    /// SIGSTOP.
    Stop,
    Cut(Cut),
    /// Its disks are filled to the last byte.
    Full,
    /// The directory of one of its disks is taken away; it is over when that is back and the process started again.
    Gone,
    /// Bits flip in replicas whose other copies are whole. They are healed before the next fault.
    Flip,
}

const KINDS: [(&str, Kind); 8] = [
    ("kill", Kind::Kill),
    ("stop", Kind::Stop),
    ("cut", Kind::Cut(Cut::Both)),
    ("cut-to", Kind::Cut(Cut::To)),
    ("cut-from", Kind::Cut(Cut::From)),
    ("full", Kind::Full),
    ("gone", Kind::Gone),
    ("flip", Kind::Flip),
];

/// The kinds of these names, separated by commas; panics at one that there is not.
pub fn kinds(names: &str) -> Vec<Kind> {
    let known = || KINDS.map(|(name, _)| name).join(", ");
    let kind = |name: &str| {
        let found = KINDS.iter().find(|(n, _)| *n == name);
        found.unwrap_or_else(|| panic!("no kind of fault {name:?}; there are {}", known())).1
    };
    names.split(',').map(kind).collect()
}

pub fn all_kinds() -> Vec<Kind> {
    KINDS.map(|(_, kind)| kind).to_vec()
}

/// Faults without end: every kind once in an order drawn anew, then again.
pub struct Schedule {
    rng: Rng,
    kinds: Vec<Kind>,
    longest: u64,
    waiting: Vec<Kind>,
}

impl Schedule {
    /// In a run of less than five minutes faults last 5 s at most, so that every kind has its turn.
    pub fn new(seed: u64, length: Duration, kinds: Vec<Kind>) -> Self {
        let longest = if length < Duration::from_secs(300) { 5_000 } else { 20_000 };
        Self { rng: Rng::new(seed), kinds, longest, waiting: Vec::new() }
    }

    pub fn draw(&mut self) -> Fault {
        if self.waiting.is_empty() {
            self.waiting = self.kinds.clone();
        }
        let drawn = self.rng.below(self.waiting.len() as u64) as usize;
        Fault {
            kind: self.waiting.swap_remove(drawn),
            victim: self.rng.between(1, SERVERS as u64) as usize,
            lasts: Duration::from_millis(self.rng.between(200, self.longest)),
            pause: Duration::from_millis(self.rng.between(0, 1_500)),
            detail: self.rng.next(),
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_schedule() {
    let take = |seed| {
        let mut schedule = Schedule::new(seed, Duration::from_secs(600), all_kinds());
        (0..100).map(|_| schedule.draw()).collect::<Vec<_>>()
    };
    assert_eq!(take(7), take(7));
    assert_ne!(take(7), take(8));
    for (name, kind) in KINDS {
        assert!(take(7)[..KINDS.len()].iter().any(|f| f.kind == kind), "{name}");
        assert_eq!(kinds(name), [kind]);
    }
}
