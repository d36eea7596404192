//! docs/semantics.md, "Outages": no operation hangs for ever, and none outlives a kill.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
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
        eventually(Duration::from_secs(20), "it has ended", || child.try_wait().unwrap().is_some());
        assert!(start.elapsed() < Duration::from_secs(5), "signal {signal}: {:?}", start.elapsed());
    }
    SERVERS.iter().for_each(|name| cluster.signal(name, libc::SIGCONT));
}

/// A stopped process that uses a file of a file system mounted there.
fn stopped_on_a_mount_in(dir: &Path) -> Child {
    let disk = dir.join("disk");
    fs::create_dir(&disk).unwrap();
    common::sh(&format!("mount -t tmpfs cairn-test {}", disk.display()));
    fs::write(disk.join("f"), "").unwrap();
    let child = Command::new("tail").arg("-f").arg(disk.join("f")).spawn().unwrap();
    let command_line = format!("/proc/{}/cmdline", child.id());
    eventually(Duration::from_secs(10), "it has been started", || {
        fs::read_to_string(&command_line).unwrap().contains(disk.to_str().unwrap())
    });
    common::signal_pid(child.id(), libc::SIGSTOP);
    child
}

fn is_ended(mut child: Child) {
    eventually(Duration::from_secs(20), "it is ended", || child.try_wait().unwrap().is_some());
}

fn nothing_is_mounted_in(dir: &Path) -> bool {
    !fs::read_to_string("/proc/self/mounts").unwrap().contains(dir.to_str().unwrap())
}

#[test]
fn what_a_test_leaves_behind_is_ended() {
    let scratch = common::scratch();
    let path = scratch.path().to_owned();
    let child = stopped_on_a_mount_in(&path);
    drop(scratch);
    is_ended(child);
    assert!(nothing_is_mounted_in(&path) && !path.exists());
}

#[test]
fn a_test_that_hangs_loses_what_it_waits_for() {
    let scratch = common::Scratch::within(Duration::from_secs(1));
    let child = stopped_on_a_mount_in(scratch.path());
    is_ended(child);
    eventually(Duration::from_secs(5), "its mount is gone", || nothing_is_mounted_in(scratch.path()));
}
