//! Who is in charge of the locks, what is held here, and who waits.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use cairn_locks::{Effects, Key, Limits, Lock, Outcome, Range, Table, Ticket};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};

use super::ALONE;
use crate::engine::FsError;

/// Files of which it is remembered that ranges were locked. When there are more, it is taken to be so of every file.
const RANGES_USED: usize = 65_536;

/// One fewer than the master allows: where the last range is split there is one more, and the master must take all.
const LIMITS: Limits = Limits { held: 16_383, waiting: 4_096 };

/// Which table is in charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// That of this mount, which is alone.
    Here,
    /// What is held is on its way from one to the other.
    Moving,
    /// The master's.
    Master,
}

/// What a request that waits is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// It is held.
    Granted,
    /// Ask again: another table is in charge, or the master may have forgotten.
    Again,
}

/// See [`Locks::state`].
pub(crate) struct State {
    home: Home,
    /// What is held and waited for, while this mount is alone.
    table: Table,
    /// Something in the table has changed since the master was told.
    untold: bool,
    /// Where something may be held at the master, and the number of the last request for it.
    places: BTreeMap<Key, u64>,
    /// The last request of each owner of ranges, through whichever handle.
    last: BTreeMap<Key, u64>,
    waiting: HashMap<u64, oneshot::Sender<Signal>>,
    /// Where something was held when the session ended, and the owner does not know yet.
    lost: BTreeSet<Key>,
    next: u64,
}

/// The mount's side of locks.
pub(crate) struct Locks {
    state: Mutex<State>,
    changed: Notify,
    ranges_used: Mutex<HashSet<u64>>,
}

impl Locks {
    /// `alone`: this mount is in charge.
    pub(crate) fn new(alone: bool) -> Self {
        let home = if alone { Home::Here } else { Home::Master };
        let state = State {
            home,
            table: Table::new(LIMITS),
            untold: false,
            places: BTreeMap::new(),
            last: BTreeMap::new(),
            waiting: HashMap::new(),
            lost: BTreeSet::new(),
            next: 1,
        };
        Self { state: Mutex::new(state), changed: Notify::new(), ranges_used: Mutex::default() }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// A number for a request, not used before.
    pub(super) fn number(&self) -> u64 {
        let mut state = self.state();
        state.next += 1;
        state.next
    }

    /// Somebody else may be in charge now, or the master be there again.
    pub(super) fn changed(&self) {
        self.changed.notify_waiters();
    }

    /// Returns when it is so.
    pub(super) async fn until(&self, so: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            if so(&self.state()) {
                return;
            }
            changed.await;
        }
    }

    /// An error, once, where the owner's locks were lost.
    pub(super) fn not_lost(&self, key: Key) -> Result<(), FsError> {
        if self.state().hears_of_no_loss(key) { Err(FsError::Fenced) } else { Ok(()) }
    }

    pub(super) fn ranges_used(&self, inode: u64) {
        let mut used = self.ranges_used.lock();
        if used.len() < RANGES_USED {
            used.insert(inode);
        }
    }

    pub(super) fn are_ranges_used(&self, inode: u64) -> bool {
        let used = self.ranges_used.lock();
        used.len() >= RANGES_USED || used.contains(&inode)
    }

    /// The master says that a request which waited is held.
    pub(crate) fn granted(&self, number: u64) {
        self.state().signal(number, Signal::Granted);
    }
}

fn ticket(number: u64) -> Ticket {
    Ticket { session: ALONE, number }
}

impl State {
    pub(super) fn home(&self) -> Home {
        self.home
    }

    pub(super) fn lock_here(&mut self, lock: &Lock, wait: Option<u64>) -> Outcome {
        let (outcome, effects) = self.table.lock(lock, wait.map(ticket));
        self.follow(effects);
        outcome
    }

    /// `None`: a range too many.
    pub(super) fn unlock_here(&mut self, key: Key, range: Range) -> Option<()> {
        let effects = self.table.unlock(key, range)?;
        self.follow(effects);
        Some(())
    }

