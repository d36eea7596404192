//! What the cluster core wants done.
//!
//! The puts of an event must be durable before anything else of that event (and of later ones) is carried
//! out: what was sent or answered must survive the master. The puts must be in the [`ChunkView`](super::ChunkView)
//! before the next event is handled. Sends to one link keep their order.

use cairn_proto::{ChunkId, SessionId, rpc};

use super::{ChunkRecord, LinkId, NodeChange, ServerRecord, Token};

/// Something to be done.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Store the chunk's new record.
    PutChunk(ChunkRecord),
    /// Store the chunkserver's record.
    PutServer(ServerRecord),
    /// Remove the garbage record of this chunk: nobody holds it any more.
    ForgetGarbage(ChunkId),
    /// Send a command to the chunkserver on this connection.
    Send {
        /// The connection.
        link: LinkId,
        /// The command.
        command: rpc::MasterCommand,
    },
    /// No chunkserver takes this session's writes any more.
    Fenced(SessionId),
    /// End the connection, telling the chunkserver why: the last thing to go down it.
    Close {
        /// The connection.
        link: LinkId,
        /// Why.
        reason: Refusal,
    },
    /// Answer [`Event::ClientReport`](super::Event::ClientReport).
    AnswerClient {
        /// From the event.
        token: Token,
        /// The chunk as it stands now; `None`: it is deleted.
        chunk: Option<rpc::ChunkInfo>,
    },
    /// Tell every mount the chunk's new epoch and set.
    TellMounts(rpc::ChunkInfo),
    /// A chunkserver's state has changed: tell those who watch.
    NodeChanged(NodeChange),
    /// The list of chunkservers, or the state of one, changed: tell every mount
    /// [`Cluster::servers`](super::Cluster::servers). (The chunkservers are told by `Send`s.)
    ServersChanged,
}

/// What goes down a chunkserver's connection: commands, and perhaps at last why it ends.
pub type Down = Result<rpc::MasterCommand, Refusal>;

/// Why a chunkserver's connection is refused or ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It belongs to another cluster.
    #[error("this chunkserver's data belongs to another cluster: {theirs}, not {ours}")]
    OtherCluster {
        /// The master's, in hexadecimal.
        ours: String,
        /// The chunkserver's, in hexadecimal.
        theirs: String,
    },
    /// It has an id, but no cluster that gave it.
    #[error("chunkserver id {0} was given without a cluster id: its data directory is damaged")]
    IdWithoutCluster(u32),
    /// Another process with this id is connected.
    #[error("chunkserver {0} is already connected from {1}: is its data directory served twice?")]
    Twice(u32, String),
    /// It speaks another version.
    #[error("protocol version {0}, expected {expected}", expected = cairn_proto::PROTOCOL)]
    Protocol(u32),
    /// No more ids.
    #[error("too many chunkservers (most: {0})")]
    TooMany(usize),
    /// The message holds something that cannot be.
    #[error("bad message: {0}")]
    Bad(&'static str),
    /// The same chunkserver has connected again.
    #[error("replaced by a newer connection")]
    Replaced,
    /// A message on a connection that is none.
    #[error("not registered")]
    NotRegistered,
}
