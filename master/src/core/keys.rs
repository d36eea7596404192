//! The keys of the store. Integers in them are big-endian, so that the order of the bytes is the
//! order of the numbers, and a directory, a file's chunks, a session's replies are one scan each.

use cairn_proto::{ChunkId, InodeId, ServerId, SessionId};

/// Prefix of directory entries: parent, name.
pub const ENTRY: u8 = b'd';
/// Prefix of inodes.
pub const INODE: u8 = b'i';
/// Prefix of extended attributes: inode, name.
pub const XATTR: u8 = b'x';
/// Prefix of the chunks of files: inode, index.
pub const FILE_CHUNK: u8 = b'f';
/// Prefix of chunk records.
pub const CHUNK: u8 = b'c';
/// Prefix of chunks that are to be deleted.
pub const GARBAGE: u8 = b'g';
/// Prefix of what is held open: inode, session.
pub const OPENER: u8 = b'o';
/// Prefix of sessions.
pub const SESSION: u8 = b's';
/// Prefix of the replies kept for sessions: session, slot.
pub const REPLY: u8 = b'r';
/// Prefix of file locks: inode, session, owner, kind.
pub const LOCK: u8 = b'l';
/// Prefix of chunkservers.
pub const SERVER: u8 = b'v';
/// The counters.
pub const COUNTERS: &[u8] = b"mcounters";
/// What counts how much where a new copy's server is chosen.
pub const WEIGHTS: &[u8] = b"mweights";
/// What counts as too much on one chunkserver.
pub const LIMITS: &[u8] = b"mlimits";
/// The cluster's id, 16 bytes.
pub const CLUSTER_ID: &[u8] = b"mcluster";

fn with_u64(prefix: u8, id: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(9);
    key.push(prefix);
    key.extend_from_slice(&id.to_be_bytes());
    key
}

fn with_tail(prefix: u8, id: u64, tail: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + tail.len());
    key.push(prefix);
    key.extend_from_slice(&id.to_be_bytes());
    key.extend_from_slice(tail);
    key
}

/// All entries of a directory.
pub fn entries(parent: InodeId) -> Vec<u8> {
    with_u64(ENTRY, parent.0)
}
/// One entry of a directory.
pub fn entry(parent: InodeId, name: &[u8]) -> Vec<u8> {
    with_tail(ENTRY, parent.0, name)
}
/// An inode.
pub fn inode(inode: InodeId) -> Vec<u8> {
    with_u64(INODE, inode.0)
}
/// All extended attributes of an inode.
pub fn xattrs(inode: InodeId) -> Vec<u8> {
    with_u64(XATTR, inode.0)
}
/// One extended attribute.
pub fn xattr(inode: InodeId, name: &[u8]) -> Vec<u8> {
    with_tail(XATTR, inode.0, name)
}
/// All chunks of a file.
pub fn file_chunks(inode: InodeId) -> Vec<u8> {
    with_u64(FILE_CHUNK, inode.0)
}
/// The chunk at one place of a file.
pub fn file_chunk(inode: InodeId, index: u64) -> Vec<u8> {
    with_tail(FILE_CHUNK, inode.0, &index.to_be_bytes())
}
/// A chunk record.
pub fn chunk(chunk: ChunkId) -> Vec<u8> {
    with_u64(CHUNK, chunk.0)
}
/// A chunk that is to be deleted.
pub fn garbage(chunk: ChunkId) -> Vec<u8> {
    with_u64(GARBAGE, chunk.0)
}
/// All sessions that hold an inode open.
pub fn openers(inode: InodeId) -> Vec<u8> {
    with_u64(OPENER, inode.0)
}
/// One session that holds an inode open.
pub fn opener(inode: InodeId, session: SessionId) -> Vec<u8> {
    with_tail(OPENER, inode.0, &session.0.to_be_bytes())
}
/// A session.
pub fn session(session: SessionId) -> Vec<u8> {
    with_u64(SESSION, session.0)
}
/// All replies kept for a session.
pub fn replies(session: SessionId) -> Vec<u8> {
    with_u64(REPLY, session.0)
}
/// The reply to the operation whose id is congruent to `slot` modulo 256.
pub fn reply(session: SessionId, slot: u8) -> Vec<u8> {
    with_tail(REPLY, session.0, &[slot])
}
/// What one owner holds of one inode, by `fcntl` or (`flock`) by `flock`.
pub fn lock(inode: InodeId, session: SessionId, owner: u64, flock: bool) -> Vec<u8> {
    let mut key = with_tail(LOCK, inode.0, &session.0.to_be_bytes());
    key.extend_from_slice(&owner.to_be_bytes());
    key.push(u8::from(flock));
    key
}
/// A chunkserver.
pub fn server(server: ServerId) -> Vec<u8> {
    let mut key = vec![SERVER];
    key.extend_from_slice(&server.0.to_be_bytes());
    key
}

/// What follows the first id in a key: a name, an index. Empty where there is none.
pub fn tail(key: &[u8]) -> &[u8] {
    key.get(9..).unwrap_or(&[])
}
/// The first id in a key.
pub fn head_id(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?))
}
/// The second id in a key: an index, a session.
pub fn tail_id(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(tail(key).try_into().ok()?))
}
