//! The asking side of a data connection: many requests in flight, each answered by id.

use super::{Frame, FrameError, Greeting, Header, Outbox, Preamble, PreambleError, Role, Status, Stream};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;

/// Where a chunkserver listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// "host:port".
    Tcp(String),
    /// A socket on this machine.
    Unix(PathBuf),
}

/// The answer to a request.
pub type Reply = Frame;

/// Why there is no answer. (An answer with a bad [`Status`] is an answer.)
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Could not connect.
    #[error("cannot connect: {0}")]
    Connect(#[from] PreambleError),
    /// The server is not the one that was meant.
    #[error("reached server {got} of another cluster or id, expected {expected}")]
    WrongServer {
        /// Who was meant.
        expected: u32,
        /// Who answered.
        got: u32,
    },
    /// The connection broke before the answer came: whether it was carried out is unknown.
    #[error("connection lost")]
    Lost,
    /// No answer in time: whether it was carried out is unknown.
    #[error("no answer in time")]
    TimedOut,
    /// The answer makes no sense.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

type Waiting = Mutex<Option<HashMap<u32, oneshot::Sender<Frame>>>>;

/// A connection to one chunkserver. When it breaks every request in flight ends with
/// [`CallError::Lost`]; make a new one.
pub struct Client {
    out: Arc<Outbox>,
    waiting: Arc<Waiting>,
    next: AtomicU32,
    reader: tokio::task::AbortHandle,
}

impl Client {
    /// Connects within `limit` and checks that `server` (0: anyone) of `me.cluster` answers.
    pub async fn connect(
        to: &Endpoint,
        me: Preamble,
        server: u32,
        limit: Duration,
    ) -> Result<Self, CallError> {
        tokio::time::timeout(limit, Self::connect_unbounded(to, me, server))
            .await
            .unwrap_or(Err(CallError::TimedOut))
    }

    async fn connect_unbounded(to: &Endpoint, me: Preamble, server: u32) -> Result<Self, CallError> {
        let io = |e: std::io::Error| CallError::Connect(e.into());
        let mut stream = match to {
            Endpoint::Tcp(addr) => {
                let s = TcpStream::connect(addr).await.map_err(io)?;
                s.set_nodelay(true).map_err(io)?;
                Stream::Tcp(s)
            }
            Endpoint::Unix(path) => Stream::Unix(UnixStream::connect(path).await.map_err(io)?),
        };
        let greeting = match &mut stream {
            Stream::Tcp(s) => greet(s, me).await?,
            Stream::Unix(s) => greet(s, me).await?,
        };
        if greeting.cluster != me.cluster || (server != 0 && greeting.server != server) {
            return Err(CallError::WrongServer { expected: server, got: greeting.server });
        }
        let (mut frames, out) = stream.into_frames();
        let waiting: Arc<Waiting> = Arc::new(Mutex::new(Some(HashMap::new())));
        let answers = waiting.clone();
        let reader = tokio::spawn(async move {
            loop {
                match frames.next().await {
                    Ok(Some(frame)) => {
                        let to = answers.lock().as_mut().and_then(|w| w.remove(&frame.header.request));
                        if let Some(to) = to {
                            // The asker may have given up.
                            let _ = to.send(frame);
                        }
                    }
                    Ok(None) => break,
                    Err(e) => {
                        tracing::debug!("data connection: {e}");
                        break;
                    }
                }
            }
            // Drops the senders: everyone who waits hears that the connection is lost.
            answers.lock().take();
        });
        Ok(Self { out, waiting, next: AtomicU32::new(1), reader: reader.abort_handle() })
    }

    /// Whether the connection has broken.
    pub fn is_lost(&self) -> bool {
        self.waiting.lock().is_none()
    }

    /// Sends a request now (in the order of calls) and returns what waits for its answer.
    /// Dropping that forgets the answer; the request is carried out all the same.
    pub fn start(&self, mut header: Header, meta: &[u8], data: Bytes) -> Pending {
        let (tx, rx) = oneshot::channel();
        header.request = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(w) = self.waiting.lock().as_mut() {
            w.insert(header.request, tx);
        }
        if !self.out.send(&header, meta, data) {
            self.waiting.lock().take();
        }
        Pending { rx, request: header.request, waiting: self.waiting.clone() }
    }

    /// Asks and waits for the answer, at most `limit`.
    pub async fn call(
        &self,
        header: Header,
        meta: &[u8],
        data: Bytes,
        limit: Duration,
    ) -> Result<Reply, CallError> {
        let pending = self.start(header, meta, data);
        tokio::time::timeout(limit, pending.answer()).await.unwrap_or(Err(CallError::TimedOut))
    }
}

async fn greet<S>(s: &mut S, me: Preamble) -> Result<Greeting, PreambleError>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    me.send(s).await?;
    Greeting::receive(s).await
}

impl Drop for Client {
    fn drop(&mut self) {
        self.out.close();
        self.reader.abort();
        self.waiting.lock().take();
    }
}

/// A request under way.
pub struct Pending {
    rx: oneshot::Receiver<Frame>,
    request: u32,
    waiting: Arc<Waiting>,
}

impl Pending {
    /// The answer, when it comes.
    pub async fn answer(mut self) -> Result<Reply, CallError> {
        (&mut self.rx).await.map_err(|_| CallError::Lost)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(w) = self.waiting.lock().as_mut() {
            w.remove(&self.request);
        }
    }
}

impl Endpoint {
    /// The nearest way to a server: its Unix socket when it is on the machine with `boot_id`, else TCP.
    pub fn nearest(server: &crate::rpc::ServerInfo, boot_id: &str) -> Self {
        if !server.unix_path.is_empty() && !boot_id.is_empty() && server.boot_id == boot_id {
            Self::Unix(server.unix_path.clone().into())
        } else {
            Self::Tcp(server.addr.clone())
        }
    }
}

impl Frame {
    /// How the request ended.
    pub fn status(&self) -> Status {
        self.header.status()
    }

    /// The text for people in a reply that is not `Ok`.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
}

impl Preamble {
    /// A client's.
    pub fn client(cluster: [u8; 16], session: u64) -> Self {
        Self { role: Role::Client, cluster, id: session }
    }

    /// A chunkserver's.
    pub fn server(cluster: [u8; 16], id: u32) -> Self {
        Self { role: Role::Server, cluster, id: id.into() }
    }
}
