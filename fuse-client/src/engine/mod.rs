//! The file system as a library: POSIX-like operations on inodes and handles, without FUSE in it.
//!
//! Every operation is an `async fn` that completes on its first poll when it can be answered from memory.
//! An operation may be left running when its caller gives up, but is not to be dropped half-way: the caches follow
//! changes when their answers arrive.

mod ahead;
pub mod attr;
mod attrs;
mod coherence;
pub mod data;
mod dirs;
pub mod error;
mod files;
mod inode;
mod kept;
mod leases;
mod locks;
mod lost;
pub mod meta;
mod names;
mod ranges;
mod size;
mod xattrs;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use cairn_proto::rpc;
use cairn_proto::rpc::reply::Result as ReplyResult;
use parking_lot::Mutex;

pub use attrs::{SetAttr, SetTime, SpaceReport};
pub use dirs::{DirHandle, DirItem};
pub use error::FsError;
pub use files::{FileHandle, OpenOptions, WriteOptions};
pub use locks::LockRequest;
pub use names::NewNode;
pub use ranges::Fallocate;

use attr::FileAttr;
use data::{DataConfig, DataPath, WriteBackObserver};
use inode::Inodes;
use kept::KeptData;
use locks::Locks;
use meta::core::cache::{Limits, MetaCache};
use meta::core::numbers::Numbers;
use meta::{Session, SessionConfig, SessionEvent};

/// Settings of the engine.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// "host:port" of each master.
    pub masters: Vec<String>,
    /// For people: where it is mounted.
    pub mount_dir: String,
    /// For people: the machine's name.
    pub host: String,
    /// This machine's boot id, by which chunkservers on it are recognised.
    pub boot_id: String,
    /// Bytes of dirty data and read-ahead, at most; while other mounts are there, as many of what was read and is kept.
    pub memory: usize,
    /// How long operations wait while servers do not answer.
    pub outage: Duration,
    /// Refuse all changes.
    pub read_only: bool,
    /// For people: where the mount answers /health and /metrics; empty: nowhere.
    pub http: String,
}

/// Caches above the engine (the kernel's), which it has dropped when they could become wrong.
pub trait UpperCaches: Send + Sync + 'static {
    /// Forget everything: attributes, names (among them `names`) and file data. Returns when done; may block.
    fn drop_all(&self, names: Vec<(u64, Box<[u8]>)>);
    /// Forget the attributes of an inode: they changed by themselves. Must not block.
    fn drop_attr(&self, inode: u64);
    /// The same, of many; no answer that was on its way meanwhile brings them back. May block, but not for longer than an answer is
    /// being written.
    fn drop_attrs(&self, inodes: &[u64]);
    /// Forget these names: the engine does not know them any more and could not name them later.
    fn drop_names(&self, names: Vec<(u64, Box<[u8]>)>);
}

/// A mounted file system.
pub struct Engine {
    me: Weak<Engine>,
    config: EngineConfig,
    session: Arc<Session>,
    data: Arc<DataPath>,
    kept: KeptData,
    chunk_size: u64,
    cache: Mutex<MetaCache>,
    inodes: Inodes,
    locks: Locks,
    numbers: Mutex<Numbers>,
    /// When the master last refused what had been answered here.
    refused: Mutex<Option<Instant>>,
    exclusive: AtomicBool,
    /// A read has waited for the chunkservers in vain, and none has succeeded since.
    silent: AtomicBool,
    /// Not everything had been written back when another mount came.
    late: AtomicBool,
    upper: OnceLock<Arc<dyn UpperCaches>>,
    runtime: tokio::runtime::Handle,
}

struct Observer(Weak<Engine>);

impl WriteBackObserver for Observer {
    fn written_back(&self, inode: cairn_proto::InodeId) {
        if let Some(engine) = self.0.upgrade() {
            engine.tell_in_background(inode.0);
            // What could not be written back when another mount came has a time already that the master knows.
            if engine.late.load(Ordering::Relaxed) {
                engine.announce_in_background(inode.0);
            }
        }
    }

    fn lost(&self, inode: cairn_proto::InodeId, why: &FsError) {
        if let Some(engine) = self.0.upgrade() {
            engine.note_lost(&[inode.0], why);
        }
    }
}

