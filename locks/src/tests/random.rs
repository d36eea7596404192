//! Random requests against a model that has a mode for each byte and owner, and looks for deadlocks by following all waits.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{lock, owner, ticket};
use crate::{Key, Kind, Lock, Mode, Outcome, Range, Table, Ticket};

const BYTES: u64 = 12;
const OWNERS: u64 = 6;
const INODES: u64 = 3;

#[derive(Default)]
struct Model {
    bytes: BTreeMap<(Key, u64), Mode>,
    queue: Vec<(Ticket, Lock)>,
}

impl Model {
    fn blockers(&self, l: &Lock) -> BTreeSet<Key> {
        let of = |(key, byte): &(Key, u64), mode: &Mode| {
            (key.inode, key.kind) == (l.key.inode, l.key.kind)
                && key.owner != l.key.owner
                && (l.range.first..=l.range.last).contains(byte)
                && (*mode == Mode::Exclusive || l.mode == Mode::Exclusive)
        };
        self.bytes.iter().filter(|(at, mode)| of(at, mode)).map(|((key, _), _)| *key).collect()
    }

    fn deadlock(&self, l: &Lock) -> bool {
        let mut reached: BTreeSet<_> = self.blockers(l).iter().map(|k| k.owner).collect();
        for _ in 0..OWNERS {
            for (_, waiting) in self.queue.iter().filter(|(_, w)| w.key.kind == Kind::Range) {
                if reached.contains(&waiting.key.owner) {
                    reached.extend(self.blockers(waiting).iter().map(|k| k.owner));
                }
            }
        }
        reached.contains(&l.key.owner)
    }

    fn hold(&mut self, l: &Lock) {
        for byte in l.range.first..=l.range.last {
            self.bytes.insert((l.key, byte), l.mode);
        }
    }

    fn settle(&mut self) -> Vec<Ticket> {
        let mut granted = Vec::new();
        while let Some(at) = self.queue.iter().position(|(_, l)| self.blockers(l).is_empty()) {
            let (ticket, l) = self.queue.remove(at);
            self.hold(&l);
            granted.push(ticket);
        }
        granted
    }

    fn lock(&mut self, l: &Lock, wait: Option<Ticket>) -> (&'static str, Vec<Ticket>) {
        if self.blockers(l).is_empty() {
            self.hold(l);
            return ("granted", self.settle());
        }
        let Some(ticket) = wait else { return ("conflict", Vec::new()) };
        if l.key.kind == Kind::Range && self.deadlock(l) {
            return ("deadlock", Vec::new());
        }
        if l.key.kind == Kind::Flock {
            self.bytes.retain(|(key, _), _| *key != l.key);
        }
        self.queue.push((ticket, *l));
        ("waiting", self.settle())
    }

    fn end_session(&mut self, session: u64) -> Vec<Ticket> {
        self.queue.retain(|(t, _)| t.session != session);
        self.bytes.retain(|(key, _), _| key.owner.session != session);
        self.settle()
    }
}

fn random_lock(random: &mut StdRng) -> Lock {
    let kind = if random.random_bool(0.8) { Kind::Range } else { Kind::Flock };
    let (a, b) = (random.random_range(0..BYTES), random.random_range(0..BYTES));
    let range = if kind == Kind::Flock { (0, BYTES - 1) } else { (a.min(b), a.max(b)) };
    let mode = Mode::exclusive(random.random_bool(0.5));
    lock(random.random_range(0..INODES), kind, random.random_range(0..OWNERS), range, mode)
}

fn same_order_per_place(mut a: Vec<Ticket>, mut b: Vec<Ticket>) -> bool {
    // The model settles all inodes in one go.
    a.sort();
    b.sort();
    a == b
}

fn compare(table: &Table, model: &Model) {
    let mut bytes = BTreeMap::new();
    for l in table.held() {
        for byte in l.range.first..=l.range.last {
            assert_eq!(bytes.insert((l.key, byte), l.mode), None, "held twice");
        }
    }
    assert_eq!(bytes, model.bytes);
    let queue: BTreeSet<_> = table.waiting().collect();
    assert_eq!(queue, model.queue.iter().copied().collect());
}

#[test]
fn random_requests_agree_with_a_model() {
    let mut deadlocks = 0;
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut table, mut model) = (Table::default(), Model::default());
        let mut next = 1;
        for _ in 0..200 {
            match random.random_range(0..100) {
                0..60 => {
                    let l = random_lock(&mut random);
                    let wait = random.random_bool(0.5).then(|| ticket_of(&l, next));
                    next += 1;
                    let (outcome, effects) = table.lock(&l, wait);
                    let (expected, freed) = model.lock(&l, wait);
                    let outcome = match outcome {
                        Outcome::Granted => "granted",
                        Outcome::Conflict(other) => {
                            assert!(model.blockers(&l).contains(&other.key));
                            "conflict"
                        }
                        Outcome::Waiting => "waiting",
                        Outcome::Deadlock => "deadlock",
                        Outcome::TooMany => "too many",
                    };
                    assert_eq!(outcome, expected, "seed {seed}: {l:?}");
                    assert!(same_order_per_place(effects.granted, freed), "seed {seed}");
                    deadlocks += usize::from(outcome == "deadlock");
                }
                60..85 => {
                    let l = random_lock(&mut random);
                    let effects = table.unlock(l.key, l.range).unwrap();
                    for byte in l.range.first..=l.range.last {
                        model.bytes.remove(&(l.key, byte));
                    }
                    assert!(same_order_per_place(effects.granted, model.settle()), "seed {seed}");
                }
                85..95 => {
                    let Some((ticket, l)) = model.queue.first().copied() else { continue };
                    assert!(!table.cancel(ticket, &l));
                    model.queue.remove(0);
                }
                95..97 => {
                    let session = random.random_range(0..OWNERS / 2);
                    let granted = table.end_session(session).granted;
                    assert!(same_order_per_place(granted, model.end_session(session)), "seed {seed}");
                }
                _ => {
                    let l = random_lock(&mut random);
                    let found = table.test(&l).map(|l| l.key);
                    assert_eq!(found.is_some(), !model.blockers(&l).is_empty());
                    assert!(found.is_none_or(|key| model.blockers(&l).contains(&key)));
                }
            }
            compare(&table, &model);
        }
        for n in 0..OWNERS {
            table.end_session(owner(n).session);
        }
        assert!(table.is_empty(), "something is left");
    }
    assert!(deadlocks > 100, "too few deadlocks to have tested anything: {deadlocks}");
}

fn ticket_of(l: &Lock, number: u64) -> Ticket {
    Ticket { session: l.key.owner.session, number }
}

#[test]
fn restoring_what_is_held_gives_the_same_table() {
    let mut random = StdRng::seed_from_u64(1);
    let mut table = Table::default();
    for _ in 0..500 {
        table.lock(&random_lock(&mut random), None);
    }
    let mut restored = Table::default();
    table.held().for_each(|l| restored.restore(&l));
    assert!(table.held().count() > 3);
    assert!(table.held().eq(restored.held()));
    let l = lock(0, Kind::Range, 0, (0, 0), Mode::Shared);
    assert_eq!(restored.cancel(ticket(0, 1), &l), table.cancel(ticket(0, 1), &l));
    assert_eq!(restored.unlock(l.key, Range::ALL), table.unlock(l.key, Range::ALL));
}
