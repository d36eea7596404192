//! Three chunkservers, a small master, a client: on loopback.

#![allow(clippy::unwrap_used, clippy::too_many_lines)]

mod common;

use bytes::Bytes;
use cairn_proto::block::BLOCK;
use cairn_proto::data::{Header, Kind, Status};
use common::cluster::{TestCluster, pattern, write_frame};
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_is_read_from_every_replica() {
    let mut c = TestCluster::new(3).await;
    c.chunk(1, &[1, 2, 3]);
    let big = pattern(1, 1 << 20);
    c.write(1, 0, &big, false).await;
    let small = pattern(2, 100);
    c.write(1, 5000, &small, true).await;
    assert_eq!(c.sync(1).await, Status::Ok);
    let mut want = big.to_vec();
    want[5000..5100].copy_from_slice(&small);
    for n in 1..=3 {
        assert_eq!(c.read_soon(n, 1, 0, 1 << 20).await, want, "server {n}");
        assert_eq!(c.read_soon(n, 1, 1 << 20, 4096).await, vec![0; 4096], "behind the end");
    }
    assert_eq!(c.read(1, 1, 100, 4096).await, Err(Status::BadRequest));
    assert_eq!(c.master.state.lock().problems, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_killed_in_mid_stream_costs_a_stall_and_comes_back_with_all_it_missed() {
    let mut c = TestCluster::new(3).await;
    c.chunk(1, &[1, 2, 3]);
    let mut want = vec![0; 3 << 20];
    for i in 0..24u32 {
        if i == 8 {
            c.kill(3).await;
        }
        let (data, at) = (pattern(i.into(), 100_000), i * 90_000);
        c.write(1, at, &data, i % 5 == 0).await;
        want[at as usize..at as usize + data.len()].copy_from_slice(&data);
    }
    assert_eq!(c.info(1).in_sync, [1, 2]);
    c.restart(3).await;
    // Written while it is brought up to date.
    for i in 0..40u32 {
        let data = pattern(1000 + u64::from(i), 3000);
        c.write(1, i * 50_001, &data, false).await;
        want[i as usize * 50_001..][..data.len()].copy_from_slice(&data);
    }
    c.wait_for("the set is whole", |c| c.info(1).in_sync.len() == 3).await;
    let data = pattern(99, 5000);
    c.write(1, 12_345, &data, true).await;
    want[12_345..17_345].copy_from_slice(&data);
    for n in 1..=3 {
        for piece in 0..3 {
            let got = c.read_soon(n, 1, piece << 20, 1 << 20).await;
            assert!(got == want[(piece as usize) << 20..][..1 << 20], "server {n} piece {piece}");
        }
    }
    let (a, b) = (c.state(1, 1).await, c.state(3, 1).await);
    assert_eq!((a.seq, a.epoch), (b.seq, b.epoch));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_primary_is_replaced_and_its_successor_goes_on() {
    let mut c = TestCluster::new(3).await;
    c.chunk(1, &[1, 2, 3]);
    let first = pattern(1, 200_000);
    c.write(1, 0, &first, false).await;
    c.kill(1).await;
    assert!(c.master.state.lock().drop_member(1, &[1], 0));
    let second = pattern(2, 4096);
    c.write(1, 0, &second, true).await;
    let mut want = first[..8192].to_vec();
    want[..4096].copy_from_slice(&second);
    for n in 2..=3 {
        assert_eq!(c.read_soon(n, 1, 0, 8192).await, want);
    }
    c.restart(1).await;
    c.wait_for("the old primary is back", |c| c.info(1).in_sync == [2, 3, 1]).await;
    assert_eq!(c.read_soon(1, 1, 0, 8192).await, want);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_killed_at_once_come_back_with_every_acknowledged_byte() {
    let mut c = TestCluster::new(3).await;
    for id in 1..=20 {
        c.chunk(id, &[1 + id as u32 % 3, 1 + (id as u32 + 1) % 3, 1 + (id as u32 + 2) % 3]);
        c.write(id, 0, &pattern(id, 150_000), id % 2 == 0).await;
        c.write(id, 1000, &pattern(id + 100, 1000), false).await;
    }
    for n in 1..=3 {
        c.kill(n).await;
    }
    let begun = Instant::now();
    for n in 1..=3 {
        c.restart(n).await;
    }
    for id in 1..=20 {
        let mut want = pattern(id, 150_000).to_vec();
        want[1000..2000].copy_from_slice(&pattern(id + 100, 1000));
        want.resize(37 * BLOCK, 0);
        for n in 1..=3 {
            assert!(c.read_soon(n, id, 0, 37 * BLOCK as u32).await == want, "chunk {id} server {n}");
        }
        c.write(id, 0, &pattern(5, 10), false).await;
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_restart_serves_at_once() {
    let mut c = TestCluster::new(1).await;
    c.chunk(1, &[1]);
    let data = pattern(3, 70_000);
    c.write(1, 0, &data, false).await;
    c.stop(1).await;
    c.restart(1).await;
    assert_eq!(c.read_soon(1, 1, 0, 65_536).await, data[..65_536]);
    assert!(!c.state(1, 1).await.unclean);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_on_a_disk_is_refused_and_healed_from_the_others() {
    let mut c = TestCluster::new(3).await;
    c.chunk(1, &[1, 2, 3]);
    let data = pattern(4, 8 * BLOCK);
    c.write(1, 0, &data, true).await;
    for victim in [3, 1] {
        let path = c.data_dir(victim).join("chunks/01/1");
        let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
        // Geometry: header page, one table page for 4 MiB in entries of 16 bytes is four pages.
        let at = 4096 + 4 * 4096 + 3 * 4096 + 5;
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
        assert_eq!(c.read(victim, 1, 3 * 4096, 4096).await, Err(Status::Corrupt));
        let got = c.read_soon(victim, 1, 0, 8 * 4096).await;
        assert_eq!(got, data, "healed");
        c.write(1, 0, &data.slice(..100), false).await;
    }
    assert_eq!(c.info(1).in_sync, [1, 2, 3], "nobody was dropped for it");
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_port_closes_the_connection_and_nothing_else() {
    let mut c = TestCluster::new(1).await;
    c.chunk(1, &[1]);
    c.write(1, 0, &pattern(1, 10), false).await;
    let addr = c.servers[0].addr;
    let preamble = {
        let mut b = Vec::new();
        cairn_proto::data::Preamble::client(common::master::CLUSTER, 5).send(&mut b).await.unwrap();
        b
    };
    let oversized = {
        let mut b = preamble.clone();
        let mut head = Header::request(Kind::Write, 1, 1, 0).encode(&[], 0);
        head[4..8].fill(0xff);
        b.extend_from_slice(&head);
        b
    };
    let bad_meta = {
        let mut b = preamble.clone();
        b.extend_from_slice(&Header::request(Kind::Write, 1, 1, 0).encode(&[0xff; 9], 0));
        b.extend_from_slice(&[0xff; 9]);
        b
    };
    for bytes in [b"GET / HTTP/1.0\r\n\r\n".repeat(10), vec![0xff; 4096], oversized, bad_meta] {
        let mut s = tokio::net::TcpStream::connect(addr).await.unwrap();
        s.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(3), s.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "still open");
    }
    assert_eq!(c.read_soon(1, 1, 0, 4096).await[..10], pattern(1, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_is_applied_once_and_bad_requests_are_refused() {
    let mut c = TestCluster::new(2).await;
    c.chunk(1, &[1, 2]);
    let (a, b) = (pattern(1, 500), pattern(2, 500));
    c.read_soon_ready(1).await;
    assert_eq!(c.write_as(1000, 1, 0, &a, false).await.unwrap().status(), Status::Ok);
    assert_eq!(c.write_as(1001, 1, 0, &b, false).await.unwrap().status(), Status::Ok);
    assert_eq!(c.write_as(1000, 1, 0, &a, true).await.unwrap().status(), Status::Ok);
    assert_eq!(c.read_soon(2, 1, 0, 4096).await[..500], b);
    let info = c.info(1);
    let limit = Duration::from_secs(2);
    let (header, meta) = write_frame(&info, 1002, 0, &a, false);
    let client = c.client(1).await.unwrap();
    let garbled = client.call(header, &meta, b.clone(), limit).await.unwrap();
    assert_eq!(garbled.status(), Status::Garbled);
    let outside = (4 << 20) - 100;
    let (header, meta) = write_frame(&info, 1003, outside, &a, false);
    assert_eq!(client.call(header, &meta, a.clone(), limit).await.unwrap().status(), Status::BadRequest);
    let (header, meta) = write_frame(&info, 1004, 0, &Bytes::new(), false);
    assert_eq!(client.call(header, &meta, Bytes::new(), limit).await.unwrap().status(), Status::BadRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_before_anything_is_done_and_a_full_member_is_dropped() {
    let full = 1 << 60;
    let mut c = TestCluster::with_reserves(&[1 << 20, 1 << 20, full]).await;
    c.chunk(1, &[3, 1, 2]);
    c.read_soon_ready(3).await;
    let data = pattern(1, 5000);
    // A full primary hands the chunk over: the client is to come again, at the next in order.
    assert_eq!(c.write_as(1, 1, 0, &data, true).await.unwrap().status(), Status::StaleEpoch);
    assert!(!c.state(3, 1).await.exists);
    assert_eq!(c.info(1).in_sync, [1, 2]);
    c.write(1, 0, &data, true).await;
    c.chunk(2, &[1, 2, 3]);
    c.write(2, 0, &data, true).await;
    assert_eq!(c.info(2).in_sync, [1, 2]);
    // No majority without the full one.
    c.chunk(3, &[1, 3]);
    assert_eq!(c.write_as(3, 3, 0, &data, true).await.unwrap().status(), Status::NoSpace);
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_of_a_session_that_is_over_are_refused_once_the_server_has_said_so() {
    let mut c = TestCluster::new(3).await;
    c.chunk(1, &[1, 2, 3]);
    // The test writes under session 77.
    let (kept, late) = (pattern(1, 4096), pattern(2, 4096));
    c.write(1, 0, &kept, false).await;
    let id = c.write_id();
    c.master.state.lock().sessions(90, &[3]);
    c.wait_for("all have shut it out", |c| c.master.state.lock().done.len() == 3).await;
    let refused = c.write_as(id, 1, 0, &late, false).await;
    assert_eq!(refused.unwrap().status(), Status::Fenced);
    c.master.state.lock().sessions(90, &[3, 77]);
    c.wait_for("it counts", |c| c.master.state.lock().done.len() == 6).await;
    assert_eq!(c.read_soon(2, 1, 0, 4096).await, kept);
    c.write(1, 0, &late, false).await;
    assert_eq!(c.read_soon(2, 1, 0, 4096).await, late);
}
