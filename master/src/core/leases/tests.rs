use std::collections::VecDeque;

use super::*;

const TTL: u64 = 10_000;
const TERM: u64 = TTL / 8 * 7;

fn session(n: u64) -> SessionId {
    SessionId(n)
}

fn leases(limits: Limits) -> Leases<&'static str> {
    Leases::new(Millis(0), limits, TTL, 100, [])
}

fn set(inodes: &[u64]) -> BTreeSet<InodeId> {
    inodes.iter().map(|i| InodeId(*i)).collect()
}

fn list(inodes: &[u64]) -> Vec<InodeId> {
    inodes.iter().map(|i| InodeId(*i)).collect()
}

fn grant(l: &mut Leases<&'static str>, n: u64, inodes: &[u64]) -> Vec<InodeId> {
    l.grant(Millis(0), session(n), list(inodes)).0
}

fn change(l: &mut Leases<&'static str>, n: u64, inodes: &[u64], what: &'static str) -> Option<Vec<Effect>> {
    l.hold(Millis(0), session(n), set(inodes), None, || what)
}

fn recall(n: u64, event: u64, inodes: &[u64]) -> Effect {
    Effect::Recall { session: session(n), event, inodes: list(inodes) }
}

#[test]
fn a_change_waits_until_all_others_have_given_up_their_leases() {
    let mut l = leases(Limits::default());
    assert_eq!(grant(&mut l, 1, &[7, 8]), list(&[7, 8]));
    assert_eq!(grant(&mut l, 2, &[7]), list(&[7]));
    assert_eq!(change(&mut l, 1, &[9], "a"), None, "nobody has a lease on it");
    assert_eq!(change(&mut l, 1, &[8], "b"), None, "only the own");
    assert_eq!(change(&mut l, 3, &[7, 8], "c"), Some(vec![recall(1, 100, &[7, 8]), recall(2, 101, &[7])]));
    assert_eq!(grant(&mut l, 3, &[7, 9]), list(&[9]), "none on what is going to change");
    assert_eq!(l.ready(), None);
    assert!(!l.acknowledged(Millis(0), session(2), 100, []), "not its recall");
    assert!(l.acknowledged(Millis(0), session(1), 100, []));
    assert_eq!(l.ready(), None);
    assert!(l.acknowledged(Millis(0), session(2), 101, []));
    let ready = l.ready();
    assert_eq!(ready, Some(Ready { place: 1, by: session(3), what: "c" }));
    assert_eq!(l.hold(Millis(0), session(3), set(&[7, 8]), Some(1), || "c"), None);
    assert_eq!(l.grant(Millis(1), session(1), list(&[7])).0, [], "they take turns: not at once");
    assert_eq!(l.grant(Millis(CONTENDED_MS), session(1), list(&[7])).0, list(&[7]));
}

#[test]
fn a_held_change_holds_up_what_touches_the_same_and_nothing_else() {
    let mut l = leases(Limits::default());
    grant(&mut l, 1, &[7]);
    assert_eq!(change(&mut l, 2, &[7, 8], "first"), Some(vec![recall(1, 100, &[7])]));
    assert_eq!(change(&mut l, 3, &[8], "second"), Some(vec![]), "behind the first");
    assert_eq!(change(&mut l, 3, &[9], "other"), None);
    l.acknowledged(Millis(0), session(1), 100, []);
    let first = l.ready().unwrap();
    assert_eq!(first.what, "first");
    // Tried again, and there is something new in its way: it keeps its place.
    grant(&mut l, 1, &[10]);
    let again = l.hold(Millis(0), session(2), set(&[8, 10]), Some(first.place), || "first");
    assert_eq!(again, Some(vec![recall(1, 101, &[10])]));
    assert_eq!(l.ready(), None, "the second is still behind it");
    l.acknowledged(Millis(0), session(1), 101, []);
    assert_eq!(l.ready().map(|r| r.what), Some("first"));
    assert_eq!(l.ready().map(|r| r.what), Some("second"));
    assert!(l.ready().is_none());
}

#[test]
fn who_is_over_or_says_hello_holds_nothing() {
    let mut l = leases(Limits::default());
    grant(&mut l, 1, &[7]);
    grant(&mut l, 2, &[7]);
    assert!(change(&mut l, 3, &[7], "a").is_some());
    assert!(change(&mut l, 2, &[7], "b").is_some());
    l.forget(session(1));
    assert_eq!(l.ready(), None);
    l.ended(session(2));
    assert_eq!(l.ready().map(|r| r.what), Some("a"));
    assert_eq!(l.ready(), None, "what the other wanted went with it");
    assert!(l.is_idle());
}

