mod random;
mod rules;

use crate::{Effects, Key, Kind, Lock, Mode, Outcome, Owner, Range, Table, Ticket};

pub(super) fn owner(n: u64) -> Owner {
    // Two owners a session.
    Owner { session: n / 2, id: n % 2 }
}

pub(super) fn lock(inode: u64, kind: Kind, who: u64, range: (u64, u64), mode: Mode) -> Lock {
    let key = Key { inode, kind, owner: owner(who) };
    Lock { key, range: Range::new(range.0, range.1).unwrap(), mode, pid: who as u32 }
}

pub(super) fn ticket(who: u64, number: u64) -> Ticket {
    Ticket { session: owner(who).session, number }
}

/// What is held of one inode by one owner, as text: "0-4x 5-9s".
pub(super) fn held(table: &Table, key: Key) -> String {
    let text = |l: Lock| {
        let mode = if l.mode == Mode::Exclusive { 'x' } else { 's' };
        format!("{}-{}{mode}", l.range.first, l.range.last)
    };
    table.held_at(key).map(text).collect::<Vec<_>>().join(" ")
}

pub(super) fn granted(outcome: (Outcome, Effects)) -> Effects {
    assert_eq!(outcome.0, Outcome::Granted);
    outcome.1
}
