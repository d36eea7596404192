//! What the cluster core keeps in the store, and how it reads it.

use cairn_proto::{ChunkId, Epoch, InodeId, ServerId, rpc};

use crate::core::Millis;

/// A chunk as the store has it: the whole truth about who holds every acknowledged byte.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkRecord {
    /// Its id.
    pub chunk: ChunkId,
    /// Up by one with every change of `in_sync`.
    pub epoch: Epoch,
    /// Ordered; the first is the primary. Never empty, never below [`ChunkRecord::majority`].
    pub in_sync: Vec<ServerId>,
    /// Copies wanted.
    pub wanted: u32,
    /// The inode that it belongs to.
    pub inode: InodeId,
    /// Its place in the file: bytes from `index * chunk_size`.
    pub index: u64,
}

impl ChunkRecord {
    /// The fewest servers that its in-sync set may have.
    pub fn majority(&self) -> usize {
        majority(self.wanted)
    }

    /// The server that orders its writes.
    pub fn primary(&self) -> Option<ServerId> {
        self.in_sync.first().copied()
    }

    /// Whether `server` is in the in-sync set.
    pub fn has(&self, server: ServerId) -> bool {
        self.in_sync.contains(&server)
    }

    /// Whether there are as many copies as wanted.
    pub fn is_whole(&self) -> bool {
        self.in_sync.len() >= self.wanted as usize
    }

    /// As messages carry it.
    pub fn info(&self) -> rpc::ChunkInfo {
        rpc::ChunkInfo {
            chunk: self.chunk.0,
            epoch: self.epoch.0,
            in_sync: self.in_sync.iter().map(|s| s.0).collect(),
            wanted: self.wanted,
            inode: self.inode.0,
            index: self.index,
        }
    }
}

/// The fewest of `wanted` copies that are more than half.
pub fn majority(wanted: u32) -> usize {
    wanted as usize / 2 + 1
}

/// A chunk that is to be deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GarbageRecord {
    /// Its id.
    pub chunk: ChunkId,
    /// The servers that were in its in-sync set.
    pub servers: Vec<ServerId>,
}

/// What an administrator has ordered for a chunkserver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Duty {
    /// To serve.
    #[default]
    InService,
    /// To be emptied.
    Draining,
    /// To be left alone.
    Maintenance {
        /// For so long.
        until: Millis,
    },
}

/// A chunkserver as the store has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerRecord {
    /// Its id.
    pub id: ServerId,
    /// Data wire, "host:port".
    pub addr: String,
    /// Data wire on a Unix socket of its machine; empty: none.
    pub unix_path: String,
    /// Drawn anew at each start of its machine.
    pub boot_id: String,
    /// The failure domain that it stands in; empty: unknown.
    pub rack: String,
    /// What was ordered for it.
    pub duty: Duty,
}

/// The store could not be read. (Its own error has been logged where it arose.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the chunk table cannot be read")]
pub struct Unreadable;

/// The chunk table as the cluster core sees it, including everything that the effects of earlier
/// events have put (whether committed or not).
///
/// That a record cannot be read must never pass for its absence: what nobody knows of is deleted.
pub trait ChunkView {
    /// A chunk's record; `None`: never made, or deleted.
    ///
    /// # Errors
    /// The record cannot be read.
    fn chunk(&self, id: ChunkId) -> Result<Option<ChunkRecord>, Unreadable>;

    /// Up to `limit` records in the order of their ids, from the first id ≥ `from`. Records that are malformed are
    /// left out.
    ///
    /// # Errors
    /// The table cannot be read.
    fn chunks_from(&self, from: ChunkId, limit: usize) -> Result<Vec<ChunkRecord>, Unreadable>;

    /// Bytes of content that a copy of the chunk may have, about.
    fn bytes_of(&self, record: &ChunkRecord) -> u64;

    /// Up to `limit` chunks that are to be deleted, in the order of their ids, from the first id ≥ `from`.
    ///
    /// # Errors
    /// The table cannot be read.
    fn garbage_from(&self, from: ChunkId, limit: usize) -> Result<Vec<GarbageRecord>, Unreadable>;
}
