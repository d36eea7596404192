//! docs/semantics.md, "Locks": whole files, ranges, open file descriptions, between processes of one mount and of two.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use common::locker::Locker;
use common::{Cluster, SecondMount, cairn, eventually};
use serde_json::Value;

/// Tries a lock in another process; true: it was free.
fn free(path: &Path, how: &str) -> bool {
    let script = format!(
        "import fcntl,struct,sys\nf=open({path:?},'r+')\ntry:\n  {how}\nexcept BlockingIOError: sys.exit(3)\n",
        path = path.display().to_string()
    );
    let output = Command::new("python3").args(["-c", &script]).output().unwrap();
    match output.status.code() {
        Some(0) => true,
        Some(3) => false,
        _ => panic!("{}", common::text(&output)),
    }
}

const FLOCK: &str = "fcntl.flock(f,fcntl.LOCK_EX|fcntl.LOCK_NB)";
const RANGE: &str = "fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,10,5)";
const OTHER_RANGE: &str = "fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,10,50)";

fn file(path: &Path) -> File {
    File::options().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

#[test]
fn flock_excludes_other_processes() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("flock").join("f");
    let held = file(&path);
    held.lock().unwrap();
    assert!(!free(&path, FLOCK));
    held.unlock().unwrap();
    assert!(free(&path, FLOCK));
}

#[test]
fn ranges_exclude_only_what_they_cover() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("ranges").join("f");
    let held = file(&path);
    rustix::fs::fcntl_lock(&held, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    assert!(!free(&path, RANGE));
    rustix::fs::fcntl_lock(&held, rustix::fs::FlockOperation::Unlock).unwrap();
    assert!(free(&path, RANGE));
    set_range(&held, libc::F_SETLK, 0, 20);
    assert!(!free(&path, RANGE));
    assert!(free(&path, OTHER_RANGE));
}

#[test]
fn open_file_description_locks_belong_to_the_handle() {
    let cluster = Cluster::shared();
    let path = cluster.subdir("ofd").join("f");
    let held = file(&path);
    set_range(&held, libc::F_OFD_SETLK, 0, 20);
    assert!(!free(&path, RANGE));
    // A process lock would go with the close of any handle of the file.
    drop(file(&path));
    assert!(!free(&path, RANGE));
    drop(held);
    assert!(free(&path, RANGE));
}

fn set_range(file: &File, command: libc::c_int, start: i64, len: i64) {
    assert!(try_range(file, command, libc::F_WRLCK, start, len), "{}", std::io::Error::last_os_error());
}

fn try_range(file: &File, command: libc::c_int, kind: libc::c_int, start: i64, len: i64) -> bool {
    let range = libc::flock {
        l_type: kind as _,
        l_whence: libc::SEEK_SET as _,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    // SAFETY: the handle is open and the structure complete.
    unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(file), command, &range) == 0 }
}

/// A cluster that is mounted twice, which the tests that run at the same time share.
struct Pair {
    second: SecondMount,
    cluster: Cluster,
}

impl Pair {
    fn start() -> Self {
        let cluster = Cluster::start();
        Self { second: cluster.second_mount("second", &[]), cluster }
    }

    fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Pair>> = Mutex::new(Weak::new());
        common::shared(&SHARED, Self::start)
    }

    /// A process on each mount that has the file of this name open.
    fn lockers(&self, name: &str) -> (Locker, Locker) {
        File::options().append(true).create(true).open(self.cluster.mount().join(name)).unwrap();
        (Locker::open(&self.cluster.mount().join(name)), Locker::open(&self.second.dir().join(name)))
    }
}

fn locks(cluster: &Cluster) -> Vec<Value> {
    let output = cairn().args(["locks", "--json", "--data"]).arg(cluster.data()).output().unwrap();
    assert!(output.status.success(), "{}", common::text(&output));
    let all: Value = serde_json::from_slice(&output.stdout).unwrap();
    all["locks"].as_array().unwrap().clone()
}

/// Longer than anything takes that is to happen at once, on a machine that has much else to do.
const SOON: Duration = Duration::from_secs(30);

