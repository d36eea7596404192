//! What `cairn fsck` asks.

use std::collections::BTreeSet;

use cairn_proto::rpc;
use tokio::sync::oneshot;
use tonic::Status;

use super::state::State;
use super::turn::Turn;
use crate::core::fsck::{self, Surroundings};
use crate::core::view::ViewError;

/// Ids in one question.
const IDS: usize = 4_096;

type To<T> = oneshot::Sender<Result<T, Status>>;

/// A question, and where the answer goes.
#[derive(Debug)]
pub(crate) enum Question {
    /// Check some records.
    Page(rpc::FsckPageRequest, To<rpc::FsckPageReply>),
    /// How are these chunks now?
    Chunks(rpc::FsckChunksRequest, To<rpc::FsckChunksReply>),
    /// What are these inodes called?
    Paths(rpc::FsckPathsRequest, To<rpc::FsckPathsReply>),
}

fn unreadable(e: ViewError) -> Status {
    Status::internal(e.to_string())
}

fn bounded(ids: &[u64]) -> Result<(), Status> {
    match ids.len() {
        0..=IDS => Ok(()),
        n => Err(Status::invalid_argument(format!("{n} ids in one question, at most {IDS} are allowed"))),
    }
}

impl State {
    /// Nothing is changed, so nothing has to be durable before the answer leaves. Whoever asked may be gone.
    pub(super) fn fsck(&self, turn: &Turn<'_>, question: Question) {
        match question {
            Question::Page(request, to) => drop(to.send(self.fsck_page(turn, &request))),
            Question::Chunks(request, to) => drop(to.send(fsck_chunks(turn, &request))),
            Question::Paths(request, to) => drop(to.send(fsck_paths(turn, &request))),
        }
    }

    fn fsck_page(
        &self,
        turn: &Turn<'_>,
        request: &rpc::FsckPageRequest,
    ) -> Result<rpc::FsckPageReply, Status> {
        let servers: BTreeSet<u32> = self.cluster.servers().iter().map(|s| s.id).collect();
        let around = Surroundings {
            chunk_size: self.identity.chunk_size,
            knows_server: &|server| servers.contains(&server.0),
        };
        fsck::page(&turn.scratch, &around, &request.from).map_err(unreadable)
    }
}

fn fsck_chunks(turn: &Turn<'_>, request: &rpc::FsckChunksRequest) -> Result<rpc::FsckChunksReply, Status> {
    bounded(&request.chunks)?;
    let found = fsck::chunks(&turn.scratch, &request.chunks).map_err(unreadable)?;
    let chunk = |(record, garbage): (Option<crate::core::cluster::ChunkRecord>, bool)| rpc::FsckChunk {
        info: record.map(|r| r.info()),
        garbage,
    };
    Ok(rpc::FsckChunksReply { chunks: found.into_iter().map(chunk).collect() })
}

fn fsck_paths(turn: &Turn<'_>, request: &rpc::FsckPathsRequest) -> Result<rpc::FsckPathsReply, Status> {
    bounded(&request.inodes)?;
    let inodes = request.inodes.iter().copied().collect();
    let (named, next) = fsck::paths(&turn.scratch, &inodes, &request.from).map_err(unreadable)?;
    let paths = named.into_iter().map(|(inode, path)| rpc::FsckPath { inode, path: path.into() });
    Ok(rpc::FsckPathsReply { next: next.into(), paths: paths.collect() })
}
