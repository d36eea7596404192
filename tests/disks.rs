//! docs/semantics.md, "Disks": one that is taken away or full is not noticed, and what was on it is soon elsewhere.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Cluster, Running, cairn, eventually, pattern, sh};
use serde_json::Value;

const MIB: usize = 1 << 20;

/// One more chunkserver.
fn extra_server(cluster: &Cluster, disks: &[&Path]) -> Running {
    let data: Vec<_> = disks.iter().map(|d| d.to_str().unwrap()).collect();
    let before = cluster.alive();
    let mut command = cairn();
    command.args(["chunkserver", "--listen", "127.0.0.1:0", "--master", &cluster.master_address(), "--data"]);
    let log = File::create(cluster.data().join("run/extra.log")).unwrap();
    let child = command.arg(data.join(",")).stdout(Stdio::null()).stderr(log).spawn().unwrap();
    let extra = Running(child);
    eventually(Duration::from_secs(20), "the extra server is there", || cluster.alive() == before + 1);
    extra
}

fn write_synced(path: &Path, bytes: &[u8]) {
    let file = File::create(path).unwrap();
    file.write_all_at(bytes, 0).unwrap();
    file.sync_all().unwrap();
}

/// The status of the disk in this directory, and of its server.
fn disk_of(status: &Value, dir: &Path) -> (Value, Value) {
    let servers = status["chunkservers"].as_array().unwrap();
    let found = servers.iter().find_map(|s| {
        let disk = s["disks"].as_array()?.iter().find(|d| d["path"].as_str() == dir.to_str())?;
        Some((disk.clone(), s.clone()))
    });
    found.unwrap_or_else(|| panic!("{} in {status:#}", dir.display()))
}

fn all_copies(cluster: &Cluster) -> bool {
    let Some(status) = cluster.try_status() else { return false };
    status["chunks"]["under_replicated"] == 0 && status["chunks"]["missing"] == 0
}

fn chunk_files(disk: &Path) -> usize {
    sh(&format!("find {}/chunks -type f 2>/dev/null | wc -l || true", disk.display())).trim().parse().unwrap()
}

#[test]
fn a_disk_that_is_taken_away_is_not_noticed() {
    let cluster = Cluster::with(&["--chunkservers", "4", "--replicas", "3"]);
    let dir = cluster.subdir("d");
    let path = |i: u64| dir.join(i.to_string());
    let mut written = 0;
    let mut write = |n: u64| {
        for i in written..written + n {
            write_synced(&path(i), &pattern(i + 1, MIB + 500));
        }
        written += n;
        written
    };
    write(12);
    eventually(Duration::from_secs(30), "all copies are there", || all_copies(&cluster));
    let disk = cluster.data().join("cs1");
    assert!(chunk_files(&disk) > 0);
    let pid = cluster.pid("cs1");
    // Open, and written to from then on.
    let open = File::options().write(true).open(path(0)).unwrap();
    fs::rename(&disk, cluster.data().join("away")).unwrap();
    for i in 0..20 {
        open.write_all_at(&pattern(100 + i, 50_000), i * 50_000).unwrap();
        open.sync_data().unwrap();
    }
    let all = write(12);
    eventually(Duration::from_secs(10), "the disk has failed", || {
        disk_of(&cluster.status(), &disk).0["failed"] == true
    });
    assert_eq!(disk_of(&cluster.status(), &disk).1["state"], "alive");
    eventually(Duration::from_secs(60), "all copies are there without it", || all_copies(&cluster));
    assert_eq!(disk_of(&cluster.status(), &disk).1["chunks"], 0);
    assert_eq!(cluster.pid("cs1"), pid, "it was not started anew");
    assert!(!disk.exists(), "nothing is made where the disk was");
    let second = cluster.second_mount("second", &[]);
    for i in 1..all {
        let there = fs::read(second.dir().join("d").join(i.to_string())).unwrap();
        assert!(there == pattern(i + 1, MIB + 500), "file {i}");
    }
    let first = fs::read(second.dir().join("d/0")).unwrap();
    assert!((0..20).all(|i| first[i * 50_000..][..50_000] == pattern(100 + i as u64, 50_000)));
}

