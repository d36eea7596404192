//! The chunks of files: found, made, dropped.

use bytes::Bytes;
use cairn_proto::rpc::{self, reply::Result as Body2};
use cairn_proto::{ChunkId, Epoch, InodeId, ServerId};

use super::setattr::SIZE_MAX;
use super::{Context, Done, Fail, inodes};
use crate::core::cluster::{ChunkRecord, Event, GarbageRecord, PlaceError};
use crate::core::errno;
use crate::core::keys;
use crate::core::records::{ChunkValue, GarbageValue, S_IFDIR, S_IFREG, decode};
use crate::core::scratch::Scratch;
use crate::core::view::{View, ViewError};

/// The most chunks that one operation finds or makes.
const COUNT_MAX: u32 = 1_024;
/// The most neighbours that one operation finds.
const NEIGHBOURS_MAX: u32 = 256;
/// Records looked at for each neighbour that is wanted, at most: a large file in between has many.
const LOOKED_AT: u32 = 4;

/// A chunk's record, if it exists.
///
/// # Errors
/// When the store cannot be read.
pub fn chunk_record(view: &dyn View, chunk: ChunkId) -> Result<Option<ChunkRecord>, ViewError> {
    let Some(value) = view.get(&keys::chunk(chunk))? else { return Ok(None) };
    Ok(Some(decode::<ChunkValue>("a chunk", &value)?.into_record(chunk)))
}

/// Puts a chunk's record.
pub fn put_chunk(s: &mut Scratch<'_>, record: &ChunkRecord) {
    s.put(keys::chunk(record.chunk), ChunkValue::from_record(record).encode());
}

/// A garbage record from its key and value.
///
/// # Errors
/// When it is malformed.
pub fn garbage_record(key: &[u8], value: &[u8]) -> Result<GarbageRecord, ViewError> {
    let chunk = keys::head_id(key).ok_or_else(|| ViewError("a garbage record's key is malformed".into()))?;
    let value = decode::<GarbageValue>("a garbage record", value)?;
    Ok(GarbageRecord { chunk: ChunkId(chunk), servers: value.servers.into_iter().map(ServerId).collect() })
}

fn chunk_id(value: &[u8]) -> Result<ChunkId, ViewError> {
    let id = value.try_into().map_err(|_| ViewError("a file's chunk is malformed".into()))?;
    Ok(ChunkId(u64::from_be_bytes(id)))
}

/// Places in [from, to) of a file that have a chunk. Does not count through the absent ones.
fn present(s: &Scratch<'_>, inode: InodeId, from: u64, to: u64) -> Result<Vec<(u64, ChunkId)>, Fail> {
    let mut found = Vec::new();
    let mut malformed = false;
    s.scan(&keys::file_chunks(inode), &keys::file_chunk(inode, from), &mut |key, value| {
        let (Some(index), Ok(chunk)) = (keys::tail_id(key), chunk_id(value)) else {
            malformed = true;
            return false;
        };
        if index >= to {
            return false;
        }
        found.push((index, chunk));
        true
    })?;
    if malformed {
        return Err(ViewError(format!("the chunks of inode {inode} are malformed")).into());
    }
    Ok(found)
}

fn check_file(s: &Scratch<'_>, inode: InodeId) -> Result<(), Fail> {
    match inodes::load(s, inode)?.kind() {
        S_IFREG => Ok(()),
        S_IFDIR => Err(errno::EISDIR.into()),
        _ => Err(errno::EINVAL.into()),
    }
}

fn infos(s: &Scratch<'_>, found: &[(u64, ChunkId)]) -> Result<Vec<rpc::ChunkInfo>, Fail> {
    let mut chunks = Vec::with_capacity(found.len());
    for (index, chunk) in found {
        let record = chunk_record(s, *chunk)?
            .ok_or_else(|| ViewError(format!("chunk {chunk} at index {index} has no record")))?;
        chunks.push(record.info());
    }
    Ok(chunks)
}

pub(super) fn get(s: &Scratch<'_>, op: &rpc::GetChunks) -> Done {
    let inode = InodeId(op.inode);
    check_file(s, inode)?;
    let to = op.from.saturating_add(u64::from(op.count.min(COUNT_MAX)));
    let chunks = infos(s, &present(s, inode, op.from, to)?)?;
    let neighbours = neighbours(s, inode, op.neighbours.min(NEIGHBOURS_MAX))?;
    Ok(Some(Body2::Chunks(rpc::Chunks { chunks, neighbours })))
}

