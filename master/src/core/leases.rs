//! Read leases: which session may keep what it was told of which inode, until it is recalled.
//!
//! A lease is on an inode: its attributes and the places of its chunks; of a directory also its entries, those that are
//! not there included. Any number of sessions may have one. A change waits until all others that have a lease on what it touches
//! have given it up, or have ended: nobody is ever answered from what is no longer so.
//!
//! A lease lives as long as its session. The session uses it only for 7/8 of `ttl_ms` from the sending of the last sign of life that was
//! answered, so one that is not heard of any more for `ttl_ms` uses none. Leases are not stored: after a restart, a session that may have
//! some counts as holding everything until it says hello, or has ended.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{InodeId, SessionId};

use super::{ABSENCE_MS, Millis};

/// A session that has not answered a recall for so long is not told any more that it is heard, so that its leases run out.
const OVERDUE_MS: u64 = 2_000;
/// No lease is given on an inode for so long after one was recalled: whoever takes turns in changing it would only be slowed down.
const CONTENDED_MS: u64 = 250;

/// How many leases there may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of one session.
    pub session: usize,
    /// Of all together.
    pub total: usize,
}

impl Default for Limits {
    /// About 150 bytes each: 75 MiB at most.
    fn default() -> Self {
        Self { session: 1 << 17, total: 1 << 19 }
    }
}

/// What is to be sent to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Give up the leases on these inodes, and acknowledge `event`.
    Recall {
        /// Who.
        session: SessionId,
        /// The event's id.
        event: u64,
        /// Which.
        inodes: Vec<InodeId>,
    },
    /// Give back all but `keep` leases, those used longest ago, and say with the acknowledgement which.
    Trim {
        /// Who.
        session: SessionId,
        /// The event's id.
        event: u64,
        /// How many may stay.
        keep: usize,
    },
}

#[derive(Debug, Default)]
struct Holder {
    inodes: BTreeSet<InodeId>,
    recalled: BTreeSet<InodeId>,
    trim: Option<u64>,
}

#[derive(Debug)]
struct Recall {
    session: SessionId,
    inodes: Vec<InodeId>,
    since: Millis,
}

/// What a change waits for: a lease, or (`None`) whatever the session may hold.
type Blocker = (SessionId, Option<InodeId>);

#[derive(Debug)]
struct Waiting<T> {
    by: SessionId,
    touched: BTreeSet<InodeId>,
    blockers: BTreeSet<Blocker>,
    what: T,
}

/// A change that waited and may be tried again.
#[derive(Debug, PartialEq, Eq)]
pub struct Ready<T> {
    /// Its place among those that wait: to be handed in again.
    pub place: u64,
    /// Whose change.
    pub by: SessionId,
    /// The change.
    pub what: T,
}

/// All leases, and the changes that wait for them. `T`: a change.
#[derive(Debug)]
pub struct Leases<T> {
    limits: Limits,
    ttl_ms: u64,
    holders: BTreeMap<InodeId, Vec<SessionId>>,
    sessions: BTreeMap<SessionId, Holder>,
    count: usize,
    /// Sessions from before the master's start that have not come back yet.
    unknown: BTreeSet<SessionId>,
    recalls: BTreeMap<u64, Recall>,
    waiting: BTreeMap<u64, Waiting<T>>,
    /// No new leases on these before then.
    contended: BTreeMap<InodeId, Millis>,
    next_event: u64,
    next_place: u64,
    ticked: Millis,
}

impl<T> Leases<T> {
    /// No leases, but that the sessions `unknown` may have any. `first_event`: see [`super::sessions::Sessions::new`].
    pub fn new(
        now: Millis,
        limits: Limits,
        ttl_ms: u64,
        first_event: u64,
        unknown: impl IntoIterator<Item = SessionId>,
    ) -> Self {
        Self {
            limits,
            ttl_ms,
            holders: BTreeMap::new(),
            sessions: BTreeMap::new(),
            count: 0,
            unknown: unknown.into_iter().collect(),
            recalls: BTreeMap::new(),
            waiting: BTreeMap::new(),
            contended: BTreeMap::new(),
            next_event: first_event.max(1),
            next_place: 1,
            ticked: now,
        }
    }

