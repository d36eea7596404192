//! What the data path asks the master about chunks, over the session.

use cairn_proto::backoff::Backoff;
use cairn_proto::rpc::op::Op;
use cairn_proto::rpc::reply::Result as ReplyResult;
use cairn_proto::rpc::{self, ChunkInfo, Failure, Neighbour};
use cairn_proto::{ChunkId, Epoch, InodeId, ServerId};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::time::Duration;

use super::session::Session;
use crate::engine::data::ChunkService;
use crate::engine::error::FsError;

const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MOST: Duration = Duration::from_millis(500);

fn chunks(reply: rpc::Reply) -> Result<Vec<ChunkInfo>, FsError> {
    match reply.result {
        Some(ReplyResult::Chunks(c)) => Ok(c.chunks),
        // An empty message may stand for an empty list.
        None => Ok(Vec::new()),
        Some(_) => Err(FsError::Io("the master's answer is not about chunks".into())),
    }
}

impl Session {
    /// Chunks cannot be made while too few chunkservers are alive: EAGAIN. They may come back.
    async fn alloc(&self, op: rpc::AllocChunks) -> Result<Vec<ChunkInfo>, FsError> {
        let deadline = tokio::time::Instant::now() + self.outage();
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        loop {
            match self.call(Op::AllocChunks(op)).await {
                Err(FsError::Refused { errno: libc::EAGAIN, detail }) => {
                    let pause = backoff.next(rand::random());
                    if tokio::time::Instant::now() + pause > deadline {
                        return Err(FsError::TimedOut(format!("no chunk could be made: {detail}")));
                    }
                    tokio::time::sleep(pause).await;
                }
                other => return chunks(other?),
            }
        }
    }
}

impl ChunkService for Session {
    fn get_chunks(
        &self,
        inode: InodeId,
        from: u64,
        count: u32,
    ) -> BoxFuture<'_, Result<Vec<ChunkInfo>, FsError>> {
        let get = rpc::GetChunks { inode: inode.0, from, count, neighbours: 0 };
        async move { chunks(self.call(Op::GetChunks(get)).await?) }.boxed()
    }

    fn neighbours(&self, after: InodeId, count: u32) -> BoxFuture<'_, Result<Vec<Neighbour>, FsError>> {
        let get = rpc::GetChunks { inode: after.0, from: 0, count: 0, neighbours: count };
        async move {
            match self.call(Op::GetChunks(get)).await?.result {
                Some(ReplyResult::Chunks(c)) => Ok(c.neighbours),
                _ => Ok(Vec::new()),
            }
        }
        .boxed()
    }

    fn alloc_chunks(
        &self,
        inode: InodeId,
        from: u64,
        count: u32,
    ) -> BoxFuture<'_, Result<Vec<ChunkInfo>, FsError>> {
        self.alloc(rpc::AllocChunks { inode: inode.0, from, count }).boxed()
    }

    fn replica_failed(
        &self,
        chunk: ChunkId,
        epoch: Epoch,
        servers: Vec<ServerId>,
        failure: Failure,
    ) -> BoxFuture<'_, Result<ChunkInfo, FsError>> {
        async move {
            let servers = servers.into_iter().map(|s| s.0).collect();
            let op = rpc::ReplicaFailed { chunk: chunk.0, epoch: epoch.0, servers, failure: failure.into() };
            let found = chunks(self.call(Op::ReplicaFailed(op)).await?)?;
            found.into_iter().next().ok_or(FsError::Stale)
        }
        .boxed()
    }
}
