//! The thread that owns the master's state, and the handle by which the shells talk to it.

mod admin;
mod clients;
mod operations;
mod state;
mod thread;
mod turn;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use cairn_proto::rpc;
use tokio::sync::oneshot;
use tonic::Status;

use crate::core::cluster::{self, LinkId};
use crate::core::sessions::ConnectionId;

pub(crate) use thread::{Owner, Stopped};

/// Where messages for a mount's connection go. An error is the last thing sent. When the owner drops it,
/// the stream ends.
#[derive(Debug)]
pub(crate) struct Outbox {
    /// The messages.
    pub(crate) sender: tokio::sync::mpsc::Sender<Result<rpc::MasterMessage, Status>>,
    /// Dropped with the rest: so the task that reads the stream learns that it is over.
    pub(crate) _open: oneshot::Sender<()>,
}

/// What the owner is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something happened in the cluster.
    Cluster(cluster::Event),
    /// A chunkserver's connection stands: commands for it go here.
    Linked(LinkId, tokio::sync::mpsc::Sender<cluster::Down>),
    /// A mount says hello on a new connection.
    Hello(ConnectionId, rpc::Hello, Outbox),
    /// What a mount says after that: all that had arrived together.
    Client(ConnectionId, Vec<rpc::client_message::Msg>),
    /// A mount's connection has ended.
    Gone(ConnectionId),
    /// For people: how everything is.
    Status(oneshot::Sender<rpc::StatusReply>),
    /// For people: where a file's chunks are.
    File(u64, oneshot::Sender<Result<rpc::FileReply, Status>>),
    /// End all connections, then the thread.
    Stop,
}

/// Talks to the owner. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct OwnerHandle {
    queue: mpsc::Sender<Message>,
    next_id: Arc<AtomicU64>,
}

impl OwnerHandle {
    /// A handle, and the queue that its messages arrive on.
    pub(crate) fn new() -> (Self, mpsc::Receiver<Message>) {
        let (queue, messages) = mpsc::channel();
        (Self { queue, next_id: Arc::new(AtomicU64::new(1)) }, messages)
    }

    /// Delivers an event to the cluster core. Events from one caller arrive in order.
    pub fn cluster(&self, event: cluster::Event) {
        self.tell(Message::Cluster(event));
    }

    /// Announces a chunkserver's connection; call it before the `Registered` event that names the link.
    /// When `commands` is full or closed the owner drops it: the shell sees its receiver end, and
    /// closes the stream.
    pub fn link(&self, commands: tokio::sync::mpsc::Sender<cluster::Down>) -> LinkId {
        let id = LinkId(self.fresh_id());
        self.tell(Message::Linked(id, commands));
        id
    }

    /// An id for a connection of a mount.
    pub(crate) fn connection(&self) -> ConnectionId {
        ConnectionId(self.fresh_id())
    }

    fn fresh_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Delivers a message. Those of one caller arrive in order.
    pub(crate) fn tell(&self, message: Message) {
        // The owner ends only with the process: whoever still talks then is about to be stopped.
        let _ = self.queue.send(message);
    }
}
