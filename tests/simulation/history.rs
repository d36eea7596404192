//! What the clients asked for and how it ended. An outcome is acknowledged or unknown, never "failed, so absent".

use crate::executor::Micros;
use crate::message::Content;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Put these contents (0: zeros) into the blocks.
    Write,
    /// The blocks held these contents.
    Read,
    /// Everything acknowledged of the place is to be stable.
    Sync,
}

#[derive(Clone, Debug)]
pub struct Op {
    pub kind: Kind,
    pub place: u64,
    pub first: u32,
    /// One a block: written or read.
    pub contents: Vec<Content>,
    /// A write that is stable when it is acknowledged.
    pub sync: bool,
    pub start: Micros,
    /// When it was acknowledged; `None`: nobody knows whether it happened, or ever will.
    pub end: Option<Micros>,
}

/// All operations of a run, and the moments at which the power failed everywhere.
#[derive(Default)]
pub struct History {
    pub ops: Vec<Op>,
    pub blackouts: Vec<Micros>,
    next: Content,
}

impl History {
    /// A content that was never written.
    pub fn fresh(&mut self) -> Content {
        self.next += 1;
        self.next
    }

    pub fn begin(&mut self, op: Op) -> usize {
        self.ops.push(op);
        self.ops.len() - 1
    }
}
