//! A cluster for tests: chunkservers that speak the data wire from memory, and the master's word on chunks.
//! All replicas of a chunk are one array, with its stable image beside it; faults are injected per server.

use crate::engine::data::{ChunkService, DataConfig, DataPath};
use crate::engine::error::FsError;
use cairn_proto::block::BLOCK;
use cairn_proto::rpc::{ChunkInfo, Failure, Neighbour, ServerInfo};
use cairn_proto::{ChunkId, Epoch, InodeId, ServerId};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;

pub const CLUSTER: [u8; 16] = [7; 16];
pub const CHUNK: u64 = 64 << 10;
pub const SERVERS: u32 = 3;

#[derive(Default)]
pub struct State {
    pub chunks: HashMap<u64, Chunk>,
    pub places: HashMap<(u64, u64), u64>,
    pub faults: Faults,
    pub counts: HashMap<&'static str, u64>,
    pub reports: Vec<(u32, Failure)>,
    pub connections: HashMap<u32, Vec<AbortHandle>>,
}

#[derive(Clone)]
pub struct Chunk {
    pub info: ChunkInfo,
    pub data: Vec<u8>,
    pub stable: Vec<u8>,
    pub blocks: BTreeSet<u32>,
    pub ids: HashSet<(u64, u64)>,
}

#[derive(Default)]
pub struct Faults {
    /// Connections are closed.
    pub down: HashSet<u32>,
    /// Requests are not answered.
    pub silent: HashSet<u32>,
    pub delay: HashMap<u32, Duration>,
    /// Reads carry a flipped bit.
    pub corrupt: HashSet<u32>,
    pub full: bool,
    /// There is no room for what is written from this offset of a chunk on.
    pub full_from: Option<u32>,
    /// Probability of a passing fault with each request.
    pub random: f64,
    pub rng: Option<StdRng>,
}

impl Faults {
    pub fn roll(&mut self) -> Option<u32> {
        let p = self.random;
        let rng = self.rng.get_or_insert_with(|| StdRng::seed_from_u64(1));
        rng.random_bool(p).then(|| rng.random_range(0..100))
    }
}

#[derive(Clone)]
pub struct Cluster {
    pub state: Arc<Mutex<State>>,
    pub servers: Vec<ServerInfo>,
}

impl Cluster {
    pub async fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let mut servers = Vec::new();
        for id in 1..=SERVERS {
            let addr = super::server::start(id, state.clone()).await;
            servers.push(ServerInfo { id, addr: addr.to_string(), ..Default::default() });
        }
        Self { state, servers }
    }

    pub fn path(&self, change: impl FnOnce(&mut DataConfig)) -> Arc<DataPath> {
        let mut config = DataConfig {
            chunk_size: CHUNK,
            session: 9,
            cluster: CLUSTER,
            memory: 4 << 20,
            flush_delay: Duration::from_millis(40),
            outage: Duration::from_secs(10),
            ..DataConfig::default()
        };
        change(&mut config);
        let path = DataPath::new(config, Arc::new(self.clone()), tokio::runtime::Handle::current());
        path.set_servers(self.servers.clone());
        path
    }

    pub fn count(&self, what: &'static str) -> u64 {
        self.state.lock().counts.get(what).copied().unwrap_or(0)
    }

    pub fn set_down(&self, server: u32, down: bool) {
        let mut s = self.state.lock();
        if down {
            s.faults.down.insert(server);
            s.connections.remove(&server).unwrap_or_default().iter().for_each(AbortHandle::abort);
        } else {
            s.faults.down.remove(&server);
            // It has caught up and is taken in again.
            for chunk in s.chunks.values_mut().filter(|c| !c.info.in_sync.contains(&server)) {
                chunk.info.in_sync.push(server);
                chunk.info.epoch += 1;
            }
        }
    }

    /// What a crash of all servers would leave.
    pub fn stable(&self, inode: u64, size: usize) -> Vec<u8> {
        let s = self.state.lock();
        let mut file = vec![0; size];
        for ((_, index), id) in s.places.iter().filter(|((i, _), _)| *i == inode) {
            let start = (*index * CHUNK) as usize;
            if start < size {
                let n = (size - start).min(CHUNK as usize);
                file[start..start + n].copy_from_slice(&s.chunks[id].stable[..n]);
            }
        }
        file
    }

    /// What the master does for DropChunks.
    pub fn drop_chunks(&self, inode: u64, indexes: Range<u64>) {
        let mut s = self.state.lock();
        let gone: Vec<_> =
            s.places.keys().filter(|(i, x)| *i == inode && indexes.contains(x)).copied().collect();
        for place in gone {
            if let Some(id) = s.places.remove(&place) {
                s.chunks.remove(&id);
            }
        }
    }
}

