//! Which requests operations cost.

use super::cluster::{CHUNK, Cluster};
use bytes::Bytes;
use cairn_proto::InodeId;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_write_and_its_fsync_are_one_request() {
    let cluster = Cluster::start().await;
    let file = cluster.path(|_| ()).file(InodeId(1), 0);
    for i in 0..5 {
        assert!(file.try_write(i * 4096, &[1; 4096]));
        file.fsync().await.unwrap();
    }
    file.fsync().await.unwrap();
    assert_eq!(["write", "write_sync", "sync"].map(|k| cluster.count(k)), [0, 5, 0]);
    assert_eq!(cluster.count("alloc_chunks"), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_writes_of_a_chunk_are_synced_by_one_request() {
    let cluster = Cluster::start().await;
    let file = cluster.path(|c| c.flush_delay = Duration::from_secs(60)).file(InodeId(1), 0);
    for at in [0, 10_000, 30_000, CHUNK] {
        assert!(file.try_write(at, &[1; 100]));
    }
    file.fsync().await.unwrap();
    assert_eq!(["write", "write_sync", "sync"].map(|k| cluster.count(k)), [3, 1, 1]);
    assert!(cluster.stable(1, 30_100)[30_000..] == [1; 100]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequential_small_writes_are_merged() {
    let cluster = Cluster::start().await;
    let path = cluster.path(|c| c.flush_delay = Duration::from_secs(60));
    let file = path.file(InodeId(1), 0);
    for i in 0..CHUNK / 1024 * 2 {
        assert!(file.try_write(i * 1024, &[3; 1024]));
    }
    file.flush().await.unwrap();
    assert_eq!(cluster.count("write"), 2);
    assert_eq!(path.traffic().written, 2 * CHUNK);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_file_costs_one_question_about_its_chunk() {
    let cluster = Cluster::start().await;
    let path = cluster.path(|_| ());
    let file = path.file(InodeId(1), 0);
    assert!(file.try_write(0, &[1; 100]));
    file.flush().await.unwrap();
    assert_eq!(["get_chunks", "alloc_chunks"].map(|k| cluster.count(k)), [0, 1]);
    // One that was there before may have its chunk.
    let file = path.file(InodeId(2), 100);
    assert!(file.try_write(0, &[1; 100]));
    file.flush().await.unwrap();
    assert_eq!(["get_chunks", "alloc_chunks"].map(|k| cluster.count(k)), [1, 2]);
}

/// Writes so many small files, the contents of each its number.
async fn small_files(cluster: &Cluster, count: u64) {
    let path = cluster.path(|_| ());
    for inode in 1..=count {
        let file = path.file(InodeId(inode), 0);
        file.write_through(0, Bytes::from(vec![inode as u8; 4096]), false).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_in_a_row_are_in_memory_before_they_are_opened() {
    let cluster = Cluster::start().await;
    small_files(&cluster, 200).await;
    let path = cluster.path(|_| ());
    let mut immediately = 0;
    for inode in 1..=200 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let file = path.file(InodeId(inode), 4096);
        let got = match file.try_read(0, 4096) {
            Some(got) => {
                immediately += 1;
                got
            }
            None => file.read(0, 4096).await.unwrap(),
        };
        assert_eq!(got, vec![inode as u8; 4096]);
    }
    assert!(immediately > 180, "{immediately} of 200");
    assert!(cluster.count("get_chunks") < 10 && cluster.count("neighbours") < 20);
    assert_eq!(cluster.count("read"), 200, "none twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_read_in_advance_is_not_read_once_the_file_was_written() {
    let cluster = Cluster::start().await;
    small_files(&cluster, 30).await;
    let path = cluster.path(|_| ());
    for inode in 1..=5 {
        path.file(InodeId(inode), 4096).read(0, 4096).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(cluster.count("read") > 8, "others were read in advance");
    let file = path.file(InodeId(6), 4096);
    file.write_through(0, Bytes::from(vec![99; 100]), false).await.unwrap();
    drop(file);
    let file = path.file(InodeId(6), 4096);
    assert_eq!(file.read(0, 200).await.unwrap(), [vec![99; 100], vec![6; 100]].concat());
    // When others may write, nothing of it counts.
    path.set_exclusive(false);
    path.set_exclusive(true);
    assert!(path.file(InodeId(7), 4096).try_read(0, 4096).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_and_the_end_of_the_file_are_read_without_the_network() {
    let cluster = Cluster::start().await;
    let file = cluster.path(|_| ()).file(InodeId(1), 0);
    file.truncate(10 * CHUNK).await.unwrap();
    assert_eq!(file.read(5, 100).await.unwrap(), [0; 100][..]);
    assert_eq!(file.read(10 * CHUNK - 10, 100).await.unwrap(), [0; 10][..]);
    assert!(file.read(10 * CHUNK, 100).await.unwrap().is_empty());
    assert_eq!(cluster.count("read"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequential_reader_finds_its_data_in_memory() {
    let cluster = Cluster::start().await;
    let size = 40 * CHUNK;
    let data: Vec<u8> = (0..size).map(|i| (i * 7 / 4096) as u8).collect();
    let path = cluster.path(|c| c.memory = 64 << 20);
    let file = path.file(InodeId(1), 0);
    file.write_through(0, Bytes::from(data.clone()), false).await.unwrap();
    let mut immediately = 0;
    for at in (0..size).step_by(16 << 10) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let got = match file.try_read(at, 16 << 10) {
            Some(got) => {
                immediately += 1;
                got
            }
            None => file.read(at, 16 << 10).await.unwrap(),
        };
        assert!(got == data[at as usize..at as usize + (16 << 10)]);
    }
    assert!(immediately > 140, "{immediately} of 160");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dirty_data_outlives_its_handle_and_the_observer_hears_of_it() {
    struct Heard(AtomicU64);
    impl crate::engine::data::WriteBackObserver for Heard {
        fn written_back(&self, inode: InodeId) {
            self.0.store(inode.0, Ordering::SeqCst);
        }
        fn lost(&self, _: InodeId, why: &crate::engine::error::FsError) {
            panic!("{why}");
        }
    }
    let cluster = Cluster::start().await;
    let path = cluster.path(|_| ());
    let heard = Arc::new(Heard(AtomicU64::new(0)));
    path.set_observer(heard.clone());
    let file = path.file(InodeId(4), 0);
    assert!(file.try_write(7, b"late"));
    assert!(file.dirty() && file.dirty_bytes() == 4);
    drop(file);
    assert_eq!(path.file(InodeId(4), 0).size(), 11, "the size is known while data is dirty");
    for _ in 0..200 {
        if heard.0.load(Ordering::SeqCst) == 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(heard.0.load(Ordering::SeqCst), 4);
    assert_eq!(path.file(InodeId(4), 11).read(7, 10).await.unwrap(), b"late"[..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_inode_is_not_written_back() {
    let cluster = Cluster::start().await;
    let path = cluster.path(|_| ());
    let file = path.file(InodeId(4), 0);
    assert!(file.try_write(0, &[1; 100]));
    path.forget_inode(InodeId(4));
    file.fsync().await.unwrap();
    path.flush_all().await.unwrap();
    assert_eq!(cluster.count("write") + cluster.count("write_sync"), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_shared_mode_two_mounts_see_each_other() {
    let cluster = Cluster::start().await;
    let paths = [1, 2].map(|session| cluster.path(|c| c.session = session));
    paths.iter().for_each(|p| p.set_exclusive(false));
    let files = [paths[0].file(InodeId(1), 0), paths[1].file(InodeId(1), 0)];
    for i in 0..40u8 {
        let (writer, reader) = (&files[i as usize % 2], &files[1 - i as usize % 2]);
        let at = u64::from(i) * 3000;
        assert!(!writer.try_write(at, &[i; 3000]));
        writer.write(at, &[i; 3000]).await.unwrap();
        reader.set_known_size(at + 3000);
        assert!(reader.try_read(at, 3000).is_none());
        assert!(reader.read(at, 3000).await.unwrap() == [i; 3000][..]);
        if i == 20 {
            cluster.drop_chunks(1, 0..1);
            assert_eq!(reader.read(0, 10).await.unwrap(), [0; 10][..], "dropped by another mount");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_of_one_file_lose_nothing() {
    let cluster = Cluster::start().await;
    let path = cluster.path(|c| c.memory = 1 << 20);
    let file = path.file(InodeId(1), 0);
    let writers: Vec<_> = (0..8u64)
        .map(|w| {
            let file = file.clone();
            tokio::spawn(async move {
                for i in 0..300u64 {
                    let at = (i * 8 + w) * 1000;
                    let data = [(i % 250) as u8 + 1; 1000];
                    match w % 4 {
                        0 => file.write_through(at, Bytes::copy_from_slice(&data), w == 4).await.unwrap(),
                        _ => file.write(at, &data).await.unwrap(),
                    }
                    if i % 50 == w {
                        file.fsync().await.unwrap();
                    }
                    assert!(file.read(at, 1000).await.unwrap() == data[..]);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    file.fsync().await.unwrap();
    let stable = cluster.stable(1, 8 * 300 * 1000);
    for (n, record) in stable.chunks(1000).enumerate() {
        assert!(record == [(n / 8 % 250) as u8 + 1; 1000], "record {n}");
    }
}
