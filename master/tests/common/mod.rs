//! A real master on a port of its own, and a mount's end of a session.
#![allow(dead_code, reason = "not every test uses everything")]
#![allow(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use cairn_master::Config;
use cairn_proto::rpc::{
    self, ClientMessage, MasterMessage, Op, Reply, client_message, master_message, meta_client::MetaClient,
    op::Op as Body,
};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

/// How long anything may take that must come.
pub const SOON: Duration = Duration::from_secs(10);

/// A running master.
pub struct Master {
    pub addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), cairn_master::Error>>,
}

impl Master {
    pub async fn start(data: &Path) -> Self {
        Self::start_with(Config { session_ttl: Duration::from_secs(2), ..config(data) }).await
    }

    pub async fn start_with(config: Config) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (up, ready) = oneshot::channel();
        let task = tokio::spawn(async move {
            cairn_master::run(config, |addr| _ = up.send(addr), async move { drop(stopped.await) }).await
        });
        let addr = match ready.await {
            Ok(addr) => addr,
            Err(_) => panic!("the master did not start: {:?}", task.await),
        };
        Self { addr, stop: Some(stop), task }
    }

    pub async fn stop(mut self) {
        drop(self.stop.take());
        tokio::time::timeout(SOON, self.task).await.unwrap().unwrap().unwrap();
    }

    pub async fn mount(&self) -> Mount {
        self.resume(0).await
    }

    pub async fn resume(&self, session: u64) -> Mount {
        let mut mount = Mount::dial(self.addr, session).await;
        mount.welcome = Some(mount.welcomed().await);
        mount
    }
}

pub fn config(data: &Path) -> Config {
    Config { data: data.to_path_buf(), listen: "127.0.0.1:0".parse().unwrap(), ..Config::default() }
}

/// A mount's end of a session.
pub struct Mount {
    up: mpsc::Sender<ClientMessage>,
    down: tonic::Streaming<MasterMessage>,
    pub welcome: Option<rpc::Welcome>,
    pub next: u64,
}

impl Mount {
    /// Says hello, and does not wait for the welcome.
    pub async fn dial(addr: SocketAddr, session: u64) -> Self {
        let (up, requests) = mpsc::channel(512);
        let hello = rpc::Hello {
            session,
            mount_dir: "/mnt/test".into(),
            protocol: cairn_proto::PROTOCOL,
            ..rpc::Hello::default()
        };
        up.send(ClientMessage { msg: Some(client_message::Msg::Hello(hello)) }).await.unwrap();
        let mut client = MetaClient::connect(format!("http://{addr}")).await.unwrap();
        let down = client.session(ReceiverStream::new(requests)).await.unwrap().into_inner();
        Self { up, down, welcome: None, next: 1 }
    }

    pub async fn message(&mut self) -> Result<Option<MasterMessage>, tonic::Status> {
        tokio::time::timeout(SOON, self.down.message()).await.expect("nothing came")
    }

    pub async fn welcomed(&mut self) -> rpc::Welcome {
        match self.message().await.unwrap().and_then(|m| m.msg) {
            Some(master_message::Msg::Welcome(welcome)) => welcome,
            other => panic!("no welcome: {other:?}"),
        }
    }

    pub async fn event(&mut self) -> rpc::Event {
        match self.message().await.unwrap().and_then(|m| m.msg) {
            Some(master_message::Msg::Event(event)) => event,
            other => panic!("no event: {other:?}"),
        }
    }

    pub fn session(&self) -> u64 {
        self.welcome.as_ref().unwrap().session
    }

    pub async fn say(&self, msg: client_message::Msg) {
        self.up.send(ClientMessage { msg: Some(msg) }).await.unwrap();
    }

    pub async fn send(&mut self, body: Body) -> u64 {
        let id = self.next;
        self.next += 1;
        self.say(client_message::Msg::Op(Op { id, op: Some(body), ..rpc::Op::default() })).await;
        id
    }

    pub async fn reply(&mut self) -> Reply {
        loop {
            match self.message().await.unwrap().and_then(|m| m.msg) {
                Some(master_message::Msg::Reply(reply)) => return reply,
                Some(master_message::Msg::Event(_)) => {}
                other => panic!("no reply: {other:?}"),
            }
        }
    }

    pub async fn op(&mut self, body: Body) -> Reply {
        let id = self.send(body).await;
        let reply = self.reply().await;
        assert_eq!(reply.id, id);
        reply
    }

    pub async fn mkdir(&mut self, parent: u64, name: &str) -> Reply {
        self.op(mkdir(parent, name)).await
    }

    pub async fn lookup(&mut self, parent: u64, name: &str) -> Reply {
        self.op(lookup(parent, name)).await
    }
}

pub fn mkdir(parent: u64, name: &str) -> Body {
    Body::Make(rpc::Make {
        parent,
        name: name.to_owned().into(),
        mode: 0o040_755,
        umask: 0o022,
        ..rpc::Make::default()
    })
}

pub fn create(parent: u64, name: &str) -> Body {
    Body::Make(rpc::Make { parent, name: name.to_owned().into(), mode: 0o100_644, ..rpc::Make::default() })
}

pub fn lookup(parent: u64, name: &str) -> Body {
    Body::Lookup(rpc::Lookup { parent, name: name.to_owned().into() })
}

pub fn attr(reply: &Reply) -> rpc::Attr {
    match &reply.result {
        Some(rpc::reply::Result::Attr(attr)) => *attr,
        other => panic!("no attributes: {other:?} in {reply:?}"),
    }
}