    /// Whether it had been granted before.
    pub(super) fn cancel_here(&mut self, lock: &Lock, number: u64) -> bool {
        self.table.cancel(ticket(number), lock)
    }

    pub(super) fn test_here(&self, lock: &Lock) -> Option<Lock> {
        self.table.test(lock)
    }

    fn follow(&mut self, effects: Effects) {
        self.untold |= !effects.changed.is_empty();
        for Ticket { number, .. } in effects.granted {
            self.signal(number, Signal::Granted);
        }
    }

    fn signal(&mut self, number: u64, signal: Signal) {
        if let Some(waiting) = self.waiting.remove(&number) {
            // Whoever waited may be about to give up, and will find out then.
            let _ = waiting.send(signal);
        }
    }

    /// A request waits: where it will be told.
    pub(super) fn enlist(&mut self, number: u64) -> oneshot::Receiver<Signal> {
        let (tell, told) = oneshot::channel();
        self.waiting.insert(number, tell);
        told
    }

    pub(super) fn delist(&mut self, number: u64) {
        self.waiting.remove(&number);
    }

    /// All who wait have to ask again.
    pub(super) fn ask_again(&mut self) {
        for (_, waiting) in self.waiting.drain() {
            let _ = waiting.send(Signal::Again);
        }
    }

    /// The master has been asked for a lock there.
    pub(super) fn asked(&mut self, key: Key) {
        self.next += 1;
        self.places.insert(key, self.next);
    }

    pub(super) fn may_hold(&self, key: Key) -> bool {
        self.places.contains_key(&key)
    }

    pub(super) fn asked_last(&self, key: Key) -> Option<u64> {
        self.places.get(&key).copied()
    }

    /// All of it was let go, if nothing has been asked for since.
    pub(super) fn holds_nothing(&mut self, key: Key, asked: Option<u64>) {
        if self.asked_last(key) == asked {
            self.places.remove(&key);
        }
    }

    /// An owner asks for a range, in a request of this number.
    pub(super) fn asked_with(&mut self, key: Key, number: u64) {
        self.last.insert(key, number);
    }

    /// The number of its last request for a range, if it may have any.
    pub(super) fn asked_with_last(&self, key: Key) -> Option<u64> {
        self.last.get(&key).copied()
    }

    /// All that it asked for up to this request was let go.
    pub(super) fn asks_no_more(&mut self, key: Key, last: Option<u64>) {
        if last.is_some() && self.asked_with_last(key) == last {
            self.last.remove(&key);
        }
    }

    /// The owner is not told any more that its locks were lost; whether they were.
    pub(super) fn hears_of_no_loss(&mut self, key: Key) -> bool {
        self.lost.remove(&key)
    }

    fn empty_table(&mut self) -> Table {
        std::mem::replace(&mut self.table, Table::new(LIMITS))
    }

    /// What the master has not been told of and might want to show; `None`: nothing new, or it is in charge itself.
    pub(super) fn untold(&mut self) -> Option<Vec<Lock>> {
        let told = self.home == Home::Here && std::mem::take(&mut self.untold);
        told.then(|| self.table.held().collect())
    }

    /// The master could not be told.
    pub(super) fn is_untold(&mut self) {
        self.untold = true;
    }

    /// Nobody is in charge from now on; what is held here.
    pub(super) fn begin_moving(&mut self) -> Vec<Lock> {
        self.home = Home::Moving;
        self.table.held().collect()
    }

    /// The master is in charge, and has what was held here.
    pub(super) fn moved_to_master(&mut self) {
        for lock in self.empty_table().held() {
            self.asked(lock.key);
        }
        self.home = Home::Master;
        self.ask_again();
    }

    /// This mount is in charge; `held`: what the master knows that it holds.
    pub(super) fn moved_here(&mut self, held: &[Lock]) {
        self.table = Table::new(LIMITS);
        held.iter().for_each(|lock| self.table.restore(lock));
        self.untold = false;
        self.places.clear();
        self.home = Home::Here;
        self.ask_again();
    }

