//! Three chunkservers and a client of theirs.

use super::master::{self, CLUSTER, FakeMaster};
use bytes::Bytes;
use cairn_chunkserver::{Config, run};
use cairn_proto::block::{BLOCK, piece_crcs};
use cairn_proto::data::{CallError, Client, Endpoint, Header, Kind, Preamble, Reply, Status, flags};
use cairn_proto::rpc::{ChunkInfo, ReadMeta, ReadReply, StateReply, SyncMeta, WriteMeta};
use prost::Message;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

pub const CHUNK: u64 = 4 << 20;
const LIMIT: Duration = Duration::from_secs(5);

/// A chunkserver in a runtime of its own, so that it can be killed.
pub struct Server {
    runtime: Option<Runtime>,
    stop: Option<oneshot::Sender<()>>,
    pub addr: SocketAddr,
}

pub struct TestCluster {
    /// Dropped before their directories are.
    pub servers: Vec<Server>,
    pub dir: TempDir,
    pub master: FakeMaster,
    clients: HashMap<u32, Client>,
    next_write: AtomicU64,
    reserve: Vec<u64>,
}

fn config(dir: &std::path::Path, n: usize, master: SocketAddr, listen: SocketAddr, reserve: u64) -> Config {
    Config {
        data: vec![dir.join(format!("s{n}"))],
        listen,
        unix_socket: Some(dir.join(format!("s{n}.sock"))),
        masters: vec![master.to_string()],
        journal_segment_bytes: 4 << 20,
        reserve_bytes: reserve,
        ..Config::default()
    }
}

fn start(config: Config) -> Server {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (ready, is_ready) = std::sync::mpsc::channel();
    let (stop, stopped) = oneshot::channel();
    runtime.spawn(async move {
        let up = move |addr| ready.send(addr).unwrap();
        let stopped = async {
            let _ = stopped.await;
        };
        if let Err(e) = run(config, up, stopped).await {
            panic!("chunkserver: {e}");
        }
    });
    let addr = is_ready.recv_timeout(Duration::from_secs(10)).unwrap();
    Server { runtime: Some(runtime), stop: Some(stop), addr }
}

impl Server {
    /// As `kill -9`: nothing is finished, nothing flushed.
    pub fn kill(&mut self) {
        std::mem::forget(self.stop.take());
        if let Some(r) = self.runtime.take() {
            r.shutdown_timeout(Duration::from_millis(500));
        }
    }

    pub fn stop(&mut self) {
        let _ = self.stop.take().map(|s| s.send(()));
        std::thread::sleep(Duration::from_millis(300));
        self.kill();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(r) = self.runtime.take() {
            r.shutdown_background();
        }
    }
}

impl TestCluster {
    pub async fn new(servers: usize) -> Self {
        Self::with_reserves(&vec![1 << 20; servers]).await
    }

    /// A disk whose reserve is larger than it is counts as full.
    pub async fn with_reserves(reserve: &[u64]) -> Self {
        show_logs();
        let dir = tempfile::tempdir().unwrap();
        let master = master::start(CHUNK).await;
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut all = Vec::new();
        for (i, reserve) in reserve.iter().enumerate() {
            let c = config(dir.path(), i + 1, master.addr, any, *reserve);
            all.push(tokio::task::spawn_blocking(|| start(c)).await.unwrap());
        }
        Self {
            dir,
            master,
            servers: all,
            clients: HashMap::new(),
            next_write: AtomicU64::new(1),
            reserve: reserve.to_vec(),
        }
    }

    pub fn data_dir(&self, n: u32) -> PathBuf {
        self.dir.path().join(format!("s{n}"))
    }

    pub async fn kill(&mut self, n: u32) {
        self.clients.remove(&n);
        let mut server = self.servers.remove(n as usize - 1);
        server = tokio::task::spawn_blocking(move || {
            server.kill();
            server
        })
        .await
        .unwrap();
        self.servers.insert(n as usize - 1, server);
    }

    pub async fn stop(&mut self, n: u32) {
        self.clients.remove(&n);
        let mut server = self.servers.remove(n as usize - 1);
        server = tokio::task::spawn_blocking(move || {
            server.stop();
            server
        })
        .await
        .unwrap();
        self.servers.insert(n as usize - 1, server);
    }

    pub async fn restart(&mut self, n: u32) {
        let c = config(
            self.dir.path(),
            n as usize,
            self.master.addr,
            self.servers[n as usize - 1].addr,
            self.reserve[n as usize - 1],
        );
        self.servers[n as usize - 1] = tokio::task::spawn_blocking(|| start(c)).await.unwrap();
    }

    /// A chunk with all servers in its set; `first` is the primary.
    pub fn chunk(&self, id: u64, set: &[u32]) -> ChunkInfo {
        let in_sync = set.to_vec();
        let info = ChunkInfo { chunk: id, epoch: 1, in_sync, wanted: set.len() as u32, inode: 1, index: 0 };
        self.master.state.lock().chunks.insert(id, info.clone());
        info
    }

