//! The service that `cairn fsck` talks to.

use cairn_proto::rpc;
use rpc::fsck_server::{Fsck, FsckServer};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::owner::{FsckQuestion, Message, OwnerHandle};

/// The service.
#[derive(Debug)]
pub(crate) struct FsckService {
    owner: OwnerHandle,
}

impl FsckService {
    /// The service over this owner, ready to be served.
    pub(crate) fn server(owner: OwnerHandle) -> FsckServer<Self> {
        FsckServer::new(Self { owner })
    }

    async fn ask<T>(
        &self,
        question: impl FnOnce(oneshot::Sender<Result<T, Status>>) -> FsckQuestion,
    ) -> Result<Response<T>, Status> {
        let (to, answer) = oneshot::channel();
        self.owner.tell(Message::Fsck(question(to)));
        answer.await.map_err(|_| Status::unavailable("the master is stopping"))?.map(Response::new)
    }
}

#[tonic::async_trait]
impl Fsck for FsckService {
    async fn page(
        &self,
        request: Request<rpc::FsckPageRequest>,
    ) -> Result<Response<rpc::FsckPageReply>, Status> {
        self.ask(|to| FsckQuestion::Page(request.into_inner(), to)).await
    }

    async fn chunks(
        &self,
        request: Request<rpc::FsckChunksRequest>,
    ) -> Result<Response<rpc::FsckChunksReply>, Status> {
        self.ask(|to| FsckQuestion::Chunks(request.into_inner(), to)).await
    }

    async fn paths(
        &self,
        request: Request<rpc::FsckPathsRequest>,
    ) -> Result<Response<rpc::FsckPathsReply>, Status> {
        self.ask(|to| FsckQuestion::Paths(request.into_inner(), to)).await
    }
}
