//! docs/semantics.md, "Full disks": chunks move off a chunkserver that is too full, by themselves.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Scratch, cairn, eventually, pattern, scratch, sh, text};
use serde_json::Value;

const MIB: usize = 1 << 20;

/// A cluster each of whose chunkservers has a disk of its own, in memory, and one mount of it.
struct Cluster {
    master: String,
    /// Everything that runs and is mounted names it, and ends with it.
    dir: Scratch,
    _children: Vec<Child>,
}

fn start(log: &Path, command: &mut Command) -> Child {
    let log = File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

impl Cluster {
    /// With so many chunkservers, on disks of so many MiB.
    fn new(servers: usize, mib: u32) -> Self {
        let dir = scratch();
        let path = |name: &str| dir.path().join(name);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let master = format!("127.0.0.1:{port}");
        let mut command = cairn();
        command.args(["master", "--listen", &master, "--data"]).arg(path("master"));
        let mut children = vec![start(&path("master.log"), &mut command)];
        for n in 1..=servers {
            let disk = path(&format!("disk{n}"));
            fs::create_dir(&disk).unwrap();
            sh(&format!("mount -t tmpfs -o size={mib}m cairn-test {}", disk.display()));
            let mut command = cairn();
            command.args(["chunkserver", "--listen", "127.0.0.1:0", "--master", &master, "--data"]).arg(disk);
            children.push(start(&path(&format!("server{n}.log")), &mut command));
        }
        let at = path("mnt");
        fs::create_dir(&at).unwrap();
        let mut command = cairn();
        children.push(start(&path("mount.log"), command.arg("mount").arg(&master).arg(&at)));
        let cluster = Self { master, dir, _children: children };
        eventually(Duration::from_secs(60), "all servers are alive", || {
            cluster.status()["chunkservers"]
                .as_array()
                .is_some_and(|all| all.iter().filter(|s| s["state"] == "alive").count() == servers)
        });
        eventually(Duration::from_secs(60), "it is mounted", || {
            let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
            mounts.lines().any(|l| l.split(' ').nth(1) == at.to_str())
        });
        cluster
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, args: &[&str]) -> std::process::Output {
        cairn().args(args).args(["--master", &self.master]).output().unwrap()
    }

    /// Null while the master does not answer.
    fn status(&self) -> Value {
        let output = self.run(&["status", "--json"]);
        if output.status.success() { serde_json::from_slice(&output.stdout).unwrap() } else { Value::Null }
    }

    /// What is used of a server's disk, in percent, as its last heartbeat told.
    fn percent(&self, disk: &str) -> f64 {
        let (status, path) = (self.status(), self.path(disk));
        let all = status["chunkservers"].as_array().into_iter().flatten();
        let mut disks = all.flat_map(|s| s["disks"].as_array().into_iter().flatten());
        let Some(found) = disks.find(|d| d["path"].as_str() == path.to_str()) else { return 0.0 };
        let bytes = |key: &str| found[key].as_f64().unwrap();
        (1.0 - bytes("free_bytes") / bytes("total_bytes")) * 100.0
    }

    /// The same, as it is now: a heartbeat may have told of it before the last of the writes.
    fn used_now(&self, disk: &str) -> f64 {
        let space = rustix::fs::statvfs(self.path(disk)).unwrap();
        (1.0 - space.f_bavail as f64 / space.f_blocks as f64) * 100.0
    }

    /// As [`eventually`]; if it does not come to pass, how the cluster is is shown.
    fn eventually(&self, limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
        let began = std::time::Instant::now();
        while !done() {
            if began.elapsed() > limit {
                let logs = sh(&format!("tail -n 15 {}/*.log", self.dir.path().display()));
                panic!("not within {limit:?}: {what}\n{}\n{logs}", text(&self.run(&["status"])));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn all_copies(&self) -> bool {
        let status = self.status();
        status["chunks"]["under_replicated"] == 0 && status["chunks"]["missing"] == 0
    }

    fn is_clean(&self) -> bool {
        self.run(&["fsck", "--rate", "1GiB"]).status.success()
    }
}

fn write_synced(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

#[test]
fn chunks_move_off_a_full_disk_until_there_is_room_again() {
    const FILES: u64 = 48;
    const SIZE: usize = 8 * MIB;
    let cluster = Cluster::new(4, 2_048);
    // What a chunkserver keeps free for itself counts as used: while nothing is written yet that is the difference.
    let mut kept = 0.0;
    cluster.eventually(Duration::from_secs(60), "the disk's space is known", || {
        kept = cluster.percent("disk1") - cluster.used_now("disk1");
        (1.0..15.0).contains(&kept)
    });
    let file = |i: u64| cluster.path("mnt").join(i.to_string());
    for i in 0..FILES {
        write_synced(&file(i), &pattern(i + 1, SIZE));
    }
    cluster.eventually(Duration::from_secs(120), "all copies are there", || cluster.all_copies());
    // Somebody else fills one disk up to 88 percent. Chunks that take 14 are on it.
    let used = cluster.used_now("disk1") + kept;
    assert!((20.0..50.0).contains(&used), "{used}");
    let filler = ((88.0 - used) / 100.0 * 2_048.0) as usize * MIB;
    sh(&format!("fallocate -l {filler} {}", cluster.path("disk1/filler").display()));
    cluster.eventually(Duration::from_secs(60), "it is seen to be full", || {
        let status = cluster.status();
        let moved = status["balance"]["moved"]["disk"].as_u64();
        status["balance"]["moving"]["disk"].as_u64() > Some(0) || moved > Some(0)
    });
    let mut short = 0;
    let mut written = FILES;
    cluster.eventually(Duration::from_secs(240), "it is down at 80 percent", || {
        short += cluster.status()["chunks"]["under_replicated"].as_u64().unwrap_or(0);
        // Writing goes on meanwhile.
        if written < FILES + 4 {
            write_synced(&file(written), &pattern(written + 1, MIB));
            written += 1;
        }
        // Limits are in thousandths.
        cluster.percent("disk1") < 80.1
    });
    // A member that keeps a write waiting is dropped, as ever: on a machine that has too much to do.
    let dropped = fs::read_to_string(cluster.path("master.log")).unwrap().contains("replicas dropped");
    assert!(short == 0 || dropped, "no chunk is under its wanted copies because it moves");
    cluster.eventually(Duration::from_secs(120), "nothing is moved any more", || {
        let status = cluster.status();
        status["balance"]["moving"]["disk"] == 0 && status["chunkservers"].as_array().unwrap().len() == 4
    });
    let others = [2, 3, 4].map(|n| cluster.percent(&format!("disk{n}")));
    assert!(others.iter().all(|p| *p < 80.0), "{others:?}");
    cluster.eventually(Duration::from_secs(120), "fsck finds nothing", || cluster.is_clean());
    // From the servers, not from what this mount has in memory.
    let second = cluster.path("second");
    fs::create_dir(&second).unwrap();
    let mounted = cairn().args(["mount", "-d", &cluster.master]).arg(&second).output().unwrap();
    assert!(mounted.status.success(), "{}", text(&mounted));
    for i in 0..written {
        let len = if i < FILES { SIZE } else { MIB };
        assert!(fs::read(second.join(i.to_string())).unwrap() == pattern(i + 1, len), "file {i}");
    }
}

#[test]
fn limits_can_be_set_while_it_runs_and_make_sense() {
    let cluster = common::Cluster::shared();
    let node = |args: &[&str]| {
        let output = cairn().arg("node").args(args).arg("--data").arg(cluster.data()).output().unwrap();
        (output.status.success(), text(&output))
    };
    let are = |text: &str| (true, format!("{text}\n"));
    assert_eq!(node(&["limits"]), are("full 85, low 80, hot 32.0 MiB, over 16.0 MiB, sustained 30s"));
    let set = ["limits", "--full", "90", "--hot", "0", "--sustained", "500ms"];
    assert_eq!(node(&set), are("full 90, low 80, hot 0 B, over 16.0 MiB, sustained 500ms"));
    for (bad, mend) in
        [(["limits", "--low", "95"], "low at that or less"), (["limits", "--sustained", "2h"], "an hour")]
    {
        let (ok, why) = node(&bad);
        assert!(!ok && why.contains(mend), "{why}");
    }
    cluster.kill("master");
    eventually(Duration::from_secs(30), "they are still there", || {
        node(&["limits"]) == are("full 90, low 80, hot 0 B, over 16.0 MiB, sustained 500ms")
    });
}
