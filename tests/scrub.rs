//! docs/semantics.md, "Durability": what is damaged on one disk is never read, is found, and is healed from the others.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_chunkserver::core::table::Entry;
use cairn_proto::block::crc32c;
use common::{Cluster, cairn, eventually, pattern, text};
use serde_json::Value;

const MIB: u64 = 1 << 20;
/// Where a chunk file's data begins: behind the header and the block table of 64 MiB.
const DATA: u64 = 4096 + 256 * 1024;

/// A file of several chunks, on stable storage, and where its chunks lie.
struct Stored {
    path: PathBuf,
    content: Vec<u8>,
    chunks: Vec<u64>,
}

fn store(cluster: &Cluster, name: &str, len: u64) -> Stored {
    let path = cluster.mount().join(name);
    let content = pattern(len, len as usize);
    fs::write(&path, &content).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    let output = cairn().arg("file").arg(&path).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let file: Value = serde_json::from_slice(&output.stdout).unwrap();
    let chunks = file["chunks"].as_array().unwrap().iter().map(|c| c["chunk"].as_u64().unwrap()).collect();
    Stored { path, content, chunks }
}

/// The directory of each server's disk.
fn disks(cluster: &Cluster) -> Vec<PathBuf> {
    let status = cluster.status();
    let servers = status["chunkservers"].as_array().unwrap();
    servers.iter().map(|s| s["disks"][0]["path"].as_str().unwrap().into()).collect()
}

fn chunk_file(disk: &Path, chunk: u64) -> PathBuf {
    disk.join(format!("chunks/{:02x}/{chunk}", chunk & 0xff))
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
    file.sync_all().unwrap();
}

fn scrub(cluster: &Cluster, flags: &[&str]) -> String {
    let output =
        cairn().args(["scrub", "--wait", "--data"]).arg(cluster.data()).args(flags).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

/// One of the counters of scrubbing, over all servers.
fn counted(cluster: &Cluster, name: &str) -> u64 {
    let status = cluster.status();
    let servers = status["chunkservers"].as_array().unwrap();
    servers.iter().map(|s| s["disks"][0]["scrub"][name].as_u64().unwrap()).sum()
}

/// Each server's file holds the chunk, byte by byte.
fn assert_stored_everywhere(cluster: &Cluster, stored: &Stored) {
    for (chunk, content) in stored.chunks.iter().zip(stored.content.chunks(64 << 20)) {
        for disk in disks(cluster) {
            let file = File::open(chunk_file(&disk, *chunk)).unwrap();
            let mut held = vec![0; content.len()];
            file.read_exact_at(&mut held, DATA).unwrap();
            assert!(held == content, "chunk {chunk} in {}", disk.display());
        }
    }
}

#[test]
fn what_is_damaged_is_found_by_a_scrub_and_healed() {
    let cluster = Cluster::start();
    let stored = store(&cluster, "f", 3 * 64 * MIB + 5 * MIB);
    cluster.wait_whole();
    let disks = disks(&cluster);
    let at = |server: usize, chunk: usize| chunk_file(&disks[server], stored.chunks[chunk]);
    // A bit, a block that was written in part, a file cut off, a file gone: each on another server or chunk.
    flip(&at(0, 0), DATA + 17 * MIB + 5);
    File::options()
        .write(true)
        .open(at(1, 0))
        .unwrap()
        .write_all_at(&[0; 512], DATA + 40 * MIB + 1024)
        .unwrap();
    File::options().write(true).open(at(1, 1)).unwrap().set_len(DATA + 20 * MIB + 77).unwrap();
    fs::remove_file(at(2, 2)).unwrap();
    fs::remove_file(at(0, 3)).unwrap();
    let said = scrub(&cluster, &[]);
    assert!(said.contains(" healed"), "{said}");
    let found = counted(&cluster, "bad_blocks");
    assert_eq!(found, 1 + 1 + 44 * 256 + 64 * 256 + 5 * 256, "{said}");
    assert_eq!(counted(&cluster, "healed_blocks"), found, "{said}");
    assert_eq!(counted(&cluster, "lost_files"), 2, "{said}");
    assert!(fs::read(&stored.path).unwrap() == stored.content);
    assert_stored_everywhere(&cluster, &stored);
    // And nothing more is found; also after a restart.
    scrub(&cluster, &[]);
    assert_eq!(counted(&cluster, "bad_blocks"), found);
    assert!(cluster.down().status.success());
    cluster.up();
    cluster.wait_whole();
    scrub(&cluster, &["--server", "2"]);
    assert_eq!(counted(&cluster, "bad_blocks"), 0);
    assert!(counted(&cluster, "bytes") >= stored.content.len() as u64);
    assert!(fs::read(&stored.path).unwrap() == stored.content);
}

#[test]
fn what_is_damaged_is_never_read_and_heals_by_being_read() {
    let cluster = Cluster::start();
    let stored = store(&cluster, "f", 64 * MIB + 3 * MIB);
    cluster.wait_whole();
    let disks = disks(&cluster);
    // Of every block at most one replica is good no more; no server is spared.
    for (i, disk) in disks.iter().enumerate() {
        for block in (i as u64..16_384).step_by(30) {
            flip(&chunk_file(disk, stored.chunks[0]), DATA + block * 4096 + 7);
        }
    }
    fs::remove_file(chunk_file(&disks[0], stored.chunks[1])).unwrap();
    // Another mount has nothing in memory.
    let second = cluster.second_mount("second", &[]);
    for _ in 0..3 {
        assert!(fs::read(second.dir().join("f")).unwrap() == stored.content);
    }
    eventually(Duration::from_secs(60), "what was read is healed", || {
        let (bad, healed) = (counted(&cluster, "bad_blocks"), counted(&cluster, "healed_blocks"));
        bad > 500 && bad == healed
    });
    scrub(&cluster, &[]);
    assert_stored_everywhere(&cluster, &stored);
    assert!(fs::read(second.dir().join("f")).unwrap() == stored.content);
}

#[test]
fn what_is_damaged_while_a_server_is_down_is_found_too() {
    let cluster = Cluster::start();
    let stored = store(&cluster, "f", 2 * 64 * MIB + 3 * MIB);
    cluster.wait_whole();
    let disks = disks(&cluster);
    assert!(cluster.down().status.success());
    let at = |server: usize, chunk: usize| chunk_file(&disks[server], stored.chunks[chunk]);
    fs::remove_file(at(0, 0)).unwrap();
    // Cut off in the middle of its table.
    File::options().write(true).open(at(1, 1)).unwrap().set_len(4096 + 1600).unwrap();
    // A bit of the table, of the header, of the data.
    flip(&at(2, 1), 4096 + 16 * 300 + 9);
    flip(&at(2, 2), 30);
    flip(&at(1, 0), DATA + 4096 * 1000);
    cluster.up();
    assert!(fs::read(&stored.path).unwrap() == stored.content);
    eventually(Duration::from_secs(60), "the missing replicas are made again", || {
        at(0, 0).exists() && cluster.status()["chunks"]["under_replicated"] == 0
    });
    cluster.wait_whole();
    scrub(&cluster, &[]);
    assert!(fs::read(&stored.path).unwrap() == stored.content);
    assert_stored_everywhere(&cluster, &stored);
}

/// Gives a block of a chunk file another content, and the checksum of that.
fn forge(path: &Path, block: u64, version: u64) {
    let content = pattern(block + 1, 4096);
    let entry = Entry::data(crc32c(&content), version).encode();
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&content, DATA + block * 4096).unwrap();
    file.write_all_at(&entry, 4096 + block * 16).unwrap();
}

