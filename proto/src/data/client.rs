//! The asking side of a data connection: many requests in flight, each answered by id.

use super::{
    Frame, FrameError, FrameReader, Greeting, Header, Outbox, Preamble, PreambleError, Role, Status, Stream,
};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Notify, oneshot};

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

type Callback = Box<dyn FnOnce(Option<Frame>) + Send>;

/// Who waits for an answer.
enum Waiter {
    Task(oneshot::Sender<Frame>),
    Call(Callback),
}

impl Waiter {
    fn answer(self, frame: Option<Frame>) {
        match (self, frame) {
            // The asker may have given up.
            (Self::Task(to), Some(frame)) => drop(to.send(frame)),
            (Self::Task(_), None) => {}
            (Self::Call(f), frame) => f(frame),
        }
    }
}

type Waiting = Mutex<Option<HashMap<u32, Waiter>>>;

/// A connection to one chunkserver. When it breaks every request in flight ends with
/// [`CallError::Lost`]; make a new one.
pub struct Client {
    out: Arc<Outbox>,
    waiting: Arc<Waiting>,
    next: AtomicU32,
    lost: Arc<Lost>,
}

/// Set once the connection is of no use any more; the reading task then ends and answers all who wait.
#[derive(Default)]
struct Lost {
    is: AtomicBool,
    told: Notify,
}

impl Lost {
    fn set(&self) {
        self.is.store(true, Ordering::Release);
        self.told.notify_one();
    }
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
                super::prepare(&s).map_err(io)?;
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
        let lost = Arc::new(Lost::default());
        tokio::spawn({
            let (waiting, lost) = (waiting.clone(), lost.clone());
            async move {
                tokio::select! {
                    () = deliver(&mut frames, &waiting) => {}
                    () = lost.told.notified() => {}
                }
                lost.is.store(true, Ordering::Release);
                // Outside the lock: a callback may use this client.
                let left = waiting.lock().take();
                left.into_iter().flatten().for_each(|(_, w)| w.answer(None));
            }
        });
        Ok(Self { out, waiting, next: AtomicU32::new(1), lost })
    }

    /// Whether the connection has broken.
    pub fn is_lost(&self) -> bool {
        self.lost.is.load(Ordering::Acquire)
    }

    /// Sends a request now (in the order of calls) and returns what waits for its answer.
    /// Dropping that forgets the answer; the request is carried out all the same.
    pub fn start(&self, header: Header, meta: &[u8], data: Bytes) -> Pending {
        let (tx, rx) = oneshot::channel();
        let request = self.send(header, meta, data, Waiter::Task(tx)).unwrap_or(0);
        Pending { rx, request, waiting: self.waiting.clone() }
    }

    /// As [`Self::start`], but `then` gets the answer in the reading task itself, which saves waking
    /// another one: it must not block. `None`: the connection was lost. False: it was lost already, and
    /// `then` is not called.
    pub fn start_then(
        &self,
        header: Header,
        meta: &[u8],
        data: Bytes,
        then: impl FnOnce(Option<Frame>) + Send + 'static,
    ) -> bool {
        self.send(header, meta, data, Waiter::Call(Box::new(then))).is_some()
    }

    fn send(&self, mut header: Header, meta: &[u8], data: Bytes, waiter: Waiter) -> Option<u32> {
        header.request = self.next.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().as_mut()?.insert(header.request, waiter);
        if !self.out.send(&header, meta, data) {
            self.lost.set();
        }
        Some(header.request)
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

/// Hands each answer to whoever waits for it, until the connection ends.
async fn deliver(frames: &mut FrameReader, waiting: &Waiting) {
    loop {
        match frames.next().await {
            Ok(Some(frame)) => {
                let to = waiting.lock().as_mut().and_then(|w| w.remove(&frame.header.request));
                if let Some(to) = to {
                    to.answer(Some(frame));
                }
            }
            Ok(None) => return,
            Err(e) => return tracing::debug!("data connection: {e}"),
        }
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
        self.lost.set();
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
