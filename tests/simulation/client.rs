//! Clients: they ask as the engine's data path does, and write down how it ended.
//!
//! Mirrors `fuse-client/src/engine/data/{primary,nearest,locations}.rs`; the rule by which an answer is judged is the real
//! one. A mount that is alone remembers locations; one among several asks the master each time.

use crate::executor::{Life, NodeId};
use crate::history::{Kind, Op};
use crate::message::{Answer, Ask, Change, Content, Payload, Reply, Request};
use crate::net::ConnId;
use crate::world::{MASTER, World};
use cairn_chunkserver::core::recent::WriteId;
use cairn_fuse_client::engine::data::core::retry::{self, Outcome, Step};
use cairn_proto::data::Status;
use cairn_proto::rpc::ChunkInfo;
use futures::channel::oneshot;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

const ATTEMPT: u64 = 5_000;
const OUTAGE: u64 = 15_000;
const DIAL: u64 = 1_000;
const WAITS: (u64, u64) = (5, 500);
const HEDGE: u64 = 100;

pub struct Client {
    world: Rc<World>,
    life: Life,
    /// It is the only one.
    exclusive: bool,
    conns: RefCell<BTreeMap<NodeId, ConnId>>,
    known: RefCell<BTreeMap<u64, ChunkInfo>>,
    told: RefCell<BTreeMap<u64, u64>>,
    session: Cell<u64>,
    next_write: Cell<u64>,
    /// Goes up when something is forgotten: answers that were asked for before are not remembered.
    forgotten: Cell<u64>,
}

/// Nobody knows whether it has happened.
struct Unknown;

struct Waits(u64);

impl Client {
    pub fn new(world: &Rc<World>, node: NodeId, exclusive: bool) -> Rc<Self> {
        Rc::new(Self {
            world: world.clone(),
            life: world.exec.life(node),
            exclusive,
            conns: RefCell::default(),
            known: RefCell::default(),
            told: RefCell::default(),
            session: Cell::new(node.into()),
            next_write: Cell::new(0),
            forgotten: Cell::new(0),
        })
    }

    fn id(&self) -> u32 {
        self.life.node
    }

    pub fn session(&self) -> u64 {
        self.session.get()
    }

    pub async fn sleep(&self, ms: u64) {
        self.world.exec.sleep(self.life, ms).await;
    }

    fn pause(&self, waits: &mut Waits) -> u64 {
        let most = (WAITS.0 << waits.0.min(20)).min(WAITS.1);
        waits.0 += 1;
        self.world.rng.borrow_mut().below(most + 1)
    }

    /// The master says that a chunk has changed.
    pub fn told(&self, info: &ChunkInfo) {
        self.learn(info.chunk, info.epoch);
        if let Some(known) = self.known.borrow_mut().get_mut(&info.index)
            && known.chunk == info.chunk
            && known.epoch < info.epoch
        {
            known.clone_from(info);
        }
    }

    fn learn(&self, chunk: u64, epoch: u64) {
        let mut told = self.told.borrow_mut();
        let newest = told.entry(chunk).or_insert(epoch);
        *newest = epoch.max(*newest);
    }

    fn is_outdated(&self, chunk: &ChunkInfo) -> bool {
        self.told.borrow().get(&chunk.chunk).is_some_and(|epoch| *epoch > chunk.epoch)
    }

    async fn call(&self, server: NodeId, request: Request) -> Result<Reply, Outcome> {
        let known = self.conns.borrow().get(&server).copied().filter(|c| self.world.is_open(*c));
        let conn = match known {
            Some(conn) => conn,
            None => {
                let conn = self.world.connect(self.life, server, DIAL).await.ok_or(Outcome::Unreachable)?;
                self.conns.borrow_mut().insert(server, conn);
                conn
            }
        };
        let (tx, rx) = oneshot::channel();
        // The asker may have given up.
        if !self.world.ask(conn, request, move |reply| drop(tx.send(reply))) {
            return Err(Outcome::Unreachable);
        }
        match self.world.exec.timeout(self.life, ATTEMPT, rx).await {
            None => Err(Outcome::TimedOut),
            Some(Ok(Some(reply))) => Ok(reply),
            Some(_) => Err(Outcome::Unreachable),
        }
    }

    async fn ask_master(&self, chunk: u64, epoch: u64, body: Ask) -> Option<(Status, Option<ChunkInfo>)> {
        let request = Request { chunk, epoch, sync: false, body };
        match self.call(MASTER, request).await {
            Ok(Reply { status, body: Answer::Located(info), .. }) => Some((status, info)),
            _ => None,
        }
    }

