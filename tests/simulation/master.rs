//! The master: the real cluster core over a store in memory whose commits take time.
//!
//! Mirrors `master/src/owner` (one event after the other; what an event puts is durable before anything
//! else of it happens), `master/src/shell/{attach,attach_probe}.rs` and, of the namespace, only which chunk is at which place.

use crate::branches::{self, States};
use crate::coverage;
use crate::executor::{Life, NodeId};
use crate::message::{Answer, Ask, Message, Reply, Request};
use crate::net::ConnId;
use crate::world::{MASTER, Machine, World};
use cairn_master::core::Millis;
use cairn_master::core::cluster::{
    ChunkRecord, ChunkView, Cluster, Effect, Event, GarbageRecord, Limits, LinkId, Order, ServerRecord,
    Sessions, Settings, Token, Unreadable,
};
use cairn_proto::data::Status;
use cairn_proto::rpc::{ChunkInfo, Failure, server_message::Msg};
use cairn_proto::{ChunkId, Epoch, InodeId, ServerId, SessionId};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

const TICK: u64 = 100;
/// Silence after which the transport gives a connection up.
const KEEP_ALIVE: u64 = 3_000;
/// Replicas of unknown chunks are deleted after so long, so that runs are long enough for it.
const STRANGERS: u64 = 8_000;
/// So is what is used too much told from what is so for a moment.
const SUSTAINED: u32 = 1_500;
const PAUSES: [u64; 8] = [10, 40, 50, 200, 300, 400, 1_000, 1_000];

#[derive(Clone, Default)]
pub struct Store {
    pub chunks: BTreeMap<ChunkId, ChunkRecord>,
    pub garbage: BTreeMap<ChunkId, GarbageRecord>,
    pub servers: BTreeMap<ServerId, ServerRecord>,
    pub places: BTreeMap<u64, ChunkId>,
    next_chunk: u64,
}

enum Put {
    Chunk(ChunkRecord),
    Server(ServerRecord),
    Place(u64, ChunkRecord),
    Garbage(u64, GarbageRecord),
    ForgetGarbage(ChunkId),
}

impl Store {
    fn put(&mut self, put: &Put) {
        match put {
            Put::Chunk(r) => drop(self.chunks.insert(r.chunk, r.clone())),
            Put::Server(r) => drop(self.servers.insert(r.id, r.clone())),
            Put::Place(place, r) => {
                self.next_chunk = r.chunk.0;
                self.places.insert(*place, r.chunk);
                self.chunks.insert(r.chunk, r.clone());
            }
            Put::Garbage(place, g) => {
                self.places.remove(place);
                self.chunks.remove(&g.chunk);
                self.garbage.insert(g.chunk, g.clone());
            }
            Put::ForgetGarbage(chunk) => drop(self.garbage.remove(chunk)),
        }
    }
}

impl ChunkView for Store {
    fn chunk(&self, id: ChunkId) -> Result<Option<ChunkRecord>, Unreadable> {
        Ok(self.chunks.get(&id).cloned())
    }
    fn chunks_from(&self, from: ChunkId, limit: usize) -> Result<Vec<ChunkRecord>, Unreadable> {
        Ok(self.chunks.range(from..).take(limit).map(|(_, r)| r.clone()).collect())
    }
    fn bytes_of(&self, _: &ChunkRecord) -> u64 {
        1 << 20
    }
    fn garbage_from(&self, from: ChunkId, limit: usize) -> Result<Vec<GarbageRecord>, Unreadable> {
        Ok(self.garbage.range(from..).take(limit).map(|(_, r)| r.clone()).collect())
    }
}

/// What happens once the puts before it are durable.
enum Out {
    Effect(Effect),
    Reply(ConnId, u32, Reply),
}

/// One life of the master.
pub struct Master {
    world: Rc<World>,
    life: Life,
    cluster: RefCell<Cluster>,
    /// What the store holds and what is about to be committed.
    view: RefCell<Store>,
    links: RefCell<BTreeMap<LinkId, ConnId>>,
    heard: RefCell<BTreeMap<ConnId, u64>>,
    mounts: RefCell<BTreeSet<ConnId>>,
    questions: RefCell<BTreeMap<Token, (ConnId, u32)>>,
    next: Cell<u64>,
    committed_at: Cell<u64>,
    states: States,
}

