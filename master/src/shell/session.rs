//! The service that mounts talk to: a stream each way, handed over to the owner in bursts.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use cairn_proto::rpc::meta_server::{Meta, MetaServer};
use cairn_proto::rpc::{ClientMessage, MasterMessage, client_message::Msg};
use futures::Stream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Duration, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::core::sessions::ConnectionId;
use crate::owner::{Message, Outbox, OwnerHandle};

/// The largest message taken from a mount, in bytes.
const MESSAGE_MAX: usize = 4 << 20;
/// Answers and events that may wait to be sent to a mount: 256 operations may be unanswered, and events come too.
const OUTBOX: usize = 1_024;
/// The most messages handed over at once.
const BURST: usize = 256;
/// A mount must say hello within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// The service.
#[derive(Debug)]
pub(crate) struct SessionService {
    owner: OwnerHandle,
}

impl SessionService {
    /// The service over this owner, ready to be served.
    pub(crate) fn server(owner: OwnerHandle) -> MetaServer<Self> {
        MetaServer::new(Self { owner }).max_decoding_message_size(MESSAGE_MAX)
    }
}

#[tonic::async_trait]
impl Meta for SessionService {
    type SessionStream = ReceiverStream<Result<MasterMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<ClientMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut messages = request.into_inner();
        let (sender, answers) = mpsc::channel(OUTBOX);
        let owner = self.owner.clone();
        // The response's head must not wait for the hello: some clients send nothing before it is there.
        tokio::spawn(async move {
            let first = timeout(HELLO_TIMEOUT, messages.message()).await;
            let Ok(Ok(Some(ClientMessage { msg: Some(Msg::Hello(hello)) }))) = first else {
                let _ = sender.try_send(Err(Status::invalid_argument("the first message must be hello")));
                return;
            };
            let connection = owner.connection();
            let (open, over) = oneshot::channel();
            owner.tell(Message::Hello(connection, hello, Outbox { sender, _open: open }));
            tokio::select! {
                () = receive(&owner, connection, messages) => {}
                // The owner has ended it.
                _ = over => {}
            }
            owner.tell(Message::Gone(connection));
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

/// Hands over what the mount says, until it ends.
async fn receive(owner: &OwnerHandle, connection: ConnectionId, mut messages: Streaming<ClientMessage>) {
    loop {
        let (burst, ended) = burst(&mut messages).await;
        if !burst.is_empty() {
            owner.tell(Message::Client(connection, burst));
        }
        if let Some(end) = ended {
            if let Err(status) = end {
                tracing::debug!(connection = connection.0, "a mount's stream ended: {}", status.message());
            }
            return;
        }
    }
}

/// All messages that are there, at least one; and how the stream ended, if it did.
async fn burst(messages: &mut Streaming<ClientMessage>) -> (Vec<Msg>, Option<Result<(), Status>>) {
    let mut burst = Vec::new();
    let ended = poll_fn(|cx| {
        while burst.len() < BURST {
            match Pin::new(&mut *messages).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => burst.extend(message.msg),
                Poll::Ready(Some(Err(status))) => return Poll::Ready(Some(Err(status))),
                Poll::Ready(None) => return Poll::Ready(Some(Ok(()))),
                Poll::Pending if burst.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(None)
    })
    .await;
    (burst, ended)
}
