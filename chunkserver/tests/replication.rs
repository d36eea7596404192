//! Three chunkservers, a small master, a client: on loopback.

mod common;

use bytes::Bytes;
use cairn_proto::data::Status;
use common::cluster::{TestCluster, pattern};

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
}
