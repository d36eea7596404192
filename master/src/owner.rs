//! The thread that owns the master's state, and the handle by which the shells talk to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use crate::core::cluster::{self, LinkId};

/// What the owner is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// Something happened in the cluster.
    Cluster(cluster::Event),
    /// A chunkserver's connection stands: commands for it go here.
    Linked(LinkId, tokio::sync::mpsc::Sender<cluster::Down>),
}

/// Talks to the owner. Cheap to clone; never blocks.
#[derive(Clone, Debug)]
pub struct OwnerHandle {
    queue: mpsc::Sender<Message>,
    next_link: Arc<AtomicU64>,
}

impl OwnerHandle {
    /// Delivers an event to the cluster core. Events from one caller arrive in order.
    pub fn cluster(&self, event: cluster::Event) {
        self.tell(Message::Cluster(event));
    }

    /// Announces a chunkserver's connection; call it before the `Registered` event that names the link.
    /// When `commands` is full or closed the owner drops it: the shell sees its receiver end, and
    /// closes the stream.
    pub fn link(&self, commands: tokio::sync::mpsc::Sender<cluster::Down>) -> LinkId {
        let id = LinkId(self.next_link.fetch_add(1, Ordering::Relaxed));
        self.tell(Message::Linked(id, commands));
        id
    }

    fn tell(&self, message: Message) {
        // The owner ends only with the process: whoever still talks then is about to be stopped.
        let _ = self.queue.send(message);
    }
}
