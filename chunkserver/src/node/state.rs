//! What all parts of a chunkserver share.

use super::answer::Latencies;
use super::chunk::Chunk;
use super::clock::now;
use super::master::MasterLink;
use super::peers::Peers;
use super::scrub::DiskScrub;
use crate::core::Millis;
use crate::core::deleted::Deleted;
use crate::core::fence::Fence;
use crate::core::heat::Heat;
use crate::core::layout::{ChunkMeta, Geometry};
use crate::core::pacer::Pacer;
use crate::core::placement::{Candidate, choose};
use crate::core::recent::Recent;
use crate::core::replica::{Made, Times};
use crate::disk::{BootMark, ChunkFile, Disk, DiskError, Syncer};
use cairn_proto::digest::replica_hash;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

/// One disk and the thread that syncs it.
pub struct DiskUnit {
    /// Its directory.
    pub path: PathBuf,
    /// The disk.
    pub disk: Arc<Disk>,
    /// Its thread.
    pub syncer: Syncer,
    /// Tells whether the machine has started anew.
    pub mark: BootMark,
    /// The machine has started anew since all replicas here were last known to be whole: what was not on stable
    /// storage may be lost, whole replicas included.
    pub behind: bool,
    /// Its verification.
    pub scrub: DiskScrub,
}

/// What is fixed once the server is registered.
#[derive(Clone)]
pub struct NodeConfig {
    /// This server's id.
    pub id: u32,
    /// The cluster.
    pub cluster: [u8; 16],
    /// Sizes.
    pub geometry: Geometry,
    /// Time-outs of replication.
    pub times: Times,
}

/// A running chunkserver.
pub struct Node {
    /// Its fixed parts.
    pub config: NodeConfig,
    /// Its disks; never empty.
    pub disks: Vec<Arc<DiskUnit>>,
    /// Directories of disks that could not be opened.
    pub lost: Vec<PathBuf>,
    /// The other chunkservers.
    pub peers: Arc<Peers>,
    /// The way to the master.
    pub master: MasterLink,
    /// For work that is begun outside of a task.
    pub handle: Handle,
    /// Comparisons and copies under way at once.
    pub heavy: Semaphore,
    /// How fast copies may be made.
    pub copying: Mutex<Pacer>,
    /// Bytes written and read since the start.
    pub traffic: Traffic,
    /// Whose writes are taken. Held by a write until it has its place among the others: who shuts a session out knows that
    /// none of its writes comes behind.
    pub fence: RwLock<Fence>,
    /// How much is used of late, and which chunks most.
    pub heat: Mutex<Heat>,
    pub(super) chunks: RwLock<HashMap<u64, Arc<Chunk>>>,
    /// Replicas that were deleted lately; taken after `chunks`.
    pub(super) deleted: Mutex<Deleted>,
    pub(super) ticking: Mutex<Vec<Arc<Chunk>>>,
    /// Chunks whose replicas are to be compared when they are quiet.
    pub(super) unsettled: Mutex<Vec<Arc<Chunk>>>,
    digest: AtomicU64,
    lease_until: AtomicU64,
}

/// Counters since the start.
#[derive(Default)]
pub struct Traffic {
    /// Bytes written.
    pub bytes_in: AtomicU64,
    /// Bytes read.
    pub bytes_out: AtomicU64,
    /// How long clients wait for their answers to reads and writes.
    pub latency: Arc<Latencies>,
    /// Connections that ended with something that was no frame.
    pub garbage: AtomicU64,
}

impl Node {
    /// A node that serves nothing until its lease is renewed.
    pub fn new(config: NodeConfig, disks: Vec<Arc<DiskUnit>>, lost: Vec<PathBuf>, peers: Arc<Peers>) -> Self {
        Self {
            config,
            disks,
            lost,
            peers,
            master: MasterLink::default(),
            handle: Handle::current(),
            heavy: Semaphore::new(32),
            copying: Mutex::default(),
            traffic: Traffic::default(),
            fence: RwLock::default(),
            heat: Mutex::default(),
            chunks: RwLock::default(),
            deleted: Mutex::default(),
            ticking: Mutex::default(),
            unsettled: Mutex::default(),
            digest: AtomicU64::new(0),
            lease_until: AtomicU64::new(0),
        }
    }

    /// Whether the lease from the master is valid.
    pub fn may_serve(&self) -> bool {
        now() < self.lease_until.load(Ordering::Acquire)
    }

    /// Serves until then.
    pub fn renew_lease(&self, until: Millis) {
        self.lease_until.fetch_max(until, Ordering::AcqRel);
    }