    pub fn info(&self, id: u64) -> ChunkInfo {
        self.master.state.lock().chunks[&id].clone()
    }

    pub async fn client(&mut self, n: u32) -> Result<&Client, CallError> {
        if self.clients.get(&n).is_none_or(Client::is_lost) {
            let addr = self.servers[n as usize - 1].addr.to_string();
            let me = Preamble::client(CLUSTER, 77);
            let c = Client::connect(&Endpoint::Tcp(addr), me, n, LIMIT).await?;
            self.clients.insert(n, c);
        }
        Ok(&self.clients[&n])
    }

    pub fn write_id(&self) -> u64 {
        self.next_write.fetch_add(1, Ordering::Relaxed)
    }

    pub async fn write_as(
        &mut self,
        id: u64,
        chunk: u64,
        offset: u32,
        data: &Bytes,
        sync: bool,
    ) -> Result<Reply, CallError> {
        let info = self.info(chunk);
        let (header, meta) = write_frame(&info, id, offset, data, sync);
        let client = self.client(info.in_sync[0]).await?;
        client.call(header, &meta, data.clone(), LIMIT).await
    }

    /// Writes as a client does: again, under the same id, until it is acknowledged.
    pub async fn write(&mut self, chunk: u64, offset: u32, data: &Bytes, sync: bool) {
        let (id, begun) = (self.write_id(), Instant::now());
        loop {
            let last = match self.write_as(id, chunk, offset, data, sync).await {
                Ok(r) if r.status() == Status::Ok => return,
                Ok(r) => format!("{:?} {}", r.status(), r.text()),
                Err(e) => e.to_string(),
            };
            assert!(begun.elapsed() < Duration::from_secs(10), "write not acknowledged: {last}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn sync(&mut self, chunk: u64) -> Status {
        let info = self.info(chunk);
        let header = Header::request(Kind::Sync, chunk, info.epoch as u32, 0);
        let meta = SyncMeta { local: false }.encode_to_vec();
        let client = self.client(info.in_sync[0]).await.unwrap();
        client.call(header, &meta, Bytes::new(), LIMIT).await.unwrap().status()
    }

    pub async fn read(&mut self, n: u32, chunk: u64, offset: u32, len: u32) -> Result<Bytes, Status> {
        let header = Header::request(Kind::Read, chunk, self.info(chunk).epoch as u32, offset);
        let meta = ReadMeta { len }.encode_to_vec();
        let client = self.client(n).await.map_err(|_| Status::NotServing)?;
        let r = client.call(header, &meta, Bytes::new(), LIMIT).await.map_err(|_| Status::NotServing)?;
        if r.status() != Status::Ok {
            return Err(r.status());
        }
        let reply: ReadReply = r.meta().unwrap();
        assert_eq!(reply.crcs, piece_crcs(0, &r.data), "checksums of what was read");
        assert_eq!(r.data.len(), len as usize);
        Ok(r.data)
    }

    /// Reads until it is served.
    pub async fn read_soon(&mut self, n: u32, chunk: u64, offset: u32, len: u32) -> Bytes {
        let begun = Instant::now();
        loop {
            match self.read(n, chunk, offset, len).await {
                Ok(data) => return data,
                Err(e) => assert!(begun.elapsed() < Duration::from_secs(8), "not served by {n}: {e:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until the server has its lease: an unknown chunk is then the answer.
    pub async fn read_soon_ready(&mut self, n: u32) {
        let begun = Instant::now();
        while self.read(n, 1, 0, 4096).await == Err(Status::NotServing) {
            assert!(begun.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn state(&mut self, n: u32, chunk: u64) -> StateReply {
        let header = Header::request(Kind::State, chunk, 0, 0);
        let client = self.client(n).await.unwrap();
        client.call(header, &[], Bytes::new(), LIMIT).await.unwrap().meta().unwrap()
    }

    pub async fn wait_for(&self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let begun = Instant::now();
        while !is(self) {
            assert!(begun.elapsed() < Duration::from_secs(10), "in vain: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

pub fn write_frame(info: &ChunkInfo, id: u64, offset: u32, data: &Bytes, sync: bool) -> (Header, Vec<u8>) {
    let mut header = Header::request(Kind::Write, info.chunk, info.epoch as u32, offset);
    if sync {
        header.flags |= flags::SYNC;
    }
    let meta = WriteMeta {
        session: 77,
        write: id,
        crcs: piece_crcs(offset.into(), data),
        create_in_sync: if info.epoch == 1 { info.in_sync.clone() } else { Vec::new() },
        wanted: info.wanted,
        ..WriteMeta::default()
    };
    (header, meta.encode_to_vec())
}

/// Bytes that differ from block to block.
pub fn pattern(seed: u64, len: usize) -> Bytes {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(|_| next()).collect::<Vec<_>>().into()
}

pub fn blocks(n: usize) -> usize {
    n * BLOCK
}

/// Shown by tests that fail; `RUST_LOG` says how much.
fn show_logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}
