//! One group of messages: what it has changed, and what is to be sent once that is committed.

use std::cell::LazyCell;

use cairn_proto::{ChunkId, rpc};
use tokio::sync::oneshot;
use tonic::Status;

use crate::core::Millis;
use crate::core::cluster::{self, ChunkRecord, ChunkView, Effect, Event, GarbageRecord, LinkId, Unreadable};
use crate::core::keys;
use crate::core::namespace;
use crate::core::records::{ChunkValue, Inode, Moment, ServerValue, decode};
use crate::core::scratch::Scratch;
use crate::core::sessions::ConnectionId;
use crate::core::view::View;
use crate::store::Room;

use super::state::State;

/// Something that leaves when the group is durable. In order.
pub(super) enum Outgoing {
    /// To a mount.
    Mount(ConnectionId, rpc::MasterMessage),
    /// A mount's connection ends.
    CloseMount(ConnectionId, Status),
    /// To a chunkserver.
    Link(LinkId, cluster::Down),
    /// To an administrator.
    Status(oneshot::Sender<rpc::StatusReply>, Box<rpc::StatusReply>),
    /// To an administrator.
    File(oneshot::Sender<Result<rpc::FileReply, Status>>, Result<rpc::FileReply, Status>),
    /// To an administrator.
    Weights(oneshot::Sender<rpc::Weights>, rpc::Weights),
    /// To an administrator.
    Limits(oneshot::Sender<rpc::Limits>, rpc::Limits),
    /// To those who watch.
    Change(rpc::NodeChange),
    /// To those who watch files.
    FileChange(rpc::FileChange),
    /// To an administrator.
    Node(oneshot::Sender<Result<rpc::NodeReply, Status>>, Result<rpc::NodeReply, Status>),
}

/// See [`Turn::room`].
pub(super) type LazyRoom<'a> = LazyCell<(Room, u64), Box<dyn FnOnce() -> (Room, u64) + 'a>>;

/// The group being executed.
pub(super) struct Turn<'a> {
    pub(super) scratch: Scratch<'a>,
    pub(super) out: Vec<Outgoing>,
    /// When it began, on the monotonic clock and on the wall's.
    pub(super) now: Millis,
    pub(super) wall: rpc::Time,
    /// What the store can take, and bytes free: asked of the file system by the first operation that depends on it.
    pub(super) room: LazyRoom<'a>,
}

impl Turn<'_> {
    /// Sends a message to a mount.
    pub(super) fn send(&mut self, to: ConnectionId, msg: rpc::master_message::Msg) {
        self.out.push(Outgoing::Mount(to, rpc::MasterMessage { msg: Some(msg) }));
    }

    /// Sends a reply to a mount.
    pub(super) fn reply(&mut self, to: ConnectionId, reply: rpc::Reply) {
        self.send(to, rpc::master_message::Msg::Reply(reply));
    }

    /// Sends an event to a mount.
    pub(super) fn event(&mut self, to: ConnectionId, id: u64, event: rpc::event::Event) {
        self.send(to, rpc::master_message::Msg::Event(rpc::Event { id, event: Some(event) }));
    }
}

impl State {
    /// Lets the cluster core handle an event, and does what it says.
    pub(super) fn cluster_event(&mut self, turn: &mut Turn<'_>, event: Event) {
        use rand::RngCore;
        let random = &mut || self.random.next_u64();
        let effects =
            self.cluster.handle(turn.now, &Chunks(&turn.scratch, self.identity.chunk_size), event, random);
        for effect in effects {
            self.cluster_effect(turn, effect);
        }
    }