#[test]
fn locks_exclude_on_the_other_mount() {
    let pair = Pair::shared();
    let (mut a, mut b) = pair.lockers("exclude");
    for kind in ["posix", "ofd", "flock"] {
        for _ in 0..2 {
            assert_eq!(a.does(&format!("try {kind} x 0 100")), "ok");
            assert_eq!(b.does(&format!("try {kind} x 0 100")), "EAGAIN");
            assert_eq!(b.does(&format!("try {kind} s 0 100")), "EAGAIN");
            assert_eq!(a.does(&format!("try {kind} s 0 100")), "ok");
            assert_eq!(b.does(&format!("try {kind} s 0 100")), "ok");
            assert_eq!(a.does(&format!("try {kind} x 0 100")), "EAGAIN");
            assert_eq!(a.does(&format!("try {kind} u 0 100")), "ok");
            assert_eq!(b.does(&format!("try {kind} x 0 100")), "ok");
            assert_eq!(b.does(&format!("try {kind} u 0 100")), "ok");
            std::mem::swap(&mut a, &mut b);
        }
    }
    // Ranges that do not overlap, and who is in the way.
    assert_eq!(a.does("try posix x 10 10"), "ok");
    assert_eq!(b.does("try posix x 20 10"), "ok");
    assert_eq!(b.does("try ofd s 0 10"), "ok");
    assert_eq!(b.does("test posix x 10 0"), format!("{} 10 10 {}", libc::F_WRLCK, a.pid()));
    assert_eq!(b.does("test posix x 30 0"), "free");
    assert_eq!(a.does("try ofd s 0 20"), "EAGAIN", "a description is another owner than its process");
    assert_eq!(b.does("try flock x 0 0"), "ok", "flock and fcntl do not see each other");
}

/// The kernel tells late of the last close of a description, and may have given its number to the next one by then.
#[test]
fn a_late_close_takes_no_lock_of_the_description_that_is_opened_next() {
    const TIMES: usize = 300;
    type Lock = fn(&File, bool) -> bool;
    let flock: Lock = |f, on| if on { f.try_lock().is_ok() } else { f.unlock().is_ok() };
    let range: Lock =
        |f, on| try_range(f, libc::F_OFD_SETLK, if on { libc::F_WRLCK } else { libc::F_UNLCK }, 0, 20);
    let pair = Pair::shared();
    let here = pair.cluster.mount().join("late");
    drop(file(&here));
    let there = file(&pair.second.dir().join("late"));
    for (kind, lock) in [("flock", flock), ("range", range)] {
        for time in 0..TIMES {
            let first = file(&here);
            assert!(lock(&first, true) && lock(&first, false), "{kind}, {time}");
            drop(first);
            let next = file(&here);
            assert!(lock(&next, true), "{kind}, {time}: nobody has it");
            std::thread::sleep(Duration::from_millis(2));
            assert!(!lock(&there, true), "{kind}, {time}: the other mount got what is locked here");
            assert!(lock(&next, false), "{kind}, {time}");
        }
    }
}

#[test]
fn a_lock_is_waited_for_and_comes_from_the_other_mount() {
    let pair = Pair::shared();
    let (mut a, mut b) = pair.lockers("wait");
    for kind in ["posix", "ofd", "flock"] {
        assert_eq!(a.does(&format!("try {kind} x 0 0")), "ok");
        b.ask(&format!("wait {kind} x 0 0"));
        b.waits();
        assert_eq!(a.does(&format!("try {kind} u 0 0")), "ok");
        assert_eq!(b.answer(), "ok");
        assert_eq!(a.does(&format!("try {kind} s 0 0")), "EAGAIN");
        assert_eq!(b.does(&format!("try {kind} u 0 0")), "ok");
        // A process that is killed lets everything go.
        let (mut killed, _) = pair.lockers("wait");
        assert_eq!(killed.does(&format!("try {kind} x 0 0")), "ok");
        b.ask(&format!("wait {kind} x 0 0"));
        b.waits();
        killed.signal(libc::SIGKILL);
        assert_eq!(b.answer(), "ok");
        assert_eq!(b.does(&format!("try {kind} u 0 0")), "ok");
    }
}

