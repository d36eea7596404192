//! `cairn node drain|maintenance|resume` on a running cluster.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::FileExt;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use common::{Cluster, Running, cairn, eventually, text};
use serde_json::Value;

/// A chunkserver beside those of `cairn up`.
fn extra_server(cluster: &Cluster, alive: usize) -> Running {
    let mut command = cairn();
    command.args(["chunkserver", "--listen", "127.0.0.1:0", "--master", &cluster.master_address()]);
    command.arg("--data").arg(cluster.data().join("extra")).stderr(Stdio::null());
    let extra = Running(command.spawn().unwrap());
    eventually(Duration::from_secs(20), "the fourth server is alive", || cluster.alive() == alive);
    extra
}

fn node(cluster: &Cluster, args: &[&str]) -> Output {
    let mut command: Command = cairn();
    command.arg("node").args(args).arg("--data").arg(cluster.data());
    command.output().unwrap()
}

/// The id of the server that runs as `name`.
fn id(cluster: &Cluster, name: &str) -> String {
    let pid = cluster.pid(name);
    let status = cluster.status();
    let servers = status["chunkservers"].as_array().unwrap();
    servers.iter().find(|s| s["pid"] == pid).unwrap()["id"].to_string()
}

fn state(cluster: &Cluster, id: &str) -> String {
    let status = cluster.status();
    let servers = status["chunkservers"].as_array().unwrap();
    let id: u64 = id.parse().unwrap();
    let server = servers.iter().find(|s| s["id"] == id).unwrap();
    server["state"].as_str().unwrap().to_owned()
}

fn sets(path: &std::path::Path) -> Vec<Value> {
    let output = cairn().arg("file").arg(path).arg("--json").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let file: Value = serde_json::from_slice(&output.stdout).unwrap();
    file["chunks"].as_array().unwrap().iter().map(|c| c["in_sync"].clone()).collect()
}

#[test]
fn a_drained_server_can_be_switched_off() {
    let cluster = Cluster::start();
    let paths: Vec<_> = (0..6).map(|n| cluster.mount().join(format!("f{n}"))).collect();
    let content = |n: usize| common::pattern(n as u64, 300_000);
    for (n, path) in paths.iter().enumerate() {
        fs::write(path, content(n)).unwrap();
        fs::File::open(path).unwrap().sync_all().unwrap();
    }
    let drained = id(&cluster, "cs1");
    // With three servers and three copies there is nowhere to go: that is said, and nothing is lost.
    let blocked = node(&cluster, &["drain", &drained, "--wait"]);
    assert!(!blocked.status.success());
    assert!(text(&blocked).contains("no other chunkserver to go to"), "{}", text(&blocked));
    assert_eq!(cluster.status()["chunks"]["under_replicated"], 0);
    let _extra = extra_server(&cluster, 3);
    let done = node(&cluster, &["drain", &drained, "--wait"]);
    assert!(done.status.success(), "{}", text(&done));
    assert!(text(&done).contains("can be switched off"), "{}", text(&done));
    assert_eq!(state(&cluster, &drained), "draining");
    let drained_id: u64 = drained.parse().unwrap();
    for path in &paths {
        for set in sets(path) {
            let set = set.as_array().unwrap();
            assert!(set.len() == 3 && !set.contains(&drained_id.into()), "{set:?}");
        }
    }
    cluster.signal("cs1", libc::SIGSTOP);
    let new = cluster.mount().join("new");
    fs::write(&new, content(9)).unwrap();
    fs::File::open(&new).unwrap().sync_all().unwrap();
    for (n, path) in paths.iter().enumerate() {
        assert!(fs::read(path).unwrap() == content(n));
    }
    assert_eq!(cluster.status()["chunks"]["under_replicated"], 0);
    cluster.signal("cs1", libc::SIGCONT);
    let resumed = node(&cluster, &["resume", &drained, "--wait"]);
    assert!(resumed.status.success(), "{}", text(&resumed));
    assert_eq!(state(&cluster, &drained), "alive");
}

