//! The table: who holds what, who waits, and what becomes of those who wait.

use std::collections::{BTreeMap, BTreeSet};

use crate::pieces::{self, Piece};
use crate::{Key, Kind, Lock, Owner, Range, Ticket};

/// How much one session may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ranges held, at most (one more where the last is split).
    pub held: usize,
    /// Requests that wait, at most.
    pub waiting: usize,
}

impl Default for Limits {
    /// More than any program that is known to use locks; a record of all of them is under 1 MiB.
    fn default() -> Self {
        Self { held: 16_384, waiting: 4_096 }
    }
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is held from now on.
    Granted,
    /// This lock is in the way.
    Conflict(Lock),
    /// It waits; [`Effects::granted`] will tell of it.
    Waiting,
    /// It would wait for ever: whoever is in the way waits for this owner.
    Deadlock,
    /// The session has too many.
    TooMany,
}

/// What else happened.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Effects {
    /// Requests that do not wait any more: they are held.
    pub granted: Vec<Ticket>,
    /// Where something is held that was not before, or the other way round.
    pub changed: BTreeSet<Key>,
}

/// What one owner holds of one inode.
#[derive(Debug, Default)]
struct Holder {
    pid: u32,
    pieces: Vec<Piece>,
}

/// The locks of one kind on one inode.
#[derive(Debug, Default)]
struct Space {
    holders: BTreeMap<Owner, Holder>,
    /// In the order of their coming.
    queue: Vec<(Ticket, Lock)>,
}

impl Space {
    /// The locks of others that are in the way.
    fn in_the_way<'a>(&'a self, of: &'a Lock) -> impl Iterator<Item = Lock> + 'a {
        let others = self.holders.iter().filter(|(owner, _)| **owner != of.key.owner);
        others.filter_map(|(owner, holder)| {
            let piece = pieces::conflict(&holder.pieces, of.range, of.mode)?;
            let key = Key { owner: *owner, ..of.key };
            Some(Lock { key, range: piece.range, mode: piece.mode, pid: holder.pid })
        })
    }
}

/// All locks.
#[derive(Debug, Default)]
pub struct Table {
    limits: Limits,
    spaces: BTreeMap<(u64, Kind), Space>,
    /// Ranges held, by session.
    held: BTreeMap<u64, usize>,
    /// Ranges waited for: where, by owner and ticket.
    waiting: BTreeMap<Owner, BTreeMap<Ticket, (u64, Kind)>>,
}

impl Table {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Puts back a lock that was held when the table was stored.
    pub fn restore(&mut self, lock: &Lock) {
        self.hold(lock, &mut Effects::default());
    }

    /// Whether nothing is held and nobody waits.
    pub fn is_empty(&self) -> bool {
        self.spaces.is_empty()
    }

    /// Asks for a lock. With a ticket the request waits where something is in the way, and one that waits already under that
    /// ticket goes on waiting.
    pub fn lock(&mut self, lock: &Lock, wait: Option<Ticket>) -> (Outcome, Effects) {
        let mut effects = Effects::default();
        let place = (lock.key.inode, lock.key.kind);
        if wait.is_some_and(|ticket| self.is_waiting(lock.key.owner, ticket)) {
            return (Outcome::Waiting, effects);
        }
        let in_the_way = self.spaces.get(&place).and_then(|s| s.in_the_way(lock).next());
        let Some(first) = in_the_way else {
            if self.held_by(lock.key.owner.session) >= self.limits.held {
                return (Outcome::TooMany, effects);
            }
            self.hold(lock, &mut effects);
            self.settle(place, &mut effects);
            return (Outcome::Granted, effects);
        };
        let Some(ticket) = wait else { return (Outcome::Conflict(first), effects) };
        if self.waiting_of(lock.key.owner.session) >= self.limits.waiting {
            return (Outcome::TooMany, effects);
        }
        match lock.key.kind {
            Kind::Range if self.would_wait_for_ever(lock) => return (Outcome::Deadlock, effects),
            Kind::Range => {}
            // As Linux has it: what is to be converted is given up first, so that two who convert do not wait for each other.
            Kind::Flock => self.let_go(lock.key, Range::ALL, &mut effects),
        }
        self.spaces.entry(place).or_default().queue.push((ticket, *lock));
        self.waiting.entry(lock.key.owner).or_default().insert(ticket, place);
        self.settle(place, &mut effects);
        (Outcome::Waiting, effects)
    }

