//! The service that chunkservers talk to: a stream each way, kept for a chunkserver's life.

use std::pin::Pin;
use std::task::{Context, Poll};

use cairn_proto::rpc;
use futures::Stream;
use rpc::cluster_server::ClusterServer;
use rpc::server_message::Msg;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, timeout};
use tonic::{Request, Response, Status, Streaming};

use super::attach_probe::watch_for_return;
use crate::core::cluster::{Down, Event, LinkId, Refusal};
use crate::owner::OwnerHandle;

/// The largest message taken from a chunkserver, in bytes: 16,384 replicas with all their fields.
const MESSAGE_MAX: usize = 1 << 20;
/// Commands that may wait for a chunkserver: it hears of every chunk that changed while it was away at
/// once. One that does not keep up with so many is disconnected.
const COMMANDS: usize = 65_536;
/// A chunkserver must register within this time.
const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);

/// The service.
#[derive(Debug)]
pub(crate) struct AttachService {
    owner: OwnerHandle,
}

impl AttachService {
    /// The service over this owner, ready to be served.
    pub(crate) fn server(owner: OwnerHandle) -> ClusterServer<Self> {
        ClusterServer::new(Self { owner }).max_decoding_message_size(MESSAGE_MAX)
    }
}

#[tonic::async_trait]
impl rpc::cluster_server::Cluster for AttachService {
    type AttachStream = Commands;

    async fn attach(
        &self,
        request: Request<Streaming<rpc::ServerMessage>>,
    ) -> Result<Response<Commands>, Status> {
        let (sender, waiting) = mpsc::channel(COMMANDS);
        let (open, over) = oneshot::channel();
        // The response's head must not wait for the registration: some peers send nothing before it is there.
        tokio::spawn(serve(self.owner.clone(), request.into_inner(), sender, over));
        Ok(Response::new(Commands { waiting, open: Some(open) }))
    }
}

/// From a chunkserver's first message to the end of its connection, and a little longer.
async fn serve(
    owner: OwnerHandle,
    mut messages: Streaming<rpc::ServerMessage>,
    commands: mpsc::Sender<Down>,
    over: oneshot::Receiver<()>,
) {
    let first = timeout(REGISTER_TIMEOUT, messages.message()).await;
    let Ok(Ok(Some(rpc::ServerMessage { msg: Some(Msg::Register(register)) }))) = first else {
        tracing::debug!("a connection to the cluster service that does not register is closed");
        let _ = commands.try_send(Err(Refusal::NotRegistered));
        return;
    };
    let addr = register.info.as_ref().map(|i| i.addr.clone()).unwrap_or_default();
    let link = owner.link(commands);
    owner.cluster(Event::Registered { link, register });
    tokio::select! {
        () = receive(&owner, link, messages) => {}
        // The owner has ended it, or the connection is broken.
        _ = over => {}
    }
    owner.cluster(Event::Disconnected { link });
    watch_for_return(&owner, link, &addr).await;
}

/// Hands over what the chunkserver says, until it ends.
async fn receive(owner: &OwnerHandle, link: LinkId, mut messages: Streaming<rpc::ServerMessage>) {
    loop {
        match messages.message().await {
            Ok(Some(message)) => match message.msg.and_then(|msg| event(link, msg)) {
                Some(event) => owner.cluster(event),
                None => return tracing::warn!(link = link.0, "a message that makes no sense: disconnected"),
            },
            Ok(None) => return,
            Err(status) => {
                return tracing::debug!(link = link.0, "a chunkserver's stream ended: {}", status.message());
            }
        }
    }
}

/// `None`: not allowed after the first message.
fn event(link: LinkId, msg: Msg) -> Option<Event> {
    Some(match msg {
        Msg::Register(_) => return None,
        Msg::Heartbeat(heartbeat) => Event::Heartbeat { link, heartbeat },
        Msg::Report(report) => Event::Report { link, report },
        Msg::Problem(problem) => Event::Problem { link, problem },
        Msg::Done(done) => Event::Done { link, done },
        Msg::Probed(probed) => Event::Probed { link, probed },
        Msg::CaughtUp(caught_up) => Event::CaughtUp { link, caught_up },
    })
}

/// The commands for one chunkserver, as the response's body.
#[derive(Debug)]
pub(crate) struct Commands {
    waiting: mpsc::Receiver<Down>,
    /// Dropped at the end: so the task that reads the other way learns of it.
    open: Option<oneshot::Sender<()>>,
}

impl Stream for Commands {
    type Item = Result<rpc::MasterCommand, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.open.is_none() {
            return Poll::Ready(None);
        }
        let next = std::task::ready!(self.waiting.poll_recv(cx));
        if !matches!(next, Some(Ok(_))) {
            self.open = None;
        }
        Poll::Ready(next.map(|down| down.map_err(|refusal| status(&refusal))))
    }
}

fn status(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal {
        Refusal::OtherCluster { .. } | Refusal::IdWithoutCluster(_) | Refusal::Protocol(_) => {
            Status::failed_precondition(text)
        }
        Refusal::Twice(..) => Status::already_exists(text),
        Refusal::TooMany(_) => Status::resource_exhausted(text),
        Refusal::Bad(_) | Refusal::NotRegistered => Status::invalid_argument(text),
        Refusal::Replaced => Status::aborted(text),
    }
}

#[cfg(test)]
#[path = "attach_tests.rs"]
mod tests;
