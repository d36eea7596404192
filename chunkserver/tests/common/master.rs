//! A master that knows chunks only: it grants epochs by the rules of the design.

use cairn_proto::rpc::cluster_server::{Cluster, ClusterServer};
use cairn_proto::rpc::master_command::Cmd;
use cairn_proto::rpc::server_message::Msg;
use cairn_proto::rpc::*;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

pub const CLUSTER: [u8; 16] = [7; 16];

type Out = mpsc::Sender<Result<MasterCommand, Status>>;

#[derive(Default)]
pub struct State {
    pub servers: BTreeMap<u32, ServerInfo>,
    outs: BTreeMap<u32, Out>,
    pub chunks: BTreeMap<u64, ChunkInfo>,
    pub done: Vec<CommandDone>,
    /// Replicas (chunk, server) that are being brought up to date, by the command's number; and those that are to be tried again.
    adding: BTreeMap<u64, (u64, u32)>,
    again: Vec<(u64, u32)>,
    pub digests: BTreeMap<u32, (u64, u64)>,
    pub problems: usize,
    pub chunk_size: u64,
}

#[derive(Clone)]
pub struct FakeMaster {
    pub state: Arc<Mutex<State>>,
    pub addr: SocketAddr,
}

impl State {
    fn send(&self, server: u32, cmd: Cmd) {
        self.send_numbered(server, 0, cmd);
    }

    /// A command that is confirmed under its number.
    fn send_numbered(&self, server: u32, id: u64, cmd: Cmd) {
        if let Some(out) = self.outs.get(&server) {
            let _ = out.try_send(Ok(MasterCommand { id, term: 1, cmd: Some(cmd) }));
        }
    }

    fn list(&self) -> Vec<ServerInfo> {
        self.servers.values().cloned().collect()
    }

    /// Epoch + 1 with this set; tells all but `asker`.
    fn change(&mut self, chunk: u64, set: Vec<u32>, asker: u32) {
        let info = self.chunks.get_mut(&chunk).unwrap();
        info.epoch += 1;
        info.in_sync = set;
        let info = info.clone();
        for s in self.outs.keys().copied().filter(|s| *s != asker).collect::<Vec<_>>() {
            self.send(s, Cmd::SetEpoch(info.clone()));
        }
    }

    /// Drops a server from a set, if a majority is left.
    pub fn drop_member(&mut self, chunk: u64, failed: &[u32], asker: u32) -> bool {
        let info = &self.chunks[&chunk];
        let left: Vec<u32> = info.in_sync.iter().copied().filter(|s| !failed.contains(s)).collect();
        let enough = left.len() as u32 > info.wanted / 2 && left.len() < info.in_sync.len();
        if enough {
            self.change(chunk, left, asker);
        }
        enough
    }

    pub fn add_replica(&mut self, chunk: u64, target: u32) {
        let info = self.chunks[&chunk].clone();
        let id = 1_000 + self.adding.len() as u64;
        self.adding.insert(id, (chunk, target));
        let add = AddReplica { chunk: Some(info.clone()), target, copy_rate: 0 };
        self.send_numbered(info.in_sync[0], id, Cmd::AddReplica(add));
    }

    /// Tells every server whose writes count.
    pub fn sessions(&self, below: u64, alive: &[u64]) {
        for server in self.outs.keys() {
            self.send_numbered(*server, 1, Cmd::Sessions(Sessions { below, alive: alive.to_vec() }));
        }
    }

    fn said(&mut self, from: u32, msg: Msg) {
        match msg {
            Msg::Heartbeat(h) => {
                self.digests.insert(from, (h.chunks, h.digest));
                for (chunk, target) in std::mem::take(&mut self.again) {
                    self.add_replica(chunk, target);
                }
                self.send(from, Cmd::Ack(HeartbeatAck { seq: h.seq, ..HeartbeatAck::default() }));
            }
            Msg::Report(r) => {
                for r in r.replicas {
                    let Some(info) = self.chunks.get(&r.chunk).cloned() else { continue };
                    if info.epoch > r.epoch {
                        self.send(from, Cmd::SetEpoch(info.clone()));
                    }
                    if !info.in_sync.contains(&from) {
                        self.add_replica(r.chunk, from);
                    }
                }
            }
            Msg::Problem(p) => {
                self.problems += 1;
                if self.chunks[&p.chunk].epoch == p.epoch {
                    self.drop_member(p.chunk, &p.failed, from);
                }
                self.reply(from, p.req, p.chunk);
            }
            Msg::CaughtUp(c) => {
                if self.chunks[&c.chunk].epoch == c.epoch {
                    let mut set = self.chunks[&c.chunk].in_sync.clone();
                    set.push(c.server);
                    self.change(c.chunk, set, from);
                }
                self.reply(from, c.req, c.chunk);
            }
            Msg::Done(d) => match self.adding.get(&d.command) {
                Some(replica) if !d.ok => self.again.push(*replica),
                Some(_) => {}
                None => self.done.push(d),
            },
            Msg::Register(_) | Msg::Probed(_) => {}
        }
    }

    fn reply(&self, to: u32, req: u64, chunk: u64) {
        let chunk = Some(self.chunks[&chunk].clone());
        self.send(to, Cmd::Chunk(ChunkReply { req, chunk, ..ChunkReply::default() }));
    }
}

#[tonic::async_trait]
impl Cluster for FakeMaster {
    type AttachStream = ReceiverStream<Result<MasterCommand, Status>>;

    async fn attach(
        &self,
        request: Request<Streaming<ServerMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut from = request.into_inner();
        let Some(Msg::Register(r)) = from.message().await?.and_then(|m| m.msg) else {
            return Err(Status::invalid_argument("register first"));
        };
        if !r.cluster_id.is_empty() && r.cluster_id[..] != CLUSTER {
            return Err(Status::failed_precondition("another cluster"));
        }
        let (out, commands) = mpsc::channel(4096);
        let id = {
            let mut state = self.state.lock();
            let id = if r.id == 0 { state.servers.len() as u32 + 1 } else { r.id };
            state.servers.insert(id, ServerInfo { id, ..r.info.unwrap_or_default() });
            state.outs.insert(id, out.clone());
            let servers = state.list();
            let registered = Registered {
                id,
                cluster_id: CLUSTER.to_vec().into(),
                heartbeat_ms: 100,
                lease_ms: 3000,
                chunk_size: state.chunk_size,
                servers: servers.clone(),
            };
            state.send(id, Cmd::Registered(registered));
            for s in state.outs.keys().copied().collect::<Vec<_>>() {
                state.send(s, Cmd::Servers(Servers { servers: servers.clone() }));
            }
            id
        };
        let state = self.state.clone();
        tokio::spawn(async move {
            while let Some(Ok(m)) = from.next().await {
                if let Some(msg) = m.msg {
                    state.lock().said(id, msg);
                }
            }
            let mut s = state.lock();
            if s.outs.get(&id).is_some_and(|o| o.same_channel(&out)) {
                s.outs.remove(&id);
            }
        });
        Ok(Response::new(ReceiverStream::new(commands)))
    }
}

pub async fn start(chunk_size: u64) -> FakeMaster {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let state = State { chunk_size, ..State::default() };
    let master = FakeMaster { state: Arc::new(Mutex::new(state)), addr };
    let service = ClusterServer::new(master.clone());
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    master
}
