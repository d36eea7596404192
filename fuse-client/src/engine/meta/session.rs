//! The session with the master: operations with deadline and replay over connections that come and go.
//!
//! Whoever has an operation pushes it into the stream himself; one task reads the answers and wakes the waiters.

use std::sync::Arc;
use std::time::Duration;

use cairn_proto::backoff::Backoff;
use cairn_proto::rpc::client_message::Msg as Up;
use cairn_proto::rpc::event::Event as MasterEvent;
use cairn_proto::rpc::master_message::Msg as Down;
use cairn_proto::rpc::op::Op;
use cairn_proto::rpc::{
    self, ChunkInfo, ClientMessage, EventAck, Goodbye, Hello, KeepAlive, MasterMessage, Reply, ServerInfo,
    Welcome,
};
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc, oneshot};
use tonic::Streaming;

use super::connection::{ConnectError, Connection, connect};
use super::core::failures::Failures;
use super::core::window::{Window, changes};
use super::lease_term::{LeaseHolder, LeaseTerm};

const KEEP_ALIVE: Duration = Duration::from_secs(1);
const LEAVE: Duration = Duration::from_secs(1);
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MOST: Duration = Duration::from_secs(1);

/// Settings of the session.
#[derive(Clone, Debug)]
pub struct SessionConfig {
    /// "host:port" of each master.
    pub masters: Vec<String>,
    /// For people: where it is mounted.
    pub mount_dir: String,
    /// For people: the machine's name.
    pub host: String,
    /// The machine's boot id, by which a mount that was killed is known to be gone when it comes back.
    pub boot_id: String,
    /// How long an operation waits for its answer.
    pub outage: Duration,
    /// For people: where the mount answers /health and /metrics; empty: nowhere.
    pub http: String,
}

/// How a mount stands with the master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// There is a stream to a master.
    pub connected: bool,
    /// An operation has waited in vain, and nothing has been heard since.
    pub silent: bool,
    /// Operations that are not answered yet.
    pub unanswered: usize,
}

/// What the session tells the engine, in the order in which it happened.
#[derive(Debug)]
pub enum SessionEvent {
    /// Another session arrives: write back, forget, then [`Session::acknowledge`] with this id.
    Recall(u64),
    /// Leases are recalled: forget what they cover, then [`Session::acknowledge`].
    LeaseRecall {
        /// The event's id.
        id: u64,
        /// The inodes.
        inodes: Vec<u64>,
    },
    /// Too many leases: give back all but `keep`, then [`Session::acknowledge`].
    Trim {
        /// The event's id.
        id: u64,
        /// How many may stay.
        keep: usize,
    },
    /// This session is the only one left.
    Exclusive,
    /// The request for a lock that waited under this number is held.
    LockGranted(u64),
    /// A chunk's in-sync set changed.
    Chunk(ChunkInfo),
    /// The chunkservers there are.
    Servers(Vec<ServerInfo>),
    /// The stream broke and is there again.
    Resumed(Welcome),
    /// A change took place whose caller had given up waiting: what is cached may be wrong.
    LateChange,
    /// The master has not done what had been answered here already.
    Refused {
        /// What.
        op: Box<Op>,
        /// Why.
        errno: i32,
        /// In words.
        detail: String,
    },
}

/// Who wants to hear the answer to an operation.
pub(super) enum Waiter {
    /// Its caller.
    Caller(oneshot::Sender<Reply>),
    /// Nobody, unless it was refused: it was carried out here and answered before it was sent.
    Nobody,
}

/// Somebody who waits until everything up to an id has been answered.
pub(super) struct Fence {
    pub(super) last: u64,
    pub(super) passed: oneshot::Sender<()>,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) window: Window<Waiter>,
    pub(super) fences: Vec<Fence>,
    pub(super) failures: Failures,
    pub(super) up: Option<mpsc::UnboundedSender<ClientMessage>>,
    session: u64,
    cluster: bytes::Bytes,
    pub(super) closed: bool,
    /// An operation has waited in vain, and nothing has been heard since.
    pub(super) silent: bool,
    /// The master's disk is nearly full, as its last answer to a change said.
    pub(super) scarce: bool,
    /// Others are there: what the master tells is kept under leases.
    pub(super) asks_leases: bool,
    /// To be told with the next hello.
    pub(super) open_at_hello: Vec<u64>,
}

impl State {
    fn pass_fences(&mut self) {
        let Self { window, fences, .. } = self;
        for fence in fences.extract_if(.., |fence| window.settled(fence.last)) {
            // Whoever waited may have given up.
            let _ = fence.passed.send(());
        }
    }
}

/// One mount's standing with the master.
pub struct Session {
    pub(super) config: SessionConfig,
    pub(super) state: Mutex<State>,
    pub(super) term: LeaseTerm,
    pub(super) room: Notify,
    closing: Notify,
    ended: Notify,
    events: mpsc::UnboundedSender<SessionEvent>,
}

