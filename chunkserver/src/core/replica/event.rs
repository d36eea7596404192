//! What happens to a replica.

use super::OpId;
use crate::core::layout::ChunkMeta;
use crate::core::recent::WriteId;

/// Why a member is reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection broke or could not be made.
    Unreachable,
    /// It does not answer.
    Silent,
    /// Its disk is full.
    NoSpace,
    /// Its disk failed.
    Disk,
    /// It refuses: it knows a higher epoch.
    Stale,
}

/// What a member answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberAnswer {
    /// Done.
    Done,
    /// It misses something, or has a bad block: the replicas have to be compared.
    NotLevel,
    /// It has failed.
    Failed(Fault),
}

/// What happens to a replica.
#[derive(Debug)]
pub enum Event<W, A> {
    /// The process has started.
    Start,
    /// A client writes.
    Write {
        /// The write's id.
        id: WriteId,
        /// The epoch that the client knows.
        epoch: u64,
        /// Answer when it is stable.
        sync: bool,
        /// The content.
        write: W,
        /// Where the answer goes.
        answer: A,
    },
    /// A client writes, and there is no room for it here.
    NoRoom {
        /// The epoch that the client knows.
        epoch: u64,
        /// Where the answer goes.
        answer: A,
    },
    /// A client wants everything acknowledged so far to be stable.
    Sync {
        /// The epoch that the client knows.
        epoch: u64,
        /// Where the answer goes.
        answer: A,
    },
    /// A primary forwards a write.
    Forward {
        /// The primary.
        from: u32,
        /// Its epoch and set (its `seq` is the write's).
        meta: ChunkMeta,
        /// The write's id.
        id: WriteId,
        /// Answer when it is stable.
        sync: bool,
        /// The content.
        write: W,
        /// Where the answer goes.
        answer: A,
    },
    /// This server's own part of an operation is done.
    LocalDone {
        /// Which.
        op: OpId,
    },
    /// A write could not be applied here, or a bad block was found.
    LocalFault {
        /// The seq that was not applied; `None`: a block is bad.
        seq: Option<u64>,
        /// `Some`: the disk failed or is full, so others have to go on without this replica.
        fault: Option<Fault>,
    },
    /// A member has answered, or will not any more.
    Answered {
        /// To what.
        op: OpId,
        /// Who.
        server: u32,
        /// What.
        answer: MemberAnswer,
    },
    /// A member gave a sign of life.
    Heard {
        /// Who.
        server: u32,
    },
    /// A new epoch, from the master or a primary.
    Epoch(ChunkMeta),
    /// The master did not drop the members that were reported at this epoch.
    Refused {
        /// The epoch.
        epoch: u64,
    },
    /// The master does not go on without this replica, which has no room.
    Stays {
        /// The epoch at which it was asked.
        epoch: u64,
        /// Not yet: others that have room are to be brought up to date.
        later: bool,
    },
    /// The master wants a server to be brought up to date: every write goes to it from here on.
    Join {
        /// Which.
        target: u32,
    },
    /// It holds everything.
    Joined {
        /// Which.
        target: u32,
    },
    /// It could not be done.
    JoinFailed {
        /// Which.
        target: u32,
    },
    /// Someone found a bad block, or has restarted: the replicas are to be compared.
    Doubt,
    /// The comparison has ended at this epoch: with the members' common seq, or at one that failed.
    Compared {
        /// The epoch at which it was begun.
        epoch: u64,
        /// The seq that all have, or who failed.
        result: Result<u64, (u32, Fault)>,
    },
    /// The primary says that this replica holds everything up to `seq`.
    Leveled {
        /// The primary's seq.
        seq: u64,
    },
    /// Time passes; sent often while anything waits.
    Tick,
}