    /// Lets a range go, held or not. `None`: that would split a range, and the session has too many already.
    pub fn unlock(&mut self, key: Key, range: Range) -> Option<Effects> {
        let mut effects = Effects::default();
        let full = self.held_by(key.owner.session) > self.limits.held;
        let pieces = self.pieces(key);
        if full && pieces.iter().any(|p| p.range.first < range.first && p.range.last > range.last) {
            return None;
        }
        self.let_go(key, range, &mut effects);
        self.settle((key.inode, key.kind), &mut effects);
        Some(effects)
    }

    /// Does not wait any more. True: the owner holds what it asked for all the same; it had been granted before.
    pub fn cancel(&mut self, ticket: Ticket, lock: &Lock) -> bool {
        if self.is_waiting(lock.key.owner, ticket) {
            self.forget_waiting(ticket, lock.key.owner);
            return false;
        }
        pieces::covers(self.pieces(lock.key), lock.range, lock.mode)
    }

    /// A lock that is in the way of this one.
    pub fn test(&self, lock: &Lock) -> Option<Lock> {
        self.spaces.get(&(lock.key.inode, lock.key.kind))?.in_the_way(lock).min_by_key(|l| l.range)
    }

    /// A session is over, or begins anew: it holds nothing and waits for nothing.
    pub fn end_session(&mut self, session: u64) -> Effects {
        let mut effects = Effects::default();
        self.stop_waiting(session);
        let held: Vec<Key> = self.held().map(|l| l.key).filter(|k| k.owner.session == session).collect();
        for key in &held {
            self.let_go(*key, Range::ALL, &mut effects);
        }
        for key in held {
            self.settle((key.inode, key.kind), &mut effects);
        }
        effects
    }

    /// A session waits for nothing any more. What is behind its requests in the queues does not depend on them.
    pub fn stop_waiting(&mut self, session: u64) {
        let waiting: Vec<_> = self.waiting().filter(|(t, _)| t.session == session).collect();
        for (ticket, lock) in waiting {
            self.forget_waiting(ticket, lock.key.owner);
        }
    }

