//! Everything the owner holds beside the store, and how it is restored from there.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use cairn_proto::{InodeId, ServerId, SessionId, rpc};
use prost::Message as _;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc::Sender;

use super::Outbox;
use super::watchers::FileWatchers;
use crate::core::Millis;
use crate::core::cluster::{self, Cluster, LinkId, ServerRecord};
use crate::core::leases::{Leases, Limits};
use crate::core::locks;
use crate::core::namespace;
use crate::core::records::{self, Counters, Inode, Moment, Session, decode};
use crate::core::scratch::{Batch, Scratch};
use crate::core::sessions::{ConnectionId, Sessions};
use crate::core::view::ViewError;
use crate::core::{keys, records::ServerValue};
use crate::store::{Store, StoreError};
use crate::{Config, Error};

/// What a cluster is from its making on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Drawn at random.
    pub(crate) cluster_id: [u8; 16],
    /// Bytes in a chunk.
    pub(crate) chunk_size: u64,
}

/// Events about leases are told from those about the mode of a session by this bit of their ids.
const LEASE_EVENTS: u64 = 1 << 40;

/// The replies kept for a session: under the operation's id modulo 256.
pub(super) type Kept = HashMap<u8, rpc::Reply>;

/// What the owner holds in memory.
pub(super) struct State {
    pub(super) identity: Identity,
    pub(super) config: Config,
    pub(super) counters: Counters,
    pub(super) sessions: Sessions,
    /// Changes that wait are kept with the connection that their answer goes to.
    pub(super) leases: Leases<(ConnectionId, rpc::Op)>,
    /// Operations that sessions have sent.
    pub(super) operations: HashMap<SessionId, u64>,
    pub(super) cluster: Cluster,
    pub(super) outboxes: BTreeMap<ConnectionId, Outbox>,
    pub(super) links: BTreeMap<LinkId, Sender<cluster::Down>>,
    pub(super) kept: HashMap<SessionId, Kept>,
    /// Clients that wait for the cluster core: the connection and the operation's id.
    pub(super) reports: HashMap<cluster::Token, (ConnectionId, u64)>,
    pub(super) next_token: u64,
    /// Who holds and waits for which file locks. Those held are records of the store as well.
    pub(super) locks: cairn_locks::Table,
    /// Inodes that have lost their last name, and until when they stay; the oldest first.
    pub(super) lingering: VecDeque<(Millis, InodeId)>,
    /// Operations that were taken since the disk has been full.
    pub(super) over: u32,
    /// Whom to tell of changes of chunkservers' states, and how many there were.
    pub(super) watchers: Vec<Sender<rpc::NodeChange>>,
    pub(super) changes: u64,
    /// Whom to tell of changes of names and files.
    pub(super) file_watchers: FileWatchers,
    pub(super) random: StdRng,
}

impl State {
    /// Restores the state; makes a new cluster in an empty store.
    pub(super) fn restore(
        store: &mut dyn Store,
        config: Config,
        now: Millis,
        wall: rpc::Time,
    ) -> Result<Self, Error> {
        let mut random = StdRng::from_os_rng();
        let identity = match identity(store)? {
            Some(identity) => identity,
            None => make(store, &config, random.random(), wall)?,
        };
        if identity.chunk_size != config.chunk_size {
            tracing::warn!(
                "the cluster was made with chunks of {} bytes, and keeps them; asked for were {}",
                identity.chunk_size,
                config.chunk_size
            );
        }
        let counters = match store.get(keys::COUNTERS)? {
            Some(value) => decode("the counters", &value)?,
            None => Counters::fresh(),
        };
        let settings = cluster::Settings {
            cluster_id: identity.cluster_id,
            copies: config.copies,
            chunk_size: identity.chunk_size,
            heartbeat_ms: millis(config.heartbeat),
            lease_ms: millis(config.lease),
            repairs_per_server: std::thread::available_parallelism().map_or(8, |n| 2 * n.get()).max(4),
            repair_rate: config.repair_rate,
            ..cluster::Settings::default()
        };
        let sessions = load_sessions(store)?;
        let mut cluster = Cluster::new(settings, load_servers(store, Moment::new(now, wall))?);
        if let Some(value) = store.get(keys::WEIGHTS)? {
            cluster.set_weights(super::admin::weights(decode("the weights", &value)?));
        }
        if let Some(value) = store.get(keys::LIMITS)? {
            cluster.set_limits(super::admin::limits(decode("the limits", &value)?));
        }
        let first_event = u64::from(random.random::<u32>());
        let shared = sessions.iter().filter(|(_, s)| !s.exclusive && !s.over);
        let unknown: Vec<_> = shared.map(|(id, _)| *id).collect();
        let ttl_ms = millis(config.session_ttl);
        let sessions = Sessions::new(now, ttl_ms, first_event, sessions);
        cluster.set_sessions(whose_writes_count(&sessions, &counters), sessions.fencing());
        Ok(Self {
            identity,
            counters,
            sessions,
            leases: Leases::new(now, Limits::default(), ttl_ms, first_event | LEASE_EVENTS, unknown),
            operations: HashMap::new(),
            cluster,
            outboxes: BTreeMap::new(),
            links: BTreeMap::new(),
            kept: load_replies(store)?,
            reports: HashMap::new(),
            next_token: 1,
            locks: load_locks(store)?,
            lingering: load_lingering(store)?.into_iter().map(|inode| (now, inode)).collect(),
            over: 0,
            watchers: Vec::new(),
            changes: 0,
            file_watchers: FileWatchers::default(),
            random,
            config,
        })
    }
}