#[test]
fn a_signal_ends_the_wait_for_a_lock() {
    let lone = Cluster::shared();
    let path = lone.subdir("signals").join("f");
    drop(file(&path));
    let pair = Pair::shared();
    for (mut holder, mut waiter) in [(Locker::open(&path), Locker::open(&path)), pair.lockers("signals")] {
        for kind in ["posix", "ofd", "flock"] {
            assert_eq!(holder.does(&format!("try {kind} x 0 0")), "ok");
            waiter.ask(&format!("wait {kind} x 0 0"));
            waiter.waits();
            waiter.signal(libc::SIGUSR1);
            assert_eq!(waiter.answer(), "EINTR");
            assert_eq!(holder.does(&format!("try {kind} u 0 0")), "ok");
            assert_eq!(holder.does(&format!("try {kind} x 0 0")), "ok", "nobody has it after that");
            assert_eq!(holder.does(&format!("try {kind} u 0 0")), "ok");
        }
        assert_eq!(holder.does("try posix x 0 0"), "ok");
        waiter.ask("wait posix x 0 0");
        waiter.waits();
        waiter.signal(libc::SIGKILL);
        assert!(waiter.ends(SOON), "a process that waits for a lock cannot be killed");
        assert_eq!(holder.does("try posix u 0 0"), "ok");
        assert_eq!(holder.does("wait posix x 0 0"), "ok");
    }
}

#[test]
fn waits_in_a_circle_are_refused() {
    let pair = Pair::shared();
    let (mut a, mut b) = pair.lockers("circle");
    assert_eq!(a.does("try posix x 0 10"), "ok");
    assert_eq!(b.does("try posix x 10 10"), "ok");
    a.ask("wait posix x 10 10");
    a.waits();
    assert_eq!(b.does("wait posix x 0 10"), "EDEADLK");
    assert_eq!(b.does("try posix u 10 10"), "ok");
    assert_eq!(a.answer(), "ok");
}

#[test]
fn locks_of_a_lone_mount_hold_when_another_comes_and_end_with_a_killed_mount() {
    let cluster = Cluster::start();
    let path = cluster.mount().join("f");
    drop(file(&path));
    let (mut first, mut waiting) = (Locker::open(&path), Locker::open(&path));
    assert_eq!(first.does("try posix x 0 10"), "ok");
    assert_eq!(first.does("try flock x 0 0"), "ok");
    waiting.ask("wait posix x 5 10");
    waiting.waits();
    let second = cluster.second_mount("second", &[]);
    let mut other = Locker::open(&second.dir().join("f"));
    assert_eq!(other.does("try posix x 9 1"), "EAGAIN");
    assert_eq!(other.does("try flock s 0 0"), "EAGAIN");
    assert_eq!(other.does("try ofd x 100 10"), "ok");
    waiting.waits();
    assert_eq!(first.does("try posix u 0 0"), "ok");
    assert_eq!(waiting.answer(), "ok");
    // The second mount is killed: what its processes have locked goes with its session.
    waiting.ask("wait posix x 100 1");
    waiting.waits();
    let status = cluster.status();
    let mounts = status["mounts"].as_array().unwrap();
    let dir = second.dir().to_str().unwrap();
    let pid = mounts.iter().find(|m| m["dir"] == dir).unwrap()["pid"].as_u64().unwrap();
    common::signal_pid(u32::try_from(pid).unwrap(), libc::SIGKILL);
    let start = Instant::now();
    assert_eq!(waiting.answer(), "ok");
    println!("free after {:?}", start.elapsed());
    // What the first holds it still does, alone again.
    eventually(SOON, "the first is alone", || cluster.status()["mounts"].as_array().unwrap().len() == 1);
    let mut third = Locker::open(&path);
    assert_eq!(third.does("try flock x 0 0"), "EAGAIN");
    assert_eq!(third.does("try posix x 5 1"), "EAGAIN");
    assert_eq!(third.does("try posix x 0 1"), "ok");
    assert_eq!(first.does("try flock u 0 0"), "ok");
    assert_eq!(third.does("try flock x 0 0"), "ok");
}