impl State {
    fn fail(&mut self, chunk: u64, epoch: u64, server: u32, failure: Failure) -> Option<ChunkInfo> {
        self.reports.push((server, failure));
        let gone = self.faults.down.contains(&server) || self.faults.silent.contains(&server);
        let c = self.chunks.get_mut(&chunk)?;
        if gone && c.info.epoch == epoch && c.info.in_sync.len() > 2 {
            c.info.in_sync.retain(|s| *s != server);
            c.info.epoch += 1;
        }
        Some(c.info.clone())
    }
}

impl ChunkService for Cluster {
    fn get_chunks(
        &self,
        inode: InodeId,
        from: u64,
        count: u32,
    ) -> BoxFuture<'_, Result<Vec<ChunkInfo>, FsError>> {
        let s = self.state.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut s = s.lock();
            *s.counts.entry("get_chunks").or_default() += 1;
            let here = |(i, x): &(u64, u64)| *i == inode.0 && (from..from + u64::from(count)).contains(x);
            let found = s.places.iter().filter(|(p, _)| here(p)).map(|(_, id)| s.chunks[id].info.clone());
            Ok(found.collect())
        })
    }

    fn neighbours(&self, after: InodeId, count: u32) -> BoxFuture<'_, Result<Vec<Neighbour>, FsError>> {
        let s = self.state.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut s = s.lock();
            *s.counts.entry("neighbours").or_default() += 1;
            let mut places: Vec<_> = s.places.iter().filter(|((i, x), _)| *i > after.0 && *x == 0).collect();
            places.sort_unstable();
            let neighbour = |id: &u64| {
                let chunk = s.chunks.get(id);
                let blocks = chunk.and_then(|c| c.blocks.last()).map_or(0, |b| b + 1);
                let size = u64::from(blocks) * BLOCK as u64;
                Neighbour { chunk: chunk.map(|c| c.info.clone()), size }
            };
            Ok(places.iter().take(count as usize).map(|(_, id)| neighbour(id)).collect())
        })
    }

    fn alloc_chunks(
        &self,
        inode: InodeId,
        from: u64,
        count: u32,
    ) -> BoxFuture<'_, Result<Vec<ChunkInfo>, FsError>> {
        let s = self.state.clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            let mut s = s.lock();
            *s.counts.entry("alloc_chunks").or_default() += 1;
            let mut result = Vec::new();
            for index in from..from + u64::from(count) {
                let next = s.counts.entry("ids").or_default();
                *next += 1;
                let id = *next;
                let id = *s.places.entry((inode.0, index)).or_insert(id);
                let first = (id % u64::from(SERVERS)) as u32;
                let in_sync = (0..SERVERS).map(|i| (first + i) % SERVERS + 1).collect();
                let info = ChunkInfo { chunk: id, epoch: 1, in_sync, wanted: 3, inode: inode.0, index };
                let zeros = vec![0; CHUNK as usize];
                let chunk = s.chunks.entry(id).or_insert_with(|| Chunk {
                    info,
                    data: zeros.clone(),
                    stable: zeros,
                    blocks: BTreeSet::new(),
                    ids: HashSet::new(),
                });
                result.push(chunk.info.clone());
            }
            Ok(result)
        })
    }

    fn replica_failed(
        &self,
        chunk: ChunkId,
        epoch: Epoch,
        servers: Vec<ServerId>,
        failure: Failure,
    ) -> BoxFuture<'_, Result<ChunkInfo, FsError>> {
        let s = self.state.clone();
        Box::pin(async move {
            let mut s = s.lock();
            servers
                .iter()
                .map(|server| s.fail(chunk.0, epoch.0, server.0, failure))
                .last()
                .flatten()
                .ok_or(FsError::Stale)
        })
    }
}
