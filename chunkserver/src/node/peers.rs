//! Connections to the other chunkservers: one each, so that what is sent about a chunk stays in order.

use super::clock::now;
use crate::core::Millis;
use bytes::Bytes;
use cairn_proto::backoff::Breaker;
use cairn_proto::data::{CallError, Client, Endpoint, Frame, Header, Preamble, Reply};
use cairn_proto::rpc::ServerInfo;
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

type Then = Box<dyn FnOnce(Option<Frame>) + Send>;

/// A frame that waits for the connection.
struct Waiting {
    header: Header,
    meta: Vec<u8>,
    data: Bytes,
    then: Then,
}

/// A peer.
struct Peer {
    state: Mutex<State>,
    /// Of attempts to connect.
    breaker: Mutex<Breaker>,
    /// When it last answered anything.
    heard: AtomicU64,
}

enum State {
    Down,
    Dialling(Vec<Waiting>),
    Up(Arc<Client>),
}

/// All other chunkservers.
pub struct Peers {
    me: Preamble,
    boot_id: String,
    handle: Handle,
    dial_limit: Duration,
    known: Mutex<BTreeMap<u32, ServerInfo>>,
    peers: Mutex<HashMap<u32, Arc<Peer>>>,
}

/// A peer that could not be reached is left alone for so long: at first, and at most.
const FIRST_DOWN: Duration = Duration::from_millis(50);
const MOST_DOWN: Duration = Duration::from_secs(1);
/// How often the master's list is looked at for a server that is not in it.
const UNKNOWN: Duration = Duration::from_millis(5);
/// Frames that may wait for a connection.
const WAITING: usize = 4096;

impl Peers {
    /// Nobody is known yet.
    pub fn new(me: Preamble, boot_id: String, dial_limit: Duration) -> Self {
        Self {
            me,
            boot_id,
            handle: Handle::current(),
            dial_limit,
            known: Mutex::default(),
            peers: Mutex::default(),
        }
    }

    /// Takes over the master's list. A connection to a server that has moved ends by itself; one that could not be reached may be
    /// back, so it is tried again.
    pub fn set_servers(&self, servers: Vec<ServerInfo>) {
        *self.known.lock() = servers.into_iter().map(|s| (s.id, s)).collect();
        self.peers.lock().values().for_each(|p| p.breaker.lock().try_again());
    }

    /// Sends a frame behind all those sent before to this server; `then` gets the answer, in a reading task,
    /// or `None` when the connection is lost. False: it cannot be sent, `then` is not called.
    pub fn send(
        self: &Arc<Self>,
        server: u32,
        header: Header,
        meta: &[u8],
        data: Bytes,
        then: impl FnOnce(Option<Frame>) + Send + 'static,
    ) -> bool {
        let peer = self.peer(server);
        let mut s = peer.state.lock();
        let answered = peer.clone();
        let then = move |frame: Option<Frame>| {
            if frame.is_some() {
                answered.heard.store(now(), Ordering::Relaxed);
            }
            then(frame);
        };
        if let State::Up(client) = &*s
            && !client.is_lost()
        {
            return client.start_then(header, meta, data, then);
        }
        match &*s {
            State::Down if !peer.breaker.lock().allows(Instant::now()) => return false,
            State::Dialling(w) if w.len() >= WAITING => return false,
            State::Dialling(_) => {}
            _ => {
                *s = State::Dialling(Vec::new());
                self.handle.spawn(self.clone().dial(server, peer.clone()));
            }
        }
        if let State::Dialling(w) = &mut *s {
            w.push(Waiting { header, meta: meta.to_vec(), data, then: Box::new(then) });
        }
        true
    }

    fn peer(&self, server: u32) -> Arc<Peer> {
        let new = || {
            let breaker = Mutex::new(Breaker::new(FIRST_DOWN, MOST_DOWN));
            Arc::new(Peer { state: Mutex::new(State::Down), breaker, heard: AtomicU64::new(0) })
        };
        self.peers.lock().entry(server).or_insert_with(new).clone()
    }

    /// The connection to a server, if there is one.
    pub fn connection(&self, server: u32) -> Option<Arc<Client>> {
        match &*self.peer(server).state.lock() {
            State::Up(client) if !client.is_lost() => Some(client.clone()),
            _ => None,
        }
    }

    /// When a server last answered anything; 0: never.
    pub fn heard(&self, server: u32) -> Millis {
        self.peers.lock().get(&server).map_or(0, |p| p.heard.load(Ordering::Relaxed))
    }

    /// Gives up on a server that does not answer: what waits for it is not worth keeping.
    pub fn reset(&self, server: u32) {
        let peer = self.peers.lock().get(&server).cloned();
        if let Some(peer) = peer {
            let mut s = peer.state.lock();
            if matches!(*s, State::Up(_)) {
                *s = State::Down;
                peer.breaker.lock().failed(Instant::now(), rand::random());
            }
        }
    }

    /// Asks and waits.
    pub async fn call(
        self: &Arc<Self>,
        server: u32,
        header: Header,
        meta: &[u8],
        data: Bytes,
        limit: Duration,
    ) -> Result<Reply, CallError> {
        let (tx, rx) = oneshot::channel();
        let then = move |frame| {
            // The asker may have given up.
            let _ = tx.send(frame);
        };
        if !self.send(server, header, meta, data, then) {
            return Err(CallError::Lost);
        }
        match tokio::time::timeout(limit, rx).await {
            Err(_) => Err(CallError::TimedOut),
            Ok(Ok(Some(frame))) => Ok(frame),
            Ok(_) => Err(CallError::Lost),
        }
    }

    async fn connect(&self, server: u32) -> Result<Client, CallError> {
        // A server that has just come is heard of from others a little earlier than from the master.
        let info = loop {
            let known = self.known.lock().get(&server).cloned();
            if let Some(info) = known {
                break info;
            }
            tokio::time::sleep(UNKNOWN).await;
        };
        let to = Endpoint::nearest(&info, &self.boot_id);
        match Client::connect(&to, self.me, info.id, self.dial_limit).await {
            Err(_) if matches!(to, Endpoint::Unix(_)) => {
                let to = Endpoint::Tcp(info.addr);
                Client::connect(&to, self.me, info.id, self.dial_limit).await
            }
            dialled => dialled,
        }
    }

    async fn dial(self: Arc<Self>, server: u32, peer: Arc<Peer>) {
        let dialled = tokio::time::timeout(self.dial_limit, self.connect(server)).await;
        let dialled = dialled.unwrap_or(Err(CallError::TimedOut));
        let mut failed = Vec::new();
        {
            let mut s = peer.state.lock();
            let State::Dialling(waiting) = std::mem::replace(&mut *s, State::Down) else {
                return;
            };
            match dialled {
                Ok(client) => {
                    peer.breaker.lock().succeeded();
                    let client = Arc::new(client);
                    for w in waiting {
                        if client.is_lost() {
                            failed.push(w.then);
                        } else {
                            // Lost in this very moment: the operation's own time-out ends it.
                            let _ = client.start_then(w.header, &w.meta, w.data, w.then);
                        }
                    }
                    *s = State::Up(client);
                }
                Err(e) => {
                    peer.breaker.lock().failed(Instant::now(), rand::random());
                    tracing::debug!(server, "cannot reach a chunkserver: {e}");
                    failed.extend(waiting.into_iter().map(|w| w.then));
                }
            }
        }
        failed.into_iter().for_each(|then| then(None));
    }
}