    /// Whether no change can be in anybody's way.
    pub fn is_idle(&self) -> bool {
        self.holders.is_empty() && self.unknown.is_empty() && self.waiting.is_empty()
    }

    /// How many leases a session has.
    pub fn count_of(&self, session: SessionId) -> usize {
        self.sessions.get(&session).map_or(0, |h| h.inodes.len())
    }

    /// A session has been told of these inodes: those on which it has a lease now. With too many it, or who has most, is to
    /// give some back.
    pub fn grant(
        &mut self,
        now: Millis,
        session: SessionId,
        inodes: impl IntoIterator<Item = InodeId>,
    ) -> (Vec<InodeId>, Option<Effect>) {
        let mut granted = Vec::new();
        let mut full = false;
        for inode in inodes {
            let holder = self.sessions.entry(session).or_default();
            // While a session gives back it gets none: which of the two came first could not be told.
            let busy = holder.trim.is_some() || holder.recalled.contains(&inode);
            if busy || self.contended.get(&inode).is_some_and(|until| *until > now) {
                continue;
            }
            if self.waiting.values().any(|w| w.touched.contains(&inode)) {
                continue;
            }
            if !holder.inodes.contains(&inode) {
                if holder.inodes.len() >= self.limits.session || self.count >= self.limits.total {
                    full = true;
                    continue;
                }
                holder.inodes.insert(inode);
                self.holders.entry(inode).or_default().push(session);
                self.count += 1;
            }
            granted.push(inode);
        }
        let trim = if full { self.trim(session) } else { None };
        (granted, trim)
    }

    fn trim(&mut self, asking: SessionId) -> Option<Effect> {
        let own = self.count_of(asking) >= self.limits.session;
        let most = self.sessions.iter().max_by_key(|(_, h)| h.inodes.len()).map(|(id, _)| *id);
        let session = if own { asking } else { most? };
        let holder = self.sessions.get_mut(&session)?;
        if holder.trim.is_some() {
            return None;
        }
        let event = self.next_event;
        self.next_event += 1;
        holder.trim = Some(event);
        let keep = holder.inodes.len() - holder.inodes.len().div_ceil(8);
        Some(Effect::Trim { session, event, keep })
    }

    /// A session's change touches these inodes. `None`: nobody has a lease that it would break, it may be made. Else it waits, and
    /// [`Self::ready`] gives it out again. `place`: what it had when it waited before.
    pub fn hold(
        &mut self,
        now: Millis,
        by: SessionId,
        touched: BTreeSet<InodeId>,
        place: Option<u64>,
        what: impl FnOnce() -> T,
    ) -> Option<Vec<Effect>> {
        if touched.is_empty() {
            return None;
        }
        let mut blockers: BTreeSet<Blocker> =
            self.unknown.iter().filter(|s| **s != by).map(|s| (*s, None)).collect();
        for inode in &touched {
            let holders = self.holders.get(inode).into_iter().flatten();
            blockers.extend(holders.filter(|s| **s != by).map(|s| (*s, Some(*inode))));
        }
        // What touches the same inodes keeps its order.
        let before = self.waiting.range(..place.unwrap_or(u64::MAX));
        let behind = before.into_iter().any(|(_, w)| !w.touched.is_disjoint(&touched));
        if blockers.is_empty() && !behind {
            return None;
        }
        let effects = self.recall(now, &blockers);
        let place = place.unwrap_or_else(|| {
            self.next_place += 1;
            self.next_place - 1
        });
        self.waiting.insert(place, Waiting { by, touched, blockers, what: what() });
        Some(effects)
    }

    /// Recalls the leases among these that are not being recalled yet: one event for each session.
    fn recall(&mut self, now: Millis, blockers: &BTreeSet<Blocker>) -> Vec<Effect> {
        let mut fresh: BTreeMap<SessionId, Vec<InodeId>> = BTreeMap::new();
        for (session, inode) in blockers {
            let (Some(holder), Some(inode)) = (self.sessions.get_mut(session), inode) else { continue };
            if holder.recalled.insert(*inode) {
                fresh.entry(*session).or_default().push(*inode);
            }
        }
        let mut effects = Vec::new();
        for (session, inodes) in fresh {
            let event = self.next_event;
            self.next_event += 1;
            effects.push(Effect::Recall { session, event, inodes: inodes.clone() });
            self.recalls.insert(event, Recall { session, inodes, since: now });
        }
        effects
    }

