//! Connections to chunkservers, dialled on demand: to each one for small requests, and one for bulk in each direction.

use super::core::latency::Latency;
use super::core::retry::Outcome;
use bytes::Bytes;
use cairn_proto::backoff::Breaker;
use cairn_proto::data::{CallError, Client, Endpoint, Header, Preamble, Reply};
use cairn_proto::rpc::ServerInfo;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CONNECT: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
const MOST_BACKOFF: Duration = Duration::from_secs(1);

/// All chunkservers known.
pub(super) struct Peers {
    servers: RwLock<HashMap<u32, Arc<Peer>>>,
    cluster: [u8; 16],
    session: AtomicU64,
    boot_id: String,
}

/// One chunkserver.
pub(super) struct Peer {
    id: u32,
    info: ServerInfo,
    endpoint: Endpoint,
    lanes: [Connection; 3],
    outstanding: AtomicUsize,
    health: Mutex<Health>,
}

/// Which of a peer's connections: a synced 4 KiB write does not wait behind megabytes. Nothing in flight depends on
/// the order between two requests, so they may overtake each other.
#[derive(Clone, Copy, Debug)]
pub(super) enum Lane {
    Small = 0,
    BulkWrite = 1,
    BulkRead = 2,
}

/// Requests up to so many bytes are small.
const SMALL: usize = 64 << 10;

impl Lane {
    /// For a write of `len` bytes (0: a sync).
    pub fn for_write(len: usize) -> Self {
        if len <= SMALL { Self::Small } else { Self::BulkWrite }
    }

    /// For a read of `len` bytes.
    pub fn for_read(len: usize) -> Self {
        if len <= SMALL { Self::Small } else { Self::BulkRead }
    }
}

#[derive(Default)]
struct Connection {
    client: Mutex<Option<Arc<Client>>>,
    dial: tokio::sync::Mutex<()>,
}

struct Health {
    /// Of attempts to connect.
    breaker: Breaker,
    suspect_until: Option<Instant>,
    latency: Latency,
}

impl Peers {
    pub fn new(cluster: [u8; 16], session: u64, boot_id: String) -> Self {
        Self { servers: RwLock::default(), cluster, session: session.into(), boot_id }
    }

    pub fn session(&self) -> u64 {
        self.session.load(Ordering::Relaxed)
    }

    /// Later connections say this session.
    pub fn set_session(&self, session: u64) {
        if self.session.swap(session, Ordering::Relaxed) != session {
            for peer in self.servers.read().values() {
                peer.lanes.iter().for_each(|l| drop(l.client.lock().take()));
            }
        }
    }

    /// Replaces the list; connections to servers whose address is the same stay. Those that could not be reached may be back, so
    /// they are tried again.
    pub fn set_servers(&self, list: Vec<ServerInfo>) {
        let mut servers = self.servers.write();
        let mut old = std::mem::take(&mut *servers);
        for info in list {
            let same = |p: &Arc<Peer>| {
                p.info.addr == info.addr
                    && p.info.unix_path == info.unix_path
                    && p.info.boot_id == info.boot_id
            };
            let peer = match old.remove(&info.id).filter(same) {
                Some(peer) => {
                    peer.health.lock().breaker.try_again();
                    peer
                }
                None => Arc::new(Peer::new(info, &self.boot_id)),
            };
            servers.insert(peer.id, peer);
        }
    }

    pub fn get(&self, server: u32) -> Option<Arc<Peer>> {
        self.servers.read().get(&server).cloned()
    }

    /// Asks a server and waits for its answer, at most `limit` each for connecting and for the answer.
    pub async fn call(
        &self,
        peer: &Peer,
        lane: Lane,
        header: Header,
        meta: &[u8],
        data: Bytes,
        limit: Duration,
    ) -> Result<Reply, Outcome> {
        let lane = &peer.lanes[lane as usize];
        let client = match lane.ready() {
            Some(client) => client,
            None => self.dial(peer, lane).await?,
        };
        let _counted = Outstanding::new(&peer.outstanding);
        let started = Instant::now();
        let reply = client.call(header, meta, data, limit).await;
        match reply {
            Ok(reply) => {
                let micros = started.elapsed().as_micros().min(u128::from(u32::MAX)) as u32;
                peer.health.lock().latency.record(micros);
                Ok(reply)
            }
            Err(CallError::TimedOut) => {
                peer.suspect(limit);
                Err(Outcome::TimedOut)
            }
            Err(e) => {
                tracing::debug!(server = peer.id, "request failed: {e}");
                Err(Outcome::Unreachable)
            }
        }
    }

    async fn dial(&self, peer: &Peer, lane: &Connection) -> Result<Arc<Client>, Outcome> {
        if peer.is_broken() {
            return Err(Outcome::Unreachable);
        }
        let _one = lane.dial.lock().await;
        if let Some(client) = lane.ready() {
            return Ok(client);
        }
        if peer.is_broken() {
            return Err(Outcome::Unreachable);
        }
        let me = Preamble::client(self.cluster, self.session());
        let mut result = Client::connect(&peer.endpoint, me, peer.id, CONNECT).await;
        let tcp = Endpoint::Tcp(peer.info.addr.clone());
        if matches!(result, Err(CallError::Connect(_))) && peer.endpoint != tcp {
            // A socket file that is gone or of another file system name space.
            result = Client::connect(&tcp, me, peer.id, CONNECT).await;
        }
        let mut health = peer.health.lock();
        match result {
            Ok(client) => {
                health.breaker.succeeded();
                let client = Arc::new(client);
                *lane.client.lock() = Some(client.clone());
                Ok(client)
            }
            Err(e) => {
                let delay = health.breaker.failed(Instant::now(), rand::random());
                tracing::debug!(server = peer.id, ?delay, "cannot connect: {e}");
                Err(Outcome::Unreachable)
            }
        }
    }
}

impl Peer {
    fn new(info: ServerInfo, boot_id: &str) -> Self {
        Self {
            id: info.id,
            endpoint: Endpoint::nearest(&info, boot_id),
            info,
            lanes: Default::default(),
            outstanding: AtomicUsize::new(0),
            health: Mutex::new(Health {
                breaker: Breaker::new(FIRST_BACKOFF, MOST_BACKOFF),
                suspect_until: None,
                latency: Latency::default(),
            }),
        }
    }

    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn is_local(&self) -> bool {
        matches!(self.endpoint, Endpoint::Unix(_))
    }

    pub fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    /// The circuit breaker is open.
    pub fn is_broken(&self) -> bool {
        !self.health.lock().breaker.allows(Instant::now())
    }

    pub fn is_suspect(&self) -> bool {
        self.health.lock().suspect_until.is_some_and(|until| Instant::now() < until)
    }

    /// For so long others are asked first.
    pub fn suspect(&self, time: Duration) {
        self.health.lock().suspect_until = Some(Instant::now() + time);
    }

    /// The 95th percentile of its last answers.
    pub fn p95(&self) -> Duration {
        Duration::from_micros(self.health.lock().latency.p95().into())
    }
}

impl Connection {
    fn ready(&self) -> Option<Arc<Client>> {
        self.client.lock().as_ref().filter(|c| !c.is_lost()).cloned()
    }
}

/// Counts a request until it is dropped.
struct Outstanding<'a>(&'a AtomicUsize);

impl<'a> Outstanding<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
