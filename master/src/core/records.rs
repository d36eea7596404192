//! The values of the store. Protobuf, so that fields can be added without a new format.

use bytes::Bytes;
use cairn_proto::{ChunkId, Epoch, InodeId, ServerId, rpc};
use prost::Message;

use super::Millis;
use super::cluster::{ChunkRecord, Duty, ServerRecord};
use super::view::ViewError;

/// Mask of the type bits of a mode.
pub const S_IFMT: u32 = 0o170_000;
/// Directory.
pub const S_IFDIR: u32 = 0o040_000;
/// Regular file.
pub const S_IFREG: u32 = 0o100_000;
/// Symbolic link.
pub const S_IFLNK: u32 = 0o120_000;
/// Set-user-id bit.
pub const S_ISUID: u32 = 0o4_000;
/// Set-group-id bit.
pub const S_ISGID: u32 = 0o2_000;
/// Group may execute.
pub const S_IXGRP: u32 = 0o010;

/// An inode.
#[derive(Clone, PartialEq, Message)]
pub struct Inode {
    /// Type and permission bits.
    #[prost(uint32, tag = "1")]
    pub mode: u32,
    /// Names; of a directory: 2 and its subdirectories.
    #[prost(uint32, tag = "2")]
    pub nlink: u32,
    /// Owner.
    #[prost(uint32, tag = "3")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "4")]
    pub gid: u32,
    /// Device number of a device.
    #[prost(uint32, tag = "5")]
    pub rdev: u32,
    /// Bytes.
    #[prost(uint64, tag = "6")]
    pub size: u64,
    /// Last read.
    #[prost(message, required, tag = "7")]
    pub atime: rpc::Time,
    /// Last change of the content.
    #[prost(message, required, tag = "8")]
    pub mtime: rpc::Time,
    /// Last change of anything.
    #[prost(message, required, tag = "9")]
    pub ctime: rpc::Time,
    /// Up by one with each change.
    #[prost(uint64, tag = "10")]
    pub version: u64,
    /// How many extended attributes there are.
    #[prost(uint32, tag = "11")]
    pub xattrs: u32,
    /// A directory's own parent; 0 otherwise.
    #[prost(uint64, tag = "12")]
    pub parent: u64,
    /// How many entries a directory has, so that an empty one is told without a scan.
    #[prost(uint64, tag = "13")]
    pub entries: u64,
    /// A symbolic link's target.
    #[prost(bytes = "bytes", tag = "14")]
    pub target: Bytes,
}

impl Inode {
    /// The type bits.
    pub fn kind(&self) -> u32 {
        self.mode & S_IFMT
    }
    /// Whether it is a directory.
    pub fn is_dir(&self) -> bool {
        self.kind() == S_IFDIR
    }
    /// The attributes as they go over the wire.
    pub fn attr(&self, inode: InodeId) -> rpc::Attr {
        rpc::Attr {
            inode: inode.0,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size: self.size,
            atime: Some(self.atime),
            mtime: Some(self.mtime),
            ctime: Some(self.ctime),
            version: self.version,
            has_xattrs: self.xattrs > 0,
        }
    }
    /// As it is stored.
    pub fn encode(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

/// A directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it names.
    pub inode: InodeId,
    /// The type bits of that inode's mode.
    pub kind: u32,
}

impl Entry {
    /// As it is stored: 12 bytes.
    pub fn encode(self) -> Bytes {
        let mut out = Vec::with_capacity(12);
        out.extend_from_slice(&self.inode.0.to_be_bytes());
        out.extend_from_slice(&self.kind.to_be_bytes());
        out.into()
    }
    /// From what is stored.
    ///
    /// # Errors
    /// When it is not an entry.
    pub fn decode(value: &[u8]) -> Result<Self, ViewError> {
        let bad = || ViewError("a directory entry is malformed".into());
        let (inode, kind) = value.split_at_checked(8).ok_or_else(bad)?;
        Ok(Self {
            inode: InodeId(u64::from_be_bytes(inode.try_into().map_err(|_| bad())?)),
            kind: u32::from_be_bytes(kind.try_into().map_err(|_| bad())?),
        })
    }
}

/// A session.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Session {
    /// Where it is mounted.
    #[prost(string, tag = "1")]
    pub mount_dir: String,
    /// The machine.
    #[prost(string, tag = "2")]
    pub host: String,
    /// The mount's process.
    #[prost(uint32, tag = "3")]
    pub pid: u32,
    /// Whether it may cache everything without asking.
    #[prost(bool, tag = "4")]
    pub exclusive: bool,
    /// Of the machine: drawn anew at each start of it; empty: unknown.
    #[prost(string, tag = "5")]
    pub boot_id: String,
    /// Where it answers questions over HTTP; empty: nowhere.
    #[prost(string, tag = "6")]
    pub http: String,
    /// It is over, but chunkservers may still take its writes.
    #[prost(bool, tag = "7")]
    pub over: bool,
}

