//! docs/semantics.md, "Locks": whole files, ranges, open file descriptions, between processes of one mount.

#![allow(clippy::unwrap_used)]

mod common;

use std::fs::File;
use std::path::Path;
use std::process::Command;

use common::Cluster;

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
    let range = libc::flock {
        l_type: libc::F_WRLCK as _,
        l_whence: libc::SEEK_SET as _,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    // SAFETY: the handle is open and the structure complete.
    let done = unsafe { libc::fcntl(std::os::fd::AsRawFd::as_raw_fd(file), command, &range) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
