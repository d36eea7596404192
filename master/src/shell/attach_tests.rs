//! Fake chunkservers over real connections: to a recorded owner, then to a whole master.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use cairn_proto::digest::replica_hash;
use cairn_proto::rpc;
use rpc::admin_client::AdminClient;
use rpc::cluster_client::ClusterClient;
use rpc::master_command::Cmd;
use rpc::server_message::Msg;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Status, Streaming};

use super::AttachService;
use crate::core::cluster::Event;
use crate::owner::{Message, OwnerHandle, Recorded};

const SOON: Duration = Duration::from_secs(10);

/// One chunkserver's side of the stream.
struct Peer {
    up: mpsc::Sender<rpc::ServerMessage>,
    down: Streaming<rpc::MasterCommand>,
}

impl Peer {
    async fn connect(master: SocketAddr) -> Self {
        let mut client = ClusterClient::connect(format!("http://{master}")).await.unwrap();
        let (up, messages) = mpsc::channel(64);
        let down = client.attach(ReceiverStream::new(messages)).await.unwrap().into_inner();
        Self { up, down }
    }

    async fn say(&self, msg: Msg) {
        self.up.send(rpc::ServerMessage { msg: Some(msg) }).await.unwrap();
    }

    async fn hear(&mut self) -> Result<Option<Cmd>, Status> {
        let next = timeout(SOON, self.down.message()).await.expect("nothing was heard in time");
        Ok(next?.and_then(|c| c.cmd))
    }

    /// The next command that `pick` accepts; others are passed over.
    async fn await_command<T>(&mut self, pick: impl Fn(Cmd) -> Option<T>) -> T {
        loop {
            if let Some(found) = pick(self.hear().await.unwrap().expect("the stream ended")) {
                return found;
            }
        }
    }

    async fn register(&mut self, register: rpc::Register) -> rpc::Registered {
        self.say(Msg::Register(register)).await;
        self.await_command(|c| if let Cmd::Registered(r) = c { Some(r) } else { None }).await
    }

    async fn beat(&mut self, seq: u64, digest: u64) {
        let disks = vec![rpc::Disk { total_bytes: 1 << 40, free_bytes: 1 << 39, ..Default::default() }];
        self.say(Msg::Heartbeat(rpc::Heartbeat { seq, disks, digest, ..Default::default() })).await;
        self.await_command(|c| matches!(c, Cmd::Ack(ack) if ack.seq == seq).then_some(())).await;
    }
}

fn register(addr: SocketAddr) -> rpc::Register {
    rpc::Register {
        info: Some(rpc::ServerInfo { addr: addr.to_string(), ..Default::default() }),
        incarnation: 1,
        pid: 42,
        protocol: cairn_proto::PROTOCOL,
        ..Default::default()
    }
}

/// The service alone; what it tells the owner comes out of the queue.
async fn recorded() -> (SocketAddr, Recorded) {
    let (owner, queue) = OwnerHandle::recorded();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = tonic::transport::Server::builder().add_service(AttachService::server(owner));
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (addr, queue)
}

async fn next(queue: &Recorded) -> Message {
    let deadline = Instant::now() + SOON;
    loop {
        match queue.try_recv() {
            Ok(message) => return message,
            Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(e) => panic!("the owner was told nothing: {e}"),
        }
    }
}

#[tokio::test]
async fn what_a_chunkserver_says_reaches_the_owner_in_order() {
    let (addr, queue) = recorded().await;
    // Nothing will listen there.
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut peer = Peer::connect(addr).await;
    peer.say(Msg::Register(register(gone))).await;
    peer.say(Msg::Heartbeat(rpc::Heartbeat { seq: 1, ..Default::default() })).await;
    let Message::Linked(link, commands) = next(&queue).await else { panic!("no link") };
    assert!(matches!(next(&queue).await, Message::Cluster(Event::Registered { link: l, .. }) if l == link));
    assert!(matches!(next(&queue).await, Message::Cluster(Event::Heartbeat { link: l, .. }) if l == link));
    let ack = rpc::MasterCommand {
        cmd: Some(Cmd::Ack(rpc::HeartbeatAck { seq: 1, ..Default::default() })),
        ..Default::default()
    };
    commands.send(Ok(ack)).await.unwrap();
    assert!(matches!(peer.hear().await, Ok(Some(Cmd::Ack(_)))));
    drop(peer);
    assert!(matches!(next(&queue).await, Message::Cluster(Event::Disconnected { link: l }) if l == link));
    assert!(matches!(next(&queue).await, Message::Cluster(Event::Refused { link: l }) if l == link));
}

#[tokio::test]
async fn a_server_whose_stream_ended_but_which_still_listens_is_not_called_gone() {
    let (addr, queue) = recorded().await;
    let data = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = Peer::connect(addr).await;
    peer.say(Msg::Register(register(data.local_addr().unwrap()))).await;
    let (_linked, _registered) = (next(&queue).await, next(&queue).await);
    drop(peer);
    assert!(matches!(next(&queue).await, Message::Cluster(Event::Disconnected { .. })));
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(queue.try_recv().is_err());
}