impl Master {
    pub fn start(world: &Rc<World>) -> Rc<Self> {
        let store = world.store.borrow().clone();
        let copies = world.config.copies;
        let settings = Settings { copies, stranger_grace_ms: STRANGERS, ..Settings::default() };
        let mut cluster = Cluster::new(settings, store.servers.values().cloned().collect());
        cluster.set_limits(Limits { sustained_ms: SUSTAINED, ..Limits::default() });
        if let Some((sessions, over)) = world.sessions.borrow().stored() {
            cluster.set_sessions(sessions, over);
        }
        let life = world.exec.life(MASTER);
        let master = Rc::new(Self {
            world: world.clone(),
            life,
            cluster: RefCell::new(cluster),
            view: RefCell::new(store),
            links: RefCell::default(),
            heard: RefCell::default(),
            mounts: RefCell::default(),
            questions: RefCell::default(),
            // Links and tokens of different lives are never mixed up.
            next: Cell::new(u64::from(life.number) << 32),
            committed_at: Cell::new(0),
            states: States::default(),
        });
        world.exec.spawn(life, master.clone().tick());
        master
    }

    fn now(&self) -> u64 {
        self.world.exec.clock(MASTER)
    }

    fn number(&self) -> u64 {
        self.next.set(self.next.get() + 1);
        self.next.get()
    }

    async fn tick(self: Rc<Self>) {
        loop {
            self.world.exec.sleep(self.life, TICK).await;
            let now = self.now();
            let heard = self.heard.borrow();
            let silent: Vec<_> =
                heard.iter().filter(|(_, at)| now - **at > KEEP_ALIVE).map(|(c, _)| *c).collect();
            drop(heard);
            for conn in silent {
                self.world.close(conn, 1);
                self.ended(conn);
            }
            self.handle(Event::Tick, Vec::new(), Vec::new());
        }
    }

    /// Has the core handle an event; `first` is put before, `then` happens after.
    fn handle(self: &Rc<Self>, event: Event, mut puts: Vec<Put>, then: Vec<Out>) {
        let kind = coverage::cluster_event(&event);
        self.world.coverage.hit(kind);
        puts.iter().for_each(|p| self.view.borrow_mut().put(p));
        let effects = {
            let mut random = || self.world.rng.borrow_mut().next();
            let view = self.view.borrow();
            self.cluster.borrow_mut().handle(Millis(self.now()), &*view, event, &mut random)
        };
        let mut out = Vec::new();
        for effect in effects {
            self.world.coverage.hit(coverage::cluster_effect(&effect));
            self.count(kind, &effect);
            let put = match effect {
                Effect::PutChunk(r) => Put::Chunk(r),
                Effect::PutServer(r) => Put::Server(r),
                Effect::ForgetGarbage(c) => Put::ForgetGarbage(c),
                other => {
                    out.push(Out::Effect(other));
                    continue;
                }
            };
            self.view.borrow_mut().put(&put);
            puts.push(put);
        }
        branches::standing(&self.cluster.borrow(), &self.world.coverage);
        out.extend(then);
        self.commit(puts, out);
    }

    /// What an effect tells of the branch that was taken.
    fn count(&self, event: &str, effect: &Effect) {
        let coverage = &self.world.coverage;
        let view = self.view.borrow();
        match effect {
            Effect::NodeChanged(change) => {
                coverage.hit(change.why);
                self.states.changed(change);
            }
            Effect::PutChunk(after) => {
                if let Some(before) = view.chunks.get(&after.chunk) {
                    coverage.hit(self.states.set_changed(event, before, after));
                }
            }
            Effect::Send { command, .. } => {
                if let Some(cmd) = &command.cmd {
                    self.states.sent(&view, cmd, coverage);
                }
            }
            _ => {}
        }
    }

