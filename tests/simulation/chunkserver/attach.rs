//! Mirrors `node/attach.rs` and `node/master.rs`: the stream to the master.

use super::chunk::{Chunk, Ticket};
use super::join::{self, meta_of};
use super::node::{Node, Question};
use crate::message::{Ask, Message, Request};
use crate::net::ConnId;
use crate::world::MASTER;
use cairn_chunkserver::core::fence::Fence;
use cairn_chunkserver::core::replica::{Event, Fault, Made};
use cairn_master::core::cluster::Down;
use cairn_proto::data::Status;
use cairn_proto::rpc::{
    AddReplica, ChunkInfo, ChunkReply, ChunkReport, CommandDone, Disk, Failure, Heartbeat, MasterCommand,
    Probed, Register, Replica, ReplicaProblem, ServerInfo, master_command::Cmd, server_message::Msg,
};
use futures::channel::oneshot;
use std::collections::VecDeque;
use std::rc::Rc;

const CONNECT: u64 = 3_000;
/// A peer that does not answer within this time is not reached.
const PROBE: u64 = 600;
/// Silence on the stream after which its transport gives it up.
const KEEP_ALIVE: u64 = 3_000;

/// What belongs to one stream.
#[derive(Default)]
pub struct Session {
    beats: VecDeque<(u64, u64)>,
    seq: u64,
    lease_ms: u64,
    heard: u64,
    /// When the next heartbeat is to be sent.
    due: u64,
    registered: Option<oneshot::Sender<u64>>,
}

fn no_room(req: u64, me: u32, chunk: u64, epoch: u64) -> Msg {
    let failure = Failure::NoSpace.into();
    Msg::Problem(ReplicaProblem { req, chunk, epoch, failed: vec![me], failure, hands_over: true })
}

pub async fn keep_attached(node: Rc<Node>) {
    loop {
        if let Some(conn) = node.world.connect(node.life, MASTER, CONNECT).await {
            session(&node, conn).await;
            node.world.close(conn, 0);
            node.attach(None);
        }
        let ms = node.world.rng.borrow_mut().below(100);
        node.sleep(ms).await;
    }
}

async fn session(node: &Rc<Node>, conn: ConnId) {
    let (tx, rx) = oneshot::channel();
    *node.session.borrow_mut() = Session { registered: Some(tx), heard: node.now(), ..Session::default() };
    node.attach(Some(conn));
    let info = ServerInfo { addr: format!("node:{}", node.id), ..ServerInfo::default() };
    node.say(Msg::Register(Register {
        id: node.id,
        cluster_id: vec![0; 16].into(),
        info: Some(info),
        incarnation: u64::from(node.life.number),
        protocol: cairn_proto::PROTOCOL,
        ..Register::default()
    }));
    let Some(Ok(heartbeat_ms)) = node.world.exec.timeout(node.life, CONNECT * 2, rx).await else { return };
    // Before the first heartbeat: its answer, and with it the lease, then comes behind whatever
    // the master has to say about replicas that are behind.
    node.report_replicas();
    while node.link.borrow().conn == Some(conn) && node.world.is_open(conn) {
        if !node.heartbeat() {
            return;
        }
        node.session.borrow_mut().due = node.now() + heartbeat_ms;
        loop {
            let left = node.session.borrow().due.saturating_sub(node.now());
            if left == 0 {
                break;
            }
            // The answer may tell another time.
            node.sleep(left.min(50)).await;
        }
    }
}

/// The stream has ended.
pub fn ended(node: &Rc<Node>, conn: ConnId) {
    if node.link.borrow().conn == Some(conn) {
        node.attach(None);
    }
}

/// The master has said something.
pub fn told(node: &Rc<Node>, conn: ConnId, down: Down) {
    if node.link.borrow().conn != Some(conn) {
        return;
    }
    node.session.borrow_mut().heard = node.now();
    match down {
        Ok(command) => node.command(command),
        Err(_) => {
            node.world.close(conn, 0);
            node.attach(None);
        }
    }
}

impl Node {
    fn attach(&self, conn: Option<ConnId>) {
        let asked = {
            let mut link = self.link.borrow_mut();
            link.conn = conn;
            std::mem::take(&mut link.asked)
        };
        for question in asked.into_values() {
            if let Question::HandOverUnborn(answer) = question {
                self.refuse(answer, Status::Busy, 0);
            }
        }
    }

