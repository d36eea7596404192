//! A master in a process of its own, killed without warning while operations are under way.

#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use common::{Mount, config, create, lookup, mkdir};

const ROOT: u64 = 1;
const DATA: &str = "CAIRN_TEST_CRASH_DATA";

/// The process that is killed: not a test by itself.
#[test]
#[ignore = "run by the other test, in a process of its own"]
fn master_process() {
    let Some(data) = std::env::var_os(DATA) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ready = |addr| println!("\nserving {addr}");
    runtime.block_on(cairn_master::run(config(Path::new(&data)), ready, std::future::pending())).unwrap();
}

struct Process {
    child: Child,
    addr: std::net::SocketAddr,
}

impl Process {
    fn start(data: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "master_process", "--nocapture"])
            .env(DATA, data)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addr = lines.find_map(|l| Some(l.unwrap().strip_prefix("serving ")?.parse().unwrap()));
        Self { child, addr: addr.expect("the master did not start") }
    }

    /// SIGKILL.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_master_loses_nothing_answered_and_does_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let (mut session, mut next) = (0, 1);
    let mut unanswered: BTreeMap<u64, String> = BTreeMap::new();
    let mut answered: Vec<String> = Vec::new();
    for round in 0..6 {
        let process = Process::start(dir.path());
        let mut mount = Mount::dial(process.addr, session).await;
        let welcome = mount.welcomed().await;
        assert!(!welcome.renewed);
        session = welcome.session;
        // What was not answered before the kill goes again, under its old id. It must be new to the master, or
        // get the answer that it had: never EEXIST.
        for (id, name) in std::mem::take(&mut unanswered) {
            mount.next = id;
            let reply = mount.op(create(ROOT, &name)).await;
            assert_eq!(reply.errno, 0, "{name} was done twice");
            answered.push(name);
        }
        mount.next = next;
        for name in &answered {
            assert_eq!(mount.op(lookup(ROOT, name)).await.errno, 0, "{name} is lost");
        }
        for i in 0..16 {
            let name = format!("r{round}-{i}");
            unanswered.insert(mount.send(create(ROOT, &name)).await, name);
        }
        for i in 16..60 + round * 37 {
            let reply = mount.reply().await;
            assert_eq!(reply.errno, 0);
            answered.extend(unanswered.remove(&reply.id));
            let name = format!("r{round}-{i}");
            unanswered.insert(mount.send(create(ROOT, &name)).await, name);
        }
        next = mount.next;
        process.kill();
    }
    let process = Process::start(dir.path());
    let mut mount = Mount::dial(process.addr, session).await;
    mount.welcomed().await;
    mount.next = next;
    for name in &answered {
        assert_eq!(mount.op(lookup(ROOT, name)).await.errno, 0, "{name} is lost");
    }
    assert_eq!(mount.op(mkdir(ROOT, "end")).await.errno, 0);
    process.kill();
}
