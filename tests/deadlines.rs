//! docs/semantics.md, "Outages": no operation hangs for ever, and none outlives a kill.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{Cluster, eventually};

const SERVERS: [&str; 4] = ["master", "cs1", "cs2", "cs3"];

#[test]
fn with_all_servers_stopped_every_operation_ends() {
    let cluster = Cluster::with(&["--on-outage=wait:3s"]);
    let dir = cluster.subdir("d");
    fs::write(dir.join("f"), common::pattern(1, 10 << 20)).unwrap();
    fs::File::open(dir.join("f")).unwrap().sync_all().unwrap();
    cluster.kill("mount");
    eventually(Duration::from_secs(40), "it is mounted again", || fs::metadata(dir.join("f")).is_ok());
    SERVERS.iter().for_each(|name| cluster.signal(name, libc::SIGSTOP));
    let mount = cluster.mount().display().to_string();
    for command in [
        format!("ls {mount}/d"),
        format!("cat {mount}/d/f"),
        format!("df {mount}"),
        format!("mkdir {mount}/new"),
        format!("echo x > {mount}/d/g"),
    ] {
        let start = Instant::now();
        let output =
            Command::new("timeout").args(["-s", "KILL", "20", "bash", "-c", &command]).output().unwrap();
        let took = start.elapsed();
        assert!(took < Duration::from_secs(12), "{command}: {took:?}");
        assert!(!output.status.success(), "{command} went well");
        println!("{command}: {took:?} {}", common::text(&output).trim());
    }
    SERVERS.iter().for_each(|name| cluster.signal(name, libc::SIGCONT));
    eventually(Duration::from_secs(30), "it works again", || {
        fs::read(dir.join("f")).is_ok_and(|b| b.len() == 10 << 20)
    });
}

#[test]
fn a_waiting_process_can_be_interrupted() {
    let cluster = Cluster::with(&["--on-outage=wait:60s"]);
    SERVERS.iter().for_each(|name| cluster.signal(name, libc::SIGSTOP));
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGKILL] {
        // Whoever runs the tests in the background has SIGINT ignored, and with it their children.
        let mut child = Command::new("env")
            .args(["--default-signal=INT", "stat", "-f"])
            .arg(cluster.mount())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(500));
        assert!(child.try_wait().unwrap().is_none(), "it should wait");
        let start = Instant::now();
        common::signal_pid(child.id(), signal);
        child.wait().unwrap();
        assert!(start.elapsed() < Duration::from_secs(2), "signal {signal}: {:?}", start.elapsed());
    }
    SERVERS.iter().for_each(|name| cluster.signal(name, libc::SIGCONT));
}