    fn say(&self, msg: Msg) -> bool {
        let conn = self.link.borrow().conn;
        conn.inspect(|c| self.world.clone().send(*c, 1, Message::Up(msg))).is_some()
    }

    pub fn ask_master(&self, question: Question, msg: impl FnOnce(u64) -> Msg) -> bool {
        let req = {
            let mut link = self.link.borrow_mut();
            link.next += 1;
            link.next
        };
        let sent = self.say(msg(req));
        if sent {
            self.link.borrow_mut().asked.insert(req, question);
        }
        sent
    }

    pub fn report(&self, chunk: &Rc<Chunk>, epoch: u64, failed: Vec<u32>, fault: Fault) {
        trace!(self.world, "s{} c{} reports {failed:?} at {epoch}: {fault:?}", self.id, chunk.id);
        let failure = if fault == Fault::Silent { Failure::TimedOut } else { Failure::Unreachable };
        let (id, failure) = (chunk.id, failure.into());
        self.ask_master(Question::Problem(chunk.clone(), epoch), |req| {
            Msg::Problem(ReplicaProblem { req, chunk: id, epoch, failed, failure, hands_over: false })
        });
    }

    pub fn hand_over(&self, chunk: &Rc<Chunk>, epoch: u64) {
        let (me, id) = (self.id, chunk.id);
        self.ask_master(Question::HandOver(chunk.clone(), epoch), |req| no_room(req, me, id, epoch));
    }

    pub fn hand_over_unborn(&self, chunk: u64, answer: Ticket) {
        let me = self.id;
        if !self.ask_master(Question::HandOverUnborn(answer), |req| no_room(req, me, chunk, 1)) {
            self.refuse(answer, Status::Busy, 0);
        }
    }

    fn heartbeat(&self) -> bool {
        let now = self.now();
        let free_bytes = if self.disk.borrow().full { 0 } else { 1 << 39 };
        let held: Vec<_> = self.chunks.borrow().keys().copied().collect();
        let (use_rate, hot) = self.world.heat.get().told(self.id, &held);
        let beat = {
            let mut s = self.session.borrow_mut();
            let unanswered = s.beats.front().is_some_and(|(_, at)| now - at > s.lease_ms * 3);
            if unanswered || now - s.heard > KEEP_ALIVE {
                return false;
            }
            s.seq += 1;
            let seq = s.seq;
            s.beats.push_back((seq, now));
            Heartbeat {
                seq,
                disks: vec![Disk { total_bytes: 1 << 40, free_bytes, ..Disk::default() }],
                chunks: self.chunks.borrow().len() as u64,
                digest: self.digest(),
                use_rate,
                hot,
                ..Heartbeat::default()
            }
        };
        self.say(Msg::Heartbeat(beat))
    }

    fn report_replicas(&self) {
        let all = self.all_chunks();
        let replicas = all.iter().map(|c| {
            let m = c.replica.borrow();
            Replica { chunk: c.id, epoch: m.epoch(), seq: m.seq(), unclean: !m.is_trusted() }
        });
        self.say(Msg::Report(ChunkReport { replicas: replicas.collect(), first: true, last: true }));
    }

    /// Says whether a peer answers. Mirrors `node/probe.rs`.
    fn probe(self: &Rc<Self>, server: u32) {
        let node = self.clone();
        self.world.exec.spawn(self.life, async move {
            let ping = Request { chunk: 0, epoch: 0, sync: false, body: Ask::Ping };
            let reached = node.call(server, ping, PROBE).await.is_ok();
            node.say(Msg::Probed(Probed { server, reached }));
        });
    }

