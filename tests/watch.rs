//! docs/semantics.md, "Ways to mount": what anybody changes below a directory is told.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Cluster, cairn, eventually, text};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);

/// A running `cairn watch PATH --json`, and what it has said.
struct Watching {
    child: Child,
    lines: Arc<Mutex<Vec<Value>>>,
}

impl Watching {
    /// Returns when it watches.
    fn start(path: &Path) -> Self {
        let mut command = cairn();
        command.args(["watch", "--json"]).arg(path).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (out, said) = (child.stdout.take().unwrap(), lines.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                said.lock().unwrap().push(serde_json::from_str(&line).unwrap());
            }
        });
        let mut errors = BufReader::new(child.stderr.take().unwrap());
        let mut first = String::new();
        errors.read_line(&mut first).unwrap();
        assert!(first.contains("watching"), "{first}");
        // Read on, so that it is never held up.
        std::thread::spawn(move || errors.lines().map_while(Result::ok).for_each(|line| eprintln!("{line}")));
        Self { child, lines }
    }

    fn all(&self) -> Vec<Value> {
        self.lines.lock().unwrap().clone()
    }

    fn says(&self, what: &str, wanted: impl Fn(&Value) -> bool) {
        let start = std::time::Instant::now();
        while !self.all().iter().any(&wanted) {
            assert!(start.elapsed() < SOON, "{what} is not told: {:#?}", self.all());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// That something happened to a path.
    fn told(&self, change: &str, path: &Path) {
        let path = path.to_str().unwrap();
        self.says(&format!("{change} {path}"), |l| l["change"] == change && l["path"] == path);
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_anybody_changes_below_a_directory_is_told() {
    let cluster = Cluster::start();
    let second = cluster.second_mount("second", &[]);
    let (here, there) = (cluster.mount().join("w"), second.dir().join("w"));
    fs::create_dir_all(here.join("old")).unwrap();
    fs::write(here.join("old/file"), "text").unwrap();
    fs::create_dir(cluster.mount().join("outside")).unwrap();
    fs::write(cluster.mount().join("outside/in"), "text").unwrap();
    let watching = Watching::start(&here);
    // By both mounts.
    fs::create_dir(there.join("dir")).unwrap();
    watching.told("made", &here.join("dir"));
    fs::write(here.join("dir/new"), "12345").unwrap();
    watching.told("made", &here.join("dir/new"));
    let new = here.join("dir/new");
    watching.says("the size", |l| {
        l["change"] == "written" && l["path"] == new.to_str().unwrap() && l["size"] == 5
    });
    fs::write(there.join("old/file"), "longer text").unwrap();
    watching.told("written", &here.join("old/file"));
    fs::set_permissions(there.join("old"), fs::Permissions::from_mode(0o700)).unwrap();
    watching.told("attributes", &here.join("old"));
    fs::rename(there.join("dir/new"), there.join("moved")).unwrap();
    let (from, to) = (here.join("dir/new"), here.join("moved"));
    watching.says("the rename", |l| {
        l["change"] == "renamed" && l["path"] == from.to_str().unwrap() && l["to"] == to.to_str().unwrap()
    });
    fs::remove_file(there.join("moved")).unwrap();
    watching.told("removed", &here.join("moved"));
    fs::remove_dir(here.join("dir")).unwrap();
    watching.told("removed", &here.join("dir"));
    // What comes from elsewhere is known with what is in it, and what goes is not any more.
    fs::write(cluster.mount().join("outside/unseen"), "text").unwrap();
    fs::rename(cluster.mount().join("outside"), here.join("inside")).unwrap();
    watching.told("made", &here.join("inside"));
    fs::write(there.join("inside/in"), "other text").unwrap();
    watching.told("written", &here.join("inside/in"));
    fs::rename(here.join("inside"), cluster.mount().join("gone")).unwrap();
    watching.told("removed", &here.join("inside"));
    fs::write(cluster.mount().join("gone/in"), "unseen").unwrap();
    fs::write(here.join("last"), "").unwrap();
    watching.told("made", &here.join("last"));
    let all = watching.all();
    assert!(
        !all.iter().any(|l| l.to_string().contains("unseen") || l.to_string().contains("gone")),
        "{all:#?}"
    );
    assert!(!all.iter().any(|l| l["change"] == "missed"), "{all:#?}");
    let wrong = cairn().arg("watch").arg("/").output().unwrap();
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong).contains("no CairnFS mount"), "{}", text(&wrong));
}

#[test]
fn many_writes_of_one_file_are_told_as_few() {
    let cluster = Cluster::start();
    let second = cluster.second_mount("second", &[]);
    let watching = Watching::start(second.dir());
    let mut file = File::create(cluster.mount().join("log")).unwrap();
    for _ in 0..300 {
        file.write_all(b"x").unwrap();
    }
    let path = second.dir().join("log");
    watching.says("the last write", |l| l["path"] == path.to_str().unwrap() && l["size"] == 300);
    let written = watching.all().iter().filter(|l| l["change"] == "written").count();
    assert!(written < 150, "{written}");
}

#[test]
fn a_watch_outlives_the_master_and_says_that_it_may_have_missed_something() {
    let cluster = Cluster::start();
    let dir = cluster.subdir("w");
    let watching = Watching::start(&dir);
    fs::write(dir.join("before"), "").unwrap();
    watching.told("made", &dir.join("before"));
    cluster.kill("master");
    watching.says("that something may be missed", |l| l["change"] == "missed");
    fs::create_dir(dir.join("after")).unwrap();
    watching.told("made", &dir.join("after"));
    fs::rename(dir.join("before"), dir.join("after/renamed")).unwrap();
    eventually(SOON, "the rename is told", || watching.all().iter().any(|l| l["change"] == "renamed"));
}
