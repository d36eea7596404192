//! The owner of the master's state, and the handle by which the shells talk to it.
//!
//! The owner is not a thread of its own but a role: whoever delivers a message takes it on if nobody has it,
//! and then does all that waits, as one group. So a request that comes alone is executed, committed and
//! answered where it was read, without two wake-ups of another thread (which cost as much as the
//! commit); and of many that come at once one does the work of all. Commits block the runtime's thread that
//! they run on; it is never more than one.

mod actor;
mod admin;
mod clients;
mod fsck;
mod leases;
mod locks;
mod operations;
mod state;
mod turn;
mod watchers;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cairn_proto::rpc;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::Status;

use crate::core::cluster::{self, LinkId};
use crate::core::sessions::ConnectionId;

pub(crate) use actor::{Owner, Stopped};
pub(crate) use fsck::Question as FsckQuestion;

/// Messages in a group, about: none is added to so many.
const GROUP: usize = 512;
/// Groups that one caller does in a row, before somebody else has to go on.
const ROUNDS: usize = 8;

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
    /// An administrator steers a chunkserver, or asks how far it is.
    Node(rpc::NodeRequest, oneshot::Sender<Result<rpc::NodeReply, Status>>),
    /// An administrator wants disks verified.
    Scrub(rpc::ScrubRequest, oneshot::Sender<rpc::ScrubReply>),
    /// What counts how much where a new copy's server is chosen; set it, or only say it.
    Weights(Option<rpc::Weights>, oneshot::Sender<rpc::Weights>),
    /// What counts as too much on one chunkserver; set it, or only say it.
    Limits(Option<rpc::Limits>, oneshot::Sender<rpc::Limits>),
    /// For people: who holds and waits for which file locks.
    Locks(oneshot::Sender<rpc::LocksReply>),
    /// Changes of chunkservers' states go here from now on.
    Watch(tokio::sync::mpsc::Sender<rpc::NodeChange>),
    /// Changes of names and files go here from now on.
    WatchFiles(tokio::sync::mpsc::Sender<rpc::FileChange>),
    /// The records are checked.
    Fsck(FsckQuestion),
    /// Time has passed.
    Tick,
    /// End all connections; nothing is done after that.
    Stop,
}

/// Talks to the owner. Cheap to clone.
#[derive(Clone)]
pub struct OwnerHandle {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for OwnerHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OwnerHandle").field("waiting", &self.shared.queue.lock().len()).finish()
    }
}

struct Shared {
    queue: Mutex<VecDeque<Message>>,
    /// Locked by whoever has the role. `None`: it is over, or a turn of it has panicked.
    owner: Mutex<Option<Box<Owner>>>,
    next_id: AtomicU64,
}

impl OwnerHandle {
    /// A handle to an owner.
    pub(crate) fn new(owner: Owner) -> Self {
        let owner = Mutex::new(Some(Box::new(owner)));
        let shared = Shared { queue: Mutex::default(), owner, next_id: AtomicU64::new(1) };
        Self { shared: Arc::new(shared) }
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
        self.shared.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Delivers a message, and does what waits unless somebody else is at it. Messages of one caller
    /// arrive in order.
    pub(crate) fn tell(&self, message: Message) {
        self.shared.queue.lock().push_back(message);
        self.work();
    }

    fn work(&self) {
        for _ in 0..ROUNDS {
            if !self.shared.one_group() {
                return;
            }
        }
        // The caller has its own to do: its connection must not starve for the others.
        let handle = self.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(async move { handle.work() })),
            Err(_) => while handle.shared.one_group() {},
        }
    }
}

impl Shared {
    /// Does one group, if there is one and the role is free. Says whether more waits for this caller.
    fn one_group(&self) -> bool {
        {
            // Whoever has the role looks at the queue again after giving it up, and so sees our message.
            let Some(mut slot) = self.owner.try_lock() else { return false };
            let group = take_group(&mut self.queue.lock());
            // Out of its slot during the turn: should that panic, nobody goes on with what it leaves.
            let Some(owner) = slot.take() else { return false };
            *slot = if group.is_empty() { Some(owner) } else { owner.turn(group) };
        }
        !self.queue.lock().is_empty()
    }
}

/// What is executed and committed together.
fn take_group(queue: &mut VecDeque<Message>) -> Vec<Message> {
    let (mut count, mut weight) = (0, 0);
    for message in queue.iter() {
        if weight >= GROUP {
            break;
        }
        weight += match message {
            Message::Client(_, messages) => messages.len(),
            _ => 1,
        };
        count += 1;
    }
    queue.drain(..count).collect()
}

/// For tests of the shells: what an owner that never comes to its work has been told.
#[cfg(test)]
pub(crate) struct Recorded(Arc<Shared>);

#[cfg(test)]
impl OwnerHandle {
    /// A handle whose messages only pile up.
    pub(crate) fn recorded() -> (Self, Recorded) {
        let shared = Shared { queue: Mutex::default(), owner: Mutex::new(None), next_id: AtomicU64::new(1) };
        let shared = Arc::new(shared);
        std::mem::forget(shared.owner.lock());
        (Self { shared: Arc::clone(&shared) }, Recorded(shared))
    }
}

#[cfg(test)]
impl Recorded {
    /// The next message, if there is one.
    pub(crate) fn try_recv(&self) -> Result<Message, &'static str> {
        self.0.queue.lock().pop_front().ok_or("nothing was said")
    }
}