/// The version of a block in a chunk file.
fn version(path: &Path, block: u64) -> u64 {
    let mut entry = [0; 16];
    File::open(path).unwrap().read_exact_at(&mut entry, 4096 + block * 16).unwrap();
    Entry::decode(&entry).version
}

#[test]
fn replicas_that_differ_with_good_checksums_are_found_and_the_majority_counts() {
    let cluster = Cluster::start();
    let stored = store(&cluster, "f", 5 * MIB);
    cluster.wait_whole();
    let disks = disks(&cluster);
    assert!(cluster.down().status.success());
    for (i, disk) in disks.iter().enumerate() {
        let path = chunk_file(disk, stored.chunks[0]);
        let block = 100 * i as u64 + 7;
        forge(&path, block, version(&path, block));
    }
    cluster.up();
    cluster.wait_whole();
    scrub(&cluster, &[]);
    eventually(Duration::from_secs(30), "all replicas hold the same", || {
        let mut held = vec![0; stored.content.len()];
        disks.iter().all(|disk| {
            let file = File::open(chunk_file(disk, stored.chunks[0])).unwrap();
            file.read_exact_at(&mut held, DATA).unwrap();
            held == stored.content
        })
    });
    let second = cluster.second_mount("second", &[]);
    assert!(fs::read(second.dir().join("f")).unwrap() == stored.content);
}

#[test]
fn a_scrub_is_refused_for_a_server_that_is_not_there() {
    let cluster = Cluster::shared();
    let output = cairn().args(["scrub", "--server", "77", "--data"]).arg(cluster.data()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("chunkserver 77"), "{}", text(&output));
    assert!(scrub(&cluster, &["--rate", "1GiB"]).contains("0 bad blocks"));
}
