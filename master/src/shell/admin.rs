//! The service that administrators talk to.

use std::pin::Pin;

use cairn_proto::rpc::admin_server::{Admin, AdminServer};
use cairn_proto::rpc::{
    FileChange, FileReply, FileRequest, LimitsReply, LimitsRequest, LocksReply, LocksRequest, NodeChange,
    NodeReply, NodeRequest, ScrubReply, ScrubRequest, StatusReply, StatusRequest, WatchFilesRequest,
    WatchRequest, WeightsReply, WeightsRequest,
};
use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::owner::{Message, OwnerHandle};

/// Changes that may wait for one who watches; one who does not keep up with so many is let go.
const CHANGES: usize = 1_024;

/// Too much use counts after so long at the latest, milliseconds.
const LONGEST_MS: u32 = 3_600_000;

/// The most that one weight may be.
const WEIGHT: u32 = 1_000;

/// Changes of files that may wait for one who watches them; one who does not keep up misses some, and is told so.
const FILE_CHANGES: usize = 8_192;

type FileChanges = Pin<Box<dyn Stream<Item = Result<FileChange, Status>> + Send>>;
type Changes = Pin<Box<dyn Stream<Item = Result<NodeChange, Status>> + Send>>;

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

    async fn locks(&self, _: Request<LocksRequest>) -> Result<Response<LocksReply>, Status> {
        let (to, answer) = oneshot::channel();
        self.owner.tell(Message::Locks(to));
        answer.await.map(Response::new).map_err(stopping)
    }

    async fn weights(&self, request: Request<WeightsRequest>) -> Result<Response<WeightsReply>, Status> {
        let set = request.into_inner().set;
        if let Some(set) = &set {
            let all = [set.free, set.load, set.rtt, set.rack];
            if all.iter().all(|w| *w == 0) || all.iter().any(|w| *w > WEIGHT) {
                let why = format!("weights are from 0 to {WEIGHT}, one of them at least 1");
                return Err(Status::invalid_argument(why));
            }
        }
        let (to, answer) = oneshot::channel();
        self.owner.tell(Message::Weights(set, to));
        let weights = answer.await.map_err(stopping)?;
        Ok(Response::new(WeightsReply { weights: Some(weights) }))
    }

    async fn limits(&self, request: Request<LimitsRequest>) -> Result<Response<LimitsReply>, Status> {
        let set = request.into_inner().set;
        if let Some(set) = &set
            && !(1 <= set.low_permille && set.low_permille <= set.full_permille && set.full_permille <= 1_000)
        {
            let why = "a server is full from 1 to 100 percent on, and low at that or less";
            return Err(Status::invalid_argument(why));
        }
        if set.as_ref().is_some_and(|s| s.sustained_ms() > LONGEST_MS) {
            return Err(Status::invalid_argument("too much use counts after an hour at the latest"));
        }
        let (to, answer) = oneshot::channel();
        self.owner.tell(Message::Limits(set, to));
        let limits = answer.await.map_err(stopping)?;
        Ok(Response::new(LimitsReply { limits: Some(limits) }))
    }

    type WatchStream = Changes;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Changes>, Status> {
        let (to, changes) = mpsc::channel(CHANGES);
        self.owner.tell(Message::Watch(to));
        Ok(Response::new(Box::pin(ReceiverStream::new(changes).map(Ok))))
    }

    type WatchFilesStream = FileChanges;

    async fn watch_files(&self, _: Request<WatchFilesRequest>) -> Result<Response<FileChanges>, Status> {
        let (to, changes) = mpsc::channel(FILE_CHANGES);
        self.owner.tell(Message::WatchFiles(to));
        Ok(Response::new(Box::pin(ReceiverStream::new(changes).map(Ok))))
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