#[test]
fn after_a_restart_those_who_may_hold_something_are_waited_for() {
    let mut l = Leases::new(Millis(0), Limits::default(), TTL, 1, [session(1), session(2)]);
    assert!(l.hold(Millis(0), session(1), set(&[]), None, || "none").is_none(), "touches nothing");
    assert_eq!(l.hold(Millis(0), session(1), set(&[7]), None, || "a"), Some(vec![]));
    l.forget(session(1));
    assert_eq!(l.ready(), None);
    l.forget(session(2));
    assert_eq!(l.ready().map(|r| r.what), Some("a"));
}

#[test]
fn who_has_too_many_gives_back_some() {
    let mut l = leases(Limits { session: 8, total: 10 });
    assert_eq!(grant(&mut l, 1, &[1, 2, 3, 4, 5, 6, 7, 8]).len(), 8);
    let trim = |n, event, keep| Some(Effect::Trim { session: session(n), event, keep });
    assert_eq!(l.grant(Millis(0), session(1), list(&[9, 1])), (list(&[1]), trim(1, 100, 7)));
    assert_eq!(l.grant(Millis(0), session(1), list(&[2, 9])), (vec![], None), "none while it gives back");
    assert!(l.acknowledged(Millis(0), session(1), 100, list(&[3])));
    assert_eq!(l.count_of(session(1)), 7);
    assert_eq!(grant(&mut l, 1, &[9]), list(&[9]));
    // All together too many: who has most gives back.
    assert_eq!(l.grant(Millis(0), session(2), list(&[20, 21, 22])), (list(&[20, 21]), trim(1, 101, 7)));
}

#[test]
fn who_does_not_answer_a_recall_is_let_run_out_and_then_ended() {
    let mut l = leases(Limits::default());
    grant(&mut l, 1, &[7]);
    change(&mut l, 2, &[7], "a");
    let mut now = 0;
    let mut renewed = 0;
    let ended = loop {
        now += 100;
        let ended = l.tick(Millis(now));
        if l.renews(Millis(now), session(1)) {
            renewed = now;
        }
        if !ended.is_empty() || now > 60_000 {
            break ended;
        }
    };
    assert_eq!(ended, [session(1)]);
    assert!(now > renewed + TERM, "it used its leases up to {}, and was ended at {now}", renewed + TERM);
    assert!(now <= OVERDUE_MS + TTL + 100);
}

/// What goes between a mount and the master.
#[derive(Clone, Debug)]
enum Up {
    Read { at: u64, inode: u64 },
    Write { at: u64, inodes: Vec<u64> },
    Ack { event: u64, given_back: Vec<InodeId> },
    Alive { sent: u64 },
}

#[derive(Clone, Debug)]
enum Down {
    Told { at: u64, values: Vec<(u64, u64)>, leased: Vec<InodeId>, written: bool },
    Recall { event: u64, inodes: Vec<InodeId> },
    Trim { event: u64, keep: usize },
    Kept { sent: u64 },
}

/// A mount: what it was told under leases, in order of use, and when it last changed or lost something.
#[derive(Default)]
struct Mount {
    cache: Vec<(u64, u64)>,
    stamps: BTreeMap<u64, u64>,
    clock: u64,
    writing: BTreeMap<u64, u32>,
    until: u64,
    stopped: bool,
    /// Its connection has broken while it was stopped.
    cut: bool,
    up: VecDeque<Up>,
    down: VecDeque<Down>,
    heard: u64,
}

impl Mount {
    fn forget(&mut self, inode: u64) {
        self.clock += 1;
        self.stamps.insert(inode, self.clock);
        self.cache.retain(|(i, _)| *i != inode);
    }
}

type Change = (u64, u64, Vec<u64>);

struct World {
    now: u64,
    state: u64,
    leases: Leases<(Change, u64)>,
    values: BTreeMap<u64, u64>,
    mounts: Vec<Mount>,
    made: u64,
    waited: u64,
}

const INODES: u64 = 6;
const LIMITS: Limits = Limits { session: 4, total: 9 };

