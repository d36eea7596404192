//! What a driver has to do for a replica.

use super::{Fault, OpId};
use crate::core::recent::WriteId;
use cairn_proto::data::Status;

/// What a driver has to do.
#[derive(Debug, PartialEq, Eq)]
pub enum Effect<W, A> {
    /// Send to these members; each answer comes back as [`super::Event::Answered`].
    Forward {
        /// The operation.
        op: OpId,
        /// To whom.
        to: Vec<u32>,
        /// The write's seq.
        seq: u64,
        /// The write's id.
        id: WriteId,
        /// Whether it has to be made stable.
        sync: bool,
        /// The content.
        write: W,
    },
    /// Apply a write, then [`super::Event::LocalDone`] (once it is stable, if `sync`) or [`super::Event::LocalFault`].
    Apply {
        /// The operation.
        op: OpId,
        /// The write's seq.
        seq: u64,
        /// The write's id.
        id: WriteId,
        /// Whether it has to be made stable.
        sync: bool,
        /// The content.
        write: W,
    },
    /// Send the whole blocks that this write touched, as they are now, to a server that is being brought up to date.
    Mirror {
        /// The operation.
        op: OpId,
        /// To whom.
        to: u32,
        /// Whether it has to be made stable.
        sync: bool,
        /// The content.
        write: W,
    },
    /// Have these members, and this server itself, make the chunk stable.
    SyncAll {
        /// The operation.
        op: OpId,
        /// Who.
        to: Vec<u32>,
    },
    /// As a member: apply a write (once it is stable, if `sync`) and answer; or [`super::Event::LocalFault`].
    Store {
        /// The write's seq.
        seq: u64,
        /// The write's id.
        id: WriteId,
        /// Whether it has to be made stable.
        sync: bool,
        /// The content; `None`: it was applied before.
        write: Option<W>,
        /// Where the answer goes.
        answer: A,
    },
    /// Answer.
    Answer {
        /// Where the answer goes.
        to: A,
        /// How it ended.
        status: Status,
        /// The write's seq, or the chunk's.
        seq: u64,
    },
    /// Record epoch and set.
    Record,
    /// Write down that this replica is in doubt: after a restart it is compared before it is used. What makes it level
    /// ([`super::Event::Compared`], [`super::Event::Leveled`]) has removed the note.
    Suspect,
    /// Tell the master who failed.
    Report {
        /// Who.
        failed: Vec<u32>,
        /// Why (the first of them).
        fault: Fault,
    },
    /// Ask the master to go on without this replica, which has no room: it tells a new epoch, or comes back as
    /// [`super::Event::Stays`].
    HandOver,
    /// Compare the replicas; [`super::Event::Compared`] says how it ended.
    Compare,
    /// Ask the primary to compare this replica with its own.
    AskPrimary,
    /// Stop bringing this server up to date.
    AbortJoin {
        /// Which.
        target: u32,
    },
    /// See whether these members live ([`super::Event::Heard`]).
    Probe {
        /// Who.
        servers: Vec<u32>,
    },
}

/// Effects in the order in which they have to be performed.
pub type Effects<W, A> = Vec<Effect<W, A>>;
