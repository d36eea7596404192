//! The stream to the master: registration, heartbeats, commands.

use super::clock::{micros, now};
use super::join;
use super::master::{WAITING, epoch_event, meta};
use super::probe::{self, Beat};
use super::scrub;
use super::state::Node;
use crate::core::fence::Fence;
use crate::core::replica::{Event, Made};
use cairn_proto::backoff::Backoff;
use cairn_proto::rpc::cluster_client::ClusterClient;
use cairn_proto::rpc::master_command::Cmd;
use cairn_proto::rpc::server_message::Msg;
use cairn_proto::rpc::{
    AddReplica, ChunkInfo, ChunkReport, ChunkUse, CommandDone, Disk, Heartbeat, MasterCommand, Register,
    Registered, Replica, ServerMessage,
};
use rustix::time::{ClockId, clock_gettime};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

const CONNECT: Duration = Duration::from_secs(3);
/// Replicas in one piece of a report.
const PIECE: usize = 16_384;
/// Commands from the master are at most so long, bytes.
const COMMAND: usize = 16 << 20;

/// A stream on which this server is registered.
pub struct Registration {
    /// The master's answer.
    pub registered: Registered,
    out: mpsc::Sender<ServerMessage>,
    commands: Streaming<MasterCommand>,
}

/// Registers with one of the masters, however long that takes. An error: it will never work.
pub async fn register(masters: &[String], hello: &Register) -> Result<Registration, Status> {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    let mut told = false;
    for master in masters.iter().cycle() {
        match try_register(master, hello).await {
            Ok(r) => {
                if told {
                    tracing::info!(master, "registered");
                }
                return Ok(r);
            }
            Err(e) if matches!(e.code(), Code::FailedPrecondition | Code::InvalidArgument) => return Err(e),
            Err(e) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(master, "no master yet, trying on: {}", e.message());
                }
            }
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
    Err(Status::invalid_argument("no master was named"))
}

async fn try_register(master: &str, hello: &Register) -> Result<Registration, Status> {
    let endpoint = tonic::transport::Endpoint::new(format!("http://{master}"))
        .map_err(|e| Status::invalid_argument(format!("master address {master}: {e}")))?
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2));
    let attached = async {
        let channel = endpoint.connect().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let mut client = ClusterClient::new(channel).max_decoding_message_size(COMMAND);
        let (out, messages) = mpsc::channel(WAITING);
        let first = ServerMessage { msg: Some(Msg::Register(hello.clone())) };
        out.try_send(first).map_err(|e| Status::internal(e.to_string()))?;
        let mut commands = client.attach(ReceiverStream::new(messages)).await?.into_inner();
        match commands.message().await?.and_then(|c| c.cmd) {
            Some(Cmd::Registered(registered)) => Ok(Registration { registered, out, commands }),
            _ => Err(Status::unavailable("the master did not answer the registration")),
        }
    };
    tokio::time::timeout(CONNECT * 2, attached).await.unwrap_or(Err(Status::unavailable("no answer in time")))
}

/// Keeps the server attached, for ever.
pub async fn keep_attached(node: Arc<Node>, masters: Vec<String>, hello: Register, first: Registration) {
    let mut registration = Some(first);
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
    loop {
        let r = match registration.take() {
            Some(r) => r,
            None => match register(&masters, &hello).await {
                Ok(r) => r,
                Err(e) => {
                    tracing::error!("the master refuses this server: {}", e.message());
                    tokio::time::sleep(backoff.next(rand::random())).await;
                    continue;
                }
            },
        };
        node.master.attach(Some(r.out.clone()));
        if let Err(e) =
            (Session { node: &node, beats: VecDeque::new(), seq: 0, beat: Beat::new(), cpu: Cpu::now() })
                .run(r)
                .await
        {
            tracing::info!("the stream to the master ended: {}", e.message());
        }
        node.master.attach(None);
        tokio::time::sleep(backoff.next(rand::random())).await;
        backoff.reset();
    }
}