impl Session {
    /// Opens a session with any of the masters, trying until `config.outage` has passed.
    ///
    /// # Errors
    /// The last reason why none could be had.
    pub async fn open(
        config: SessionConfig,
    ) -> Result<(Arc<Self>, Welcome, mpsc::UnboundedReceiver<SessionEvent>), ConnectError> {
        let (events, receiver) = mpsc::unbounded_channel();
        let session = Arc::new(Self {
            config,
            state: Mutex::default(),
            term: LeaseTerm::default(),
            room: Notify::new(),
            closing: Notify::new(),
            ended: Notify::new(),
            events,
        });
        let deadline = tokio::time::Instant::now() + session.config.outage;
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        let connection = loop {
            match session.try_masters().await {
                Ok(connection) => break connection,
                Err(e @ (ConnectError::Address(_) | ConnectError::Refused { .. })) => return Err(e),
                Err(e) => {
                    let pause = backoff.next(rand::random());
                    if tokio::time::Instant::now() + pause > deadline {
                        return Err(e);
                    }
                    tokio::time::sleep(pause).await;
                }
            }
        };
        let welcome = connection.welcome.clone();
        let down = session.adopt(connection);
        tokio::spawn(session.clone().run(down));
        tokio::spawn(session.clone().keep_alive());
        Ok((session, welcome, receiver))
    }

    /// How the mount stands with the master.
    pub fn standing(&self) -> Standing {
        let state = self.state.lock();
        let unanswered = state.window.unanswered().count();
        Standing { connected: state.up.is_some(), silent: state.silent, unanswered }
    }

    /// How long an operation waits for its answer.
    pub fn outage(&self) -> Duration {
        self.config.outage
    }

    /// An event has been dealt with.
    pub fn acknowledge(&self, ack: EventAck) {
        self.send(Up::EventAck(ack));
    }

    /// Who is to drop what is kept under leases when they end with the connection. To be set once.
    pub fn set_lease_holder(&self, holder: Box<dyn LeaseHolder>) {
        let _ = self.term.holder.set(holder);
    }

    /// How long leases may be used from now on; zero: not at all.
    pub fn lease_left(&self) -> Duration {
        self.term.left()
    }

    /// Whether what the master tells is to be kept under leases from now on.
    pub fn ask_leases(&self, ask: bool) {
        self.state.lock().asks_leases = ask;
    }

    /// Whether there is a connection to a master, which has heard of this session so lately that it cannot have ended: a process that
    /// was stopped still has its connection.
    pub fn stands(&self) -> bool {
        self.state.lock().up.is_some() && !self.term.left().is_zero()
    }

    /// Ends the session. Everything unanswered fails. Waits a little for the master to take leave.
    pub async fn close(&self) {
        let ended = self.ended.notified();
        self.send(Up::Goodbye(Goodbye {}));
        let waiters = {
            let mut state = self.state.lock();
            state.closed = true;
            state.up = None;
            state.fences.clear();
            state.window.abandon()
        };
        drop(waiters);
        self.room.notify_waiters();
        self.closing.notify_one();
        if tokio::time::timeout(LEAVE, ended).await.is_err() {
            tracing::info!("the master did not take leave; it will notice that the session has ended");
        }
    }

    pub(super) fn send(&self, msg: Up) {
        if let Some(up) = &self.state.lock().up {
            // Fails when the stream has just broken; what matters is sent again on the next one.
            let _ = up.send(ClientMessage { msg: Some(msg) });
        }
    }

    fn hello(&self) -> Hello {
        let state = self.state.lock();
        Hello {
            session: state.session,
            mount_dir: self.config.mount_dir.clone(),
            pid: std::process::id(),
            host: self.config.host.clone(),
            cluster_id: state.cluster.clone(),
            protocol: cairn_proto::PROTOCOL,
            boot_id: self.config.boot_id.clone(),
            http: self.config.http.clone(),
            open: state.open_at_hello.clone(),
        }
    }