    /// A session has done what an event asked for. `given_back`: of a trim. Says whether the event was one of these.
    pub fn acknowledged(
        &mut self,
        now: Millis,
        session: SessionId,
        event: u64,
        given_back: impl IntoIterator<Item = InodeId>,
    ) -> bool {
        if let Some(holder) = self.sessions.get_mut(&session).filter(|h| h.trim == Some(event)) {
            holder.trim = None;
            for inode in given_back {
                self.release(session, inode);
            }
            return true;
        }
        if self.recalls.get(&event).is_none_or(|r| r.session != session) {
            return false;
        }
        for inode in self.recalls.remove(&event).into_iter().flat_map(|r| r.inodes) {
            if let Some(holder) = self.sessions.get_mut(&session) {
                holder.recalled.remove(&inode);
            }
            self.release(session, inode);
            self.contended.insert(inode, now.plus(CONTENDED_MS));
        }
        true
    }

    fn release(&mut self, session: SessionId, inode: InodeId) {
        let held = self.sessions.get_mut(&session).is_some_and(|h| h.inodes.remove(&inode));
        if held {
            self.count -= 1;
        }
        if let Some(holders) = self.holders.get_mut(&inode) {
            holders.retain(|s| *s != session);
            if holders.is_empty() {
                self.holders.remove(&inode);
            }
        }
        self.unblock(&(session, Some(inode)));
    }

    fn unblock(&mut self, blocker: &Blocker) {
        for waiting in self.waiting.values_mut() {
            waiting.blockers.remove(blocker);
        }
    }

    /// A session holds no lease any more: it said hello, or is alone now.
    pub fn forget(&mut self, session: SessionId) {
        self.unknown.remove(&session);
        self.unblock(&(session, None));
        let Some(holder) = self.sessions.remove(&session) else { return };
        self.recalls.retain(|_, r| r.session != session);
        self.count -= holder.inodes.len();
        for inode in holder.inodes {
            self.release(session, inode);
        }
    }

    /// A session is over. Its changes that wait are not made.
    pub fn ended(&mut self, session: SessionId) {
        self.forget(session);
        self.waiting.retain(|_, w| w.by != session);
    }

    /// A change that nothing stands in the way of any more. To be called until there is none.
    pub fn ready(&mut self) -> Option<Ready<T>> {
        let mut before: BTreeSet<InodeId> = BTreeSet::new();
        let mut found = None;
        for (place, waiting) in &self.waiting {
            if waiting.blockers.is_empty() && before.is_disjoint(&waiting.touched) {
                found = Some(*place);
                break;
            }
            before.extend(&waiting.touched);
        }
        let place = found?;
        let Waiting { by, what, .. } = self.waiting.remove(&place)?;
        Some(Ready { place, by, what })
    }

    /// A session's changes that wait.
    pub fn waiting(&mut self, session: SessionId) -> impl Iterator<Item = &mut T> {
        self.waiting.values_mut().filter(move |w| w.by == session).map(|w| &mut w.what)
    }

    /// Whether a session is to be told that it is heard: not while it leaves a recall unanswered.
    pub fn renews(&self, now: Millis, session: SessionId) -> bool {
        !self.recalls.values().any(|r| r.session == session && now.since(r.since) > OVERDUE_MS)
    }

    /// Time has passed. The sessions that have not answered a recall for so long that they use no lease any more: they are to end.
    pub fn tick(&mut self, now: Millis) -> Vec<SessionId> {
        let gap = now.since(self.ticked);
        self.ticked = now;
        if gap > ABSENCE_MS {
            for recall in self.recalls.values_mut() {
                recall.since = recall.since.plus(gap);
            }
        }
        self.contended.retain(|_, until| *until > now);
        let late = |r: &&Recall| now.since(r.since) > OVERDUE_MS + self.ttl_ms;
        let ended: BTreeSet<_> = self.recalls.values().filter(late).map(|r| r.session).collect();
        ended.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
