//! What the session core wants done.

use cairn_proto::SessionId;

use super::ConnectionId;
use crate::core::records::Session as Record;

/// What is to be done. Puts and ends must be durable before anything is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Store the session's record.
    Put(SessionId, Record),
    /// The session is over, but what it wrote before may still be on its way: see that chunkservers refuse it, then tell
    /// ([`Sessions::fenced`](super::Sessions::fenced)). Its record is put with it and says so.
    Fence(SessionId),
    /// The session is over: let go what it held, forget it.
    End(SessionId),
    /// Welcome the mount on this connection.
    Welcome {
        /// The connection.
        to: ConnectionId,
        /// Its session.
        session: SessionId,
        /// It may cache everything.
        exclusive: bool,
        /// The session that it asked for is no more.
        renewed: bool,
    },
    /// Tell the exclusive session to write back and stop caching, and to acknowledge `event`.
    Recall {
        /// The connection.
        to: ConnectionId,
        /// The event's id.
        event: u64,
    },
    /// Tell the only session left that it may cache everything.
    Grant {
        /// The connection.
        to: ConnectionId,
    },
    /// End the connection.
    Close {
        /// The connection.
        connection: ConnectionId,
        /// Why.
        reason: Closed,
    },
}

/// Why a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// The session goes on over another connection.
    #[error("the session was resumed over another connection")]
    Replaced,
    /// Nothing was heard for too long.
    #[error("the session has ended: nothing was heard of it for too long")]
    Expired,
    /// The mount said goodbye.
    #[error("goodbye")]
    Goodbye,
}