    fn commit(self: &Rc<Self>, puts: Vec<Put>, out: Vec<Out>) {
        if puts.is_empty() && out.is_empty() {
            return;
        }
        let delay = if puts.is_empty() { 0 } else { self.world.rng.borrow_mut().between(60, 2_000) };
        let now = self.world.exec.now();
        let at = self.committed_at.get().max(now + delay);
        self.committed_at.set(at);
        let master = self.clone();
        self.world.exec.after(at - now, self.life, move || {
            puts.iter().for_each(|p| master.store(p));
            out.into_iter().for_each(|o| master.perform(o));
        });
    }

    fn store(&self, put: &Put) {
        if let Put::Chunk(r) = put {
            trace!(self.world, "m c{} epoch {} {:?}", r.chunk, r.epoch, r.in_sync);
            let before = self.world.store.borrow().chunks.get(&r.chunk).cloned();
            self.world.record_changed(before.as_ref(), r);
        }
        self.world.store.borrow_mut().put(put);
    }

    fn perform(self: &Rc<Self>, out: Out) {
        match out {
            Out::Reply(conn, id, reply) => self.world.send(conn, 0, Message::Reply(id, reply)),
            Out::Effect(Effect::Send { link, command }) => {
                if let Some(conn) = self.links.borrow().get(&link) {
                    self.world.send(*conn, 0, Message::Down(Ok(command)));
                }
            }
            Out::Effect(Effect::Close { link, reason }) => {
                let conn = self.links.borrow().get(&link).copied();
                if let Some(conn) = conn {
                    self.world.send(conn, 0, Message::Down(Err(reason)));
                    self.world.close(conn, 1);
                    self.ended(conn);
                }
            }
            Out::Effect(Effect::AnswerClient { token, chunk }) => {
                if let Some((conn, id)) = self.questions.borrow_mut().remove(&token) {
                    self.world.send(conn, 0, Message::Reply(id, located(Status::Ok, chunk)));
                }
            }
            Out::Effect(Effect::TellMounts(info)) => {
                for conn in self.mounts.borrow().iter() {
                    self.world.send(*conn, 0, Message::Tell(info.clone()));
                }
            }
            Out::Effect(Effect::Fenced(session)) => {
                trace!(self.world, "m {session} is fenced");
                self.world.sessions.borrow_mut().fenced(session.0);
            }
            Out::Effect(_) => {}
        }
    }

    /// A connection has ended.
    pub fn ended(self: &Rc<Self>, conn: ConnId) {
        self.mounts.borrow_mut().remove(&conn);
        self.heard.borrow_mut().remove(&conn);
        let link = self.links.borrow().iter().find(|(_, c)| **c == conn).map(|(l, _)| *l);
        let Some(link) = link else { return };
        self.links.borrow_mut().remove(&link);
        self.handle(Event::Disconnected { link }, Vec::new(), Vec::new());
        if let Some(server) = self.world.dialler(conn) {
            self.world.exec.spawn(self.life, self.clone().watch_for_return(link, server));
        }
    }

    async fn watch_for_return(self: Rc<Self>, link: LinkId, server: NodeId) {
        for pause in PAUSES {
            self.world.exec.sleep(self.life, pause).await;
            if self.world.machine(server) == Machine::Stopped && self.world.reaches(MASTER, server) {
                return self.handle(Event::Refused { link }, Vec::new(), Vec::new());
            }
        }
    }

    /// A chunkserver has said something.
    pub fn up(self: &Rc<Self>, conn: ConnId, msg: Msg) {
        self.heard.borrow_mut().insert(conn, self.now());
        let known = self.links.borrow().iter().find(|(_, c)| **c == conn).map(|(l, _)| *l);
        let event = match (msg, known) {
            (Msg::Register(register), None) => {
                let link = LinkId(self.number());
                self.links.borrow_mut().insert(link, conn);
                Event::Registered { link, register }
            }
            (Msg::Heartbeat(heartbeat), Some(link)) => Event::Heartbeat { link, heartbeat },
            (Msg::Report(report), Some(link)) => Event::Report { link, report },
            (Msg::Problem(problem), Some(link)) => Event::Problem { link, problem },
            (Msg::Done(done), Some(link)) => Event::Done { link, done },
            (Msg::Probed(probed), Some(link)) => Event::Probed { link, probed },
            (Msg::CaughtUp(caught_up), Some(link)) => Event::CaughtUp { link, caught_up },
            _ => return,
        };
        self.handle(event, Vec::new(), Vec::new());
    }

