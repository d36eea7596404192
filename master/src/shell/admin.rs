//! The service that administrators talk to.

use cairn_proto::rpc::admin_server::{Admin, AdminServer};
use cairn_proto::rpc::{
    FileReply, FileRequest, NodeReply, NodeRequest, ScrubReply, ScrubRequest, StatusReply, StatusRequest,
};
use tokio::sync::oneshot;
use tonic::{Request, Response, Status};

use crate::owner::{Message, OwnerHandle};

/// The service.
#[derive(Debug)]
pub(crate) struct AdminService {
    owner: OwnerHandle,
}

impl AdminService {
    /// The service over this owner, ready to be served.
    pub(crate) fn server(owner: OwnerHandle) -> AdminServer<Self> {
        AdminServer::new(Self { owner })
    }
}

fn stopping<E>(_: E) -> Status {
    Status::unavailable("the master is stopping")
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        let (to, answer) = oneshot::channel();
        self.owner.tell(Message::Status(to));
        answer.await.map(Response::new).map_err(stopping)
    }

    async fn file(&self, request: Request<FileRequest>) -> Result<Response<FileReply>, Status> {
        let (to, answer) = oneshot::channel();
        self.owner.tell(Message::File(request.into_inner().inode, to));
        answer.await.map_err(stopping)?.map(Response::new)
    }

    async fn node(&self, request: Request<NodeRequest>) -> Result<Response<NodeReply>, Status> {
        let (to, answer) = oneshot::channel();
        self.owner.tell(Message::Node(request.into_inner(), to));
        answer.await.map_err(stopping)?.map(Response::new)
    }

    async fn scrub(&self, request: Request<ScrubRequest>) -> Result<Response<ScrubReply>, Status> {
        let (to, answer) = oneshot::channel();
        self.owner.tell(Message::Scrub(request.into_inner(), to));
        answer.await.map(Response::new).map_err(stopping)
    }
}
