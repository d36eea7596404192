//! How fast three chunkservers on one machine are. Not run by default: `cargo test --release -- --ignored speed`.

#![allow(clippy::unwrap_used, clippy::too_many_lines)]

mod common;

use bytes::Bytes;
use cairn_proto::data::{Client, Endpoint, Header, Kind, Preamble, Status};
use cairn_proto::rpc::ReadMeta;
use common::cluster::{CHUNK, TestCluster, pattern, write_frame};
use common::master::CLUSTER;
use prost::Message;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

async fn client(c: &TestCluster, n: usize) -> Client {
    let to = Endpoint::Unix(c.dir.path().join(format!("s{n}.sock")));
    Client::connect(&to, Preamble::client(CLUSTER, 9), n as u32, Duration::from_secs(2)).await.unwrap()
}

/// What was done, how fast, and for how much processor time of all involved (client, three servers).
fn show(what: &str, n: usize, unit: &str, (took, cpu): (Duration, Duration)) {
    let per = cpu.as_micros() as f64 / n as f64;
    let rate = n as f64 / took.as_secs_f64();
    println!("{what}: {rate:.0} {unit}/s, {:.0} us each, {per:.0} us of processor each", 1e6 / rate);
}

fn cpu() -> Duration {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

/// Keeps `depth` requests in flight; returns the time for all.
async fn pipelined(
    client: &Client,
    depth: usize,
    n: usize,
    mut request: impl FnMut(usize) -> (Header, Vec<u8>, Bytes),
) -> (Duration, Duration) {
    let (begun, cpu_before) = (Instant::now(), cpu());
    let mut flight = VecDeque::new();
    for i in 0..n {
        if flight.len() == depth {
            let p: cairn_proto::data::Pending = flight.pop_front().unwrap();
            let r = p.answer().await.unwrap();
            assert_eq!(r.status(), Status::Ok, "{}", r.text());
        }
        let (header, meta, data) = request(i);
        flight.push_back(client.start(header, &meta, data));
    }
    for p in flight {
        assert_eq!(p.answer().await.unwrap().status(), Status::Ok);
    }
    (begun.elapsed(), cpu() - cpu_before)
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed() {
    let mut c = TestCluster::new(3).await;
    let mib = pattern(1, 1 << 20);
    let infos: Vec<_> = (1..=64).map(|id| c.chunk(id, &[1, 2, 3])).collect();
    c.write(1, 0, &mib, false).await;
    let one = client(&c, 1).await;
    let per_chunk = (CHUNK >> 20) as usize;
    for (round, what) in ["1 MiB writes, new", "1 MiB writes, over"].into_iter().enumerate() {
        let took = pipelined(&one, 8, 256, |i| {
            let info = &infos[i / per_chunk];
            let at = (i % per_chunk) << 20;
            let (h, m) = write_frame(info, (round * 1000 + i) as u64 + 10, at as u32, &mib, false);
            (h, m, mib.clone())
        })
        .await;
        show(what, 256, "MiB", took);
    }
    let block = pattern(2, 4096);
    let n = 20_000;
    for (sync, depth, n) in [(false, 64, n), (true, 64, n / 4), (true, 1, 1000), (false, 1, 2000)] {
        let took = pipelined(&one, depth, n, |i| {
            let at = (i * 7919) % 1024 * 4096;
            let id = 1_000_000 + i as u64 + 100_000 * (depth as u64 + u64::from(sync));
            let (h, m) = write_frame(&infos[2], id, at as u32, &block, sync);
            (h, m, block.clone())
        })
        .await;
        show(&format!("4 KiB writes, sync {sync}, depth {depth}"), n, "", took);
    }
    for depth in [1, 64] {
        let n = 50_000 * depth / 64 + 2000;
        let meta = ReadMeta { len: 4096 }.encode_to_vec();
        let took = pipelined(&one, depth, n, |i| {
            let header = Header::request(Kind::Read, 3, 1, ((i * 7919) % 1024 * 4096) as u32);
            (header, meta.clone(), Bytes::new())
        })
        .await;
        show(&format!("4 KiB reads, depth {depth}"), n, "", took);
    }
    let meta = ReadMeta { len: 1 << 20 }.encode_to_vec();
    let took = pipelined(&one, 4, 512, |i| {
        let header = Header::request(Kind::Read, 1 + (i / 4 % 64) as u64, 1, ((i % 4) << 20) as u32);
        (header, meta.clone(), Bytes::new())
    })
    .await;
    show("1 MiB reads", 512, "MiB", took);
    let small = pattern(3, 4096);
    for id in 1000..5000 {
        c.chunk(id, &[1, 2, 3]);
    }
    let infos: Vec<_> = (1000..5000).map(|id| c.info(id)).collect();
    let took = pipelined(&one, 32, 4000, |i| {
        let (h, m) = write_frame(&infos[i], 9_000_000 + i as u64, 0, &small, false);
        (h, m, small.clone())
    })
    .await;
    show("new chunks of 4 KiB", 4000, "", took);
}