    /// Where a chunk is. `None`: a hole.
    async fn locate(&self, place: u64, alloc: bool, afresh: bool, waits: &mut Waits) -> Option<ChunkInfo> {
        let known = self.known.borrow().get(&place).cloned();
        if let Some(known) = known.filter(|_| self.exclusive && !afresh) {
            return Some(known);
        }
        loop {
            let before = self.forgotten.get();
            if let Some((Status::Ok, info)) = self.ask_master(0, 0, Ask::Locate { place, alloc }).await {
                self.remember(place, info.as_ref(), before);
                return info;
            }
            self.sleep(self.pause(waits)).await;
        }
    }

    fn remember(&self, place: u64, info: Option<&ChunkInfo>, forgotten_before: u64) {
        let mut known = self.known.borrow_mut();
        match info {
            _ if self.forgotten.get() != forgotten_before => drop(known.remove(&place)),
            None => drop(known.remove(&place)),
            Some(info)
                if known.get(&place).is_some_and(|k| k.chunk == info.chunk && k.epoch > info.epoch) => {}
            Some(info) => drop(known.insert(place, info.clone())),
        }
    }

    /// Has the primary do something, however often that takes.
    async fn until_done(
        &self,
        place: u64,
        alloc: bool,
        body: impl Fn(&ChunkInfo) -> (Ask, bool),
    ) -> Result<(), Unknown> {
        let attempts = async {
            let mut waits = Waits(0);
            let mut asked = self.locate(place, alloc, false, &mut waits).await;
            while let Some(chunk) = asked {
                let step = self.attempt(&chunk, body(&chunk)).await;
                asked = match step {
                    Step::Done => return Ok(()),
                    Step::Fail(_) => return Err(Unknown),
                    Step::Report(_) => {
                        let before = self.forgotten.get();
                        let servers = chunk.in_sync.iter().copied().take(1).collect();
                        match self.ask_master(chunk.chunk, chunk.epoch, Ask::Failed { servers }).await {
                            Some((_, Some(now))) => {
                                self.remember(place, Some(&now), before);
                                Some(now)
                            }
                            _ => self.locate(place, alloc, true, &mut waits).await,
                        }
                    }
                    Step::Wait => {
                        self.sleep(self.pause(&mut waits)).await;
                        self.locate(place, alloc, true, &mut waits).await
                    }
                    Step::Relocate => self.locate(place, alloc, true, &mut waits).await,
                };
                if asked.as_ref().is_some_and(|n| n.epoch == chunk.epoch) && step != Step::Wait {
                    self.sleep(self.pause(&mut waits)).await;
                }
            }
            Ok(())
        };
        self.world.exec.timeout(self.life, OUTAGE, attempts).await.unwrap_or(Err(Unknown))
    }

    async fn attempt(&self, chunk: &ChunkInfo, (body, sync): (Ask, bool)) -> Step {
        let Some(primary) = chunk.in_sync.first() else { return Step::Wait };
        if self.is_outdated(chunk) {
            return Step::Relocate;
        }
        let request = Request { chunk: chunk.chunk, epoch: chunk.epoch, sync, body };
        match self.call(*primary, request).await {
            Ok(reply) => {
                self.answered(chunk, &reply);
                retry::next(Outcome::Answered(reply.status))
            }
            Err(outcome) => retry::next(outcome),
        }
    }

    /// What an answer tells beside what was asked for.
    fn answered(&self, chunk: &ChunkInfo, reply: &Reply) {
        if reply.epoch > chunk.epoch {
            self.learn(chunk.chunk, reply.epoch);
            self.known.borrow_mut().retain(|_, k| k.chunk != chunk.chunk || k.epoch >= reply.epoch);
        }
    }

    pub async fn write(
        self: &Rc<Self>,
        place: u64,
        first: u32,
        data: Option<Vec<Content>>,
        count: u32,
        sync: bool,
    ) {
        self.next_write.set(self.next_write.get() + 1);
        let id = WriteId { session: self.session(), write: self.next_write.get() };
        let alloc = data.is_some();
        let contents = data.clone().unwrap_or_else(|| vec![0; count as usize]);
        let payload = data.map_or(Payload::Zeros(count), Payload::Data);
        let change = Rc::new(Change { id, first, payload });
        let op = self.begin(Kind::Write, place, first, contents, sync);
        let done = self
            .until_done(place, alloc, |chunk| {
                let create = if chunk.epoch == 1 { chunk.in_sync.clone() } else { Vec::new() };
                (Ask::Write { change: change.clone(), create, wanted: chunk.wanted }, sync)
            })
            .await;
        self.end(op, done.is_ok());
        if self.world.sessions.borrow().is_over(id.session) && self.session() == id.session {
            // Writes that are under way still belong to the former one.
            self.session.set(self.world.sessions.borrow_mut().begin());
        }
    }

