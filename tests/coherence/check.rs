//! Whether a history is one that promise 2 allows: each object is a regular register (Lamport, "On interprocess
//! communication", 1986). A read returns what some write left that had begun before the read ended, and that no other write had replaced: one that
//! began after that write was finished, and was itself finished before the read began.
//!
//! A length is one with a twist: it may also be what a write extended the file to, and is never less than what a finished write
//! needs, unless a truncation may have come after it.
//!
//! Values need not be unique: a read is right when there is *a* write that explains it.

use std::collections::BTreeMap;

use crate::history::{Event, Kind, Object, Value};

/// A read that no write explains.
#[derive(Debug)]
pub struct Violation {
    pub read: Event,
    /// The writes whose values it could have returned, the last to end first; a few of them.
    pub allowed: Vec<Event>,
    /// Writes of what it did return, the last to end first; a few of them.
    pub returned: Vec<Event>,
}

const SHOWN: usize = 4;

/// All violations, object by object.
pub fn check(events: &[Event]) -> Vec<Violation> {
    let mut objects: BTreeMap<Object, (Vec<Event>, Vec<Event>)> = BTreeMap::new();
    for event in events {
        let (reads, writes) = objects.entry(event.object).or_default();
        match event.kind {
            Kind::Read => reads.push(*event),
            Kind::Write | Kind::Extend => writes.push(*event),
        }
    }
    objects.into_values().flat_map(|(reads, writes)| check_object(&reads, writes)).collect()
}

fn check_object(reads: &[Event], mut writes: Vec<Event>) -> Vec<Violation> {
    let Some(first) = reads.first().or(writes.first()) else { return Vec::new() };
    let initial =
        Event { kind: Kind::Write, value: Value::Nothing, start: 0, end: 0, what: "the beginning", ..*first };
    writes.push(initial);
    writes.sort_by_key(|w| w.end);
    // The latest beginning among the writes up to here in the order of their ends.
    let mut latest = 0;
    let latest: Vec<u64> = writes
        .iter()
        .map(|w| {
            if w.kind == Kind::Write {
                latest = latest.max(w.start);
            }
            latest
        })
        .collect();
    reads.iter().filter_map(|read| check_read(read, &writes, &latest)).collect()
}

fn check_read(read: &Event, writes: &[Event], latest: &[u64]) -> Option<Violation> {
    let finished = writes.partition_point(|w| w.end < read.start);
    // Whatever ended before this moment has been replaced by the time the read begins.
    let replaced = if finished == 0 { 0 } else { latest[finished - 1] };
    let from = writes.partition_point(|w| w.end < replaced);
    let allowed = || writes[from..].iter().rev().filter(|w| w.start <= read.end);
    if allowed().any(|w| read.value.may_be(w.value)) && !is_cut_short(read, &writes[..finished], allowed()) {
        return None;
    }
    let returned = writes.iter().rev().filter(|w| read.value.may_be(w.value));
    Some(Violation {
        read: *read,
        allowed: allowed().take(SHOWN).copied().collect(),
        returned: returned.take(SHOWN).copied().collect(),
    })
}

/// Finished writes whose ends a length is compared with, those that ended last.
const COMPARED: usize = 200;