    /// All that is held.
    pub fn held(&self) -> impl Iterator<Item = Lock> + '_ {
        self.spaces.iter().flat_map(|((inode, kind), space)| {
            space.holders.iter().flat_map(|(owner, holder)| {
                let key = Key { inode: *inode, kind: *kind, owner: *owner };
                let lock = move |p: &Piece| Lock { key, range: p.range, mode: p.mode, pid: holder.pid };
                holder.pieces.iter().map(lock)
            })
        })
    }

    /// What is held at one place.
    pub fn held_at(&self, key: Key) -> impl Iterator<Item = Lock> + '_ {
        let holder = self.spaces.get(&(key.inode, key.kind)).and_then(|s| s.holders.get(&key.owner));
        holder.into_iter().flat_map(move |holder| {
            let lock = move |p: &Piece| Lock { key, range: p.range, mode: p.mode, pid: holder.pid };
            holder.pieces.iter().map(lock)
        })
    }

    /// All requests that wait, in the order of their coming for each inode.
    pub fn waiting(&self) -> impl Iterator<Item = (Ticket, Lock)> + '_ {
        self.spaces.values().flat_map(|space| space.queue.iter().copied())
    }

    fn pieces(&self, key: Key) -> &[Piece] {
        let space = self.spaces.get(&(key.inode, key.kind));
        space.and_then(|s| s.holders.get(&key.owner)).map_or(&[], |h| &h.pieces)
    }

    fn held_by(&self, session: u64) -> usize {
        self.held.get(&session).copied().unwrap_or(0)
    }

    fn waiting_of(&self, session: u64) -> usize {
        let owners = Owner { session, id: 0 }..=Owner { session, id: u64::MAX };
        self.waiting.range(owners).map(|(_, tickets)| tickets.len()).sum()
    }

    fn is_waiting(&self, owner: Owner, ticket: Ticket) -> bool {
        self.waiting.get(&owner).is_some_and(|tickets| tickets.contains_key(&ticket))
    }

    fn forget_waiting(&mut self, ticket: Ticket, owner: Owner) {
        let Some(tickets) = self.waiting.get_mut(&owner) else { return };
        let Some(place) = tickets.remove(&ticket) else { return };
        if tickets.is_empty() {
            self.waiting.remove(&owner);
        }
        if let Some(space) = self.spaces.get_mut(&place) {
            space.queue.retain(|(t, l)| (*t, l.key.owner) != (ticket, owner));
            self.forget_if_empty(place);
        }
    }

    fn forget_if_empty(&mut self, place: (u64, Kind)) {
        if self.spaces.get(&place).is_some_and(|s| s.holders.is_empty() && s.queue.is_empty()) {
            self.spaces.remove(&place);
        }
    }

    /// Changes what is held at one place, and keeps count.
    fn change(&mut self, key: Key, effects: &mut Effects, change: impl FnOnce(&mut Holder)) {
        let place = (key.inode, key.kind);
        let space = self.spaces.entry(place).or_default();
        let holder = space.holders.entry(key.owner).or_default();
        let before = holder.pieces.clone();
        change(holder);
        let now = holder.pieces.len();
        if before != holder.pieces {
            effects.changed.insert(key);
        }
        if now == 0 {
            space.holders.remove(&key.owner);
        }
        let count = self.held.entry(key.owner.session).or_insert(0);
        *count = *count + now - before.len();
        if *count == 0 {
            self.held.remove(&key.owner.session);
        }
        self.forget_if_empty(place);
    }

    fn hold(&mut self, lock: &Lock, effects: &mut Effects) {
        self.change(lock.key, effects, |holder| {
            holder.pid = lock.pid;
            pieces::set(&mut holder.pieces, lock.range, lock.mode);
        });
    }

    fn let_go(&mut self, key: Key, range: Range, effects: &mut Effects) {
        self.change(key, effects, |holder| pieces::cut(&mut holder.pieces, range));
    }

    /// Grants what nothing is in the way of any more, in the order of the queue.
    fn settle(&mut self, place: (u64, Kind), effects: &mut Effects) {
        loop {
            let Some(space) = self.spaces.get(&place) else { return };
            let free = space.queue.iter().find(|(_, lock)| space.in_the_way(lock).next().is_none());
            let Some((ticket, lock)) = free.copied() else { return };
            self.forget_waiting(ticket, lock.key.owner);
            self.hold(&lock, effects);
            effects.granted.push(ticket);
        }
    }

    /// Whether one of those in the way waits, directly or through others, for the owner of this request.
    fn would_wait_for_ever(&self, lock: &Lock) -> bool {
        let mut seen = BTreeSet::new();
        let mut next: Vec<Owner> = self.owners_in_the_way(lock).collect();
        while let Some(owner) = next.pop() {
            if owner == lock.key.owner {
                return true;
            }
            if !seen.insert(owner) {
                continue;
            }
            for (ticket, place) in self.waiting.get(&owner).into_iter().flatten() {
                let Some(space) = self.spaces.get(place).filter(|_| place.1 == Kind::Range) else { continue };
                let waiting = space.queue.iter().filter(|(t, l)| t == ticket && l.key.owner == owner);
                next.extend(waiting.flat_map(|(_, lock)| self.owners_in_the_way(lock)));
            }
        }
        false
    }

    fn owners_in_the_way<'a>(&'a self, lock: &'a Lock) -> impl Iterator<Item = Owner> + 'a {
        let space = self.spaces.get(&(lock.key.inode, lock.key.kind));
        space.into_iter().flat_map(|s| s.in_the_way(lock)).map(|l| l.key.owner)
    }
}
