//! Asks the master.

use std::collections::BTreeMap;

use bytes::Bytes;
use cairn_proto::rpc::fsck_client::FsckClient;
use cairn_proto::rpc::{
    FsckChunk, FsckChunksRequest, FsckPageReply, FsckPageRequest, FsckPath, FsckPathsRequest,
};
use tonic::transport::Channel;

use crate::admin;
use crate::error::Failure;

/// Ids in one question.
pub const IDS: usize = 4_096;
/// Names of one file that are told.
const NAMES: usize = 16;

/// The master that answers.
pub struct Master {
    client: FsckClient<Channel>,
}

fn refused(status: &tonic::Status) -> Failure {
    Failure::System(format!("the master: {} ({:?})", status.message(), status.code()))
}

impl Master {
    /// Connects to the first that can be reached.
    pub async fn connect(masters: &[String]) -> Result<Self, Failure> {
        let channel = admin::first_channel(masters).await?;
        Ok(Self { client: FsckClient::new(channel) })
    }

    pub async fn page(&mut self, from: Bytes) -> Result<FsckPageReply, Failure> {
        let reply = self.client.page(FsckPageRequest { from }).await;
        reply.map(tonic::Response::into_inner).map_err(|e| refused(&e))
    }

    /// Chunks as they are now, in the order of these ids.
    pub async fn chunks(&mut self, ids: Vec<u64>) -> Result<Vec<FsckChunk>, Failure> {
        let mut told = Vec::with_capacity(ids.len());
        for some in ids.chunks(IDS) {
            let reply = self.client.chunks(FsckChunksRequest { chunks: some.to_vec() }).await;
            told.extend(reply.map_err(|e| refused(&e))?.into_inner().chunks);
        }
        Ok(told)
    }

    /// The names of at most [`IDS`] inodes.
    pub async fn paths(&mut self, inodes: Vec<u64>) -> Result<BTreeMap<u64, Vec<String>>, Failure> {
        let mut names: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        let mut from = Bytes::new();
        loop {
            let request = FsckPathsRequest { inodes: inodes.clone(), from };
            let reply = self.client.paths(request).await.map_err(|e| refused(&e))?.into_inner();
            for FsckPath { inode, path } in reply.paths {
                let known = names.entry(inode).or_default();
                if known.len() < NAMES {
                    known.push(String::from_utf8_lossy(&path).into_owned());
                }
            }
            if reply.next.is_empty() {
                return Ok(names);
            }
            from = reply.next;
        }
    }
}