#[tokio::test]
async fn who_does_not_register_first_is_turned_away() {
    let (addr, queue) = recorded().await;
    let mut peer = Peer::connect(addr).await;
    peer.say(Msg::Heartbeat(rpc::Heartbeat::default())).await;
    assert_eq!(peer.hear().await.unwrap_err().code(), Code::InvalidArgument);
    assert!(queue.try_recv().is_err(), "the owner was not bothered");
}

#[tokio::test]
async fn an_oversized_message_ends_the_connection() {
    let (addr, queue) = recorded().await;
    let mut peer = Peer::connect(addr).await;
    let mut huge = register(addr);
    huge.rack = "r".repeat(super::MESSAGE_MAX + 1);
    peer.say(Msg::Register(huge)).await;
    assert!(peer.hear().await.is_err());
    assert!(queue.try_recv().is_err());
}

#[tokio::test]
async fn when_the_owner_lets_a_link_go_the_stream_ends_both_ways() {
    let (addr, queue) = recorded().await;
    let mut peer = Peer::connect(addr).await;
    peer.say(Msg::Register(register(addr))).await;
    let Message::Linked(link, commands) = next(&queue).await else { panic!("no link") };
    let _registered = next(&queue).await;
    drop(commands);
    assert!(matches!(peer.hear().await, Ok(None)));
    assert!(matches!(next(&queue).await, Message::Cluster(Event::Disconnected { link: l }) if l == link));
}

/// A whole master in a directory of its own.
struct Master {
    addr: SocketAddr,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<Result<(), crate::Error>>,
    data: tempfile::TempDir,
}

impl Master {
    async fn start(data: tempfile::TempDir) -> Self {
        let config = crate::Config {
            data: data.path().to_owned(),
            listen: "127.0.0.1:0".parse().unwrap(),
            ..crate::Config::default()
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, addr) = oneshot::channel();
        let task = tokio::spawn(crate::run(config, |a| _ = ready.send(a), async {
            let _ = stopped.await;
        }));
        Self { addr: addr.await.unwrap(), stop, task, data }
    }

    async fn stop(self) -> tempfile::TempDir {
        let _ = self.stop.send(());
        self.task.await.unwrap().unwrap();
        self.data
    }

    async fn states(&self) -> Vec<rpc::NodeState> {
        let mut admin = AdminClient::connect(format!("http://{}", self.addr)).await.unwrap();
        let status = admin.status(rpc::StatusRequest {}).await.unwrap().into_inner();
        status.chunkservers.iter().map(|s| s.info.as_ref().unwrap().state()).collect()
    }

    async fn becomes(&self, state: rpc::NodeState) {
        let deadline = Instant::now() + SOON;
        while self.states().await != [state] {
            assert!(Instant::now() < deadline, "not {state:?} in time: {:?}", self.states().await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_chunkserver_lives_and_dies_under_a_real_master() {
    let master = Master::start(tempfile::tempdir().unwrap()).await;
    let data = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let data_addr = data.local_addr().unwrap();
    let mut peer = Peer::connect(master.addr).await;
    let registered = peer.register(register(data_addr)).await;
    assert_eq!((registered.id, registered.cluster_id.len()), (1, 16));
    peer.beat(1, 0).await;
    master.becomes(rpc::NodeState::Alive).await;

    // A replica that the master knows nothing of: it asks for the list.
    let digest = replica_hash(77, 1);
    for seq in 2..4 {
        peer.beat(seq, digest).await;
    }
    peer.await_command(|c| matches!(c, Cmd::ReportWanted(_)).then_some(())).await;
    let replicas = vec![rpc::Replica { chunk: 77, epoch: 1, ..Default::default() }];
    peer.say(Msg::Report(rpc::ChunkReport { replicas, first: true, last: true })).await;
    peer.beat(4, digest).await;

    // kill -9: dead long before the lease would have run out.
    let killed = Instant::now();
    drop((peer, data));
    master.becomes(rpc::NodeState::Dead).await;
    assert!(killed.elapsed() < Duration::from_millis(2_500), "{:?}", killed.elapsed());
    master.stop().await;
}

#[tokio::test]
async fn identity_survives_the_master_and_strangers_are_told_why() {
    let master = Master::start(tempfile::tempdir().unwrap()).await;
    let addr = master.addr;
    let mut peer = Peer::connect(addr).await;
    let registered = peer.register(register(addr)).await;
    drop(peer);
    let master = Master::start(master.stop().await).await;
    let mut peer = Peer::connect(master.addr).await;
    let known = rpc::Register { id: 1, cluster_id: registered.cluster_id, ..register(addr) };
    assert_eq!(peer.register(known.clone()).await.id, 1);
    let mut other = Peer::connect(master.addr).await;
    assert_eq!(other.register(register(addr)).await.id, 2);

    let mut stranger = Peer::connect(master.addr).await;
    let foreign = rpc::Register { cluster_id: vec![9; 16].into(), ..known };
    stranger.say(Msg::Register(foreign)).await;
    let status = stranger.hear().await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("another cluster"), "{}", status.message());
    master.stop().await;
}