impl World {
    fn random(&mut self, below: u64) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state % below
    }

    fn write(&mut self, m: usize, change: Change, place: Option<u64>) {
        let touched = set(&change.2);
        let since = self.now;
        let what = || (change.clone(), since);
        let held = self.leases.hold(Millis(self.now), session(m as u64), touched, place, what);
        if let Some(effects) = held {
            return self.send(effects);
        }
        let (_, at, inodes) = change;
        self.made += 1;
        let mut values = Vec::new();
        for inode in &inodes {
            let value = self.values.entry(*inode).or_default();
            *value += 1;
            values.push((*inode, *value));
        }
        self.tell(m, at, values, true);
    }

    fn tell(&mut self, m: usize, at: u64, values: Vec<(u64, u64)>, written: bool) {
        let inodes: Vec<_> = values.iter().map(|(i, _)| InodeId(*i)).collect();
        let (leased, trim) = self.leases.grant(Millis(self.now), session(m as u64), inodes);
        self.mounts[m].down.push_back(Down::Told { at, values, leased, written });
        self.send(trim);
    }

    fn send(&mut self, effects: impl IntoIterator<Item = Effect>) {
        for effect in effects {
            let (to, down) = match effect {
                Effect::Recall { session, event, inodes } => (session, Down::Recall { event, inodes }),
                Effect::Trim { session, event, keep } => (session, Down::Trim { event, keep }),
            };
            self.mounts[to.0 as usize].down.push_back(down);
        }
    }

    fn go_on(&mut self) {
        while let Some(Ready { place, by, what: (change, since) }) = self.leases.ready() {
            self.waited = self.waited.max(self.now - since);
            self.write(by.0 as usize, change, Some(place));
        }
    }

    /// The master reads one message of a mount.
    fn up(&mut self, m: usize) {
        let Some(message) = self.mounts[m].up.pop_front() else { return };
        let me = session(m as u64);
        self.mounts[m].heard = self.now;
        match message {
            Up::Read { at, inode } => {
                let value = self.values.get(&inode).copied().unwrap_or(0);
                self.tell(m, at, vec![(inode, value)], false);
            }
            Up::Write { at, inodes } => self.write(m, (m as u64, at, inodes), None),
            Up::Ack { event, given_back } => {
                self.leases.acknowledged(Millis(self.now), me, event, given_back);
                self.go_on();
            }
            Up::Alive { sent } => {
                if self.leases.renews(Millis(self.now), me) {
                    self.mounts[m].down.push_back(Down::Kept { sent });
                }
            }
        }
    }

    /// A mount reads one message.
    fn down(&mut self, m: usize) {
        let mount = &mut self.mounts[m];
        let Some(message) = mount.down.pop_front() else { return };
        match message {
            Down::Told { at, values, leased, written } => {
                for (inode, value) in values {
                    if written {
                        *mount.writing.get_mut(&inode).unwrap() -= 1;
                    }
                    let fresh = mount.stamps.get(&inode).is_none_or(|stamp| *stamp <= at);
                    if written || fresh {
                        mount.cache.retain(|(i, _)| *i != inode);
                    }
                    if written {
                        mount.clock += 1;
                        mount.stamps.insert(inode, mount.clock);
                    }
                    if fresh && leased.contains(&InodeId(inode)) {
                        mount.cache.push((inode, value));
                    }
                }
            }
            Down::Recall { event, inodes } => {
                inodes.iter().for_each(|i| mount.forget(i.0));
                mount.up.push_back(Up::Ack { event, given_back: Vec::new() });
            }
            Down::Trim { event, keep } => {
                let mut given_back = Vec::new();
                // It may know of fewer than the master counts: of all that it does not know it gives back, too.
                for inode in 0..INODES {
                    let place = mount.cache.iter().rev().position(|(i, _)| *i == inode);
                    if place.is_none_or(|p| p >= keep) {
                        mount.forget(inode);
                        given_back.push(InodeId(inode));
                    }
                }
                mount.up.push_back(Up::Ack { event, given_back });
            }
            Down::Kept { sent } => mount.until = mount.until.max(sent + TERM),
        }
    }

    /// The connection breaks and is there again.
    fn reconnect(&mut self, m: usize) {
        let mount = &mut self.mounts[m];
        (0..INODES).for_each(|i| mount.forget(i));
        mount.up.clear();
        mount.down.clear();
        mount.writing.clear();
        mount.until = self.now + TERM;
        mount.cut = false;
        mount.heard = self.now;
        self.leases.ended(session(m as u64));
        self.go_on();
    }

    fn pass(&mut self, ms: u64) {
        self.now += ms;
        let mut over: Vec<usize> = self.leases.tick(Millis(self.now)).iter().map(|s| s.0 as usize).collect();
        over.extend((0..self.mounts.len()).filter(|m| self.now - self.mounts[*m].heard > TTL));
        for m in over {
            self.leases.ended(session(m as u64));
            self.lose(m);
        }
        self.go_on();
        for mount in self.mounts.iter_mut().filter(|m| !m.stopped) {
            mount.up.push_back(Up::Alive { sent: self.now });
        }
    }

    /// The connection of a mount ends; it finds that out when it goes on.
    fn lose(&mut self, m: usize) {
        if !self.mounts[m].stopped {
            return self.reconnect(m);
        }
        let mount = &mut self.mounts[m];
        mount.heard = self.now;
        mount.cut = true;
        mount.up.clear();
        mount.down.clear();
        mount.writing.clear();
    }

    fn go_or_stop(&mut self, m: usize) {
        self.mounts[m].stopped = !self.mounts[m].stopped;
        if self.mounts[m].cut {
            self.reconnect(m);
        }
    }

    fn check(&self) {
        for (m, mount) in self.mounts.iter().enumerate() {
            for (inode, value) in &mount.cache {
                let writing = mount.writing.get(inode).is_some_and(|n| *n > 0);
                if self.now < mount.until && !writing {
                    let now = self.values.get(inode).copied().unwrap_or(0);
                    assert_eq!(
                        *value, now,
                        "mount {m} answers an old value of inode {inode} at {}",
                        self.now
                    );
                }
            }
        }
    }

    fn step(&mut self) {
        let m = self.random(self.mounts.len() as u64) as usize;
        let (inode, other) = (self.random(INODES), self.random(INODES));
        let mount = &mut self.mounts[m];
        match self.state >> 20 & 31 {
            0..6 if !mount.stopped => {
                mount.up.push_back(Up::Read { at: mount.clock, inode });
            }
            6..9 if !mount.stopped && mount.up.len() < 20 => {
                let inodes: Vec<_> = set(&[inode, other]).into_iter().map(|i| i.0).collect();
                for i in &inodes {
                    mount.forget(*i);
                    *mount.writing.entry(*i).or_default() += 1;
                }
                mount.up.push_back(Up::Write { at: mount.clock, inodes });
            }
            9..18 => self.up(m),
            18..28 if !mount.stopped => self.down(m),
            28 => {
                let ms = 1 + self.random(300);
                self.pass(ms);
            }
            29 if other == 0 => self.go_or_stop(m),
            30 if other == 0 && inode == 0 && !mount.stopped => self.reconnect(m),
            31 if other == 0 && inode == 0 => {
                let all: Vec<_> = (0..self.mounts.len() as u64).map(session).collect();
                let event = 1_000_000 + self.now * 1_000;
                self.leases = Leases::new(Millis(self.now), LIMITS, TTL, event, all);
                (0..self.mounts.len()).for_each(|m| self.lose(m));
            }
            _ => {}
        }
    }
}

