//! What administrators ask.

use bytes::Bytes;
use cairn_proto::{ChunkId, InodeId, rpc};
use tonic::Status;

use super::state::State;
use super::turn::Turn;
use crate::core::keys;
use crate::core::namespace;
use crate::core::records::{Inode, decode};
use crate::core::view::{View, ViewError};

/// The most chunks of a file that are shown.
const FILE_CHUNKS: usize = 16_384;

impl State {
    /// How everything is. Nothing is scanned for it.
    pub(super) fn status(&self, turn: &Turn<'_>) -> rpc::StatusReply {
        let counts = self.cluster.counts();
        let mounts = self.sessions.list().map(|(id, record)| rpc::MountStatus {
            dir: record.mount_dir.clone(),
            pid: record.pid,
            host: record.host.clone(),
            session: id.0,
            exclusive: record.exclusive,
        });
        rpc::StatusReply {
            masters: vec![rpc::MasterStatus {
                id: 1,
                addr: self.config.listen.to_string(),
                pid: std::process::id(),
                leader: true,
            }],
            chunkservers: self.cluster.status(),
            mounts: mounts.collect(),
            chunks_total: counts.total,
            chunks_under_replicated: counts.under_replicated,
            chunks_missing: counts.missing,
            cluster_id: Bytes::copy_from_slice(&self.identity.cluster_id),
            inodes: turn.scratch.counters.inodes,
            copies: self.config.copies,
        }
    }

    /// Where a file's chunks are.
    pub(super) fn file(&self, turn: &Turn<'_>, inode: u64) -> Result<rpc::FileReply, Status> {
        let inode = InodeId(inode);
        let unreadable = |e: ViewError| Status::internal(e.to_string());
        let value = turn.scratch.get(&keys::inode(inode)).map_err(unreadable)?;
        let value = value.ok_or_else(|| Status::not_found(format!("no inode {inode}")))?;
        let record: Inode = decode("an inode", &value).map_err(unreadable)?;
        let prefix = keys::file_chunks(inode);
        let mut ids = Vec::new();
        turn.scratch
            .scan(&prefix, &prefix, &mut |_, value| {
                ids.extend(value.try_into().ok().map(|id| ChunkId(u64::from_be_bytes(id))));
                ids.len() < FILE_CHUNKS
            })
            .map_err(unreadable)?;
        let mut chunks = Vec::with_capacity(ids.len());
        for id in ids {
            let record = namespace::chunk_record(&turn.scratch, id).map_err(unreadable)?;
            chunks.extend(record.map(|r| r.info()));
        }
        Ok(rpc::FileReply {
            attr: Some(record.attr(inode)),
            chunks,
            servers: self.cluster.servers(),
            chunk_size: self.identity.chunk_size,
        })
    }
}