    /// Whether replicas of this server may be lost without anybody having noticed yet.
    pub fn is_behind(&self) -> bool {
        self.disks.iter().any(|u| u.behind)
    }

    /// Whether a disk of this server has failed.
    pub fn has_lost_disk(&self) -> bool {
        !self.lost.is_empty() || self.disks.iter().any(|u| u.disk.has_failed())
    }

    /// How a client's first write makes a replica: where replicas may be lost it may have been one of them.
    pub(super) fn made_by_client(&self) -> Made {
        if self.is_behind() || self.has_lost_disk() { Made::InDoubt } else { Made::ByClient }
    }

    /// The replica of a chunk.
    pub fn chunk(&self, id: u64) -> Option<Arc<Chunk>> {
        self.chunks.read().get(&id).cloned()
    }

    /// All replicas.
    pub fn all_chunks(&self) -> Vec<Arc<Chunk>> {
        self.chunks.read().values().cloned().collect()
    }

    /// How many replicas there are, and their digest.
    pub fn digest(&self) -> (u64, u64) {
        let chunks = self.chunks.read();
        (chunks.len() as u64, self.digest.load(Ordering::Acquire))
    }

    /// Enters a replica that was found on a disk.
    pub fn add(&self, unit: &Arc<DiskUnit>, file: Arc<ChunkFile>, recent: Recent) -> Arc<Chunk> {
        let chunk = Arc::new(Chunk::new(self, unit.clone(), file, recent));
        self.enter(&mut self.chunks.write(), chunk)
    }

    fn enter(&self, chunks: &mut HashMap<u64, Arc<Chunk>>, chunk: Arc<Chunk>) -> Arc<Chunk> {
        chunks.insert(chunk.id, chunk.clone());
        self.digest_change(chunk.id, 0, chunk.replica.lock().epoch());
        chunk
    }

    /// Makes a replica without content, unless there is one; it will soon have so many blocks.
    pub fn create(&self, id: u64, meta: ChunkMeta, blocks: u32, made: Made) -> Result<Arc<Chunk>, DiskError> {
        let mut chunks = self.chunks.write();
        if let Some(c) = chunks.get(&id) {
            return Ok(c.clone());
        }
        if !self.deleted.lock().may_make(now(), self.config.id, id, &meta) {
            return Err(DiskError::Stale);
        }
        let unit = self.place()?;
        let file = unit.disk.create(id, meta, blocks)?;
        let chunk = Arc::new(Chunk::new(self, unit.clone(), file, Recent::default()));
        match made {
            Made::InDoubt => {
                unit.disk.doubt(&chunk.file)?;
                chunk.replica.lock().distrust();
            }
            Made::ByClient => chunk.replica.lock().is_born(),
            Made::ByPrimary => {}
        }
        Ok(self.enter(&mut chunks, chunk))
    }

    /// Removes a replica, its file a little later.
    pub fn delete(&self, id: u64) {
        // Until it is gone from the disk nobody may make it anew.
        let mut chunks = self.chunks.write();
        let Some(chunk) = chunks.remove(&id) else { return };
        let epoch = chunk.retire(self);
        self.deleted.lock().add(now(), id, epoch);
        self.digest_change(id, epoch, 0);
        if let Err(e) = chunk.unit.disk.delete(&chunk.file) {
            tracing::warn!(chunk = id, "cannot delete a replica: {e}");
        }
    }

    /// A replica is gone with its disk.
    pub(super) fn forget(&self, chunk: &Arc<Chunk>) {
        let mut chunks = self.chunks.write();
        if chunks.get(&chunk.id).is_some_and(|c| Arc::ptr_eq(c, chunk)) {
            chunks.remove(&chunk.id);
            let epoch = chunk.retire(self);
            self.digest_change(chunk.id, epoch, 0);
        }
    }

    /// The disk for a new replica.
    pub(super) fn place(&self) -> Result<&Arc<DiskUnit>, DiskError> {
        let working: Vec<_> = self.disks.iter().filter(|u| !u.disk.has_failed()).collect();
        let candidate =
            |u: &&Arc<DiskUnit>| Candidate { filling: u.disk.is_filling(), room: u.disk.space().1 };
        let candidates: Vec<_> = working.iter().map(candidate).collect();
        choose(&candidates, rand::random()).map(|i| working[i]).ok_or(DiskError::Failed)
    }

    /// A replica's epoch has changed (0: there was none, or there is none any more).
    pub(super) fn digest_change(&self, chunk: u64, from: u64, to: u64) {
        let hash = |epoch| if epoch == 0 { 0 } else { replica_hash(chunk, epoch) };
        self.digest.fetch_add(hash(to).wrapping_sub(hash(from)), Ordering::AcqRel);
    }
}
