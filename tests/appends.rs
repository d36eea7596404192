//! docs/semantics.md, "Several mounts": records that several mounts append to one file at once.
//!
//! `CAIRN_APPENDS=100000 cargo test --release --test appends` for so many records.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Cluster, eventually, number, pattern};

const MOUNTS: usize = 4;
/// In all, unless `CAIRN_APPENDS` says otherwise.
const RECORDS: u64 = 6_000;
const SHORTEST: u64 = 100;
const LONGEST: u64 = 4_000;
/// Mount, number, length of the whole: 4 bytes each.
const HEAD: usize = 12;

fn record(mount: usize, number: u32) -> Vec<u8> {
    let seed = (mount as u64 + 1) << 32 | u64::from(number);
    let drawn = u64::from_le_bytes(pattern(seed, 8).try_into().unwrap());
    let len = SHORTEST + drawn % (LONGEST - SHORTEST + 1);
    let mut bytes = Vec::with_capacity(len as usize);
    [mount as u32, number, len as u32].iter().for_each(|n| bytes.extend(n.to_le_bytes()));
    bytes.extend(pattern(seed, len as usize - HEAD));
    bytes
}

/// Every record of every mount is there once, whole, and those of a mount are in their order.
fn check(file: &Path, each: u32) {
    let bytes = fs::read(file).unwrap();
    let mut next = [0u32; MOUNTS];
    let mut at = 0;
    while at < bytes.len() {
        let word = |i: usize| u32::from_le_bytes(bytes[at + i * 4..at + i * 4 + 4].try_into().unwrap());
        let (mount, number) = (word(0) as usize, word(1));
        assert!(mount < MOUNTS && next[mount] == number, "mount {mount} number {number} at {at}: {next:?}");
        let want = record(mount, number);
        assert!(bytes[at..].starts_with(&want), "mount {mount} number {number} at {at} is not whole");
        next[mount] += 1;
        at += want.len();
    }
    assert_eq!(next, [each; MOUNTS]);
}

#[test]
fn records_that_four_mounts_append_while_servers_die_are_all_there_once_and_whole() {
    let cluster = Cluster::for_a_run_of(Duration::from_secs(number("CAIRN_APPENDS").unwrap_or(0) / 100));
    let each = (number("CAIRN_APPENDS").unwrap_or(RECORDS) / MOUNTS as u64) as u32;
    File::create(cluster.mount().join("log")).unwrap();
    let further = ["second", "third", "fourth"].map(|name| cluster.second_mount(name, &[]));
    let mut logs = vec![cluster.mount().join("log")];
    logs.extend(further.iter().map(|m| m.dir().join("log")));
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (mount, log) in logs.iter().enumerate() {
            let done = &done;
            scope.spawn(move || {
                let mut log = File::options().append(true).open(log).unwrap();
                for number in 0..each {
                    let record = record(mount, number);
                    assert_eq!(log.write(&record).unwrap(), record.len(), "mount {mount} number {number}");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for (killed, server) in ["cs1", "cs2", "cs3"].into_iter().enumerate() {
            let enough = MOUNTS * each as usize * (killed + 1) / 4;
            eventually(Duration::from_secs(400), "a further quarter is written", || {
                done.load(Ordering::Relaxed) >= enough
            });
            cluster.wait_whole();
            cluster.kill(server);
        }
    });
    logs.iter().for_each(|log| check(log, each));
}