    async fn try_masters(&self) -> Result<Connection, ConnectError> {
        let mut last = ConnectError::Address(String::new());
        for master in &self.config.masters {
            match connect(master, self.hello(), self.config.outage).await {
                Ok(connection) => return Ok(connection),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// Makes the connection the one in use and sends on it what was unanswered.
    fn adopt(&self, connection: Connection) -> Streaming<MasterMessage> {
        let Connection { up, down, welcome, asked } = connection;
        self.term.begins(asked, welcome.session_ttl_ms);
        let mut state = self.state.lock();
        state.session = welcome.session;
        state.cluster = welcome.cluster_id;
        state.silent = false;
        state.open_at_hello.clear();
        if welcome.renewed {
            self.lose_what_was_ahead(&mut state);
        }
        for op in state.window.unanswered() {
            let _ = up.send(ClientMessage { msg: Some(Up::Op(op)) });
        }
        state.up = Some(up);
        down
    }

    /// The session has ended at the master. What nobody waits for any more belonged to it: others may have changed anything
    /// since, so that it must not be done now.
    fn lose_what_was_ahead(&self, state: &mut State) {
        let lost = state.window.give_up(|waiter| match waiter {
            Waiter::Caller(caller) => caller.is_closed(),
            Waiter::Nobody => true,
        });
        for op in lost.into_iter().filter(|op| op.at.is_some()).filter_map(|op| op.op) {
            state.failures.add(&op, libc::EIO);
            let detail = "the session had ended before the master answered".into();
            let _ = self.events.send(SessionEvent::Refused { op: op.into(), errno: libc::EIO, detail });
        }
        state.pass_fences();
    }

    async fn run(self: Arc<Self>, mut down: Streaming<MasterMessage>) {
        loop {
            self.read(&mut down).await;
            self.state.lock().up = None;
            // Whoever says hello again holds no lease any more.
            let open = self.term.ends().await;
            self.state.lock().open_at_hello = open;
            let Some(next) = self.reconnect().await else {
                self.ended.notify_waiters();
                return;
            };
            let welcome = next.welcome.clone();
            down = self.adopt(next);
            tracing::info!(session = welcome.session, renewed = welcome.renewed, "the master is back");
            let _ = self.events.send(SessionEvent::Resumed(welcome));
        }
    }

    /// None: the session was closed meanwhile.
    async fn reconnect(&self) -> Option<Connection> {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MOST);
        let mut told = false;
        loop {
            if self.state.lock().closed {
                return None;
            }
            match self.try_masters().await {
                Ok(connection) => return Some(connection),
                Err(e) if !told => {
                    told = true;
                    tracing::warn!(error = %e, "no master can be reached; trying again until one is");
                }
                Err(_) => {}
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next(rand::random())) => {}
                () = self.closing.notified() => return None,
            }
        }
    }

    /// Returns when the stream has ended.
    async fn read(&self, down: &mut Streaming<MasterMessage>) {
        loop {
            match down.message().await {
                Ok(Some(MasterMessage { msg: Some(msg) })) => self.received(msg),
                Ok(Some(MasterMessage { msg: None })) => tracing::warn!("a message of an unknown kind"),
                Ok(None) => return,
                Err(status) => {
                    tracing::info!(error = %status, "the stream to the master broke");
                    return;
                }
            }
        }
    }

    fn received(&self, msg: Down) {
        match msg {
            Down::Reply(reply) => {
                let finished = {
                    let mut state = self.state.lock();
                    state.silent = false;
                    let finished = state.window.finish(reply.id);
                    if finished.as_ref().and_then(|(op, _)| op.op.as_ref()).is_some_and(changes) {
                        state.scarce = reply.scarce;
                    }
                    finished
                };
                let Some((rpc::Op { op: Some(op), .. }, waiter)) = finished else { return };
                match waiter {
                    Waiter::Caller(caller) => {
                        if caller.send(reply).is_err() && changes(&op) {
                            let _ = self.events.send(SessionEvent::LateChange);
                        }
                    }
                    Waiter::Nobody if reply.errno == 0 => {}
                    Waiter::Nobody => {
                        let Reply { errno, detail, .. } = reply;
                        self.state.lock().failures.add(&op, errno);
                        let _ = self.events.send(SessionEvent::Refused { op: op.into(), errno, detail });
                    }
                }
                // Behind the event: whoever finds everything settled finds what was refused, too.
                self.state.lock().pass_fences();
                self.room.notify_waiters();
            }
            Down::Event(event) => {
                let told = match event.event {
                    Some(MasterEvent::Recall(_)) => SessionEvent::Recall(event.id),
                    Some(MasterEvent::LeaseRecall(r)) => {
                        SessionEvent::LeaseRecall { id: event.id, inodes: r.inodes }
                    }
                    Some(MasterEvent::Trim(t)) => SessionEvent::Trim { id: event.id, keep: t.keep as usize },
                    Some(MasterEvent::Exclusive(_)) => SessionEvent::Exclusive,
                    Some(MasterEvent::LockGranted(granted)) => SessionEvent::LockGranted(granted.wait),
                    Some(MasterEvent::Chunk(chunk)) => SessionEvent::Chunk(chunk),
                    Some(MasterEvent::Servers(s)) => SessionEvent::Servers(s.servers),
                    None => return,
                };
                let takes_time = matches!(
                    told,
                    SessionEvent::Recall(_) | SessionEvent::LeaseRecall { .. } | SessionEvent::Trim { .. }
                );
                let wants_answer = event.id != 0 && !takes_time;
                let _ = self.events.send(told);
                if wants_answer {
                    self.acknowledge(EventAck { id: event.id, ..EventAck::default() });
                }
            }
            Down::KeptAlive(kept) => self.term.renewed(kept.seq),
            Down::Welcome(_) => tracing::warn!("a second welcome on one stream"),
        }
    }

    async fn keep_alive(self: Arc<Self>) {
        let mut tick = tokio::time::interval(KEEP_ALIVE);
        loop {
            tick.tick().await;
            if self.state.lock().closed {
                return;
            }
            self.send(Up::KeepAlive(KeepAlive { seq: self.term.asking() }));
        }
    }
}