struct Session<'a> {
    node: &'a Arc<Node>,
    /// Heartbeats not answered yet: (seq, sent at).
    beats: VecDeque<(u64, u64)>,
    seq: u64,
    beat: Beat,
    cpu: Cpu,
}

impl Session<'_> {
    async fn run(&mut self, r: Registration) -> Result<(), Status> {
        let Registration { registered, out, mut commands } = r;
        self.node.peers.set_servers(registered.servers);
        let lease = u64::from(registered.lease_ms);
        // Before the first heartbeat: its answer, and with it the lease, then comes behind whatever
        // the master has to say about replicas that are behind.
        self.report(&out).await?;
        let period = Duration::from_millis(u64::from(registered.heartbeat_ms.max(10)));
        let mut beat = tokio::time::interval(period);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = beat.tick() => self.heartbeat(&out, lease)?,
                command = commands.message() => {
                    let Some(command) = command? else { return Err(Status::unavailable("closed")) };
                    self.command(command, lease, &out).await?;
                    if let Some(next) = self.beat.next() {
                        beat.reset_after(next);
                    }
                }
            }
        }
    }

    fn heartbeat(&mut self, out: &mpsc::Sender<ServerMessage>, lease: u64) -> Result<(), Status> {
        self.seq += 1;
        let sent_at = now();
        if self.beats.front().is_some_and(|(_, at)| sent_at.saturating_sub(*at) > lease * 3) {
            return Err(Status::unavailable("heartbeats are not answered"));
        }
        let node = self.node;
        let disks = node.disks.iter().map(|u| {
            let (total_bytes, free_bytes) = u.disk.space();
            let path = u.path.display().to_string();
            let scrub = Some(scrub::progress(u));
            Disk { path, total_bytes, free_bytes, failed: u.disk.has_failed(), scrub }
        });
        let lost = |p: &PathBuf| Disk { path: p.display().to_string(), failed: true, ..Disk::default() };
        let disks = disks.chain(node.lost.iter().map(lost));
        let (chunks, digest) = node.digest();
        let (use_rate, hot) = node.heat.lock().tell(sent_at);
        let beat = Heartbeat {
            seq: self.seq,
            disks: disks.collect(),
            chunks,
            digest,
            bytes_in: node.traffic.bytes_in.load(Ordering::Relaxed),
            bytes_out: node.traffic.bytes_out.load(Ordering::Relaxed),
            load_permille: self.cpu.permille(),
            rtt_us: self.beat.rtt_us(),
            read_p99_us: node.traffic.latency.reads.take_p99(),
            write_p99_us: node.traffic.latency.writes.take_p99(),
            use_rate,
            hot: hot
                .into_iter()
                .map(|u| ChunkUse { chunk: u.chunk, read: u.read, written: u.written })
                .collect(),
        };
        self.beat.sent(self.seq);
        self.beats.push_back((self.seq, sent_at));
        let sent = out.try_send(ServerMessage { msg: Some(Msg::Heartbeat(beat)) });
        sent.map_err(|e| Status::unavailable(e.to_string()))
    }

    async fn report(&self, out: &mpsc::Sender<ServerMessage>) -> Result<(), Status> {
        let chunks = self.node.all_chunks();
        let pieces = chunks.len().div_ceil(PIECE).max(1);
        for i in 0..pieces {
            let part = chunks.iter().skip(i * PIECE).take(PIECE);
            let replicas = part.map(|c| {
                let m = c.replica.lock();
                let unclean = !m.is_trusted() || c.file.in_doubt();
                Replica { chunk: c.id, epoch: m.epoch(), seq: m.seq(), unclean }
            });
            let report = ChunkReport { replicas: replicas.collect(), first: i == 0, last: i + 1 == pieces };
            let sent = out.send(ServerMessage { msg: Some(Msg::Report(report)) }).await;
            sent.map_err(|e| Status::unavailable(e.to_string()))?;
        }
        Ok(())
    }

    async fn command(
        &mut self,
        command: MasterCommand,
        lease: u64,
        out: &mpsc::Sender<ServerMessage>,
    ) -> Result<(), Status> {
        let node = self.node;
        let done = match command.cmd {
            Some(Cmd::Ack(ack)) => {
                node.copying.lock().set(micros(), ack.copy_rate);
                while let Some((seq, sent_at)) = self.beats.front().copied()
                    && seq <= ack.seq
                {
                    self.beats.pop_front();
                    node.renew_lease(sent_at + lease);
                    self.beat.answered(ack, sent_at);
                }
                return Ok(());
            }
            Some(Cmd::ReportWanted(_)) => return self.report(out).await,
            Some(Cmd::Probe(of)) => {
                probe::probe(node, of.server);
                return Ok(());
            }
            Some(Cmd::Chunk(reply)) => {
                node.master.answered(node, reply);
                return Ok(());
            }
            Some(Cmd::Servers(list)) => {
                node.peers.set_servers(list.servers);
                Ok(())
            }
            Some(Cmd::Sessions(s)) => {
                *node.fence.write() = Fence::new(s.below, s.alive);
                Ok(())
            }
            Some(Cmd::SetEpoch(info)) => set_epoch(node, &info),
            Some(Cmd::Delete(list)) => {
                list.chunks.into_iter().for_each(|c| node.delete(c));
                Ok(())
            }
            Some(Cmd::AddReplica(add)) => {
                node.copying.lock().set(micros(), add.copy_rate);
                add_replica(node, command.id, add);
                return Ok(());
            }
            Some(Cmd::Scrub(s)) => {
                node.disks.iter().for_each(|u| u.scrub.command(s.command, s.rate));
                Ok(())
            }
            Some(Cmd::Registered(_)) | None => return Ok(()),
        };
        report_done(node, command.id, done);
        Ok(())
    }
}

