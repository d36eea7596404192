//! Failing servers: what the caller sees of them.

use super::cluster::{CHUNK, Cluster};
use crate::engine::error::FsError;
use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::rpc::Failure;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_when_a_server_is_silent() {
    let cluster = Cluster::start().await;
    let file = cluster.path(|_| ()).file(InodeId(1), 0);
    file.write_through(0, Bytes::from(vec![5; 3 * CHUNK as usize]), false).await.unwrap();
    cluster.state.lock().faults.silent.insert(2);
    for i in 0..12 {
        let begun = Instant::now();
        assert!(file.read(i * 8192, 4096).await.unwrap() == [5; 4096][..]);
        assert!(begun.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_server_is_not_waited_for_once_the_others_know_of_a_later_set() {
    let cluster = Cluster::start().await;
    let file = cluster.path(|_| ()).file(InodeId(1), 0);
    file.write_through(0, Bytes::from(vec![5; 65_536]), false).await.unwrap();
    for (block, silent) in [(0, 1), (1, 2), (2, 1), (3, 2), (4, 1), (5, 2)] {
        // The set changes, and this mount has not been told.
        {
            let mut s = cluster.state.lock();
            s.faults.silent = [silent].into();
            let info = &mut s.chunks.values_mut().next().unwrap().info;
            info.in_sync = [1, 2, 3].into_iter().filter(|s| *s != silent).collect();
            info.epoch += 1;
        }
        let begun = Instant::now();
        assert!(file.read(block * 8192, 4096).await.unwrap() == [5; 4096][..]);
        assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_replica_is_reported_and_another_one_read() {
    let cluster = Cluster::start().await;
    let file = cluster.path(|_| ()).file(InodeId(1), 0);
    file.write_through(0, Bytes::from(vec![5; 20_000]), false).await.unwrap();
    cluster.state.lock().faults.corrupt.insert(3);
    for i in [3, 0, 2, 1, 0, 3] {
        assert!(file.read(i * 4096, 4096).await.unwrap() == [5; 4096][..]);
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(cluster.state.lock().reports.contains(&(3, Failure::Corrupt)));
    cluster.state.lock().faults.corrupt.extend([1, 2]);
    assert!(matches!(file.read(0, 10).await, Err(FsError::Corrupt { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_primary_is_replaced_as_soon_as_the_master_says_so() {
    let cluster = Cluster::start().await;
    let path = cluster.path(|_| ());
    let file = path.file(InodeId(1), 0);
    file.write_through(0, Bytes::from_static(b"first"), false).await.unwrap();
    let primary = cluster.state.lock().chunks.values().next().unwrap().info.in_sync[0];
    cluster.state.lock().faults.silent.insert(primary);
    let begun = Instant::now();
    let write = tokio::spawn({
        let file = file.clone();
        async move { file.write_through(0, Bytes::from_static(b"again"), true).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let changed = {
        let mut s = cluster.state.lock();
        let info = &mut s.chunks.values_mut().next().unwrap().info;
        info.in_sync.retain(|s| *s != primary);
        info.epoch += 1;
        info.clone()
    };
    path.chunk_changed(changed);
    write.await.unwrap().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1));
    assert_eq!(cluster.stable(1, 5), b"again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_once_by_fsync_and_to_later_writers() {
    let cluster = Cluster::start().await;
    let file = cluster.path(|_| ()).file(InodeId(1), 0);
    cluster.state.lock().faults.full = true;
    assert!(file.try_write(0, &[1; 100]));
    file.drain(false).await;
    assert_eq!(file.write(200, &[1; 100]).await, Err(FsError::NoSpace));
    assert_eq!(file.fsync().await, Err(FsError::NoSpace));
    assert_eq!(file.fsync().await, Ok(()));
    cluster.state.lock().faults.full = false;
    file.write(0, &[2; 100]).await.unwrap();
    file.fsync().await.unwrap();
    assert_eq!(cluster.stable(1, 100), [2; 100]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_at_which_no_write_arrived_is_not_asked_to_be_stable() {
    let cluster = Cluster::start().await;
    let file = cluster.path(|c| c.flush_delay = Duration::from_secs(60)).file(InodeId(1), 0);
    cluster.state.lock().faults.full = true;
    // Two writes of one chunk, and one of another, which is not synced with its write either.
    for at in [0, 30_000, CHUNK + 7] {
        assert!(file.try_write(at, &[1; 100]));
    }
    file.drain(false).await;
    assert_eq!(file.fsync().await, Err(FsError::NoSpace));
    assert_eq!(cluster.count("sync"), 0);
    // Nothing is left over for the next one.
    assert_eq!(file.fsync().await, Ok(()));
    assert_eq!(cluster.count("sync"), 0);
    // What of a piece did arrive is made stable, although the rest of it did not.
    cluster.state.lock().faults.full = false;
    cluster.state.lock().faults.full_from = Some(20_000);
    for at in [0, 30_000] {
        assert!(file.try_write(at, &[2; 100]));
    }
    file.drain(false).await;
    assert_eq!(file.fsync().await, Err(FsError::NoSpace));
    assert_eq!(cluster.count("sync"), 1);
    assert_eq!(cluster.stable(1, 100), [2; 100]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_ends_with_an_error_at_its_deadline() {
    let cluster = Cluster::start().await;
    let path = cluster.path(|c| c.outage = Duration::from_millis(400));
    let file = path.file(InodeId(1), 0);
    file.write_through(0, Bytes::from(vec![5; 20_000]), false).await.unwrap();
    (1..=3).for_each(|s| cluster.set_down(s, true));
    let begun = Instant::now();
    assert!(matches!(file.read(0, 10).await, Err(FsError::TimedOut(_))));
    assert!(file.try_write(5, b"x"));
    assert!(matches!(file.fsync().await, Err(FsError::TimedOut(_))));
    assert!(matches!(file.truncate(100).await, Err(FsError::TimedOut(_))));
    assert_eq!(file.size(), 20_000, "a truncation that failed has not happened");
    assert!(begun.elapsed() < Duration::from_millis(2500));
    (1..=3).for_each(|s| cluster.set_down(s, false));
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(file.read(0, 10).await.unwrap(), [5; 10][..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_gives_up_loses_nothing() {
    let cluster = Cluster::start().await;
    let file = cluster.path(|_| ()).file(InodeId(1), 0);
    cluster.state.lock().faults.delay.extend((1..=3).map(|s| (s, Duration::from_millis(100))));
    assert!(file.try_write(0, &[8; 5000]));
    assert!(tokio::time::timeout(Duration::from_millis(20), file.fsync()).await.is_err());
    assert!(file.try_write(1000, &[9; 10]));
    file.fsync().await.unwrap();
    let stable = cluster.stable(1, 5000);
    assert!(stable[1000..1010] == [9; 10] && stable[..1000] == [8; 1000]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_written_under_a_session_that_is_over_is_lost_and_an_error_once() {
    let cluster = Cluster::start().await;
    let path = cluster.path(|c| c.flush_delay = Duration::from_secs(60));
    let [gathered, sent, clean] = [1, 2, 3].map(|inode| path.file(InodeId(inode), 0));
    for file in [&gathered, &sent, &clean] {
        assert!(file.try_write(0, b"synced"));
        file.fsync().await.unwrap();
    }
    cluster.state.lock().faults.silent.extend([1, 2, 3]);
    assert!(gathered.try_write(0, b"dirty") && sent.try_write(0, b"flying"));
    sent.push();
    let through = tokio::spawn({
        let clean = clean.clone();
        async move { clean.write_through(100, Bytes::from_static(b"through"), false).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut lost = path.set_session(10);
    lost.sort_unstable();
    assert_eq!(lost, [InodeId(1), InodeId(2)]);
    cluster.state.lock().faults.silent.clear();
    assert_eq!(through.await.unwrap(), Err(FsError::Fenced));
    assert_eq!(gathered.fsync().await, Err(FsError::Fenced));
    assert_eq!(sent.fsync().await, Err(FsError::Fenced));
    for file in [&gathered, &sent, &clean] {
        assert_eq!(file.fsync().await, Ok(()), "once");
    }
    assert!(gathered.try_write(0, b"anew"));
    gathered.fsync().await.unwrap();
    assert_eq!(gathered.read(0, 6).await.unwrap(), b"anewed"[..]);
}
