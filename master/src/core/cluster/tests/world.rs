//! A store and chunkservers that do what they are told, around a real cluster core.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::digest::replica_hash;
use cairn_proto::{ChunkId, Epoch, InodeId, ServerId, SessionId, rpc};

use super::super::*;
use super::fake::{FakeServer, Replica};

/// Records of chunks and garbage.
#[derive(Default)]
pub struct Store {
    pub chunks: BTreeMap<ChunkId, ChunkRecord>,
    pub garbage: BTreeMap<ChunkId, GarbageRecord>,
    pub servers: BTreeMap<ServerId, ServerRecord>,
    pub chunk_bytes: u64,
    /// Bytes a second that are read of each chunk, from all its members in equal parts.
    pub reads: BTreeMap<ChunkId, u64>,
    /// Reads of chunk records fail.
    pub unreadable: bool,
}

impl ChunkView for Store {
    fn chunk(&self, id: ChunkId) -> Result<Option<ChunkRecord>, Unreadable> {
        if self.unreadable { Err(Unreadable) } else { Ok(self.chunks.get(&id).cloned()) }
    }
    fn chunks_from(&self, from: ChunkId, limit: usize) -> Result<Vec<ChunkRecord>, Unreadable> {
        if self.unreadable {
            return Err(Unreadable);
        }
        Ok(self.chunks.range(from..).take(limit).map(|(_, r)| r.clone()).collect())
    }
    fn bytes_of(&self, _: &ChunkRecord) -> u64 {
        self.chunk_bytes
    }
    fn garbage_from(&self, from: ChunkId, limit: usize) -> Result<Vec<GarbageRecord>, Unreadable> {
        Ok(self.garbage.range(from..).take(limit).map(|(_, r)| r.clone()).collect())
    }
}

pub struct World {
    pub cluster: Cluster,
    pub store: Store,
    pub now: Millis,
    pub fakes: Vec<FakeServer>,
    pub answers: Vec<(Token, Option<rpc::ChunkInfo>)>,
    pub closed: Vec<(LinkId, Refusal)>,
    pub told: Vec<rpc::ChunkInfo>,
    pub replies: Vec<rpc::ChunkReply>,
    pub changes: Vec<NodeChange>,
    /// What a master that starts finds of sessions in the store.
    pub sessions: (Sessions, Vec<SessionId>),
    /// Sessions that are done with.
    pub fenced: Vec<SessionId>,
    seed: u64,
    draws: u64,
    next_link: u64,
    next_chunk: u64,
}

pub const LEASE_MS: u64 = 3_000;

impl World {
    pub fn new(seed: u64, servers: usize) -> Self {
        let settings = Settings { lease_ms: LEASE_MS, ..Settings::default() };
        let mut world = Self {
            cluster: Cluster::new(settings, Vec::new()),
            store: Store::default(),
            now: Millis(1_000),
            fakes: Vec::new(),
            answers: Vec::new(),
            closed: Vec::new(),
            told: Vec::new(),
            replies: Vec::new(),
            changes: Vec::new(),
            sessions: Default::default(),
            fenced: Vec::new(),
            seed,
            draws: 0,
            next_link: 1,
            next_chunk: 1,
        };
        for n in 0..servers {
            world.fakes.push(FakeServer::default());
            world.start(n);
        }
        world.run(300);
        world
    }