/// The first chunks of the next files by inode number. Whoever reads many small files one after the other need not ask
/// for each.
fn neighbours(s: &Scratch<'_>, inode: InodeId, wanted: u32) -> Result<Vec<rpc::Neighbour>, Fail> {
    if wanted == 0 {
        return Ok(Vec::new());
    }
    let mut found: Vec<(InodeId, ChunkId)> = Vec::new();
    let mut left = wanted * LOOKED_AT;
    let next = keys::file_chunks(InodeId(inode.0.saturating_add(1)));
    s.scan(&[keys::FILE_CHUNK], &next, &mut |key, value| {
        if let (Some(file), Some(0), Ok(chunk)) = (keys::head_id(key), keys::tail_id(key), chunk_id(value)) {
            found.push((InodeId(file), chunk));
        }
        left -= 1;
        left > 0 && found.len() < wanted as usize
    })?;
    // They are a favour: one that cannot be told is left out.
    let told = |(file, chunk): &(InodeId, ChunkId)| {
        let size = inodes::load(s, *file).ok()?.size;
        let chunk = chunk_record(s, *chunk).ok()??.info();
        Some(rpc::Neighbour { chunk: Some(chunk), size })
    };
    Ok(found.iter().filter_map(told).collect())
}

pub(super) fn alloc(s: &mut Scratch<'_>, c: &mut Context<'_>, op: &rpc::AllocChunks) -> Done {
    let inode = InodeId(op.inode);
    check_file(s, inode)?;
    if op.count == 0 || op.count > COUNT_MAX {
        return Err(errno::EINVAL.into());
    }
    let last = SIZE_MAX / c.chunk_size;
    let to = op.from.saturating_add(u64::from(op.count));
    if to > last + 1 {
        return Err(errno::EFBIG.into());
    }
    let mut found = present(s, inode, op.from, to)?.into_iter().peekable();
    let mut all = Vec::with_capacity(op.count as usize);
    for index in op.from..to {
        match found.next_if(|(i, _)| *i == index) {
            Some(there) => all.push(there),
            None => all.push((index, make(s, c, inode, index)?)),
        }
    }
    Ok(Some(Body2::Chunks(rpc::Chunks { chunks: infos(s, &all)?, ..rpc::Chunks::default() })))
}

fn make(s: &mut Scratch<'_>, c: &mut Context<'_>, inode: InodeId, index: u64) -> Result<ChunkId, Fail> {
    let in_sync = (c.place)().map_err(|e| match e {
        PlaceError::TooFew { .. } => Fail::Detail(errno::EAGAIN, e.to_string()),
        PlaceError::Full { .. } => Fail::Detail(errno::ENOSPC, e.to_string()),
    })?;
    let chunk = ChunkId(s.counters.next_chunk);
    s.counters.next_chunk += 1;
    let record = ChunkRecord { chunk, epoch: Epoch(1), in_sync, wanted: c.copies, inode, index };
    put_chunk(s, &record);
    s.put(keys::file_chunk(inode, index), Bytes::copy_from_slice(&chunk.0.to_be_bytes()));
    c.events.push(Event::ChunkAllocated(record));
    Ok(chunk)
}

/// Turns the chunks with index in [from, to) into holes, the chunks into garbage.
pub(super) fn drop_all(
    s: &mut Scratch<'_>,
    c: &mut Context<'_>,
    inode: InodeId,
    from: u64,
    to: u64,
) -> Result<(), Fail> {
    for (index, chunk) in present(s, inode, from, to)? {
        s.delete(keys::file_chunk(inode, index));
        let Some(record) = chunk_record(s, chunk)? else { continue };
        s.delete(keys::chunk(chunk));
        let value = GarbageValue { servers: record.in_sync.iter().map(|s| s.0).collect() };
        s.put(keys::garbage(chunk), value.encode());
        c.events.push(Event::ChunkDeleted { chunk, servers: record.in_sync });
    }
    Ok(())
}

pub(super) fn drop_range(s: &mut Scratch<'_>, c: &mut Context<'_>, op: &rpc::DropChunks) -> Done {
    let inode = InodeId(op.inode);
    check_file(s, inode)?;
    drop_all(s, c, inode, op.from, op.to)?;
    let mut record = inodes::load(s, inode)?;
    record.mtime = c.now;
    record.ctime = c.now;
    inodes::store(s, inode, &mut record);
    super::attr_reply(inode, &record)
}
