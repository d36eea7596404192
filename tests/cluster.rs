//! `cairn up`, `down`, `status`, `file` on a running cluster.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use common::{Cluster, cairn, eventually, scratch, text};

#[test]
fn status_shows_what_runs() {
    let cluster = Cluster::shared();
    cluster.wait_whole();
    let status = cluster.status();
    assert_eq!(status["masters"][0]["pid"], cluster.pid("master"));
    assert_eq!(status["masters"][0]["leader"], true);
    assert_eq!(status["masters"][0]["addr"], cluster.master_address());
    let mut pids: Vec<u64> = Vec::new();
    for server in status["chunkservers"].as_array().unwrap() {
        pids.push(server["pid"].as_u64().unwrap());
        assert!(server["id"].as_u64().unwrap() > 0);
        assert!(server["disks"][0]["total_bytes"].as_u64().unwrap() > 0);
    }
    pids.sort_unstable();
    let mut want = ["cs1", "cs2", "cs3"].map(|n| u64::from(cluster.pid(n)));
    want.sort_unstable();
    assert_eq!(pids, want);
    let mount = &status["mounts"][0];
    assert_eq!(
        (mount["dir"].as_str(), mount["pid"].as_u64()),
        (cluster.mount().to_str(), Some(cluster.pid("mount").into()))
    );
    let shown = cairn().args(["status", "--master", &cluster.master_address()]).output().unwrap();
    assert!(shown.status.success() && text(&shown).contains("leader"));
}

#[test]
fn file_shows_chunks_and_their_replicas() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("file").join("f");
    fs::write(&path, common::pattern(1, 65 << 20)).unwrap();
    fs::File::open(&path).unwrap().sync_all().unwrap();
    let output = cairn().arg("file").arg(&path).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let file: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(file["size"], 65 << 20);
    let chunks = file["chunks"].as_array().unwrap();
    assert_eq!(chunks.len(), 2);
    for (index, chunk) in chunks.iter().enumerate() {
        assert_eq!(chunk["index"], index);
        assert!(chunk["epoch"].as_u64().unwrap() >= 1);
        assert_eq!(chunk["in_sync"].as_array().unwrap().len(), 3);
        assert_eq!(chunk["replicas"].as_array().unwrap().len(), 3);
    }
    let shown = cairn().arg("file").arg(&path).output().unwrap();
    assert!(text(&shown).contains("3/3"), "{}", text(&shown));
}

#[test]
fn in_the_foreground_it_shows_how_it_stands_and_ends_cleanly() {
    let dir = scratch();
    let (mount, data) = (dir.path().join("mnt"), dir.path().join("data"));
    let mut up = cairn();
    up.arg("up").arg(&mount).arg("--data").arg(&data).stdout(Stdio::piped());
    let mut child = up.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().contains("is mounted on"));
    assert!(lines.any(|l| l.contains("3 of 3 chunkservers alive")));
    fs::write(mount.join("f"), "x").unwrap();
    common::signal_pid(child.id(), libc::SIGINT);
    assert!(child.wait().unwrap().success());
    assert!(fs::read_dir(&mount).unwrap().next().is_none(), "it is unmounted");
    let again = cairn().arg("up").arg(&mount).arg("--data").arg(&data).arg("-d").output().unwrap();
    assert!(again.status.success(), "{}", text(&again));
    assert_eq!(fs::read(mount.join("f")).unwrap(), b"x");
    assert!(cairn().arg("down").arg("--data").arg(&data).status().unwrap().success());
}

#[test]
fn an_ephemeral_cluster_leaves_nothing() {
    let dir = scratch();
    let mount = dir.path().join("mnt");
    let output =
        cairn().args(["up", "--ephemeral", "-d"]).arg(&mount).env("TMPDIR", dir.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let said = text(&output);
    let data = said.split("--data ").nth(1).unwrap().split('`').next().unwrap().to_owned();
    fs::write(mount.join("f"), "x").unwrap();
    assert!(cairn().args(["down", "--data", &data]).status().unwrap().success());
    eventually(Duration::from_secs(5), "the data is deleted", || !fs::exists(&data).unwrap());
}

#[test]
fn every_process_that_dies_is_started_again() {
    let cluster = Cluster::start();
    fs::write(cluster.mount().join("f"), "x").unwrap();
    fs::File::open(cluster.mount().join("f")).unwrap().sync_all().unwrap();
    for name in ["cs1", "master", "mount"] {
        // So that the kernel has the root's attributes, and answers a stat(2) of a dead mount from them.
        fs::metadata(cluster.mount()).unwrap();
        cluster.kill(name);
    }
    eventually(Duration::from_secs(40), "it is mounted again", || {
        fs::read(cluster.mount().join("f")).is_ok_and(|b| b == b"x")
    });
    cluster.wait_whole();
    // Without the supervisor `down` still stops everything, and `up` starts it.
    common::signal_pid(cluster.supervisor(), libc::SIGKILL);
    std::thread::sleep(Duration::from_millis(200));
    assert!(cluster.down().status.success());
    assert!(fs::read_dir(cluster.mount()).unwrap().next().is_none(), "it is unmounted");
    cluster.up();
    assert_eq!(fs::read(cluster.mount().join("f")).unwrap(), b"x");
}

#[test]
fn a_drill_tells_how_long_programs_wait_when_a_chunkserver_is_killed() {
    let cluster = Cluster::start();
    cluster.wait_whole();
    let output =
        cairn().arg("drill").arg(cluster.mount()).args(["--runs=2", "--faults=kill", "--json"]).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs = report["runs"].as_array().unwrap();
    assert_eq!((runs[0]["primary"].as_bool(), runs[1]["primary"].as_bool()), (Some(true), Some(false)));
    for run in runs {
        let seen = |side: &str| (run[side]["calls"].as_u64().unwrap(), run[side]["errors"].as_u64().unwrap());
        assert!(seen("writes").0 > 10 && seen("reads").0 > 100, "{run}");
        assert_eq!((seen("writes").1, seen("reads").1), (0, 0), "{run}");
        assert!(run["writes"]["longest_s"].as_f64().unwrap() < 5.0, "{run}");
    }
    assert_eq!(fs::read_dir(cluster.mount()).unwrap().count(), 0, "its files are gone");
    let output = cairn().arg("drill").arg("/tmp").output().unwrap();
    assert!(!output.status.success() && text(&output).contains("no CairnFS mount"), "{}", text(&output));
}