/// Whether it is shorter than a write that was `finished` before made it, and no truncation among the `allowed` ones, which may be the last,
/// explains that.
fn is_cut_short<'a>(read: &Event, finished: &[Event], allowed: impl Iterator<Item = &'a Event>) -> bool {
    let length = |value| if let Value::Number(n) = value { n } else { 0 };
    let too_long = |w: &&Event| w.kind == Kind::Extend && length(w.value) > length(read.value);
    let Some(longest) = finished.iter().rev().take(COMPARED).filter(too_long).map(|w| w.start).max() else {
        return false;
    };
    !allowed
        .into_iter()
        .any(|t| t.kind == Kind::Write && t.end >= longest && length(t.value) <= length(read.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: Object = Object::Mode(0);

    fn event(kind: Kind, value: u64, start: u64, end: u64) -> Event {
        let value = if value == 0 { Value::Nothing } else { Value::Number(value) };
        Event { object: OBJECT, kind, value, start, end, by: (0, 0), what: "test" }
    }

    fn write(value: u64, start: u64, end: u64) -> Event {
        event(Kind::Write, value, start, end)
    }

    fn read(value: u64, start: u64, end: u64) -> Event {
        event(Kind::Read, value, start, end)
    }

    #[test]
    fn a_read_returns_the_last_finished_write() {
        assert!(check(&[write(1, 10, 20), read(1, 30, 40)]).is_empty());
        assert_eq!(check(&[write(1, 10, 20), read(0, 30, 40)]).len(), 1, "stale");
        assert_eq!(check(&[write(1, 10, 20), write(2, 30, 40), read(1, 50, 60)]).len(), 1, "stale");
        assert_eq!(check(&[write(1, 30, 40), read(1, 10, 20)]).len(), 1, "from the future");
        assert_eq!(check(&[write(1, 10, 20), read(7, 30, 40)]).len(), 1, "never written");
    }

    #[test]
    fn writes_at_the_same_time_may_count_in_any_order() {
        for value in [1, 2] {
            assert!(check(&[write(1, 10, 30), write(2, 20, 40), read(value, 50, 60)]).is_empty());
        }
        // A read at the time of a write sees either, one before it only the old.
        for value in [0, 1] {
            assert!(check(&[write(1, 10, 30), read(value, 20, 25)]).is_empty());
        }
        assert_eq!(check(&[write(1, 10, 30), write(2, 20, 40), read(0, 45, 50)]).len(), 1);
        // 1 was replaced: 3 began after it had ended, and ended before the read.
        assert_eq!(check(&[write(1, 10, 30), write(2, 20, 60), write(3, 40, 50), read(1, 70, 80)]).len(), 1);
        assert!(check(&[write(1, 10, 30), write(2, 20, 60), write(3, 40, 50), read(2, 70, 80)]).is_empty());
    }

    #[test]
    fn a_write_of_unknown_outcome_counts_at_any_time_or_never() {
        let unknown = write(1, 10, u64::MAX);
        assert!(
            check(&[unknown, read(0, 20, 30), read(1, 40, 50), write(2, 60, 70), read(2, 80, 90)]).is_empty()
        );
        assert!(check(&[unknown, write(2, 60, 70), read(1, 80, 90)]).is_empty());
        assert_eq!(check(&[unknown, read(1, 2, 5)]).len(), 1);
    }

    #[test]
    fn a_length_is_what_the_last_truncation_left_or_a_write_made_of_it() {
        let extend = |length, start, end| event(Kind::Extend, length, start, end);
        assert!(check(&[write(5, 10, 20), extend(9, 30, 40), read(9, 50, 60)]).is_empty());
        assert_eq!(check(&[write(5, 10, 20), extend(9, 30, 40), read(5, 50, 60)]).len(), 1, "too short");
        assert!(check(&[extend(9, 10, 20), extend(7, 30, 40), read(9, 50, 60)]).is_empty());
        assert_eq!(check(&[extend(9, 10, 20), extend(7, 30, 40), read(7, 50, 60)]).len(), 1, "too short");
        assert_eq!(check(&[extend(9, 10, 20), write(3, 30, 40), read(9, 50, 60)]).len(), 1, "back again");
        assert!(check(&[extend(9, 10, 20), write(3, 15, 40), extend(7, 42, 45), read(7, 50, 60)]).is_empty());
        assert!(check(&[extend(9, 10, 30), write(3, 20, 40), read(9, 50, 60)]).is_empty());
        assert!(check(&[extend(9, 10, 30), write(3, 20, 40), read(3, 50, 60)]).is_empty());
    }

    #[test]
    fn what_is_only_known_to_be_there_is_not_nothing() {
        let something = Event { value: Value::Something, ..read(0, 30, 40) };
        assert!(check(&[write(1, 10, 20), something]).is_empty());
        assert_eq!(check(&[write(0, 10, 20), something]).len(), 1);
        let moved = Event { value: Value::Something, ..write(0, 10, 20) };
        assert!(check(&[moved, read(9, 30, 40)]).is_empty());
        assert_eq!(check(&[moved, read(0, 30, 40)]).len(), 1);
    }
}