    pub fn random(&mut self) -> u64 {
        self.draws += 1;
        replica_hash(self.seed, self.draws)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.random() % bound.max(1) as u64) as usize
    }

    pub fn server(&self, n: usize) -> ServerId {
        ServerId(self.fakes[n].id)
    }

    pub fn by_id(&self, id: u32) -> usize {
        self.fakes.iter().position(|f| f.id == id).unwrap()
    }

    /// The master starts anew from its store.
    pub fn restart_master(&mut self) {
        let settings = Settings { lease_ms: LEASE_MS, ..Settings::default() };
        self.cluster = Cluster::new(settings, self.store.servers.values().cloned().collect());
        let (sessions, over) = self.sessions.clone();
        self.cluster.set_sessions(sessions, over);
        for n in 0..self.fakes.len() {
            self.fakes[n].link = None;
            if self.fakes[n].running {
                self.connect(n);
            }
        }
    }

    /// As above, at a moment when every server has been told everything. (What a former master still owed a
    /// server is not on its disk; see `Server::owed`.)
    pub fn restart_master_gently(&mut self) {
        let owes_nothing = self.cluster.servers.values().all(|s| s.owed.is_empty());
        if owes_nothing && self.fakes.iter().all(|f| f.inbox.is_empty()) {
            self.restart_master();
        }
    }

    pub fn deliver(&mut self, event: Event) {
        let (seed, mut draws) = (self.seed, self.draws);
        let mut random = || {
            draws += 1;
            replica_hash(seed, draws)
        };
        let effects = self.cluster.handle(self.now, &self.store, event, &mut random);
        self.draws = draws;
        for effect in effects {
            self.carry_out(effect);
        }
        for (id, server) in &self.cluster.servers {
            let serving = self.fakes.iter().any(|f| f.id == id.0 && f.running && self.now < f.lease_until);
            assert!(!(server.state == State::Dead && serving), "server {id} is called dead and serves");
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::PutChunk(record) => {
                let before = &self.store.chunks[&record.chunk];
                assert_eq!(record.epoch.0, before.epoch.0 + 1, "{before:?} → {record:?}");
                assert!(record.in_sync.len() >= record.majority(), "{record:?}");
                let distinct: BTreeSet<_> = record.in_sync.iter().collect();
                assert_eq!(distinct.len(), record.in_sync.len(), "{record:?}");
                self.store.chunks.insert(record.chunk, record);
            }
            Effect::PutServer(record) => drop(self.store.servers.insert(record.id, record)),
            Effect::ForgetGarbage(chunk) => {
                // (An old copy elsewhere is found when its server reports it.)
                for server in self.store.garbage.remove(&chunk).unwrap().servers {
                    let fake = &self.fakes[self.by_id(server.0)];
                    assert!(!fake.replicas.contains_key(&chunk.0), "{chunk} is still at {server}");
                }
            }
            Effect::Send { link, command } => {
                if let Some(fake) = self.fakes.iter_mut().find(|f| f.link == Some(link)) {
                    fake.inbox.push_back(command);
                }
            }
            Effect::Close { link, reason } => {
                self.closed.push((link, reason));
                if let Some(fake) = self.fakes.iter_mut().find(|f| f.link == Some(link)) {
                    fake.link = None;
                    fake.inbox.clear();
                }
            }
            Effect::AnswerClient { token, chunk } => self.answers.push((token, chunk)),
            Effect::TellMounts(info) => self.told.push(info),
            Effect::NodeChanged(change) => self.changes.push(change),
            Effect::Fenced(session) => self.fenced.push(session),
            Effect::ServersChanged => {}
        }
    }

    pub fn start(&mut self, n: usize) {
        let incarnation = self.random();
        let fake = &mut self.fakes[n];
        (fake.running, fake.hung, fake.incarnation) = (true, false, incarnation);
        fake.lease_until = Millis(0);
        fake.cut = false;
        self.connect(n);
    }

    pub fn connect(&mut self, n: usize) {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        let fake = &mut self.fakes[n];
        fake.link = Some(link);
        (fake.registered, fake.acked) = (false, false);
        fake.inbox.clear();
        fake.beats.clear();
        let register = rpc::Register {
            id: fake.id,
            cluster_id: if fake.id == 0 { Vec::new().into() } else { vec![0; 16].into() },
            info: Some(rpc::ServerInfo { addr: format!("127.0.0.1:{}", 9000 + n), ..Default::default() }),
            incarnation: fake.incarnation,
            protocol: cairn_proto::PROTOCOL,
            rack: fake.rack.to_owned(),
            ..Default::default()
        };
        self.deliver(Event::Registered { link, register });
    }

    /// As kill -9 does. `seen`: that nothing listens any more is noticed.
    pub fn kill(&mut self, n: usize, seen: bool) {
        self.fakes[n].running = false;
        self.fakes[n].hung = false;
        if let Some(link) = self.disconnect(n)
            && seen
        {
            self.deliver(Event::Refused { link });
        }
    }

    pub fn disconnect(&mut self, n: usize) -> Option<LinkId> {
        let link = self.fakes[n].link.take()?;
        self.fakes[n].inbox.clear();
        self.deliver(Event::Disconnected { link });
        Some(link)
    }

    pub fn beat(&mut self, n: usize) {
        let now = self.now;
        let fake = &mut self.fakes[n];
        let Some(link) = fake.link.filter(|_| fake.running && !fake.hung && !fake.cut && fake.registered)
        else {
            return;
        };
        fake.next_beat += 1;
        fake.due = now.plus(1_000);
        fake.beats.insert(fake.next_beat, now);
        let parts = self.store.reads.iter().filter_map(|(chunk, rate)| {
            let record = self.store.chunks.get(chunk).filter(|r| r.has(ServerId(fake.id)))?;
            Some(rpc::ChunkUse { chunk: chunk.0, read: rate / record.in_sync.len() as u64, written: 0 })
        });
        let hot: Vec<_> = parts.collect();
        let heartbeat = rpc::Heartbeat {
            seq: fake.next_beat,
            use_rate: hot.iter().map(|u| u.read).sum(),
            hot,
            disks: vec![fake.disk(self.store.chunk_bytes)],
            chunks: fake.replicas.len() as u64,
            load_permille: fake.load,
            digest: fake.digest(),
            ..Default::default()
        };
        self.deliver(Event::Heartbeat { link, heartbeat });
    }

    /// A chunk is allocated; `written`: its replicas exist.
    pub fn allocate(&mut self, written: bool) -> Option<ChunkId> {
        let (seed, mut draws) = (self.seed, self.draws);
        let mut random = || {
            draws += 1;
            replica_hash(seed, draws)
        };
        let in_sync = self.cluster.place(3, &mut random).ok()?;
        self.draws = draws;
        let chunk = ChunkId(self.next_chunk);
        self.next_chunk += 1;
        let record = ChunkRecord { chunk, epoch: Epoch(1), in_sync, wanted: 3, inode: InodeId(2), index: 0 };
        self.store.chunks.insert(chunk, record.clone());
        self.deliver(Event::ChunkAllocated(record.clone()));
        if written {
            for fake in &mut self.fakes {
                if fake.running && record.has(ServerId(fake.id)) {
                    fake.replicas.insert(chunk.0, Replica { epoch: 1, in_sync: record.info().in_sync });
                }
            }
        }
        Some(chunk)
    }

    pub fn delete(&mut self, chunk: ChunkId) {
        let record = self.store.chunks.remove(&chunk).unwrap();
        let servers = record.in_sync;
        self.store.garbage.insert(chunk, GarbageRecord { chunk, servers: servers.clone() });
        self.deliver(Event::ChunkDeleted { chunk, servers });
    }

    /// Lets time pass: a tick each 100 ms, heartbeats when they are due.
    pub fn run(&mut self, ms: u64) {
        let end = self.now.plus(ms);
        while self.now < end {
            self.now = self.now.plus(100);
            self.deliver(Event::Tick);
            let due = |n: &usize| self.now >= self.fakes[*n].due;
            let due: Vec<_> = (0..self.fakes.len()).filter(due).collect();
            due.into_iter().for_each(|n| self.beat(n));
            self.settle();
        }
    }
}
