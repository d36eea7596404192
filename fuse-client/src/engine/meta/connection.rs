//! One connection with one master: dial, say Hello, be welcomed.

use std::time::Duration;

use cairn_proto::rpc::client_message::Msg as Up;
use cairn_proto::rpc::master_message::Msg as Down;
use cairn_proto::rpc::meta_client::MetaClient;
use cairn_proto::rpc::{ClientMessage, Hello, MasterMessage, Welcome};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

const DIAL: Duration = Duration::from_secs(2);
/// A master whose machine vanished without a word is noticed after the two together.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(8);
/// A page of a directory with attributes is the largest message: 1,000 entries of at most 255 bytes of name.
const MOST_BYTES: usize = 16 << 20;
const FLOW_WINDOW: u32 = 4 << 20;

/// An established connection. Its upward half is fed from any thread.
pub(super) struct Connection {
    pub(super) up: mpsc::UnboundedSender<ClientMessage>,
    pub(super) down: Streaming<MasterMessage>,
    pub(super) welcome: Welcome,
    /// When hello was said.
    pub(super) asked: std::time::Instant,
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not "host:port".
    #[error("\"{0}\" is not an address of the form host:port")]
    Address(String),
    /// It could not be reached, or the connection broke.
    #[error("{addr}: {source}")]
    Transport {
        /// The master.
        addr: String,
        /// What happened.
        source: tonic::transport::Error,
    },
    /// It answered, and refused.
    #[error("{addr}: {}", status.message())]
    Refused {
        /// The master.
        addr: String,
        /// Its words.
        status: Box<tonic::Status>,
    },
    /// It accepted the connection and then kept silent, or spoke out of turn.
    #[error("{addr}: no welcome")]
    Silent {
        /// The master.
        addr: String,
    },
}

/// Connects. `patience`: how long the master may take to welcome (it first recalls the caches of others).
pub(super) async fn connect(
    addr: &str,
    hello: Hello,
    patience: Duration,
) -> Result<Connection, ConnectError> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))
        .map_err(|_| ConnectError::Address(addr.to_owned()))?
        .tcp_nodelay(true)
        .connect_timeout(DIAL)
        .initial_stream_window_size(FLOW_WINDOW)
        .initial_connection_window_size(FLOW_WINDOW)
        .http2_keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_TIMEOUT)
        .keep_alive_while_idle(true);
    let greet = async {
        let channel = endpoint
            .connect()
            .await
            .map_err(|source| ConnectError::Transport { addr: addr.to_owned(), source })?;
        let refused =
            |status: tonic::Status| ConnectError::Refused { addr: addr.to_owned(), status: status.into() };
        let (up, outgoing) = mpsc::unbounded_channel();
        let asked = std::time::Instant::now();
        // Cannot fail: the receiver is here.
        let _ = up.send(ClientMessage { msg: Some(Up::Hello(hello)) });
        let mut down = MetaClient::new(channel)
            .max_decoding_message_size(MOST_BYTES)
            .session(UnboundedReceiverStream::new(outgoing))
            .await
            .map_err(refused)?
            .into_inner();
        match down.message().await.map_err(refused)? {
            Some(MasterMessage { msg: Some(Down::Welcome(welcome)) }) => {
                Ok(Connection { up, down, welcome, asked })
            }
            _ => Err(ConnectError::Silent { addr: addr.to_owned() }),
        }
    };
    match tokio::time::timeout(patience, greet).await {
        Ok(result) => result,
        Err(_) => Err(ConnectError::Silent { addr: addr.to_owned() }),
    }
}