    /// An administrator orders something.
    pub fn ordered(self: &Rc<Self>, server: NodeId, order: Order) {
        self.handle(Event::Ordered { server: ServerId(server), order }, Vec::new(), Vec::new());
    }

    /// A client's session is over.
    pub fn session_over(self: &Rc<Self>, session: SessionId, sessions: Sessions) {
        self.handle(Event::SessionOver { session, sessions }, Vec::new(), Vec::new());
    }

    /// A client asks.
    pub fn asked(self: &Rc<Self>, conn: ConnId, id: u32, request: Request) {
        self.mounts.borrow_mut().insert(conn);
        match request.body {
            Ask::Locate { place, alloc } => self.locate(conn, id, place, alloc),
            Ask::Failed { servers } => {
                let token = Token(self.number());
                self.questions.borrow_mut().insert(token, (conn, id));
                let servers = servers.into_iter().map(ServerId).collect();
                let (chunk, epoch) = (ChunkId(request.chunk), Epoch(request.epoch));
                let failure = Failure::Unreachable;
                let event = Event::ClientReport { token, chunk, epoch, servers, failure };
                self.handle(event, Vec::new(), Vec::new());
            }
            Ask::Drop { place } => {
                let done = Out::Reply(conn, id, located(Status::Ok, None));
                let record = self.record_at(place).filter(|r| r.chunk.0 == request.chunk);
                let Some(r) = record else { return self.commit(Vec::new(), vec![done]) };
                trace!(self.world, "m {} dropped", r.chunk);
                let garbage = GarbageRecord { chunk: r.chunk, servers: r.in_sync.clone() };
                let event = Event::ChunkDeleted { chunk: r.chunk, servers: r.in_sync };
                self.handle(event, vec![Put::Garbage(place, garbage)], vec![done]);
            }
            _ => {}
        }
    }

    fn record_at(&self, place: u64) -> Option<ChunkRecord> {
        let view = self.view.borrow();
        view.places.get(&place).and_then(|c| view.chunks.get(c)).cloned()
    }

    fn locate(self: &Rc<Self>, conn: ConnId, id: u32, place: u64, alloc: bool) {
        if let Some(r) = self.record_at(place) {
            return self.commit(Vec::new(), vec![Out::Reply(conn, id, located(Status::Ok, Some(r.info())))]);
        }
        if !alloc {
            return self.commit(Vec::new(), vec![Out::Reply(conn, id, located(Status::Ok, None))]);
        }
        let copies = self.world.config.copies;
        let placed = {
            let mut random = || self.world.rng.borrow_mut().next();
            self.cluster.borrow().place(copies, &mut random)
        };
        let Ok(in_sync) = placed else {
            return self.commit(Vec::new(), vec![Out::Reply(conn, id, located(Status::NotServing, None))]);
        };
        let chunk = ChunkId(self.view.borrow().next_chunk + 1);
        let epoch = Epoch(1);
        let record = ChunkRecord { chunk, epoch, in_sync, wanted: copies, inode: InodeId(2), index: place };
        trace!(self.world, "m {chunk} allocated at {place}: {:?}", record.in_sync);
        let reply = Out::Reply(conn, id, located(Status::Ok, Some(record.info())));
        self.handle(Event::ChunkAllocated(record.clone()), vec![Put::Place(place, record)], vec![reply]);
    }
}

fn located(status: Status, chunk: Option<ChunkInfo>) -> Reply {
    Reply { status, epoch: 0, body: Answer::Located(chunk) }
}
