//! docs/semantics.md, "Several mounts": what one has finished writing, the other reads.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{Cluster, pattern};

#[test]
fn the_last_finished_write_is_what_the_other_mount_reads() {
    let cluster = Cluster::start();
    let first = cluster.mount();
    // Written while there is one mount, still in its memory.
    let early = pattern(1, 3_000_000);
    fs::write(first.join("early"), &early).unwrap();
    let second = cluster.second_mount("second", &[]);
    let second = second.dir();
    assert!(fs::read(second.join("early")).unwrap() == early);
    // Back and forth in one file, both ends holding it open.
    let a = File::options().read(true).write(true).create(true).truncate(true).open(first.join("f")).unwrap();
    let b = File::options().read(true).write(true).open(second.join("f")).unwrap();
    let mut buffer = vec![0; 5000];
    for round in 0..40u64 {
        let (writer, reader) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let bytes = pattern(round + 1, 5000);
        writer.write_all_at(&bytes, round * 2500).unwrap();
        assert_eq!(reader.metadata().unwrap().len(), round * 2500 + 5000, "round {round}");
        reader.read_exact_at(&mut buffer, round * 2500).unwrap();
        assert!(buffer == bytes, "round {round}");
    }
    a.set_len(10).unwrap();
    assert_eq!(fs::metadata(second.join("f")).unwrap().len(), 10);
}

#[test]
fn while_another_mount_waits_to_be_let_in_one_sees_what_one_has_written() {
    let cluster = Cluster::start();
    let (path, bytes) = (cluster.mount().join("f"), pattern(2, 3_000_000));
    let servers = ["cs1", "cs2", "cs3"];
    // Now nothing can be written back, and the other mount has to wait for that.
    servers.iter().for_each(|s| cluster.signal(s, libc::SIGSTOP));
    fs::write(&path, &bytes).unwrap();
    std::thread::scope(|scope| {
        let second = scope.spawn(|| cluster.second_mount("second", &[]));
        common::eventually(Duration::from_secs(10), "the other mount is announced", || {
            cluster.logs().contains("another mount is there")
        });
        for _ in 0..5 {
            assert_eq!(fs::metadata(&path).unwrap().len(), bytes.len() as u64);
            let mut end = [0; 100];
            File::open(&path).unwrap().read_exact_at(&mut end, bytes.len() as u64 - 100).unwrap();
            assert!(end == bytes[bytes.len() - 100..]);
            std::thread::sleep(Duration::from_millis(100));
        }
        servers.iter().for_each(|s| cluster.signal(s, libc::SIGCONT));
        let second = second.join().unwrap();
        assert!(fs::read(second.dir().join("f")).unwrap() == bytes);
    });
    assert!(fs::read(&path).unwrap() == bytes);
}

#[test]
fn names_and_attributes_are_the_same_on_both() {
    let cluster = Cluster::start();
    let second = cluster.second_mount("second", &[]);
    let (a, b) = (cluster.mount(), second.dir().to_owned());
    for round in 0..10 {
        let (here, there) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
        let name = format!("d{round}");
        assert!(!there.join(&name).exists());
        fs::create_dir(here.join(&name)).unwrap();
        assert!(there.join(&name).is_dir());
        fs::rename(there.join(&name), there.join("moved")).unwrap();
        assert!(!here.join(&name).exists() && here.join("moved").is_dir());
        common::sh(&format!("chmod 7{round}5 {} || chmod 705 {0}", here.join("moved").display()));
        let mode = |dir: &std::path::Path| fs::metadata(dir.join("moved")).unwrap().mode();
        assert_eq!(mode(here), mode(there));
        fs::remove_dir(there.join("moved")).unwrap();
        assert!(!here.join("moved").exists());
    }
}

#[test]
fn a_file_removed_on_one_mount_lives_on_while_open_on_the_other() {
    let cluster = Cluster::start();
    let second = cluster.second_mount("second", &[]);
    fs::write(cluster.mount().join("f"), "still here").unwrap();
    let open = File::open(second.dir().join("f")).unwrap();
    fs::remove_file(cluster.mount().join("f")).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let mut buffer = [0; 10];
    open.read_exact_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"still here");
}

/// As editors save, and `git` moves its references: what is written beside it takes the name, in one step.
#[test]
fn a_file_that_is_replaced_all_the_time_is_there_for_the_other_mount() {
    const ROUNDS: u64 = 300;
    let cluster = Cluster::start();
    let second = cluster.second_mount("second", &[]);
    let (mount, there) = (cluster.mount(), second.dir().join("config"));
    let replace = |round: u64| {
        fs::write(mount.join("beside"), pattern(round, 100)).unwrap();
        fs::rename(mount.join("beside"), mount.join("config")).unwrap();
    };
    replace(0);
    let (written, read) = (AtomicU64::new(1), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while written.load(Ordering::SeqCst) < ROUNDS {
                    let before = written.load(Ordering::SeqCst) - 1;
                    // Opened, then looked at: both by what a look-up had found.
                    let bytes = fs::read(&there).unwrap();
                    let after = written.load(Ordering::SeqCst);
                    assert!(
                        (before..=after).any(|round| bytes == pattern(round, 100)),
                        "of {before} to {after}"
                    );
                    assert_eq!(fs::symlink_metadata(&there).unwrap().len(), 100);
                    read.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for round in 1..ROUNDS {
            replace(round);
            written.store(round + 1, Ordering::SeqCst);
        }
    });
    assert!(read.load(Ordering::SeqCst) > 0);
}

#[test]
fn appends_from_both_mounts_are_all_there() {
    let cluster = Cluster::start();
    let second = cluster.second_mount("second", &[]);
    let dirs = [cluster.mount(), second.dir().to_owned()];
    // Each appends after it has seen the other's: an append is at the end as it stands.
    for round in 0..20 {
        use std::io::Write;
        let mut file = File::options().append(true).create(true).open(dirs[round % 2].join("log")).unwrap();
        writeln!(file, "line {round}").unwrap();
    }
    let want: String = (0..20).map(|r| format!("line {r}\n")).collect();
    for dir in &dirs {
        assert_eq!(fs::read_to_string(dir.join("log")).unwrap(), want);
    }
}
