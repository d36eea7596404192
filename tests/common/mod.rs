//! A private cluster on a real mount, for one test or shared by those that run at the same time.

#![allow(dead_code, unused_imports, missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use serde_json::Value;

pub mod locker;
pub mod planted;
mod scratch;

pub use scratch::{Scratch, scratch, scratch_for};

/// The binary under test.
pub fn cairn() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cairn"));
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("CAIRN_")) {
        command.env_remove(name);
    }
    command
}

pub fn text(output: &Output) -> String {
    let both = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// Runs a shell script, for four minutes at most; its output. Panics when it fails.
pub fn sh(script: &str) -> String {
    let bounded = ["-k", "5", "240", "bash", "-euo", "pipefail", "-c", script];
    let output = Command::new("timeout").args(bounded).output().unwrap();
    assert!(output.status.success(), "{script}\n{}: {}", output.status, text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What the environment variable says, if it is there.
pub fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// Polls until `done`; panics after `limit`.
pub fn eventually(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What is there, or is made, and goes with its last user.
pub fn shared<T>(place: &Mutex<Weak<T>>, make: impl FnOnce() -> T) -> Arc<T> {
    let mut place = place.lock().unwrap_or_else(|e| e.into_inner());
    if let Some(there) = place.upgrade() {
        return there;
    }
    let made = Arc::new(make());
    *place = Arc::downgrade(&made);
    made
}

/// A process that ends with the test.
pub struct Running(pub Child);

impl Running {
    pub fn is_running(&mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A cluster of `cairn up --detach`: one master, three chunkservers, three copies.
pub struct Cluster {
    dir: Scratch,
    flags: Vec<String>,
    /// The data directory is a small disk of its own.
    small: bool,
}

impl Cluster {
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// With more flags for `up`.
    pub fn with(flags: &[&str]) -> Self {
        let cluster = Self::new(scratch(), flags, false);
        cluster.up();
        cluster
    }

    /// For a test that goes on for `length` on purpose.
    pub fn for_a_run_of(length: Duration) -> Self {
        let cluster = Self::new(scratch_for(length), &[], false);
        cluster.up();
        cluster
    }

    fn new(dir: Scratch, flags: &[&str], small: bool) -> Self {
        assert!(Path::new("/dev/fuse").exists(), "these tests need /dev/fuse");
        Self { dir, flags: flags.iter().map(|f| (*f).to_owned()).collect(), small }
    }

    /// All its data on one disk in memory of that size.
    pub fn on_small_disk(mib: u32) -> Self {
        let cluster = Self::new(scratch(), &[], true);
        let data = cluster.data();
        std::fs::create_dir(&data).unwrap();
        sh(&format!("mount -t tmpfs -o size={mib}m cairn-test {}", data.display()));
        cluster.up();
        cluster
    }

    /// The one that all tests of this binary that run now share.
    pub fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
        shared(&SHARED, Self::start)
    }

    pub fn up(&self) {
        let output = self.try_up();
        assert!(output.status.success(), "up: {}\n{}", text(&output), self.logs());
    }

    pub fn try_up(&self) -> Output {
        let mut up = cairn();
        up.arg("up").arg(self.mount()).arg("--data").arg(self.data()).arg("--detach").args(&self.flags);
        up.output().unwrap()
    }

    pub fn down(&self) -> Output {
        cairn().arg("down").arg("--data").arg(self.data()).output().unwrap()
    }

    pub fn mount(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A new directory on the mount, for one test.
    pub fn subdir(&self, name: &str) -> PathBuf {
        let dir = self.mount().join(name);
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    pub fn status(&self) -> Value {
        self.try_status().unwrap()
    }

    pub fn try_status(&self) -> Option<Value> {
        let output = cairn().args(["status", "--json", "--data"]).arg(self.data()).output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    pub fn master_address(&self) -> String {
        let text = std::fs::read_to_string(self.data().join("cluster.json")).unwrap();
        let cluster: Value = serde_json::from_str(&text).unwrap();
        cluster["master"].as_str().unwrap().to_owned()
    }

    /// The process `master`, `cs1`…, `mount` as it is now.
    pub fn pid(&self, name: &str) -> u32 {
        let path = self.data().join("run").join(format!("{name}.pid"));
        let text = std::fs::read_to_string(&path).unwrap();
        text.split(' ').next().unwrap().parse().unwrap()
    }

    pub fn supervisor(&self) -> u32 {
        std::fs::read_to_string(self.data().join("run/lock")).unwrap().trim().parse().unwrap()
    }

    pub fn signal(&self, name: &str, signal: libc::c_int) {
        signal_pid(self.pid(name), signal);
    }

    /// kill -9, and waits until the supervisor has started another.
    pub fn kill(&self, name: &str) {
        let old = self.pid(name);
        signal_pid(old, libc::SIGKILL);
        eventually(Duration::from_secs(20), "it is started again", || {
            std::fs::read_to_string(self.data().join("run").join(format!("{name}.pid")))
                .is_ok_and(|t| t.split(' ').next().is_some_and(|p| !p.is_empty() && p != old.to_string()))
        });
    }

    /// kill -9 of everything at once, the supervisor first so that it starts nothing again.
    pub fn kill_everything(&self) {
        let names = ["mount", "cs1", "cs2", "cs3", "master"];
        let pids: Vec<u32> = std::iter::once(self.supervisor()).chain(names.map(|n| self.pid(n))).collect();
        pids.iter().for_each(|pid| signal_pid(*pid, libc::SIGKILL));
        let gone = |pid: &u32| {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            state.map_or(true, |s| s.rsplit(')').next().is_some_and(|s| s.trim_start().starts_with('Z')))
        };
        eventually(Duration::from_secs(20), "all of them are gone", || pids.iter().all(gone));
    }

    pub fn alive(&self) -> usize {
        let Some(status) = self.try_status() else { return 0 };
        status["chunkservers"].as_array().unwrap().iter().filter(|s| s["state"] == "alive").count()
    }

    /// Waits until all servers are alive and all copies are there.
    pub fn wait_whole(&self) {
        eventually(Duration::from_secs(60), "all servers and copies are there", || {
            let Some(status) = self.try_status() else { return false };
            let servers = status["chunkservers"].as_array().unwrap();
            servers.len() == 3
                && servers.iter().all(|s| s["state"] == "alive")
                && status["chunks"]["under_replicated"] == 0
                && status["chunks"]["missing"] == 0
        });
    }

    /// Mounts the cluster a second time.
    pub fn second_mount(&self, name: &str, flags: &[&str]) -> SecondMount {
        let dir = self.dir.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        let output =
            cairn().arg("mount").args(flags).arg("-d").arg(self.master_address()).arg(&dir).output().unwrap();
        assert!(output.status.success(), "mount: {}", text(&output));
        SecondMount { dir }
    }

    /// The end of every process's log.
    pub fn logs(&self) -> String {
        sh(&format!("tail -n 15 {}/run/*.log 2>&1 || true", self.data().display()))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for name in ["mount", "cs1", "cs2", "cs3", "master"] {
            let path = self.data().join("run").join(format!("{name}.pid"));
            if path.exists() {
                self.signal(name, libc::SIGCONT);
            }
        }
        let output = self.down();
        if !output.status.success() && !std::thread::panicking() {
            eprintln!("down: {}", text(&output));
        }
        if self.small {
            let _ = Command::new("umount").arg("-l").arg(self.data()).status();
        }
    }
}

/// A second mount of a cluster, on the same machine.
pub struct SecondMount {
    dir: PathBuf,
}

impl SecondMount {
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for SecondMount {
    fn drop(&mut self) {
        let output = cairn().arg("umount").arg(&self.dir).output().unwrap();
        if !output.status.success() {
            eprintln!("umount: {}", text(&output));
            let _ = cairn().args(["umount", "-l"]).arg(&self.dir).output();
        }
    }
}

pub fn signal_pid(pid: u32, signal: libc::c_int) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    let signal = rustix::process::Signal::from_named_raw(signal).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

/// Bytes that can be told from those of another seed or place.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// The errno of a failed operation; panics when it went well.
#[track_caller]
pub fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> i32 {
    result.expect_err("this should have failed").raw_os_error().expect("an errno")
}