impl Engine {
    /// Joins the cluster: opens a session and starts the background work. To be called in a multi-threaded runtime.
    ///
    /// # Errors
    /// Why no session could be had.
    pub async fn start(config: EngineConfig) -> Result<Arc<Self>, meta::ConnectError> {
        let (session, welcome, events) = Session::open(SessionConfig {
            masters: config.masters.clone(),
            mount_dir: config.mount_dir.clone(),
            host: config.host.clone(),
            boot_id: config.boot_id.clone(),
            outage: config.outage,
            http: config.http.clone(),
        })
        .await?;
        let runtime = tokio::runtime::Handle::current();
        let data = DataPath::new(
            DataConfig {
                memory: config.memory,
                outage: config.outage,
                chunk_size: welcome.chunk_size,
                session: welcome.session,
                cluster: welcome.cluster_id.as_ref().try_into().unwrap_or_default(),
                boot_id: config.boot_id.clone(),
                ..DataConfig::default()
            },
            session.clone(),
            runtime.clone(),
        );
        data.set_servers(welcome.servers);
        data.set_exclusive(welcome.exclusive);
        let kept = KeptData::new(config.memory);
        let engine = Arc::new_cyclic(|me| Self {
            me: me.clone(),
            config,
            session,
            data: data.clone(),
            kept,
            chunk_size: welcome.chunk_size,
            cache: Mutex::new(MetaCache::new(Limits::default(), welcome.exclusive)),
            inodes: Inodes::default(),
            locks: Locks::new(welcome.exclusive),
            numbers: Mutex::default(),
            refused: Mutex::new(None),
            exclusive: AtomicBool::new(welcome.exclusive),
            silent: AtomicBool::new(false),
            late: AtomicBool::new(false),
            upper: OnceLock::new(),
            runtime,
        });
        engine.session.ask_leases(!welcome.exclusive);
        engine.session.set_lease_holder(Box::new(leases::Holder(engine.me.clone())));
        data.set_observer(Arc::new(Observer(engine.me.clone())));
        engine.spawn_background(events);
        engine.reserve_numbers();
        Ok(engine)
    }

    /// Who caches what the engine answers. To be set before the first operation.
    pub fn set_upper_caches(&self, upper: Arc<dyn UpperCaches>) {
        let _ = self.upper.set(upper);
    }

    /// Whether this is the only mount: answers may be cached above the engine until it says otherwise.
    pub fn exclusive(&self) -> bool {
        self.exclusive.load(Ordering::Acquire)
    }

    /// How long operations wait while servers do not answer.
    pub fn outage(&self) -> Duration {
        self.config.outage
    }

    /// How the mount stands with the master.
    pub fn standing(&self) -> meta::Standing {
        self.session.standing()
    }

    /// Whether reads have waited for the chunkservers in vain, and none has succeeded since.
    pub fn reads_in_vain(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// Attributes and directory entries cached.
    pub fn cached(&self) -> (usize, usize) {
        self.cache.lock().sizes()
    }

    /// Memory in use, bytes: dirty data, read-ahead.
    pub fn memory_used(&self) -> (usize, usize) {
        self.data.memory_used()
    }

    /// Memory in use for what was read in company, bytes.
    pub fn memory_kept(&self) -> usize {
        self.kept.used()
    }

    /// Bytes moved since the mount began.
    pub fn traffic(&self) -> data::Traffic {
        self.data.traffic()
    }

    /// Writes everything back and leaves the cluster.
    ///
    /// # Errors
    /// The first error of write-back: what could not be written is lost.
    pub async fn stop(&self) -> Result<(), FsError> {
        let result = self.write_back_all().await;
        self.session.close().await;
        result
    }

    fn changeable(&self) -> Result<(), FsError> {
        if self.config.read_only { Err(FsError::ReadOnly) } else { Ok(()) }
    }

    fn spawn_background(self: &Arc<Self>, events: tokio::sync::mpsc::UnboundedReceiver<SessionEvent>) {
        tokio::spawn(coherence::follow_events(self.me.clone(), events));
        tokio::spawn(size::tell_periodically(self.me.clone()));
        tokio::spawn(locks::tell_periodically(self.me.clone()));
    }
}

fn attr_of(reply: rpc::Reply) -> Result<FileAttr, FsError> {
    match reply.result {
        Some(ReplyResult::Attr(attr)) => Ok(attr.into()),
        _ => Err(FsError::Io("the master's answer has no attributes".into())),
    }
}

fn is_errno(error: &FsError, wanted: i32) -> bool {
    matches!(error, FsError::Refused { errno, .. } if *errno == wanted)
}
