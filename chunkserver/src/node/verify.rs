//! Answers `cairn fsck`: what there is here, and whether it is what its checksums say.

use super::answer::Answer;
use super::chunk::Chunk;
use super::state::Node;
use crate::disk::DiskError;
use bytes::Bytes;
use cairn_proto::data::{Frame, FrameError, Status};
use cairn_proto::rpc::{ListReply, ListedReplica, VerifyMeta, VerifyReply};
use prost::Message;
use std::sync::Arc;

/// Replicas in one ListReply: what fits into a frame's metadata.
const LISTED: usize = 2_048;
/// Bad blocks in one VerifyReply.
const BAD: usize = 1_024;

pub(super) fn verify(node: &Arc<Node>, frame: &Frame, answer: Answer) -> Result<(), FrameError> {
    let meta: VerifyMeta = frame.meta()?;
    let Some(chunk) = node.chunk(frame.header.chunk) else {
        answer.send(Status::Ok, 0, &VerifyReply::default().encode_to_vec(), Bytes::new());
        return Ok(());
    };
    let node = node.clone();
    node.clone().handle.spawn(async move {
        // Healing has more need of the disk.
        let _turn = node.heavy.acquire().await;
        let checked = tokio::task::spawn_blocking({
            let (node, chunk) = (node.clone(), chunk.clone());
            move || {
                let disk = &chunk.unit.disk;
                let mut read = if meta.content { disk.read_all(&chunk.file)? } else { Default::default() };
                if !read.bad.is_empty() {
                    chunk.doubt(&node);
                }
                read.bad.truncate(BAD);
                Ok(VerifyReply { bad: read.bad, bytes_read: read.bytes, ..described(&chunk)? })
            }
        });
        match checked.await.unwrap_or(Err(DiskError::Failed)) {
            Ok(reply) => answer.send(Status::Ok, reply.epoch, &reply.encode_to_vec(), Bytes::new()),
            Err(e) => answer.refuse(e.status(), 0, &e.to_string()),
        }
    });
    Ok(())
}

/// The replica's state and the digest of its table, at one moment.
fn described(chunk: &Chunk) -> Result<VerifyReply, DiskError> {
    let machine = chunk.replica.lock();
    let digest = chunk.unit.disk.digest(&chunk.file)?;
    let meta = machine.meta();
    Ok(VerifyReply {
        exists: true,
        epoch: meta.epoch,
        in_sync: meta.in_sync,
        unclean: !machine.is_trusted() || chunk.file.in_doubt(),
        seq: machine.seq(),
        digest,
        ..VerifyReply::default()
    })
}

pub(super) fn list(node: &Arc<Node>, frame: &Frame, answer: Answer) {
    let mut ids: Vec<u64> =
        node.all_chunks().iter().map(|c| c.id).filter(|c| *c >= frame.header.chunk).collect();
    ids.sort_unstable();
    let end = ids.len() <= LISTED;
    let held = ids.into_iter().take(LISTED).filter_map(|id| {
        let epoch = node.chunk(id)?.replica.lock().epoch();
        Some(ListedReplica { chunk: id, epoch })
    });
    let reply = ListReply { replicas: held.collect(), end };
    answer.send(Status::Ok, 0, &reply.encode_to_vec(), Bytes::new());
}