#[test]
fn nobody_ever_answers_from_what_is_no_longer_so() {
    let mut made = 0;
    for seed in 1..=60u64 {
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mounts = (0..3).map(|_| Mount { until: TERM, ..Mount::default() }).collect();
        let leases = Leases::new(Millis(0), LIMITS, TTL, 1, []);
        let values = BTreeMap::new();
        let mut w = World { now: 0, state, leases, values, mounts, made: 0, waited: 0 };
        for _ in 0..4_000 {
            w.step();
            w.check();
        }
        // When all go on, nothing is left waiting.
        for m in 0..w.mounts.len() {
            if w.mounts[m].stopped {
                w.go_or_stop(m);
            }
        }
        for _ in 0..200 {
            w.pass(100);
            for m in 0..w.mounts.len() {
                while !(w.mounts[m].up.is_empty() && w.mounts[m].down.is_empty()) {
                    w.up(m);
                    w.down(m);
                    w.check();
                }
            }
        }
        assert!(w.leases.waiting.is_empty(), "seed {seed}");
        let bound = OVERDUE_MS + TTL + 1_000;
        assert!(w.waited <= 2 * bound, "seed {seed}: a change waited for {} ms", w.waited);
        made += w.made;
    }
    assert!(made > 4_000, "{made} changes were made");
}
