//! A test's own directory, and the end of everything that lives in it: of what a failed test leaves behind, and of a test
//! that hangs.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::time::Duration;

use tempfile::TempDir;

/// No test may take longer. About ten times what the slowest one takes on an idle machine.
const LIMIT: Duration = Duration::from_secs(480);
/// What a test that hung is given to fail by itself once its cluster is gone.
const LAST: Duration = Duration::from_secs(60);

/// A directory on the disk that holds the build, since /tmp may be in memory. When it is dropped, and when the test runs for too long, whatever process was started on
/// it is killed (stopped ones, too) and whatever is mounted in it is detached, so that nothing waits for ever for a mount whose process is stopped or gone.
pub struct Scratch {
    dir: TempDir,
    /// Dropped: the test is over.
    _running: Sender<()>,
}

impl Scratch {
    /// For a test that takes no longer than that.
    pub fn within(limit: Duration) -> Self {
        let dir = tempfile::Builder::new().prefix("t").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let (running, over) = mpsc::channel();
        let path = dir.path().to_owned();
        std::thread::spawn(move || watch(&over, &path, limit));
        Self { dir, _running: running }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        end_all(self.dir.path());
    }
}

/// For a test that takes the usual time.
pub fn scratch() -> Scratch {
    Scratch::within(LIMIT)
}

/// For a test that works for `length` on purpose, and takes the usual time besides.
pub fn scratch_for(length: Duration) -> Scratch {
    Scratch::within(LIMIT + length)
}

fn watch(over: &mpsc::Receiver<()>, dir: &Path, limit: Duration) {
    let ran_on = |time| over.recv_timeout(time) == Err(RecvTimeoutError::Timeout);
    if !ran_on(limit) {
        return;
    }
    eprintln!("A test runs for longer than {limit:?}: its cluster in {} is killed.", dir.display());
    for process in processes(dir) {
        eprintln!("  {process}");
    }
    end_all(dir);
    if ran_on(LAST) {
        eprintln!("It still runs. The test process is aborted.");
        std::process::abort();
    }
}

/// Kills what was started on this directory until nothing is left (a supervisor starts again what dies), and detaches its mounts.
/// A process that is just being started has no command line yet: so it looks twice.
fn end_all(dir: &Path) {
    let mut found_none = false;
    for _ in 0..50 {
        let left = processes(dir);
        left.iter().for_each(|p| super::signal_pid(p.pid, libc::SIGKILL));
        for mountpoint in mounts(dir) {
            let _ = rustix::mount::unmount(&mountpoint, rustix::mount::UnmountFlags::DETACH);
        }
        if left.is_empty() && found_none {
            return;
        }
        found_none = left.is_empty();
        std::thread::sleep(Duration::from_millis(20));
    }
}

struct Process {
    pid: u32,
    command: String,
    /// As in /proc/PID/status: R, S, D, T…
    state: char,
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {}", self.pid, self.state, self.command)
    }
}

/// Those whose command line names the directory. Its name is random, so they are this test's.
fn processes(dir: &Path) -> Vec<Process> {
    let dir = dir.to_str().unwrap();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    pids.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if !command.contains(dir) || pid == std::process::id() {
            return None;
        }
        // Not `stat`: who reads that waits for one that is about to execute another program, which may wait for a mount that hangs.
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        let state = status.lines().find_map(|l| l.strip_prefix("State:"))?.trim_start().chars().next()?;
        (state != 'Z').then_some(Process { pid, command, state })
    })
    .collect()
}

/// What is mounted in the directory, what was mounted last first.
fn mounts(dir: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let mut inside: Vec<PathBuf> = mounts
        .lines()
        .filter_map(|l| l.split(' ').nth(1))
        .map(PathBuf::from)
        .filter(|m| m.starts_with(dir))
        .collect();
    inside.reverse();
    inside
}
