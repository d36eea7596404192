//! docs/semantics.md, "Wrong calls": each ends with a clear message and the promised exit code.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::Path;
use std::process::Command;

use common::{Cluster, cairn, scratch, text};

#[track_caller]
fn fails(command: &mut Command, code: i32, words: &[&str]) {
    let output = command.output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code), "{command:?}: {said}");
    for word in words {
        assert!(said.contains(word), "{command:?} does not say {word:?}: {said}");
    }
}

fn mount(cluster: &Cluster, dir: &Path) -> Command {
    let mut command = cairn();
    command.arg("mount").arg(cluster.master_address()).arg(dir);
    command
}

#[test]
fn a_wrong_command_line_is_named() {
    fails(cairn().args(["up", "/mnt/x", "--bogus"]), 1, &["--bogus"]);
    fails(cairn().args(["master", "--data", "/tmp/x", "--listen", "nowhere"]), 1, &["nowhere", "--listen"]);
    fails(cairn().args(["mount", "no-port", "/mnt/x"]), 1, &["no-port", "HOST:PORT"]);
    fails(cairn().args(["mount", "127.0.0.1:1", "/mnt/x", "--on-outage", "panic"]), 1, &["panic", "wait:"]);
    fails(cairn().args(["mount", "127.0.0.1:1", "/mnt/x", "--memory", "lots"]), 1, &["lots"]);
    fails(
        cairn().args(["up", "/mnt/x", "--chunkservers", "1", "--replicas", "2", "--ephemeral"]),
        1,
        &["replicas"],
    );
    fails(cairn().arg("frobnicate"), 1, &["frobnicate"]);
    fails(cairn().args(["status"]).env("CAIRN_LOG", "=,=nonsense=="), 1, &["CAIRN_LOG"]);
    fails(cairn().args(["status", "--config", "/nonexistent.toml"]), 1, &["/nonexistent.toml"]);
    let help = cairn().arg("--help").output().unwrap();
    assert!(help.status.success() && text(&help).contains("Exit codes"));
}

#[test]
fn a_mount_option_that_there_is_not_is_named() {
    fails(cairn().args(["mount", "127.0.0.1:1", "/mnt/x", "-o", "suid,frob"]), 1, &["frob"]);
}

#[test]
fn where_no_cluster_is() {
    let dir = scratch();
    fails(cairn().args(["status", "--data"]).arg(dir.path()), 2, &["no cluster"]);
    fails(cairn().args(["down", "--data"]).arg(dir.path()), 2, &["no cluster"]);
    fails(cairn().args(["status", "--master", "127.0.0.1:1"]), 2, &["127.0.0.1:1", "refused"]);
    fails(cairn().arg("umount").arg(dir.path()), 32, &["no CairnFS"]);
    fails(cairn().arg("file").arg(dir.path()), 1, &["no CairnFS mount"]);
}

#[test]
fn a_mountpoint_that_does_not_fit() {
    let cluster = Cluster::shared();
    let dir = scratch();
    fails(&mut mount(&cluster, &dir.path().join("missing")), 32, &["missing"]);
    fs::write(dir.path().join("file"), "x").unwrap();
    fails(&mut mount(&cluster, &dir.path().join("file")), 32, &["directory"]);
    fails(&mut mount(&cluster, dir.path()), 32, &["not empty"]);
    fails(&mut mount(&cluster, &cluster.mount()), 32, &["already"]);
    fails(cairn().args(["up", "--ephemeral"]).arg(dir.path()), 32, &["not empty"]);
    fails(cairn().args(["up", "--ephemeral"]).arg(cluster.mount()), 32, &["already"]);
}

#[test]
fn no_master_to_mount_from() {
    let dir = scratch();
    let empty = dir.path().join("mnt");
    fs::create_dir(&empty).unwrap();
    let mut command = cairn();
    command.args(["mount", "127.0.0.1:1", "--on-outage=wait:1s"]).arg(&empty);
    fails(&mut command, 32, &["127.0.0.1:1"]);
}

#[test]
fn a_cluster_that_runs_already_says_so() {
    let cluster = Cluster::shared();
    let second = cluster.try_up();
    assert_eq!(second.status.code(), Some(2), "{}", text(&second));
    assert!(text(&second).contains("already running"), "{}", text(&second));
}

#[test]
fn a_port_that_is_taken() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let dir = scratch();
    fails(cairn().args(["master", "--listen", &address, "--data"]).arg(dir.path().join("m")), 2, &[&address]);
    let cluster = Cluster::shared();
    let mut command = cairn();
    command.args(["chunkserver", "--listen", &address, "--master", &cluster.master_address(), "--data"]);
    fails(command.arg(dir.path().join("c")), 2, &[&address]);
}

#[test]
fn a_data_directory_that_is_not_this_clusters() {
    let other = Cluster::start();
    let cluster = Cluster::shared();
    let dir = scratch();
    // In use: the running processes hold it.
    let mut command = cairn();
    command.args(["master", "--listen", "127.0.0.1:0", "--data"]);
    fails(command.arg(cluster.data().join("master")), 2, &["master"]);
    // Another cluster's chunkserver.
    assert!(other.down().status.success());
    let mut command = cairn();
    command.args(["chunkserver", "--listen", "127.0.0.1:0", "--master", &cluster.master_address(), "--data"]);
    fails(command.arg(other.data().join("cs1")), 2, &["cluster"]);
    // Something else altogether, left untouched.
    let (mount, thesis) = (dir.path().join("mnt"), dir.path().join("thesis"));
    fs::create_dir(&thesis).unwrap();
    fs::write(thesis.join("chapter1"), "x").unwrap();
    fails(cairn().arg("up").arg(&mount).arg("--data").arg(&thesis), 2, &["not empty"]);
    assert_eq!(fs::read_dir(&thesis).unwrap().count(), 1);
    // One within the other.
    fails(cairn().arg("up").arg(&mount).arg("--data").arg(mount.join("data")), 1, &["each other"]);
}

#[test]
fn a_newer_format_is_refused() {
    let cluster = Cluster::start();
    assert!(cluster.down().status.success());
    let file = cluster.data().join("cluster.json");
    let remembered = fs::read_to_string(&file).unwrap();
    fs::write(&file, remembered.replace("\"format\": 1", "\"format\": 2")).unwrap();
    let output = cluster.try_up();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("newer"), "{}", text(&output));
    fs::write(&file, remembered).unwrap();
    let disk = cluster.data().join("cs1/cairn.json");
    let label = fs::read_to_string(&disk).unwrap();
    let mut value: serde_json::Value = serde_json::from_str(&label).unwrap();
    value["format"] = serde_json::json!(999);
    fs::write(&disk, value.to_string()).unwrap();
    let output = cluster.try_up();
    assert_eq!(output.status.code(), Some(2), "{}", text(&output));
    assert!(text(&output).contains("999") || text(&output).contains("newer"), "{}", text(&output));
    fs::write(&disk, label).unwrap();
    cluster.up();
}