#[test]
fn locks_survive_the_death_of_the_master() {
    let pair = Pair::start();
    let (mut a, mut b) = pair.lockers("f");
    assert_eq!(a.does("try posix x 0 10"), "ok");
    assert_eq!(a.does("try flock s 0 0"), "ok");
    b.ask("wait posix s 0 0");
    b.waits();
    let (mut c, _) = pair.lockers("f");
    for _ in 0..2 {
        pair.cluster.kill("master");
        assert_eq!(c.does("try posix x 9 1"), "EAGAIN");
        assert_eq!(c.does("try flock x 0 0"), "EAGAIN");
        b.waits();
    }
    assert_eq!(a.does("try posix u 0 0"), "ok");
    assert_eq!(b.answer(), "ok");
    assert_eq!(a.does("try posix x 9 1"), "EAGAIN");
    assert_eq!(a.does("try flock u 0 0"), "ok");
    assert_eq!(c.does("try flock x 0 0"), "ok");
}

#[test]
fn all_locks_are_listed() {
    let pair = Pair::start();
    let (mut a, mut b) = pair.lockers("listed");
    assert_eq!(a.does("try posix x 10 10"), "ok");
    assert_eq!(a.does("try flock s 0 0"), "ok");
    b.ask("wait ofd x 0 0");
    eventually(SOON, "it is seen to wait", || locks(&pair.cluster).len() == 3);
    let listed = locks(&pair.cluster);
    let find = |kind: &str, waiting: bool| {
        listed.iter().find(|l| l["kind"] == kind && l["waiting"] == waiting).unwrap_or(&Value::Null)
    };
    let held = find("fcntl", false);
    let (mount, path) = (pair.cluster.mount(), pair.cluster.mount().join("listed"));
    assert_eq!((held["pid"].as_u64(), &held["mode"]), (Some(a.pid().into()), &"exclusive".into()), "{held}");
    assert_eq!((held["first"].as_u64(), held["last"].as_u64()), (Some(10), Some(19)), "{held}");
    assert_eq!((held["path"].as_str(), held["mount"].as_str()), (path.to_str(), mount.to_str()), "{held}");
    assert_eq!(find("flock", false)["mode"], "shared");
    let waiting = find("fcntl", true);
    assert_eq!(
        (waiting["pid"].as_u64(), waiting["mount"].as_str()),
        (Some(b.pid().into()), pair.second.dir().to_str())
    );
    // Those of a mount that is alone are told a little later.
    drop((b, pair.second));
    eventually(SOON, "what the other had is gone", || locks(&pair.cluster).len() == 2);
    assert_eq!(a.does("try posix x 50 1"), "ok");
    eventually(SOON, "the new lock is told", || locks(&pair.cluster).len() == 3);
    drop(a);
    eventually(SOON, "all are gone", || locks(&pair.cluster).is_empty());
}

#[test]
fn two_mounts_write_one_sqlite_database() {
    const ROWS: u64 = 40;
    let pair = Pair::shared();
    let make = format!(
        "python3 -c \"import sqlite3; sqlite3.connect('{}/db').execute('create table t(who, n)')\"",
        pair.cluster.mount().display()
    );
    common::sh(&make);
    let write = |dir: &Path, who: &str| {
        let script = format!(
            "import sqlite3\ndb=sqlite3.connect('{}/db',timeout=100,isolation_level=None)\nfor n in range({ROWS}):\n  db.execute('begin immediate')\n  db.execute('insert into t values(?,?)',('{who}',n))\n  db.execute('commit')\n",
            dir.display()
        );
        let output =
            Command::new("timeout").args(["-k", "5", "200", "python3", "-c", &script]).output().unwrap();
        assert!(output.status.success(), "{who}: {}", common::text(&output));
    };
    std::thread::scope(|scope| {
        scope.spawn(|| write(&pair.cluster.mount(), "first"));
        write(pair.second.dir(), "second");
    });
    for dir in [&pair.cluster.mount(), pair.second.dir()] {
        let query = "select count(*), count(distinct who||n), (select * from pragma_integrity_check) from t";
        let script = format!(
            "import sqlite3\nprint(sqlite3.connect('{}/db').execute(\"{query}\").fetchone())",
            dir.display()
        );
        let output =
            Command::new("timeout").args(["-k", "5", "60", "python3", "-c", &script]).output().unwrap();
        assert_eq!(common::text(&output).trim(), format!("({}, {}, 'ok')", 2 * ROWS, 2 * ROWS));
    }
    assert!(!fs::exists(pair.cluster.mount().join("db-journal")).unwrap());
}
