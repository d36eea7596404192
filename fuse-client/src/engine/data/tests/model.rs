//! Random operations on a file, compared with a byte array after each, while servers fail.

use super::cluster::{CHUNK, Cluster, SERVERS};
use crate::engine::data::FileData;
use bytes::Bytes;
use cairn_proto::InodeId;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

const INODE: u64 = 5;
const LARGEST: usize = 5 * CHUNK as usize;

struct Model {
    rng: StdRng,
    cluster: Cluster,
    file: Arc<FileData>,
    expected: Vec<u8>,
}

impl Model {
    fn range(&mut self) -> Range<usize> {
        let most = [1, 600, 4096, 10_000, 100_000][self.rng.random_range(0..5)];
        let start = self.rng.random_range(0..LARGEST);
        let start = if self.rng.random_bool(0.3) { start / 4096 * 4096 } else { start };
        start..(start + self.rng.random_range(1..=most)).min(LARGEST)
    }

    fn random_data(&mut self, len: usize) -> Vec<u8> {
        let mut data = vec![0; len];
        self.rng.fill(&mut data[..]);
        data
    }

    fn expect(&mut self, range: Range<usize>, data: &[u8]) {
        if self.expected.len() < range.end {
            self.expected.resize(range.end, 0);
        }
        self.expected[range].copy_from_slice(data);
    }

    async fn write(&mut self) {
        let r = self.range();
        let data = self.random_data(r.len());
        match self.rng.random_range(0..8) {
            0 => {
                let sync = self.rng.random_bool(0.5);
                let bytes = Bytes::copy_from_slice(&data);
                self.file.write_through(r.start as u64, bytes, sync).await.unwrap();
                if sync {
                    let stable = self.cluster.stable(INODE, r.end);
                    assert!(stable[r.clone()] == data, "synced data is stable");
                }
            }
            _ => {
                if !self.file.try_write(r.start as u64, &data) {
                    self.file.write(r.start as u64, &data).await.unwrap();
                }
            }
        }
        self.expect(r, &data);
    }

    async fn read(&mut self) {
        let r = self.range();
        let got = match self.file.try_read(r.start as u64, r.len()) {
            Some(got) => got,
            None => self.file.read(r.start as u64, r.len()).await.unwrap(),
        };
        let end = r.end.min(self.expected.len());
        let expected = self.expected.get(r.start..end).unwrap_or(&[]);
        assert_eq!(got.len(), expected.len());
        assert!(got == expected, "read of {r:?}");
    }

    async fn resize(&mut self) {
        let size = self.rng.random_range(0..=LARGEST);
        self.file.truncate(size as u64).await.unwrap();
        let dropped = (size as u64).div_ceil(CHUNK)..u64::MAX;
        self.cluster.drop_chunks(INODE, dropped.clone());
        self.file.forget_locations(dropped);
        self.expected.resize(size, 0);
    }

    async fn punch(&mut self) {
        let r = self.range();
        let whole = self.file.punch(r.start as u64, r.len() as u64).await.unwrap();
        self.cluster.drop_chunks(INODE, whole.clone());
        self.file.forget_locations(whole);
        let end = r.end.min(self.expected.len());
        if r.start < end {
            self.expected[r.start..end].fill(0);
        }
    }

    async fn sync(&mut self) {
        self.file.fsync().await.unwrap();
        assert!(!self.file.dirty());
        let stable = self.cluster.stable(INODE, self.expected.len());
        assert!(stable == self.expected, "all is stable after fsync");
    }

    async fn seek(&mut self) {
        let from = self.range().start as u64;
        // Every byte in what is called a hole must be zero.
        if let Ok(hole) = self.file.seek_hole(from).await {
            let end = self.file.seek_data(hole).await.unwrap_or(self.expected.len() as u64);
            assert!(self.expected[hole as usize..end as usize].iter().all(|b| *b == 0));
        } else {
            assert!(from >= self.expected.len() as u64);
        }
    }

    async fn run(&mut self, steps: u32) {
        for _ in 0..steps {
            match self.rng.random_range(0..100) {
                0..40 => self.write().await,
                40..85 => self.read().await,
                85..88 => self.resize().await,
                88..92 => self.punch().await,
                92..96 => self.sync().await,
                96..98 => self.seek().await,
                98 => self.file.push(),
                _ => self.file.drop_cache(),
            }
            assert_eq!(self.file.size(), self.expected.len() as u64);
        }
        self.sync().await;
    }
}

async fn model(seed: u64, cluster: &Cluster) -> Model {
    let path = cluster.path(|c| c.memory = if seed.is_multiple_of(3) { 300 << 10 } else { 4 << 20 });
    let file = path.file(InodeId(INODE), 0);
    Model { rng: StdRng::seed_from_u64(seed), cluster: cluster.clone(), file, expected: Vec::new() }
}

/// The seeds to run: `CAIRN_SEEDS=FROM..TO` replays or widens.
fn seeds(default: Range<u64>) -> Range<u64> {
    let given = std::env::var("CAIRN_SEEDS").ok();
    let parsed = given.as_deref().and_then(|s| {
        let (from, to) = s.split_once("..")?;
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    parsed.unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_a_byte_array() {
    for seed in seeds(0..6) {
        let cluster = Cluster::start().await;
        println!("CAIRN_SEEDS={seed}..{}", seed + 1);
        model(seed, &cluster).await.run(600).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_a_byte_array_while_requests_fail() {
    for seed in seeds(10..14) {
        let cluster = Cluster::start().await;
        {
            let mut s = cluster.state.lock();
            s.faults.random = 0.04;
            s.faults.rng = Some(StdRng::seed_from_u64(seed));
        }
        println!("CAIRN_SEEDS={seed}..{}", seed + 1);
        model(seed, &cluster).await.run(300).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_a_byte_array_while_servers_die_and_return() {
    for seed in seeds(20..23) {
        let cluster = Cluster::start().await;
        let killer = tokio::spawn({
            let cluster = cluster.clone();
            async move {
                let mut rng = StdRng::seed_from_u64(seed);
                loop {
                    let server = rng.random_range(1..=SERVERS);
                    cluster.set_down(server, true);
                    tokio::time::sleep(Duration::from_millis(rng.random_range(20..80))).await;
                    cluster.set_down(server, false);
                    tokio::time::sleep(Duration::from_millis(rng.random_range(1..40))).await;
                }
            }
        });
        println!("CAIRN_SEEDS={seed}..{}", seed + 1);
        model(seed, &cluster).await.run(400).await;
        killer.abort();
    }
}
