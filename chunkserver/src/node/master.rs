//! What is said to the master, and its answers to single questions.

use super::answer::Answer;
use super::chunk::{Chunk, ChunkEvent};
use super::state::Node;
use super::wire;
use crate::core::layout::ChunkMeta;
use crate::core::replica::{Event, Fault};
use cairn_proto::data::Status;
use cairn_proto::rpc::{CaughtUp, ChunkReply, ReplicaProblem, ServerMessage, server_message::Msg};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// The stream to the master, when there is one.
#[derive(Default)]
pub struct MasterLink {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    out: Option<mpsc::Sender<ServerMessage>>,
    next: u64,
    asked: HashMap<u64, Question>,
}

enum Question {
    /// About members that failed, at an epoch.
    Problem(Arc<Chunk>, u64),
    /// Whether a chunk's set may go on without this server, which has no room; at an epoch.
    HandOver(Arc<Chunk>, u64),
    /// The same of a chunk that has no replica here yet, at epoch 1: the client waits.
    HandOverUnborn(Answer),
    CaughtUp(oneshot::Sender<ChunkReply>),
    /// Nobody waits for the answer.
    Told,
}

/// Messages that may wait for the stream.
pub const WAITING: usize = 4096;

impl MasterLink {
    /// A new stream (or none). Questions that were asked on the old one are not answered any more.
    pub fn attach(&self, out: Option<mpsc::Sender<ServerMessage>>) {
        let mut inner = self.inner.lock();
        inner.out = out;
        let asked = std::mem::take(&mut inner.asked);
        drop(inner);
        for question in asked.into_values() {
            if let Question::HandOverUnborn(answer) = question {
                answer.refuse(Status::Busy, 0, "the connection to the master has ended");
            }
        }
    }

    /// Says something; false: there is no stream, or it is clogged.
    pub fn say(&self, msg: Msg) -> bool {
        let inner = self.inner.lock();
        inner.out.as_ref().is_some_and(|out| out.try_send(ServerMessage { msg: Some(msg) }).is_ok())
    }

    /// An error: there is no stream, or it is clogged; the question comes back.
    fn ask(&self, question: Question, msg: impl FnOnce(u64) -> Msg) -> Result<(), Question> {
        let mut inner = self.inner.lock();
        inner.next += 1;
        let req = inner.next;
        let message = ServerMessage { msg: Some(msg(req)) };
        if inner.out.as_ref().is_some_and(|out| out.try_send(message).is_ok()) {
            inner.asked.insert(req, question);
            return Ok(());
        }
        Err(question)
    }

    /// Reports members of a chunk. Without a stream nothing happens: the chunk will report again.
    pub fn report(&self, node: &Node, chunk: &Arc<Chunk>, epoch: u64, failed: Vec<u32>, fault: Fault) {
        let _ = node;
        let failure = wire::failure(fault).into();
        let id = chunk.id;
        let _ = self.ask(Question::Problem(chunk.clone(), epoch), |req| {
            Msg::Problem(ReplicaProblem { req, chunk: id, epoch, failed, failure, hands_over: false })
        });
    }

    /// Reports that this server cannot make a replica of a new chunk, whose primary it is to be.
    pub fn report_unborn(&self, me: u32, chunk: u64, epoch: u64, fault: Fault) {
        let failure = wire::failure(fault).into();
        let _ = self.ask(Question::Told, |req| {
            Msg::Problem(ReplicaProblem { req, chunk, epoch, failed: vec![me], failure, hands_over: false })
        });
    }

    /// Asks for the chunk's set to go on without this server, which has no room. Without a stream nothing happens: the client
    /// comes again.
    pub fn hand_over(&self, chunk: &Arc<Chunk>, me: u32, epoch: u64) {
        let _ = self.ask(Question::HandOver(chunk.clone(), epoch), |req| no_room(req, me, chunk.id, epoch));
    }

    /// The same for a chunk of which this server was to make the first replica; the client is answered.
    pub fn hand_over_unborn(&self, me: u32, chunk: u64, answer: Answer) {
        let asked = self.ask(Question::HandOverUnborn(answer), |req| no_room(req, me, chunk, 1));
        if let Err(Question::HandOverUnborn(answer)) = asked {
            answer.refuse(Status::Busy, 0, "there is no connection to the master");
        }
    }

    /// Says that a server holds all of a chunk; the answer comes through the channel.
    pub fn caught_up(&self, chunk: u64, epoch: u64, server: u32) -> Option<oneshot::Receiver<ChunkReply>> {
        let (tx, rx) = oneshot::channel();
        self.ask(Question::CaughtUp(tx), |req| Msg::CaughtUp(CaughtUp { req, chunk, epoch, server }))
            .is_ok()
            .then_some(rx)
    }

    /// Takes an answer.
    pub fn answered(&self, node: &Arc<Node>, reply: ChunkReply) {
        let asked = self.inner.lock().asked.remove(&reply.req);
        match asked {
            None | Some(Question::Told) => {}
            Some(Question::HandOver(chunk, epoch)) => match reply.chunk {
                Some(info) if info.chunk == chunk.id && info.epoch > epoch => {
                    chunk.handle(node, epoch_event(&info));
                }
                Some(info) if info.chunk == 0 => node.delete(chunk.id),
                _ => chunk.handle(node, Event::Stays { epoch, later: reply.later }),
            },
            Some(Question::HandOverUnborn(answer)) => match reply.chunk {
                Some(info) if info.epoch != 1 => answer.refuse(Status::StaleEpoch, info.epoch, "handed over"),
                _ if reply.later => answer.refuse(Status::Busy, 0, &reply.detail),
                _ => answer.refuse(Status::NoSpace, 0, &reply.detail),
            },
            Some(Question::CaughtUp(to)) => {
                // Whoever asked may have given up.
                let _ = to.send(reply);
            }
            Some(Question::Problem(chunk, epoch)) => {
                if !reply.detail.is_empty() {
                    tracing::info!(chunk = chunk.id, "the master says: {}", reply.detail);
                }
                match reply.chunk {
                    Some(info) if info.chunk == chunk.id && info.epoch > epoch => {
                        chunk.handle(node, epoch_event(&info));
                    }
                    Some(info) if info.chunk == 0 => node.delete(chunk.id),
                    _ => chunk.handle(node, Event::Refused { epoch }),
                }
            }
        }
    }
}

fn no_room(req: u64, me: u32, chunk: u64, epoch: u64) -> Msg {
    let failure = wire::failure(Fault::NoSpace).into();
    Msg::Problem(ReplicaProblem { req, chunk, epoch, failed: vec![me], failure, hands_over: true })
}

/// A chunk's record as an event.
pub fn epoch_event(info: &cairn_proto::rpc::ChunkInfo) -> ChunkEvent {
    Event::Epoch(meta(info))
}

/// A chunk's record as the disk keeps it.
pub fn meta(info: &cairn_proto::rpc::ChunkInfo) -> ChunkMeta {
    let (epoch, in_sync, wanted) = (info.epoch, info.in_sync.clone(), info.wanted);
    ChunkMeta { epoch, in_sync, wanted, ..ChunkMeta::default() }
}
