//! Advisory file locks: who holds which range of which inode, who waits for it, and who would wait for ever.
//!
//! A deterministic state machine without I/O, clock or random source. The master keeps one for all mounts; a mount that is
//! alone keeps its own. Locks of *ranges* are those of `fcntl`, whether they belong to a process or to an open file description:
//! the kernel does not tell a FUSE file system which. `flock` locks are a space of their own: they do not conflict with ranges.
//!
//! A request is granted when no lock of another owner conflicts with it. Those who wait are served in the order of their coming.

mod pieces;
mod table;
#[cfg(test)]
mod tests;
pub mod wire;

pub use table::{Effects, Limits, Outcome, Table};

/// Which of the two spaces of locks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `fcntl`: of a range; a process's or an open file description's.
    Range,
    /// `flock`: of the whole file; an open file description's.
    Flock,
}

/// What a lock lets others do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Others may hold it shared as well.
    Shared,
    /// Nobody else may hold it.
    Exclusive,
}

impl Mode {
    /// Exclusive, or else shared.
    pub fn exclusive(exclusive: bool) -> Self {
        if exclusive { Self::Exclusive } else { Self::Shared }
    }
}

/// Whose lock it is: one per process, or per open file description, of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner {
    /// The mount's session.
    pub session: u64,
    /// The kernel's number for the process or the description.
    pub id: u64,
}

/// Bytes from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Range {
    /// The first byte.
    pub first: u64,
    /// The last byte.
    pub last: u64,
}

impl Range {
    /// Every byte that a file can have.
    pub const ALL: Self = Self { first: 0, last: u64::MAX };

    /// From `first` to `last`, if that is a range.
    pub fn new(first: u64, last: u64) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }

    fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// A lock's place in the table: all that one owner holds of one kind on one inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The inode.
    pub inode: u64,
    /// The kind.
    pub kind: Kind,
    /// The owner.
    pub owner: Owner,
}

/// A lock: held, waited for, or asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lock {
    /// Of what, whose.
    pub key: Key,
    /// Which bytes.
    pub range: Range,
    /// How.
    pub mode: Mode,
    /// The process that asked for it, for people.
    pub pid: u32,
}

/// Names a waiting request within its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket {
    /// The session.
    pub session: u64,
    /// Its own number for it; not used again before it has been answered.
    pub number: u64,
}
