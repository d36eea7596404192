//! Master, four chunkservers and mounts as processes of their own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::{Scratch, cairn, eventually, scratch_for, sh, signal_pid, text};
use crate::disks::Disks;
use crate::ledger::{FILES, Ledger};
use crate::network::Network;
use crate::rng::Rng;
use crate::schedule::SERVERS;

/// What a fault did may be noticed a little after it is over: members are given 500 ms to answer.
const REMAINS: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(20);

/// Everything is ended and deleted when it is dropped.
pub struct Cluster {
    dir: Scratch,
    master: Option<Child>,
    servers: Vec<Option<Child>>,
    mount: Option<Child>,
    disks: Vec<Disks>,
    network: Arc<Network>,
}

impl Cluster {
    /// For a test that goes on for `length`, with chunks of that size.
    pub fn start(length: Duration, chunk_size: &str) -> Self {
        assert!(Path::new("/dev/fuse").exists(), "these tests need /dev/fuse");
        let mut cluster = Self {
            dir: scratch_for(length),
            master: None,
            servers: (0..SERVERS).map(|_| None).collect(),
            mount: None,
            disks: Vec::new(),
            network: Arc::new(Network::new(SERVERS)),
        };
        cluster.start_master(chunk_size);
        for server in 1..=SERVERS {
            cluster.disks.push(Disks::new(cluster.dir.path().join(format!("disks{server}"))));
            cluster.start_server(server);
        }
        eventually(SOON, "all chunkservers are alive", || cluster.alive() == SERVERS);
        cluster.mount = Some(cluster.mounter("mnt").mount().unwrap());
        cluster
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    fn master_address() -> String {
        format!("{}:7460", Network::hub_ip())
    }

    pub fn disks(&self, server: usize) -> &Disks {
        &self.disks[server - 1]
    }

    /// A file's chunks, as `cairn file` shows them.
    fn chunks(&self, path: &Path) -> Vec<Value> {
        let mut command = cairn();
        command.arg("file").arg(path).args(["--json", "--master", &Self::master_address()]);
        let output = self.network.at_hub(&command).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        let mut file: Value = serde_json::from_slice(&output.stdout).unwrap();
        file["chunks"].as_array_mut().map(std::mem::take).unwrap()
    }

    /// The primary of a file's first chunk, or the last of its members.
    pub fn holder(&self, path: &str, primary: bool) -> usize {
        let chunks = self.chunks(&self.mount_dir().join(path));
        let set = chunks[0]["in_sync"].as_array().unwrap();
        let id = if primary { &set[0] } else { &set[set.len() - 1] };
        let found = (1..=SERVERS).find(|s| Some(self.disks(*s).server()) == id.as_u64());
        found.unwrap_or_else(|| panic!("no chunkserver {id}"))
    }

    /// Flips bits of one server's replicas, of which the two others are whole. Tells which.
    pub fn flip_bits(&self, server: usize, rng: &mut Rng) -> String {
        let mut flipped = Vec::new();
        for _ in 0..rng.between(1, 8) {
            let path = Ledger::path(&self.mount_dir(), rng.below(FILES as u64) as usize);
            flipped.extend(self.disks(server).flip_bit(&self.chunks(&path), rng));
        }
        format!("flipped {}", flipped.join(", "))
    }

    pub fn mount_dir(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// For mounts on a directory of that name.
    pub fn mounter(&self, name: &str) -> Mounter {
        let dir = self.dir.path().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Mounter { network: self.network.clone(), log: self.dir.path().join(format!("{name}.log")), dir }
    }

    fn spawn(&self, log: &str, mut command: Command) -> Child {
        logged(&mut command, &self.dir.path().join(format!("{log}.log"))).spawn().unwrap()
    }

    fn start_master(&mut self, chunk_size: &str) {
        let mut master = cairn();
        master.arg("master").arg("--data").arg(self.dir.path().join("master"));
        master.args(["--listen", &Self::master_address(), "--chunk-size", chunk_size]);
        self.master = Some(self.spawn("master", self.network.at_hub(&master)));
    }

    pub fn start_server(&mut self, server: usize) {
        let mut command = cairn();
        command.arg("chunkserver").arg("--data").arg(self.disks(server).directories());
        command.args(["--listen", &format!("{}:7461", Network::ip(server))]);
        command.args(["--master", &Self::master_address()]);
        let child = self.spawn(&format!("cs{server}"), self.network.at(server, &command));
        self.servers[server - 1] = Some(child);
    }

    /// Ends the mount in good order and mounts anew.
    pub fn remount(&mut self) {
        let mounter = self.mounter("mnt");
        mounter.unmount(self.mount.take().unwrap()).unwrap();
        self.mount = Some(mounter.mount().unwrap());
    }

    /// Every operation on the mount then ends with an error.
    pub fn kill_mount(&self) {
        signal_pid(self.mount.as_ref().unwrap().id(), libc::SIGKILL);
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

    fn fsck(&self) -> Output {
        let mut command = cairn();
        command.args(["fsck", "--rate", "1GiB", "--master", &Self::master_address()]);
        self.network.at_hub(&command).output().unwrap()
    }

    /// Waits until `cairn fsck` finds no damage; panics after `limit`. How long it took.
    pub fn wait_sound(&self, limit: Duration) -> Duration {
        let began = Instant::now();
        loop {
            let output = self.fsck();
            if output.status.success() {
                return began.elapsed();
            }
            assert!(began.elapsed() < limit, "damage is left after {limit:?}: {}", text(&output));
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// Waits until `cairn fsck` finds nothing, not even something worth knowing; panics after `limit`.
    pub fn wait_clean(&self, limit: Duration) -> Duration {
        let began = Instant::now();
        loop {
            let output = self.fsck();
            let said = text(&output);
            if output.status.success() && !said.contains("note:") {
                println!("{}", said.trim_end());
                return began.elapsed();
            }
            assert!(began.elapsed() < limit, "not clean within {limit:?}: {said}");
            std::thread::sleep(Duration::from_millis(500));
        }
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

    /// How things stand, and what is damaged. Nothing here is waited for long.
    fn show_state(&self) {
        for what in [&["status", "--json"][..], &["fsck", "--rate", "1GiB"]] {
            let mut command = Command::new("timeout");
            command.args(["-s", "KILL", "30"]).arg(cairn().get_program()).args(what);
            command.args(["--master", &Self::master_address()]);
            match self.network.at_hub(&command).output() {
                Ok(output) => eprintln!("cairn {}: {}\n{}", what.join(" "), output.status, text(&output)),
                Err(e) => eprintln!("cairn {}: {e}", what.join(" ")),
            }
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

/// Mounts and unmounts the cluster on one directory.
pub struct Mounter {
    network: Arc<Network>,
    dir: PathBuf,
    log: PathBuf,
}

impl Mounter {
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns once it answers.
    pub fn mount(&self) -> std::io::Result<Child> {
        let mut command = cairn();
        command.arg("mount").arg(Cluster::master_address()).arg(&self.dir);
        // Tells of each attempt that failed, which is what a stall consists of.
        command.env("CAIRN_LOG", "info,cairn_fuse_client::engine::data=debug");
        let mut child = logged(&mut self.network.at_hub(&command), &self.log).spawn()?;
        let began = Instant::now();
        while !is_mounted(&self.dir) {
            if let Some(status) = child.try_wait()? {
                return Err(std::io::Error::other(format!("the mount ended: {status}")));
            }
            if began.elapsed() > SOON {
                child.kill()?;
                child.wait()?;
                return Err(std::io::Error::other(format!("no mount within {SOON:?}")));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(child)
    }

    pub fn unmount(&self, mut mount: Child) -> std::io::Result<()> {
        let output = cairn().arg("umount").arg(&self.dir).output()?;
        if !output.status.success() {
            return Err(std::io::Error::other(text(&output)));
        }
        mount.wait().map(drop)
    }
}

fn logged<'a>(command: &'a mut Command, log: &Path) -> &'a mut Command {
    let log = File::options().create(true).append(true).open(log).unwrap();
    command.stdout(log.try_clone().unwrap()).stderr(log)
}

fn is_whole(status: &Value) -> bool {
    let servers = status["chunkservers"]
        .as_array()
        .map_or(0, |all| all.iter().filter(|s| s["state"] == "alive").count());
    servers == SERVERS && status["chunks"]["under_replicated"] == 0 && status["chunks"]["missing"] == 0
}

fn is_mounted(dir: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().any(|l| l.split(' ').nth(1) == dir.to_str())
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show_state();
            self.keep_logs();
        }
        for name in ["mnt", "visit"] {
            let _ = Command::new("umount").arg("-l").arg(self.dir.path().join(name)).output();
        }
        let children = self.servers.iter_mut().flatten().chain(&mut self.mount).chain(&mut self.master);
        for child in children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
