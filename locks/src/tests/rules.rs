//! The rules one by one.

use super::{granted, held, lock, owner, ticket};
use crate::Kind::{Flock, Range as Ranges};
use crate::Mode::{Exclusive, Shared};
use crate::{Key, Limits, Lock, Outcome, Range, Table};

fn x(who: u64, range: (u64, u64)) -> Lock {
    lock(1, Ranges, who, range, Exclusive)
}

fn s(who: u64, range: (u64, u64)) -> Lock {
    lock(1, Ranges, who, range, Shared)
}

fn range(first: u64, last: u64) -> Range {
    Range::new(first, last).unwrap()
}

#[test]
fn ranges_split_and_merge_as_posix_says() {
    let mut t = Table::default();
    let key = x(0, (0, 0)).key;
    granted(t.lock(&x(0, (10, 19)), None));
    granted(t.lock(&x(0, (20, 29)), None));
    assert_eq!(held(&t, key), "10-29x");
    t.unlock(key, range(15, 17)).unwrap();
    assert_eq!(held(&t, key), "10-14x 18-29x");
    granted(t.lock(&s(0, (12, 20)), None));
    assert_eq!(held(&t, key), "10-11x 12-20s 21-29x");
    granted(t.lock(&x(0, (5, u64::MAX)), None));
    assert_eq!(held(&t, key), format!("5-{}x", u64::MAX));
    t.unlock(key, range(0, u64::MAX)).unwrap();
    assert!(t.is_empty());
}

#[test]
fn the_ends_of_the_range_of_offsets_do_not_overflow() {
    let mut t = Table::default();
    let key = x(0, (0, 0)).key;
    granted(t.lock(&x(0, (0, 0)), None));
    granted(t.lock(&x(0, (u64::MAX, u64::MAX)), None));
    granted(t.lock(&x(0, (1, u64::MAX - 1)), None));
    assert_eq!(held(&t, key), format!("0-{}x", u64::MAX));
    t.unlock(key, range(0, 0)).unwrap();
    t.unlock(key, range(u64::MAX, u64::MAX)).unwrap();
    assert_eq!(held(&t, key), format!("1-{}x", u64::MAX - 1));
}

#[test]
fn shared_locks_go_together_and_exclusive_ones_do_not() {
    let mut t = Table::default();
    granted(t.lock(&s(0, (0, 9)), None));
    granted(t.lock(&s(1, (5, 20)), None));
    assert_eq!(t.lock(&x(2, (20, 30)), None).0, Outcome::Conflict(s(1, (5, 20))));
    granted(t.lock(&x(2, (21, 30)), None));
    assert_eq!(t.test(&x(3, (0, 100))), Some(s(0, (0, 9))));
    assert_eq!(t.test(&s(3, (0, 20))), None);
    assert_eq!(t.test(&s(2, (0, 30))), None, "one's own lock is in nobody's way");
}

#[test]
fn the_kinds_do_not_see_each_other() {
    let mut t = Table::default();
    granted(t.lock(&lock(1, Flock, 0, (0, u64::MAX), Exclusive), None));
    granted(t.lock(&x(1, (0, u64::MAX)), None));
    granted(t.lock(&lock(2, Ranges, 2, (0, u64::MAX), Exclusive), None));
    assert_eq!(t.held().count(), 3);
}

#[test]
fn those_who_wait_are_served_in_order() {
    let mut t = Table::default();
    granted(t.lock(&x(0, (0, 9)), None));
    for (who, range) in [(1, (0, 4)), (2, (3, 9)), (3, (5, 9))] {
        assert_eq!(t.lock(&x(who, range), Some(ticket(who, who))).0, Outcome::Waiting);
    }
    // 3 does not stand in the way of 1, and waits behind 2.
    let freed = t.unlock(x(0, (0, 0)).key, Range::ALL).unwrap();
    assert_eq!(freed.granted, [ticket(1, 1), ticket(3, 3)]);
    let freed = t.unlock(x(1, (0, 0)).key, Range::ALL).unwrap();
    assert!(freed.granted.is_empty());
    assert_eq!(t.unlock(x(3, (0, 0)).key, Range::ALL).unwrap().granted, [ticket(2, 2)]);
    assert_eq!(held(&t, x(2, (0, 0)).key), "3-9x");
}

#[test]
fn a_weaker_lock_lets_those_in_who_wait_for_it() {
    let mut t = Table::default();
    granted(t.lock(&x(0, (0, 9)), None));
    assert_eq!(t.lock(&s(1, (0, 9)), Some(ticket(1, 7))).0, Outcome::Waiting);
    let effects = granted(t.lock(&s(0, (0, 9)), None));
    assert_eq!(effects.granted, [ticket(1, 7)]);
    assert_eq!(effects.changed.len(), 2);
}

#[test]
fn a_request_that_is_sent_again_keeps_its_place_and_its_lock() {
    let mut t = Table::default();
    granted(t.lock(&x(0, (0, 9)), None));
    assert_eq!(t.lock(&x(1, (0, 9)), Some(ticket(1, 1))).0, Outcome::Waiting);
    assert_eq!(t.lock(&x(2, (0, 9)), Some(ticket(2, 1))).0, Outcome::Waiting);
    assert_eq!(t.lock(&x(1, (0, 9)), Some(ticket(1, 1))).0, Outcome::Waiting);
    assert_eq!(t.waiting().count(), 2);
    assert_eq!(t.unlock(x(0, (0, 0)).key, Range::ALL).unwrap().granted, [ticket(1, 1)]);
    let again = granted(t.lock(&x(1, (0, 9)), Some(ticket(1, 1))));
    assert!(again.changed.is_empty());
}