    fn command(self: &Rc<Self>, command: MasterCommand) {
        let done = match command.cmd {
            Some(Cmd::Registered(r)) => {
                let mut s = self.session.borrow_mut();
                s.lease_ms = u64::from(r.lease_ms);
                if let Some(waiting) = s.registered.take() {
                    // Given up on after the time limit.
                    let _ = waiting.send(u64::from(r.heartbeat_ms));
                }
                return;
            }
            Some(Cmd::Ack(ack)) => {
                self.count_return();
                let mut s = self.session.borrow_mut();
                while let Some((seq, sent_at)) = s.beats.front().copied()
                    && seq <= ack.seq
                {
                    s.beats.pop_front();
                    self.renew_lease(sent_at + s.lease_ms);
                    if seq == s.seq && ack.next_ms > 0 {
                        s.due = sent_at + u64::from(ack.next_ms);
                    }
                }
                return;
            }
            Some(Cmd::ReportWanted(_)) => return self.report_replicas(),
            Some(Cmd::Probe(of)) => return self.probe(of.server),
            Some(Cmd::Chunk(reply)) => return self.answered(reply),
            // Simulated disks are not scrubbed: what is bad on them is found by reading.
            Some(Cmd::Scrub(_)) => Ok(()),
            Some(Cmd::Servers(_)) => {
                self.try_again();
                Ok(())
            }
            Some(Cmd::Sessions(s)) => {
                *self.fence.borrow_mut() = Fence::new(s.below, s.alive);
                Ok(())
            }
            Some(Cmd::SetEpoch(info)) => self.set_epoch(&info),
            Some(Cmd::Delete(list)) => {
                list.chunks.into_iter().for_each(|c| self.delete(c));
                Ok(())
            }
            Some(Cmd::AddReplica(add)) => return self.add_replica(command.id, add),
            None => return,
        };
        self.report_done(command.id, done);
    }

    fn answered(self: &Rc<Self>, reply: ChunkReply) {
        let asked = self.link.borrow_mut().asked.remove(&reply.req);
        match asked {
            None => {}
            Some(Question::CaughtUp(to)) => drop(to.send(reply)),
            Some(Question::Problem(chunk, epoch)) => match reply.chunk {
                Some(info) if info.chunk == chunk.id && info.epoch > epoch => {
                    chunk.handle(self, Event::Epoch(meta_of(&info)));
                }
                Some(info) if info.chunk == 0 => self.delete(chunk.id),
                _ => chunk.handle(self, Event::Refused { epoch }),
            },
            Some(Question::HandOver(chunk, epoch)) => match reply.chunk {
                Some(info) if info.chunk == chunk.id && info.epoch > epoch => {
                    chunk.handle(self, Event::Epoch(meta_of(&info)));
                }
                Some(info) if info.chunk == 0 => self.delete(chunk.id),
                _ => chunk.handle(self, Event::Stays { epoch, later: reply.later }),
            },
            Some(Question::HandOverUnborn(answer)) => match reply.chunk {
                Some(info) if info.epoch != 1 => self.refuse(answer, Status::StaleEpoch, info.epoch),
                _ if reply.later => self.refuse(answer, Status::Busy, 0),
                _ => self.refuse(answer, Status::NoSpace, 0),
            },
        }
    }

    /// With the first lease of a life: what of the replicas needs nothing at all.
    fn count_return(&self) {
        if self.returned.replace(true) {
            return;
        }
        for chunk in self.all_chunks() {
            let m = chunk.replica.borrow();
            match (m.is_member(), m.is_trusted()) {
                (true, true) => self.world.coverage.hit("a replica came back in sync"),
                (true, false) => self.world.coverage.hit("a replica came back to be compared"),
                (false, _) => self.world.coverage.hit("a replica came back that had been dropped"),
            }
        }
    }

    fn report_done(&self, command: u64, done: Result<(), String>) {
        if command != 0 {
            let (ok, detail) = (done.is_ok(), done.err().unwrap_or_default());
            self.say(Msg::Done(CommandDone { command, ok, detail }));
        }
    }

    fn set_epoch(self: &Rc<Self>, info: &ChunkInfo) -> Result<(), String> {
        let chunk = match self.chunk(info.chunk) {
            Some(chunk) => chunk,
            None if info.in_sync.contains(&self.id) => {
                self.deleted.borrow_mut().forget(info.chunk);
                let chunk =
                    self.create(info.chunk, &meta_of(info), Made::InDoubt).map_err(|e| format!("{e:?}"))?;
                chunk.handle(self, Event::Start);
                chunk
            }
            None => return Ok(()),
        };
        chunk.handle(self, Event::Epoch(meta_of(info)));
        Ok(())
    }

    fn add_replica(self: &Rc<Self>, command: u64, add: AddReplica) {
        let node = self.clone();
        self.world.exec.spawn(self.life, async move {
            let info = add.chunk.unwrap_or_default();
            let done = match node.set_epoch(&info).map(|()| node.chunk(info.chunk)) {
                Ok(Some(chunk)) => join::add_replica(&node, &chunk, add.target).await,
                Ok(None) => Err("no such chunk here".into()),
                Err(e) => Err(e),
            };
            trace!(node.world, "s{} c{} join of {}: {done:?}", node.id, info.chunk, add.target);
            node.report_done(command, done);
        });
    }
}