/// What is counted. Never goes back, but for `inodes`.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Counters {
    /// The id that the next new inode gets.
    #[prost(uint64, tag = "1")]
    pub next_inode: u64,
    /// The id that the next new chunk gets.
    #[prost(uint64, tag = "2")]
    pub next_chunk: u64,
    /// The id that the next new session gets.
    #[prost(uint64, tag = "3")]
    pub next_session: u64,
    /// Inodes that exist.
    #[prost(uint64, tag = "4")]
    pub inodes: u64,
}

impl Counters {
    /// Of an empty cluster: the root directory is inode 1.
    pub fn fresh() -> Self {
        Self { next_inode: 2, next_chunk: 1, next_session: 1, inodes: 1 }
    }
    /// As they are stored.
    pub fn encode(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

/// Decodes a record; `what` names it in the error.
///
/// # Errors
/// When it is malformed.
pub fn decode<M: Message + Default>(what: &str, value: &[u8]) -> Result<M, ViewError> {
    M::decode(value).map_err(|e| ViewError(format!("{what} is malformed: {e}")))
}

/// A chunk; its id is the key.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ChunkValue {
    /// Up by one with every change of the set.
    #[prost(uint64, tag = "1")]
    pub epoch: u64,
    /// Chunkservers, ordered.
    #[prost(uint32, repeated, tag = "2")]
    pub in_sync: Vec<u32>,
    /// Copies wanted.
    #[prost(uint32, tag = "3")]
    pub wanted: u32,
    /// The inode that it belongs to.
    #[prost(uint64, tag = "4")]
    pub inode: u64,
    /// Its place there.
    #[prost(uint64, tag = "5")]
    pub index: u64,
}

impl ChunkValue {
    /// The record's value.
    pub fn from_record(record: &ChunkRecord) -> Self {
        Self {
            epoch: record.epoch.0,
            in_sync: record.in_sync.iter().map(|s| s.0).collect(),
            wanted: record.wanted,
            inode: record.inode.0,
            index: record.index,
        }
    }
    /// The record that this is the value of.
    pub fn into_record(self, chunk: ChunkId) -> ChunkRecord {
        ChunkRecord {
            chunk,
            epoch: Epoch(self.epoch),
            in_sync: self.in_sync.into_iter().map(ServerId).collect(),
            wanted: self.wanted,
            inode: InodeId(self.inode),
            index: self.index,
        }
    }
    /// As it is stored.
    pub fn encode(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

/// A chunk that is to be deleted; its id is the key.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GarbageValue {
    /// The servers that were in its in-sync set.
    #[prost(uint32, repeated, tag = "1")]
    pub servers: Vec<u32>,
}

impl GarbageValue {
    /// As it is stored.
    pub fn encode(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}

/// A chunkserver; its id is the key.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct ServerValue {
    /// Data wire, "host:port".
    #[prost(string, tag = "1")]
    pub addr: String,
    /// Data wire on a Unix socket.
    #[prost(string, tag = "2")]
    pub unix_path: String,
    /// Drawn anew at each start of its machine.
    #[prost(string, tag = "3")]
    pub boot_id: String,
    /// The failure domain that it stands in.
    #[prost(string, tag = "4")]
    pub rack: String,
    /// Whether it is to be drained.
    #[prost(bool, tag = "5")]
    pub draining: bool,
    /// Until when it is in maintenance, in milliseconds since 1970; 0: it is not.
    #[prost(uint64, tag = "6")]
    pub maintenance_until_ms: u64,
}

/// One moment on two clocks: the cores' and the wall's. A master's monotonic clock begins anew with it, so what is to outlive it is
/// stored by the other.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// On the monotonic clock.
    pub now: Millis,
    /// On the wall clock, in milliseconds since 1970.
    pub wall_ms: u64,
}

impl Moment {
    /// The moment at which the clocks show these.
    pub fn new(now: Millis, wall: rpc::Time) -> Self {
        let secs = u64::try_from(wall.secs).unwrap_or(0);
        Self { now, wall_ms: secs.saturating_mul(1_000).saturating_add(u64::from(wall.nanos) / 1_000_000) }
    }
}

impl ServerValue {
    /// The record's value, stored at this moment.
    pub fn from_record(record: &ServerRecord, at: Moment) -> Self {
        let maintenance_until_ms = match record.duty {
            Duty::Maintenance { until } => at.wall_ms.saturating_add(until.since(at.now)).max(1),
            Duty::InService | Duty::Draining => 0,
        };
        Self {
            draining: record.duty == Duty::Draining,
            maintenance_until_ms,
            addr: record.addr.clone(),
            unix_path: record.unix_path.clone(),
            boot_id: record.boot_id.clone(),
            rack: record.rack.clone(),
        }
    }
    /// The record that this is the value of, read at this moment.
    pub fn into_record(self, id: ServerId, at: Moment) -> ServerRecord {
        let duty = match (self.draining, self.maintenance_until_ms) {
            (true, _) => Duty::Draining,
            (false, 0) => Duty::InService,
            (false, until) => Duty::Maintenance { until: at.now.plus(until.saturating_sub(at.wall_ms)) },
        };
        ServerRecord {
            id,
            duty,
            addr: self.addr,
            unix_path: self.unix_path,
            boot_id: self.boot_id,
            rack: self.rack,
        }
    }
    /// As it is stored.
    pub fn encode(&self) -> Bytes {
        self.encode_to_vec().into()
    }
}