#[test]
fn a_cancelled_request_does_not_wait_and_says_whether_it_was_granted() {
    let mut t = Table::default();
    granted(t.lock(&x(0, (0, 9)), None));
    t.lock(&x(1, (0, 9)), Some(ticket(1, 1)));
    assert!(!t.cancel(ticket(1, 1), &x(1, (0, 9))));
    assert!(t.unlock(x(0, (0, 0)).key, Range::ALL).unwrap().granted.is_empty());
    granted(t.lock(&x(2, (0, 9)), None));
    t.lock(&x(1, (0, 9)), Some(ticket(1, 2)));
    t.unlock(x(2, (0, 0)).key, Range::ALL).unwrap();
    assert!(t.cancel(ticket(1, 2), &x(1, (0, 9))), "it was granted before");
}

#[test]
fn a_cycle_of_waits_over_several_inodes_is_refused() {
    let at = |inode, who| lock(inode, Ranges, who, (0, 9), Exclusive);
    let mut t = Table::default();
    for who in 0..4 {
        granted(t.lock(&at(who, who), None));
    }
    for who in 0..3 {
        assert_eq!(t.lock(&at(who + 1, who), Some(ticket(who, who))).0, Outcome::Waiting);
    }
    assert_eq!(t.lock(&at(0, 3), Some(ticket(3, 9))).0, Outcome::Deadlock);
    assert!(matches!(t.lock(&at(0, 3), None).0, Outcome::Conflict(_)), "who does not wait has no deadlock");
    // The last one gives way.
    assert_eq!(t.unlock(at(3, 3).key, Range::ALL).unwrap().granted, [ticket(2, 2)]);
    assert_eq!(t.lock(&at(0, 3), Some(ticket(3, 9))).0, Outcome::Waiting);
}

#[test]
fn two_who_want_more_than_their_shared_lock_are_a_deadlock() {
    let mut t = Table::default();
    granted(t.lock(&s(0, (0, 9)), None));
    granted(t.lock(&s(1, (0, 9)), None));
    assert_eq!(t.lock(&x(0, (0, 9)), Some(ticket(0, 1))).0, Outcome::Waiting);
    assert_eq!(t.lock(&x(1, (0, 9)), Some(ticket(1, 1))).0, Outcome::Deadlock);
    assert_eq!(held(&t, s(1, (0, 9)).key), "0-9s", "what was held still is");
}

#[test]
fn flock_gives_up_what_it_converts_if_it_has_to_wait() {
    let flock = |who, mode| lock(1, Flock, who, (0, u64::MAX), mode);
    let mut t = Table::default();
    granted(t.lock(&flock(0, Shared), None));
    granted(t.lock(&flock(1, Shared), None));
    assert!(matches!(t.lock(&flock(0, Exclusive), None).0, Outcome::Conflict(_)));
    assert_eq!(t.held().count(), 2, "a conversion that fails at once changes nothing");
    assert_eq!(t.lock(&flock(0, Exclusive), Some(ticket(0, 1))).0, Outcome::Waiting);
    let effects = granted(t.lock(&flock(1, Exclusive), Some(ticket(1, 1))));
    assert!(effects.granted.is_empty());
    assert_eq!(t.unlock(flock(1, Shared).key, Range::ALL).unwrap().granted, [ticket(0, 1)]);
}

#[test]
fn a_session_that_ends_lets_everything_go() {
    let mut t = Table::default();
    granted(t.lock(&x(0, (0, 9)), None));
    granted(t.lock(&lock(2, Flock, 1, (0, u64::MAX), Exclusive), None));
    t.lock(&x(2, (0, 9)), Some(ticket(2, 1)));
    t.lock(&lock(1, Ranges, 1, (0, 9), Exclusive), Some(ticket(1, 1)));
    let effects = t.end_session(owner(0).session);
    assert_eq!(effects.granted, [ticket(2, 1)]);
    assert_eq!(effects.changed.len(), 3);
    assert_eq!(t.held().map(|l| l.key.owner).collect::<Vec<_>>(), [owner(2)]);
    assert_eq!(t.waiting().count(), 0);
}

#[test]
fn a_session_has_a_bounded_number_of_locks_and_of_waits() {
    let mut t = Table::new(Limits { held: 3, waiting: 1 });
    for n in 0..3 {
        granted(t.lock(&x(0, (10 * n, 10 * n + 4)), None));
    }
    assert_eq!(t.lock(&x(1, (50, 50)), None).0, Outcome::TooMany, "both are of one session");
    granted(t.lock(&x(2, (50, 50)), None));
    let key = x(0, (0, 0)).key;
    assert!(t.unlock(key, range(2, 2)).is_some(), "one may be split");
    assert!(t.unlock(key, range(12, 12)).is_none(), "no more");
    assert!(t.unlock(key, range(10, 14)).is_some());
    assert_eq!(t.lock(&x(0, (50, 50)), Some(ticket(0, 1))).0, Outcome::Waiting);
    assert_eq!(t.lock(&x(1, (50, 50)), Some(ticket(1, 2))).0, Outcome::TooMany);
    let key = Key { owner: owner(2), ..key };
    t.unlock(key, Range::ALL).unwrap();
    assert_eq!(held(&t, x(0, (0, 0)).key), "0-1x 3-4x 20-24x 50-50x");
}