#[test]
fn a_server_in_maintenance_is_not_replaced() {
    let cluster = Cluster::start();
    let path = cluster.mount().join("f");
    fs::write(&path, common::pattern(1, 300_000)).unwrap();
    fs::File::open(&path).unwrap().sync_all().unwrap();
    let _extra = extra_server(&cluster, 4);
    let before = sets(&path);
    let resting = before[0][1].to_string();
    let name = ["cs1", "cs2", "cs3"].into_iter().find(|n| id(&cluster, n) == resting).unwrap();
    let ordered = node(&cluster, &["maintenance", &resting, "--wait"]);
    assert!(text(&ordered).contains("maintenance, for"), "{}", text(&ordered));
    cluster.signal(name, libc::SIGSTOP);
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(state(&cluster, &resting), "maintenance");
    assert_eq!(sets(&path), before, "nobody wrote, so nothing changed");
    // A write does not wait for it.
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&common::pattern(2, 300_000), 0).unwrap();
    file.sync_all().unwrap();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(sets(&path)[0].as_array().unwrap().len(), 2, "and no other takes its place");
    cluster.signal(name, libc::SIGCONT);
    eventually(Duration::from_secs(20), "it is brought up to date", || {
        sets(&path)[0].as_array().unwrap().len() == 3
    });
    assert!(sets(&path)[0].as_array().unwrap().contains(&resting.parse::<u64>().unwrap().into()));
    assert!(node(&cluster, &["resume", &resting, "--wait"]).status.success());
    assert_eq!(state(&cluster, &resting), "alive");
}

#[test]
fn changes_are_shown_and_run_a_command() {
    let dir = common::scratch();
    let said = dir.path().join("said");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let address = format!("127.0.0.1:{port}");
    let hook = format!("echo $CAIRN_NODE $CAIRN_FROM $CAIRN_TO >> {}", said.display());
    let mut master = cairn();
    master.args(["master", "--listen", &address, "--on-node-change", &hook]).stderr(Stdio::null());
    let _master = Running(master.arg("--data").arg(dir.path().join("m")).spawn().unwrap());
    let status = || cairn().args(["status", "--json", "--master", &address]).output().unwrap();
    eventually(Duration::from_secs(20), "the master answers", || status().status.success());
    let mut watch = cairn();
    watch.args(["watch", "--json", "--master", &address]).stdout(Stdio::piped());
    let mut watch = Running(watch.spawn().unwrap());
    let mut lines = BufReader::new(watch.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    // Until it is there; changes before that are not shown.
    std::thread::sleep(Duration::from_secs(2));
    let mut server = cairn();
    server.args(["chunkserver", "--listen", "127.0.0.1:0", "--master", &address]).stderr(Stdio::null());
    let server = Running(server.arg("--data").arg(dir.path().join("s")).spawn().unwrap());
    let mut change = || {
        let line: Value = serde_json::from_str(&lines.next().unwrap()).unwrap();
        ["from", "to"].map(|key| line[key].as_str().unwrap().to_owned())
    };
    assert_eq!(change(), ["joining", "alive"]);
    drop(server);
    assert_eq!(change(), ["alive", "suspected"]);
    assert_eq!(change(), ["suspected", "dead"]);
    let ran = || fs::read_to_string(&said).unwrap_or_default();
    eventually(Duration::from_secs(10), "the command ran for each", || ran().lines().count() >= 3);
    assert!(ran().contains("1 suspected dead"), "{}", ran());
    let shown: Value = serde_json::from_slice(&status().stdout).unwrap();
    assert_eq!((&shown["node_changes"], &shown["chunkservers"][0]["health"]), (&3.into(), &0.into()));
}

#[test]
fn weights_can_be_set_while_it_runs_and_outlive_the_master() {
    let cluster = Cluster::start();
    let first = node(&cluster, &["weights"]);
    assert_eq!(text(&first), "free 40, load 30, rtt 20, rack 10\n");
    let set = node(&cluster, &["weights", "--load", "100", "--rack", "0"]);
    assert_eq!(text(&set), "free 40, load 100, rtt 20, rack 0\n");
    cluster.kill("master");
    let shown = || text(&node(&cluster, &["weights"]));
    eventually(Duration::from_secs(20), "they are still there", || {
        shown() == "free 40, load 100, rtt 20, rack 0\n"
    });
    let nothing = node(&cluster, &["weights", "--free", "0", "--load", "0", "--rtt", "0", "--rack", "0"]);
    assert!(!nothing.status.success() && text(&nothing).contains("at least 1"), "{}", text(&nothing));
}

#[test]
fn orders_that_make_no_sense_are_refused_by_name() {
    let cluster = Cluster::shared();
    let unknown = node(&cluster, &["drain", "77"]);
    assert!(!unknown.status.success() && text(&unknown).contains("no chunkserver 77"), "{}", text(&unknown));
    let forever = node(&cluster, &["maintenance", "1", "--for", "1000h"]);
    assert!(!forever.status.success() && text(&forever).contains("30 days"), "{}", text(&forever));
}
