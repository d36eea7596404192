//! What was done to each object, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::exclusion::Locked;

/// Something that holds one value at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Object {
    /// Bytes `index × CELL` to `(index + 1) × CELL` of a file; beyond its end they count as zeros.
    Cell { file: usize, index: usize },
    /// Which inode a name of the directory leads to.
    Name(usize),
    /// The permissions of a file.
    Mode(usize),
    /// The modification time of a file that nobody writes to, nanoseconds.
    Time(usize),
    /// An extended attribute of a file.
    Attribute(usize),
    /// The size of a file that is only ever truncated, bytes.
    Size(usize),
    /// The size of a file that is written to and truncated, bytes.
    Length(usize),
    /// How many times a record is in the file that it was appended to.
    Record { file: u64, number: u64 },
}

/// What an object holds or is found to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// Zeros, no such name, no such attribute. Every object begins so, unless it was written to.
    Nothing,
    Number(u64),
    /// Something, but it is not known what: a name that somebody renamed an unknown inode to; a name that existed.
    Something,
}

impl Value {
    /// Whether a reader that was told `self` may have met what a writer left as `written`.
    pub fn may_be(self, written: Value) -> bool {
        match (self, written) {
            (Value::Nothing, Value::Nothing) => true,
            (Value::Nothing, _) | (_, Value::Nothing) => false,
            (Value::Something, _) | (_, Value::Something) => true,
            (Value::Number(a), Value::Number(b)) => a == b,
        }
    }
}

/// One effect of an operation on one object, or one thing that it learned of it. Times are nanoseconds since the run's beginning.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    pub object: Object,
    pub kind: Kind,
    pub value: Value,
    pub start: u64,
    /// `u64::MAX`: it is not known whether it was carried out, nor when.
    pub end: u64,
    /// Who did it: mount and thread.
    pub by: (usize, usize),
    /// What it was, for people.
    pub what: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Read,
    Write,
    /// Of a length: a write that ended there. It makes the file longer or changes nothing.
    Extend,
}

/// The time and the numbers that a run's threads share.
#[derive(Clone)]
pub struct Clock {
    began: Instant,
    next: Arc<AtomicU64>,
}

impl Clock {
    pub fn new() -> Self {
        Self { began: Instant::now(), next: Arc::new(AtomicU64::new(1)) }
    }

    pub fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// Never given twice, never 0.
    pub fn unique(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// One thread's part of the history.
pub struct Recorder {
    pub clock: Clock,
    pub by: (usize, usize),
    pub events: Vec<Event>,
    pub locked: Locked,
}

impl Recorder {
    pub fn new(clock: Clock, by: (usize, usize)) -> Self {
        Self { clock, by, events: Vec::new(), locked: Locked::default() }
    }

    /// An operation that began at `start` and has just ended learned this.
    pub fn read(&mut self, what: &'static str, object: Object, value: Value, start: u64) {
        self.add(what, object, Kind::Read, value, (start, self.clock.now()));
    }

    /// An operation that began at `start` and has just ended well did this.
    pub fn wrote(&mut self, what: &'static str, object: Object, value: Value, start: u64) {
        self.add(what, object, Kind::Write, value, (start, self.clock.now()));
    }

    /// An operation that began at `start` wrote up to here; it is not `known` whether, if it failed.
    pub fn extended(&mut self, what: &'static str, object: Object, length: u64, start: u64, known: bool) {
        let end = if known { self.clock.now() } else { u64::MAX };
        self.add(what, object, Kind::Extend, Value::Number(length), (start, end));
    }

    /// An operation that began at `start` failed, and may have done this, or may yet do it.
    pub fn may_have_written(&mut self, what: &'static str, object: Object, value: Value, start: u64) {
        self.add(what, object, Kind::Write, value, (start, u64::MAX));
    }

    fn add(
        &mut self,
        what: &'static str,
        object: Object,
        kind: Kind,
        value: Value,
        (start, end): (u64, u64),
    ) {
        self.events.push(Event { object, kind, value, start, end, by: self.by, what });
    }
}
