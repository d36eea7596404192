//! What the cluster core is told.

use cairn_proto::{ChunkId, Epoch, ServerId, SessionId, rpc};

use super::{ChunkRecord, Order, Sessions};

/// A connection of a chunkserver, from its first message to its end. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// Names a client's question, so that the answer finds its way back. The core only hands it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A chunkserver's first message on a new connection.
    Registered {
        /// The connection.
        link: LinkId,
        /// What it said.
        register: rpc::Register,
    },
    /// A chunkserver is alive.
    Heartbeat {
        /// The connection that it came on.
        link: LinkId,
        /// What it said.
        heartbeat: rpc::Heartbeat,
    },
    /// A piece of the full list of a chunkserver's replicas.
    Report {
        /// The connection that it came on.
        link: LinkId,
        /// The piece.
        report: rpc::ChunkReport,
    },
    /// A replica is to be dropped from an in-sync set.
    Problem {
        /// The connection that it came on.
        link: LinkId,
        /// What was said.
        problem: rpc::ReplicaProblem,
    },
    /// A replica may be taken into an in-sync set.
    CaughtUp {
        /// The connection that it came on.
        link: LinkId,
        /// What was said.
        caught_up: rpc::CaughtUp,
    },
    /// A second opinion on another chunkserver.
    Probed {
        /// The connection that it came on.
        link: LinkId,
        /// What was said.
        probed: rpc::Probed,
    },
    /// A command has been carried out, or has failed.
    Done {
        /// The connection that it came on.
        link: LinkId,
        /// What was said.
        done: rpc::CommandDone,
    },
    /// A chunkserver's connection has ended, for whatever reason.
    Disconnected {
        /// The connection.
        link: LinkId,
    },
    /// After the connection ended, nothing listens at the chunkserver's data address any more: its
    /// process is gone, and its lease need not be waited for.
    Refused {
        /// The connection that had ended.
        link: LinkId,
    },
    /// A client could not use a replica.
    ClientReport {
        /// Goes into the answer.
        token: Token,
        /// The chunk.
        chunk: ChunkId,
        /// The epoch that the client knows.
        epoch: Epoch,
        /// Those that could not be used.
        servers: Vec<ServerId>,
        /// What was seen.
        failure: rpc::Failure,
    },
    /// The namespace has put a new chunk.
    ChunkAllocated(ChunkRecord),
    /// The namespace has turned a chunk into garbage.
    ChunkDeleted {
        /// Its id.
        chunk: ChunkId,
        /// The servers that were in its in-sync set.
        servers: Vec<ServerId>,
    },
    /// A mount's session is over; its writes are to be refused from now on.
    SessionOver {
        /// Which.
        session: SessionId,
        /// Those whose writes count, as it is now.
        sessions: Sessions,
    },
    /// An administrator orders something for a chunkserver.
    Ordered {
        /// The chunkserver.
        server: ServerId,
        /// What.
        order: Order,
    },
    /// Time has passed. Expected every 100 ms or so; at least every second.
    Tick,
}
