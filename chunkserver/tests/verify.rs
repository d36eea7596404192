//! What a chunkserver tells `cairn fsck`.

#![allow(clippy::unwrap_used)]

mod common;

use bytes::Bytes;
use cairn_proto::data::{Header, Kind, Status};
use cairn_proto::rpc::{ListReply, ListedReplica, VerifyMeta, VerifyReply};
use common::cluster::{TestCluster, pattern};
use prost::Message;
use std::os::unix::fs::FileExt;
use std::time::Duration;

async fn verify(c: &mut TestCluster, server: u32, chunk: u64, content: bool) -> VerifyReply {
    let meta = VerifyMeta { content }.encode_to_vec();
    let header = Header::request(Kind::Verify, chunk, 0, 0);
    let client = c.client(server).await.unwrap();
    let reply = client.call(header, &meta, Bytes::new(), Duration::from_secs(10)).await.unwrap();
    assert_eq!(reply.status(), Status::Ok, "{}", reply.text());
    reply.meta().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_replicas_have_equal_digests_and_a_bad_block_is_found_and_healed() {
    let mut c = TestCluster::new(3).await;
    c.chunk(1, &[1, 2, 3]);
    c.write(1, 0, &pattern(1, 1 << 20), false).await;
    c.write(1, 2_000_000, &pattern(2, 100), true).await;
    let first = verify(&mut c, 1, 1, true).await;
    assert_eq!((first.exists, first.epoch, first.seq), (true, 1, 2));
    assert_eq!(first.bytes_read, (1 << 20) + 4096);
    assert_ne!(first.digest, 0);
    for n in 2..=3 {
        assert_eq!(verify(&mut c, n, 1, true).await, first, "server {n}");
    }
    c.write(1, 4096, &pattern(3, 4096), true).await;
    assert_ne!(verify(&mut c, 1, 1, false).await.digest, first.digest);

    let path = c.data_dir(3).join("chunks/01/1");
    let file = std::fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    // In the third block: behind the header's page and four of the table (4 MiB in entries of 16 bytes).
    let at = (1 + 4 + 2) * 4096 + 5;
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    assert_eq!(verify(&mut c, 3, 1, false).await.bad, [], "nothing was read");
    let found = verify(&mut c, 3, 1, true).await;
    assert_eq!(found.bad.len(), 1);
    assert_ne!(found.digest, verify(&mut c, 1, 1, false).await.digest);
    for _ in 0..100 {
        if verify(&mut c, 3, 1, true).await == verify(&mut c, 1, 1, true).await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not healed");
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_listed_from_a_chunk_on_and_an_unknown_one_does_not_exist() {
    let mut c = TestCluster::new(3).await;
    for chunk in [5, 7, 900] {
        c.chunk(chunk, &[1, 2, 3]);
        c.write(chunk, 0, &pattern(chunk, 100), true).await;
    }
    let header = Header::request(Kind::List, 6, 0, 0);
    let client = c.client(2).await.unwrap();
    let reply = client.call(header, &[], Bytes::new(), Duration::from_secs(10)).await.unwrap();
    let listed: ListReply = reply.meta().unwrap();
    assert_eq!(listed.replicas, [7, 900].map(|chunk| ListedReplica { chunk, epoch: 1 }));
    assert!(listed.end);
    assert_eq!(verify(&mut c, 1, 6, true).await, VerifyReply::default());
}