    /// The session has ended: nothing is held any more, and those who wait are not served. The number of owners who have lost locks.
    pub(super) fn lose_all(&mut self) -> usize {
        // What is asked for in the new session meanwhile counts among the places, too: they are let go when the file is closed.
        let held: BTreeSet<_> = self.empty_table().held().map(|lock| lock.key).collect();
        let lost: Vec<_> = held.into_iter().chain(self.places.keys().copied()).collect();
        self.lost.extend(&lost);
        self.waiting.clear();
        lost.len()
    }
}

#[cfg(test)]
mod tests {
    use cairn_locks::{Kind, Mode};

    use super::super::key;
    use super::*;

    fn lock(owner: u64) -> Lock {
        Lock { key: key(1, Kind::Range, owner), range: Range::ALL, mode: Mode::Exclusive, pid: 1 }
    }

    #[test]
    fn those_who_wait_here_ask_the_master_once_it_is_in_charge() {
        let locks = Locks::new(true);
        let mut state = locks.state();
        assert_eq!(state.lock_here(&lock(1), None), Outcome::Granted);
        assert_eq!(state.lock_here(&lock(2), Some(9)), Outcome::Waiting);
        let mut waiting = state.enlist(9);
        assert_eq!(state.untold().map(|l| l.len()), Some(1));
        assert_eq!(state.begin_moving(), [lock(1)]);
        assert_eq!(state.home(), Home::Moving);
        assert!(waiting.try_recv().is_err());
        state.moved_to_master();
        assert_eq!(waiting.try_recv(), Ok(Signal::Again));
        assert!(state.may_hold(lock(1).key) && !state.may_hold(lock(2).key));
        assert_eq!(state.untold(), None);
        state.moved_here(&[lock(1)]);
        assert!(matches!(state.lock_here(&lock(2), None), Outcome::Conflict(_)));
    }

    #[test]
    fn whoever_waits_is_told_when_the_lock_is_free() {
        let locks = Locks::new(true);
        let mut state = locks.state();
        state.lock_here(&lock(1), None);
        state.lock_here(&lock(2), Some(9));
        let mut waiting = state.enlist(9);
        state.unlock_here(lock(1).key, Range::ALL).unwrap();
        assert_eq!(waiting.try_recv(), Ok(Signal::Granted));
        assert!(state.cancel_here(&lock(2), 9), "it is too late to cancel");
    }

    #[test]
    fn a_place_is_forgotten_only_if_nothing_was_asked_for_since() {
        let locks = Locks::new(false);
        let mut state = locks.state();
        state.asked(lock(1).key);
        let asked = state.asked_last(lock(1).key);
        state.asked(lock(1).key);
        state.holds_nothing(lock(1).key, asked);
        assert!(state.may_hold(lock(1).key));
        let asked = state.asked_last(lock(1).key);
        state.holds_nothing(lock(1).key, asked);
        assert!(!state.may_hold(lock(1).key));
    }

    #[test]
    fn the_last_request_of_an_owner_is_known_until_all_was_let_go() {
        let locks = Locks::new(true);
        let mut state = locks.state();
        let key = lock(1).key;
        state.asked_with(key, 5);
        state.asked_with(key, 6);
        state.asks_no_more(key, Some(5));
        assert_eq!(state.asked_with_last(key), Some(6));
        state.asks_no_more(key, Some(6));
        assert_eq!(state.asked_with_last(key), None);
    }

    #[test]
    fn whoever_has_lost_locks_hears_of_it_once() {
        let locks = Locks::new(true);
        locks.state().lock_here(&lock(1), None);
        let mut waiting = locks.state().enlist(9);
        assert_eq!(locks.state().lose_all(), 1);
        assert!(matches!(waiting.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
        assert_eq!(locks.not_lost(lock(1).key), Err(FsError::Fenced));
        assert_eq!(locks.not_lost(lock(1).key), Ok(()));
        assert_eq!(locks.state().lock_here(&lock(2), None), Outcome::Granted);
    }
}