/// Which sessions chunkservers are to take writes of.
pub(super) fn whose_writes_count(sessions: &Sessions, counters: &Counters) -> cluster::Sessions {
    cluster::Sessions { below: counters.next_session, alive: sessions.alive() }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn identity(store: &dyn Store) -> Result<Option<Identity>, ViewError> {
    let Some(value) = store.get(keys::CLUSTER_ID)? else { return Ok(None) };
    let malformed = || ViewError("the cluster's id is malformed".into());
    let (id, size) = value.split_first_chunk::<16>().ok_or_else(malformed)?;
    let chunk_size = u64::from_be_bytes(size.try_into().map_err(|_| malformed())?);
    Ok(Some(Identity { cluster_id: *id, chunk_size }))
}

/// A new cluster: its identity, its counters, its root directory.
fn make(
    store: &mut dyn Store,
    config: &Config,
    cluster_id: [u8; 16],
    wall: rpc::Time,
) -> Result<Identity, StoreError> {
    let identity = Identity { cluster_id, chunk_size: config.chunk_size };
    let mut value = identity.cluster_id.to_vec();
    value.extend_from_slice(&identity.chunk_size.to_be_bytes());
    let (uid, gid) = config.owner;
    let root = Inode { uid, gid, ..namespace::root(wall) }.encode();
    store.commit(Batch::from([
        (keys::CLUSTER_ID.to_vec(), Some(Bytes::from(value))),
        (keys::COUNTERS.to_vec(), Some(Counters::fresh().encode())),
        (keys::inode(cairn_proto::InodeId::ROOT), Some(root)),
    ]))?;
    Ok(identity)
}

/// All records of a kind: the key, then the value.
fn load<T>(
    store: &dyn Store,
    prefix: u8,
    mut read: impl FnMut(&[u8], &[u8]) -> Result<T, ViewError>,
) -> Result<Vec<T>, ViewError> {
    let (mut all, mut failed) = (Vec::new(), None);
    store.scan(&[prefix], &[prefix], &mut |key, value| match read(key, value) {
        Ok(record) => {
            all.push(record);
            true
        }
        Err(e) => {
            failed = Some(e);
            false
        }
    })?;
    failed.map_or(Ok(all), Err)
}

fn id_of(key: &[u8]) -> Result<u64, ViewError> {
    keys::head_id(key).ok_or_else(|| ViewError("a key is malformed".into()))
}

fn load_sessions(store: &dyn Store) -> Result<Vec<(SessionId, Session)>, ViewError> {
    load(store, keys::SESSION, |key, value| Ok((SessionId(id_of(key)?), decode("a session", value)?)))
}

fn load_servers(store: &dyn Store, at: Moment) -> Result<Vec<ServerRecord>, ViewError> {
    load(store, keys::SERVER, |key, value| {
        let malformed = || ViewError("a chunkserver's key is malformed".into());
        let id = key.get(1..).and_then(|id| id.try_into().ok()).ok_or_else(malformed)?;
        let value = decode::<ServerValue>("a chunkserver", value)?;
        Ok(value.into_record(ServerId(u32::from_be_bytes(id)), at))
    })
}

/// What the master that ran before did not come to let go.
fn load_lingering(store: &dyn Store) -> Result<Vec<InodeId>, ViewError> {
    let of_nobody = |key: &[u8]| keys::tail_id(key) == Some(namespace::NOBODY.0);
    let all = load(store, keys::OPENER, |key, _| of_nobody(key).then(|| id_of(key)).transpose())?;
    Ok(all.into_iter().flatten().map(InodeId).collect())
}

fn load_locks(store: &dyn Store) -> Result<cairn_locks::Table, ViewError> {
    let mut table = cairn_locks::Table::default();
    for locks in load(store, keys::LOCK, locks::decode)? {
        locks.iter().for_each(|lock| table.restore(lock));
    }
    Ok(table)
}

fn load_replies(store: &dyn Store) -> Result<HashMap<SessionId, Kept>, ViewError> {
    let mut kept: HashMap<SessionId, Kept> = HashMap::new();
    let replies =
        load(store, keys::REPLY, |key, value| Ok((id_of(key)?, decode::<rpc::Reply>("a reply", value)?)))?;
    for (session, reply) in replies {
        kept.entry(SessionId(session)).or_default().insert(slot(reply.id), reply);
    }
    Ok(kept)
}

/// Where the reply to an operation is kept.
pub(super) fn slot(operation: u64) -> u8 {
    (operation & 0xff) as u8
}

/// Puts a reply that must outlive the master.
pub(super) fn put_reply(scratch: &mut Scratch<'_>, session: SessionId, reply: &rpc::Reply) {
    scratch.put(keys::reply(session, slot(reply.id)), reply.encode_to_vec());
}

/// Puts a session's record.
pub(super) fn put_session(scratch: &mut Scratch<'_>, session: SessionId, record: &records::Session) {
    scratch.put(keys::session(session), record.encode_to_vec());
}