#[test]
fn a_server_goes_on_with_its_other_disks() {
    let cluster = Cluster::start();
    let (one, two) = (cluster.data().join("one"), cluster.data().join("two"));
    let mut extra = extra_server(&cluster, &[&one, &two]);
    let dir = cluster.subdir("d");
    for i in 0..40 {
        write_synced(&dir.join(i.to_string()), &pattern(i + 1, 300_000));
    }
    eventually(Duration::from_secs(30), "both disks are used", || {
        chunk_files(&one) > 0 && chunk_files(&two) > 0
    });
    fs::rename(&two, cluster.data().join("away")).unwrap();
    eventually(Duration::from_secs(10), "the disk has failed", || {
        disk_of(&cluster.status(), &two).0["failed"] == true
    });
    assert_eq!(disk_of(&cluster.status(), &one).0["failed"], false);
    eventually(Duration::from_secs(60), "all copies are there without it", || all_copies(&cluster));
    for i in 40..60 {
        write_synced(&dir.join(i.to_string()), &pattern(i + 1, 300_000));
    }
    let second = cluster.second_mount("second", &[]);
    for i in 0..60 {
        assert!(
            fs::read(second.dir().join("d").join(i.to_string())).unwrap() == pattern(i + 1, 300_000),
            "file {i}"
        );
    }
    assert!(extra.is_running());
    assert!(disk_of(&cluster.status(), &one).1["chunks"].as_u64().unwrap() > 0);
}

#[test]
fn a_disk_that_cannot_be_opened_is_left_out() {
    let cluster = Cluster::start();
    let (one, two) = (cluster.data().join("one"), cluster.data().join("two"));
    let extra = extra_server(&cluster, &[&one, &two]);
    let path = cluster.mount().join("f");
    let content = pattern(1, 200 * MIB);
    write_synced(&path, &content);
    drop(extra);
    eventually(Duration::from_secs(20), "it is gone", || cluster.alive() == 3);
    sh(&format!("cd {} && for j in journal.*; do rm $j && mkdir $j; done", two.display()));
    let mut extra = extra_server(&cluster, &[&one, &two]);
    eventually(Duration::from_secs(10), "the disk is left out", || {
        disk_of(&cluster.status(), &two).0["failed"] == true
    });
    assert_eq!(disk_of(&cluster.status(), &one).0["failed"], false);
    eventually(Duration::from_secs(60), "all copies are there", || all_copies(&cluster));
    assert!(extra.is_running() && fs::read(&path).unwrap() == content);
}

#[test]
fn one_full_disk_is_not_noticed_as_long_as_the_others_have_room() {
    let cluster = Cluster::start();
    // One of the three gets a small disk instead of its own, and so becomes another server.
    assert!(cluster.down().status.success());
    let small = cluster.data().join("cs1");
    fs::remove_dir_all(&small).unwrap();
    fs::create_dir(&small).unwrap();
    sh(&format!("mount -t tmpfs -o size=450m cairn-test {}", small.display()));
    let _unmounted = OnDrop(|| drop(Command::new("umount").arg("-l").arg(&small).output()));
    cluster.up();
    eventually(Duration::from_secs(20), "all three are there", || cluster.alive() == 3);
    // As long as it has room it is used like the others.
    let files: Vec<_> = (0..12)
        .map(|i| {
            let path = cluster.mount().join(i.to_string());
            write_synced(&path, &pattern(i * 1000, MIB));
            (i, path.clone(), File::options().write(true).open(&path).unwrap())
        })
        .collect();
    assert!(chunk_files(&small) > 2);
    // All grow, beyond what it can take.
    for piece in 1..24 {
        for (i, _, file) in &files {
            file.write_all_at(&pattern(i * 1000 + piece, MIB), piece * MIB as u64).unwrap();
            file.sync_data().unwrap();
        }
    }
    // It did become full. Copies that it gave up are deleted there, so that it need not be so now.
    let said = fs::read_to_string(cluster.data().join("run/master.log")).unwrap();
    assert!(said.contains("NO_SPACE"), "{said}");
    let (disk, server) = disk_of(&cluster.status(), &small);
    assert_eq!((&disk["failed"], server["state"].as_str()), (&Value::Bool(false), Some("alive")));
    let second = cluster.second_mount("second", &[]);
    for (i, path, _) in &files {
        let all = fs::read(second.dir().join(path.file_name().unwrap())).unwrap();
        assert_eq!(all.len(), 24 * MIB);
        for (piece, there) in (0..).zip(all.chunks(MIB)) {
            assert!(there == pattern(i * 1000 + piece, MIB), "file {i}, piece {piece}");
        }
    }
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