fn report_done(node: &Node, command: u64, done: Result<(), String>) {
    if command != 0 {
        let (ok, detail) = (done.is_ok(), done.err().unwrap_or_default());
        // Without a stream the master sends the command again.
        let _ = node.master.say(Msg::Done(CommandDone { command, ok, detail }));
    }
}

fn set_epoch(node: &Arc<Node>, info: &ChunkInfo) -> Result<(), String> {
    let chunk = match node.chunk(info.chunk) {
        Some(chunk) => chunk,
        None if info.in_sync.contains(&node.config.id) => {
            // Made by a write that this server missed, or not written at all yet: the others know.
            node.deleted.lock().forget(info.chunk);
            let chunk = node.create(info.chunk, meta(info), 0, Made::InDoubt).map_err(|e| e.to_string())?;
            chunk.handle(node, Event::Start);
            chunk
        }
        None => return Ok(()),
    };
    chunk.handle(node, epoch_event(info));
    Ok(())
}

fn add_replica(node: &Arc<Node>, command: u64, add: AddReplica) {
    let node = node.clone();
    tokio::spawn(async move {
        let info = add.chunk.unwrap_or_default();
        let done = match set_epoch(&node, &info).map(|()| node.chunk(info.chunk)) {
            Ok(Some(chunk)) => {
                let _turn = node.heavy.acquire().await;
                join::add_replica(&node, &chunk, add.target).await
            }
            Ok(None) => Err("no such chunk here".into()),
            Err(e) => Err(e),
        };
        match &done {
            Ok(()) => tracing::info!(chunk = info.chunk, target = add.target, "replica brought up to date"),
            Err(why) => {
                tracing::info!(chunk = info.chunk, target = add.target, "replica not brought up: {why}")
            }
        }
        report_done(&node, command, done);
    });
}

/// This process's use of processors.
struct Cpu {
    wall: u64,
    used: u64,
}

impl Cpu {
    fn now() -> Self {
        let t = clock_gettime(ClockId::ProcessCPUTime);
        Self { wall: now(), used: t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000 }
    }

    /// Since the last call, in thousandths of one core.
    fn permille(&mut self) -> u32 {
        let before = std::mem::replace(self, Self::now());
        let wall = self.wall.saturating_sub(before.wall).max(1);
        (self.used.saturating_sub(before.used) * 1000 / wall) as u32
    }
}
