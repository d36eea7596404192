//! Master, four chunkservers and mounts as processes of their own.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::common::{cairn, eventually, scratch, sh, signal_pid, text};
use crate::network::Network;
use crate::schedule::SERVERS;

/// Bytes of each chunkserver's disk: room for all chunks of the test and for the reserve that is kept free.
const DISK_MIB: u32 = 1024;
/// What a fault did may be noticed a little after it is over: members are given 500 ms to answer.
const REMAINS: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(20);

/// Everything is ended and deleted when it is dropped.
pub struct Cluster {
    dir: TempDir,
    master: Option<Child>,
    servers: Vec<Option<Child>>,
    mounts: [Option<Child>; 2],
    network: Network,
}

impl Cluster {
    pub fn start() -> Self {
        assert!(std::path::Path::new("/dev/fuse").exists(), "these tests need /dev/fuse");
        let mut cluster = Self {
            dir: scratch(),
            master: None,
            servers: (0..SERVERS).map(|_| None).collect(),
            mounts: [None, None],
            network: Network::new(SERVERS),
        };
        cluster.start_master();
        for server in 1..=SERVERS {
            let disk = cluster.disk(server);
            std::fs::create_dir(&disk).unwrap();
            sh(&format!("mount -t tmpfs -o size={DISK_MIB}m cairn-chaos {}", disk.display()));
            cluster.start_server(server);
        }
        eventually(SOON, "all chunkservers are alive", || cluster.alive() == SERVERS);
        for dir in [cluster.mount_dir(), cluster.second_mount_dir()] {
            std::fs::create_dir(dir).unwrap();
        }
        cluster.mounts[0] = Some(cluster.mount(&cluster.mount_dir()));
        cluster
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    fn master_address() -> String {
        format!("{}:7460", Network::hub_ip())
    }

    fn disk(&self, server: usize) -> PathBuf {
        self.dir.path().join(format!("disk{server}"))
    }

    pub fn mount_dir(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    pub fn second_mount_dir(&self) -> PathBuf {
        self.dir.path().join("mnt2")
    }

    fn spawn(&self, log: &str, mut command: Command) -> Child {
        let log = self.dir.path().join(format!("{log}.log"));
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }

    fn start_master(&mut self) {
        let mut master = cairn();
        master.arg("master").arg("--data").arg(self.dir.path().join("master"));
        // Small chunks: many of them, and many epochs.
        master.args(["--listen", &Self::master_address(), "--chunk-size", "4MiB"]);
        self.master = Some(self.spawn("master", self.network.at_hub(&master)));
    }

    pub fn start_server(&mut self, server: usize) {
        let mut command = cairn();
        command.arg("chunkserver").arg("--data").arg(self.disk(server).join("data"));
        command.args(["--listen", &format!("{}:7461", Network::ip(server))]);
        command.args(["--master", &Self::master_address()]);
        let child = self.spawn(&format!("cs{server}"), self.network.at(server, &command));
        self.servers[server - 1] = Some(child);
    }

    fn mount(&self, dir: &std::path::Path) -> Child {
        let mut command = cairn();
        command.arg("mount").arg(Self::master_address()).arg(dir);
        let child = self.spawn("mount", self.network.at_hub(&command));
        eventually(SOON, "it is mounted", || is_mounted(dir));
        child
    }

    /// A second mount, unless it is there.
    pub fn mount_second(&mut self) {
        if self.mounts[1].is_none() {
            self.mounts[1] = Some(self.mount(&self.second_mount_dir()));
        }
    }

    /// Ends all mounts in good order and mounts anew.
    pub fn remount(&mut self) {
        let dirs = [self.mount_dir(), self.second_mount_dir()];
        for (child, dir) in std::mem::take(&mut self.mounts).into_iter().zip(dirs) {
            let Some(mut child) = child else { continue };
            let output = cairn().arg("umount").arg(&dir).output().unwrap();
            assert!(output.status.success(), "umount: {}", text(&output));
            child.wait().unwrap();
        }
        self.mounts[0] = Some(self.mount(&self.mount_dir()));
    }

    /// Every operation on them then ends with an error.
    pub fn kill_mounts(&self) {
        for mount in self.mounts.iter().flatten() {
            signal_pid(mount.id(), libc::SIGKILL);
        }
    }

    fn child(&mut self, server: usize) -> &mut Child {
        self.servers[server - 1].as_mut().unwrap()
    }

    pub fn signal(&mut self, server: usize, signal: libc::c_int) {
        signal_pid(self.child(server).id(), signal);
    }

    pub fn kill(&mut self, server: usize) {
        self.child(server).kill().unwrap();
        self.child(server).wait().unwrap();
    }

    pub fn status(&self) -> Option<Value> {
        let mut command = cairn();
        command.args(["status", "--json", "--master", &Self::master_address()]);
        let output = self.network.at_hub(&command).output().unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    }

    fn alive(&self) -> usize {
        let Some(status) = self.status() else { return 0 };
        status["chunkservers"].as_array().unwrap().iter().filter(|s| s["state"] == "alive").count()
    }

    /// Waits until all servers are alive and all copies are there, and remain so; panics after `limit`. How long it took.
    pub fn wait_whole(&self, limit: Duration) -> Duration {
        let began = Instant::now();
        let mut whole_since = None;
        loop {
            let status = self.status().unwrap_or_default();
            match (is_whole(&status), whole_since) {
                (true, Some(since)) if Instant::now() >= since + REMAINS => return since - began,
                (true, Some(_)) => {}
                (true, None) => whole_since = Some(Instant::now()),
                (false, _) => whole_since = None,
            }
            assert!(began.elapsed() < limit, "not whole within {limit:?}: {status:#}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// The logs' ends are shown, and all of them kept beside the directory that is about to be deleted.
    fn keep_logs(&self) {
        let from = self.dir.path().display();
        let to = self.dir.path().with_file_name("chaos-logs");
        let kept = format!("mkdir -p {0}; cp {from}/*.log {0}; tail -n 25 {from}/*.log", to.display());
        eprintln!("{}\nthe logs are in {}", sh(&kept), to.display());
    }
}

fn is_whole(status: &Value) -> bool {
    let servers = status["chunkservers"]
        .as_array()
        .map_or(0, |all| all.iter().filter(|s| s["state"] == "alive").count());
    servers == SERVERS && status["chunks"]["under_replicated"] == 0 && status["chunks"]["missing"] == 0
}

fn is_mounted(dir: &std::path::Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|l| l.split(' ').nth(1) == dir.to_str())
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_logs();
        }
        for dir in [self.mount_dir(), self.second_mount_dir()] {
            let _ = Command::new("umount").arg("-l").arg(dir).output();
        }
        let children = self.mounts.iter_mut().chain(&mut self.servers).flatten().chain(&mut self.master);
        for child in children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for server in 1..=SERVERS {
            let _ = Command::new("umount").arg("-l").arg(self.disk(server)).output();
        }
    }
}