    pub async fn sync(self: &Rc<Self>, place: u64) {
        let op = self.begin(Kind::Sync, place, 0, Vec::new(), true);
        let done = self.until_done(place, false, |_| (Ask::Sync { local: false }, false)).await;
        self.end(op, done.is_ok());
    }

    /// Turns the whole place into a hole.
    pub async fn drop_chunk(self: &Rc<Self>, place: u64, blocks: u32) {
        let op = self.begin(Kind::Write, place, 0, vec![0; blocks as usize], true);
        let attempts = async {
            let mut waits = Waits(0);
            let Some(chunk) = self.locate(place, false, true, &mut waits).await else { return };
            // Under this chunk's id, so that it is done once, however often it is asked for.
            while self.ask_master(chunk.chunk, 0, Ask::Drop { place }).await.is_none() {
                self.sleep(self.pause(&mut waits)).await;
            }
        };
        let done = self.world.exec.timeout(self.life, OUTAGE, attempts).await;
        self.forgotten.set(self.forgotten.get() + 1);
        self.known.borrow_mut().remove(&place);
        self.end(op, done.is_some());
    }

    pub async fn read(self: &Rc<Self>, place: u64, first: u32, count: u32) -> bool {
        let op = self.begin(Kind::Read, place, first, Vec::new(), false);
        let rounds = self.rounds(place, first, count);
        let read = self.world.exec.timeout(self.life, OUTAGE, rounds).await;
        let done = read.is_some();
        if let Some(contents) = read {
            self.world.history.borrow_mut().ops[op].contents = contents;
        }
        self.end(op, done);
        done
    }

    async fn rounds(self: &Rc<Self>, place: u64, first: u32, count: u32) -> Vec<Content> {
        let mut waits = Waits(0);
        let mut located = self.locate(place, false, false, &mut waits).await;
        loop {
            let Some(chunk) = located else { return vec![0; count as usize] };
            match self.round(&chunk, first, count).await {
                Ok(contents) => return contents,
                Err(unborn) if unborn == chunk.in_sync.len() => return vec![0; count as usize],
                Err(_) => {}
            }
            let pause = self.pause(&mut waits);
            located = self.locate(place, false, true, &mut waits).await;
            if located.as_ref().is_some_and(|now| now.epoch == chunk.epoch) {
                self.sleep(pause).await;
            }
        }
    }

    /// Asks the replicas until one answers as it should; else, how many have never heard of the chunk.
    async fn round(
        self: &Rc<Self>,
        chunk: &ChunkInfo,
        first: u32,
        count: u32,
    ) -> Result<Vec<Content>, usize> {
        let mut unborn = 0;
        let mut order = chunk.in_sync.clone();
        let turn = self.world.rng.borrow_mut().below(order.len() as u64) as usize;
        order.rotate_left(turn);
        let mut late = Vec::new();
        for server in order {
            let mut call = Box::pin(self.clone().read_one(server, chunk.clone(), first, count));
            match self.world.exec.timeout(self.life, HEDGE, &mut call).await {
                Some(Ok(contents)) => return Ok(contents),
                Some(Err(is_unborn)) => unborn += usize::from(is_unborn),
                None => late.push(call),
            }
        }
        while !late.is_empty() {
            let (done, _, rest) = futures::future::select_all(late).await;
            late = rest;
            match done {
                Ok(contents) => return Ok(contents),
                Err(is_unborn) => unborn += usize::from(is_unborn),
            }
        }
        Err(unborn)
    }

    async fn read_one(
        self: Rc<Self>,
        server: u32,
        chunk: ChunkInfo,
        first: u32,
        count: u32,
    ) -> Result<Vec<Content>, bool> {
        let body = Ask::Read { first, count };
        let request = Request { chunk: chunk.chunk, epoch: chunk.epoch, sync: false, body };
        let reply = self.call(server, request).await.map_err(|_| false)?;
        match reply.body {
            Answer::Blocks(data, _) if reply.status == Status::Ok => Ok(data),
            _ => Err(retry::is_unborn(reply.status, reply.epoch as u32)),
        }
    }

    fn begin(&self, kind: Kind, place: u64, first: u32, contents: Vec<Content>, sync: bool) -> usize {
        let (client, start) = (self.id(), self.world.exec.now());
        trace!(self.world, "k{client} begins {kind:?} {place}+{first} {contents:?} sync {sync}");
        self.world.history.borrow_mut().begin(Op { kind, place, first, contents, sync, start, end: None })
    }

    fn end(&self, op: usize, acknowledged: bool) {
        let mut history = self.world.history.borrow_mut();
        if acknowledged {
            history.ops[op].end = Some(self.world.exec.now());
        }
        let Op { kind, place, first, contents, .. } = &history.ops[op];
        let how = if acknowledged { "done" } else { "unknown" };
        trace!(self.world, "k{} {how} {kind:?} {place}+{first} {contents:?}", self.id());
    }
}