    fn cluster_effect(&mut self, turn: &mut Turn<'_>, effect: Effect) {
        match effect {
            Effect::PutChunk(record) => namespace::put_chunk(&mut turn.scratch, &record),
            Effect::PutServer(record) => {
                let at = Moment::new(turn.now, turn.wall);
                turn.scratch.put(keys::server(record.id), ServerValue::from_record(&record, at).encode());
            }
            Effect::ForgetGarbage(chunk) => turn.scratch.delete(keys::garbage(chunk)),
            Effect::Send { link, command } => turn.out.push(Outgoing::Link(link, Ok(command))),
            Effect::Fenced(session) => {
                let next = &mut turn.scratch.counters.next_session;
                let effects = self.sessions.fenced(turn.now, session, next);
                self.session_effects(turn, effects);
            }
            Effect::Close { link, reason } => turn.out.push(Outgoing::Link(link, Err(reason))),
            Effect::AnswerClient { token, chunk } => {
                if let Some((to, id)) = self.reports.remove(&token) {
                    let chunks =
                        rpc::Chunks { chunks: chunk.into_iter().collect(), ..rpc::Chunks::default() };
                    let result = Some(rpc::reply::Result::Chunks(chunks));
                    turn.reply(to, rpc::Reply { id, result, ..rpc::Reply::default() });
                }
            }
            Effect::TellMounts(chunk) => self.tell_mounts(turn, &rpc::event::Event::Chunk(chunk)),
            Effect::NodeChanged(change) => {
                self.changes += 1;
                turn.out.push(Outgoing::Change(rpc::NodeChange {
                    number: self.changes,
                    info: Some(change.server),
                    from: change.from.message().into(),
                    why: change.why.to_owned(),
                    at: Some(turn.wall),
                }));
            }
            Effect::ServersChanged => {
                let servers = rpc::Servers { servers: self.cluster.servers() };
                self.tell_mounts(turn, &rpc::event::Event::Servers(servers));
            }
        }
    }

    fn tell_mounts(&self, turn: &mut Turn<'_>, event: &rpc::event::Event) {
        for to in self.sessions.connections() {
            turn.event(to, 0, event.clone());
        }
    }
}

/// The chunk table, as the cluster core wants to see it; and the size of a chunk.
struct Chunks<'a>(&'a Scratch<'a>, u64);

impl Chunks<'_> {
    fn collect<T>(
        &self,
        prefix: u8,
        from: &[u8],
        limit: usize,
        read: impl Fn(&[u8], &[u8]) -> Option<T>,
    ) -> Result<Vec<T>, Unreadable> {
        let mut all = Vec::new();
        let scanned = self.0.scan(&[prefix], from, &mut |key, value| {
            match read(key, value) {
                Some(record) => all.push(record),
                None => tracing::error!(?key, "a record of the chunk table is malformed"),
            }
            all.len() < limit
        });
        match scanned {
            Ok(_) => Ok(all),
            Err(e) => {
                tracing::error!("the chunk table cannot be read: {e}");
                Err(Unreadable)
            }
        }
    }
}

impl ChunkView for Chunks<'_> {
    fn chunk(&self, id: ChunkId) -> Result<Option<ChunkRecord>, Unreadable> {
        namespace::chunk_record(self.0, id).map_err(|e| {
            tracing::error!(chunk = id.0, "a chunk's record cannot be read: {e}");
            Unreadable
        })
    }

    fn chunks_from(&self, from: ChunkId, limit: usize) -> Result<Vec<ChunkRecord>, Unreadable> {
        self.collect(keys::CHUNK, &keys::chunk(from), limit, |key, value| {
            let chunk = ChunkId(keys::head_id(key)?);
            Some(decode::<ChunkValue>("a chunk", value).ok()?.into_record(chunk))
        })
    }

    fn bytes_of(&self, record: &ChunkRecord) -> u64 {
        let inode = self.0.get(&keys::inode(record.inode)).ok().flatten();
        let size = inode.and_then(|value| decode::<Inode>("an inode", &value).ok()).map_or(0, |i| i.size);
        size.saturating_sub(record.index.saturating_mul(self.1)).min(self.1)
    }

    fn garbage_from(&self, from: ChunkId, limit: usize) -> Result<Vec<GarbageRecord>, Unreadable> {
        self.collect(keys::GARBAGE, &keys::garbage(from), limit, |key, value| {
            namespace::garbage_record(key, value).ok()
        })
    }
}
