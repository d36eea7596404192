//! Questions to one other replica of a chunk.

use super::chunk::Chunk;
use super::effects::NotSent;
use super::reads::TABLE_ENTRIES;
use super::state::Node;
use crate::core::differences::Told;
use crate::core::layout::ChunkMeta;
use crate::core::replica::Fault;
use bytes::Bytes;
use cairn_proto::block::BLOCK;
use cairn_proto::data::{CallError, Client, Header, Kind, Reply, Status};
use cairn_proto::rpc::{StateMeta, StateReply, SyncMeta, TableReply};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// For one question to a member.
const LIMIT: Duration = Duration::from_secs(2);
/// A member that cannot be reached may be starting: so long it is waited for.
const STARTING: Duration = Duration::from_millis(1500);
const AGAIN: Duration = Duration::from_millis(100);

/// A member that did not do its part, or this server itself.
pub(super) struct Failed {
    pub server: u32,
    pub fault: Fault,
}

/// A block turned out to be bad only now. Nobody is to be dropped for it: the replicas are compared again.
pub(super) const BAD_BLOCK: Failed = Failed { server: 0, fault: Fault::Disk };

/// Asks one server about the chunk; anything but `Ok` is a failure of that server.
pub(super) async fn ask(
    node: &Arc<Node>,
    chunk: &Chunk,
    epoch: u64,
    server: u32,
    (kind, offset): (Kind, u32),
    meta: &[u8],
) -> Result<Reply, Failed> {
    let header = Header::request(kind, chunk.id, epoch as u32, offset);
    let reply = node.peers.call(server, header, meta, Bytes::new(), LIMIT).await;
    checked(server, reply)
}

pub(super) fn checked(server: u32, reply: Result<Reply, CallError>) -> Result<Reply, Failed> {
    let fault = match reply {
        Ok(reply) => match reply.status() {
            Status::Ok => return Ok(reply),
            Status::NoSpace => Fault::NoSpace,
            Status::StaleEpoch | Status::NotPrimary => Fault::Stale,
            // It knows now, and will tell so when it is asked again.
            Status::Corrupt => return Err(BAD_BLOCK),
            status => {
                tracing::info!(server, ?status, "{}", reply.text());
                Fault::Disk
            }
        },
        Err(CallError::TimedOut) => Fault::Silent,
        Err(_) => Fault::Unreachable,
    };
    Err(Failed { server, fault })
}

pub(super) fn decoded<M: Message + Default>(server: u32, reply: &Reply) -> Result<M, Failed> {
    reply.meta().map_err(|_| Failed { server, fault: Fault::Disk })
}

pub(super) async fn state(
    node: &Arc<Node>,
    chunk: &Chunk,
    meta: &ChunkMeta,
    server: u32,
    patience: Duration,
) -> Result<StateReply, Failed> {
    let with_digest = StateMeta { digest: true }.encode_to_vec();
    let begun = tokio::time::Instant::now();
    loop {
        match ask(node, chunk, meta.epoch, server, (Kind::State, 0), &with_digest).await {
            Err(Failed { fault: Fault::Unreachable, .. }) if begun.elapsed() < patience => {
                tokio::time::sleep(AGAIN).await;
            }
            r => return decoded(server, &r?),
        }
    }
}

/// The same, and the connection that it was answered on. What is concluded from the answer may only be acted on
/// there: another connection may lead to a server that has restarted since.
pub(super) async fn state_on(
    node: &Arc<Node>,
    chunk: &Chunk,
    meta: &ChunkMeta,
    server: u32,
) -> Result<(StateReply, Arc<Client>), Failed> {
    const TRIES: usize = 5;
    for _ in 0..TRIES {
        let before = node.peers.connection(server);
        let reply = state(node, chunk, meta, server, STARTING).await?;
        let after = node.peers.connection(server);
        if let (Some(before), Some(after)) = (before, after)
            && Arc::ptr_eq(&before, &after)
        {
            return Ok((reply, after));
        }
    }
    Err(Failed { server, fault: Fault::Unreachable })
}

/// A server's whole table; empty where it has no such chunk.
pub(super) async fn table(
    node: &Arc<Node>,
    chunk: &Chunk,
    epoch: u64,
    server: u32,
) -> Result<Vec<Told>, Failed> {
    let mut told = Vec::new();
    let blocks = node.config.geometry.blocks() as usize;
    loop {
        let from = (told.len() * BLOCK) as u32;
        let header = Header::request(Kind::Table, chunk.id, epoch as u32, from);
        let reply = node.peers.call(server, header, &[], Bytes::new(), LIMIT).await;
        if matches!(&reply, Ok(r) if r.status() == Status::NoChunk) {
            return Ok(told);
        }
        let t: TableReply = decoded(server, &checked(server, reply)?)?;
        let part = t.crcs.len().min(t.versions.len()).min(TABLE_ENTRIES as usize);
        told.extend(t.crcs.into_iter().zip(t.versions));
        if t.end || part == 0 || told.len() >= blocks {
            told.truncate(blocks);
            return Ok(told);
        }
    }
}

/// Sends blocks as they are now, and waits until they are there.
pub(super) async fn install(
    node: &Arc<Node>,
    chunk: &Arc<Chunk>,
    meta: &ChunkMeta,
    (server, on): (u32, &Client),
    run: (u32, u32),
) -> Result<(), Failed> {
    let (tx, rx) = oneshot::channel();
    let then = move |frame| {
        // The comparison may have ended.
        let _ = tx.send(frame);
    };
    let sent = {
        let _in_order = chunk.replica.lock();
        chunk.install_at(node, meta, (server, Some(on)), run, false, then)
    };
    match sent {
        Ok(()) => {}
        Err(NotSent::Unreadable) => return Err(BAD_BLOCK),
        Err(NotSent::Unreachable) => return Err(Failed { server, fault: Fault::Unreachable }),
    }
    let reply = match tokio::time::timeout(LIMIT, rx).await {
        Err(_) => Err(CallError::TimedOut),
        Ok(Ok(Some(frame))) => Ok(frame),
        Ok(_) => Err(CallError::Lost),
    };
    checked(server, reply).map(drop)
}

/// Has a server make the chunk stable.
pub(super) async fn sync_member(
    node: &Arc<Node>,
    chunk: &Chunk,
    meta: &ChunkMeta,
    server: u32,
) -> Result<(), Failed> {
    let header = Header::request(Kind::Sync, chunk.id, meta.epoch as u32, 0);
    let body = SyncMeta { local: true }.encode_to_vec();
    let reply = node.peers.call(server, header, &body, Bytes::new(), LIMIT * 5).await;
    checked(server, reply).map(drop)
}
