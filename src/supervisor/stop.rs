//! Stopping a cluster from outside: its supervisor, or the processes that one left when it was killed.

use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::layout::{Cluster, Layout};
use super::pid_file;
use crate::error::Failure;
use crate::mounts;

/// How long a server may take to end by itself.
pub const SERVER_LIMIT: Duration = Duration::from_secs(10);
/// How long a mount may take: it writes back what it still holds.
pub const MOUNT_LIMIT: Duration = Duration::from_secs(45);

/// Polls until `done`; false: not within `limit`.
fn wait(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while !done() {
        if start.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// Asks the supervisor to stop everything and waits for it; false: there is none.
pub fn supervisor(layout: &Layout, limit: Duration) -> Result<bool, Failure> {
    let Some(pid) = layout.supervisor()? else { return Ok(false) };
    pid_file::signal(pid, Signal::TERM);
    // An ephemeral cluster takes the lock away with the rest.
    match wait(limit, || !matches!(layout.supervisor(), Ok(Some(_)))) {
        true => Ok(true),
        false => {
            Err(Failure::System(format!("the supervisor (process {pid}) is still stopping after {limit:?}")))
        }
    }
}

/// Stops what runs without a supervisor; false: nothing did.
pub fn leftovers(layout: &Layout, cluster: &Cluster) -> Result<bool, Failure> {
    let mut found = stop_one(&layout.pid("mount"), MOUNT_LIMIT);
    mounts::clear_dead(&cluster.mount);
    let servers: Vec<String> = super::server_names(cluster).collect();
    let running: Vec<u32> = servers.iter().filter_map(|n| pid_file::running(&layout.pid(n))).collect();
    running.iter().for_each(|pid| pid_file::signal(*pid, Signal::TERM));
    for name in &servers {
        found |= stop_one(&layout.pid(name), SERVER_LIMIT);
    }
    Ok(found)
}

fn stop_one(path: &Path, limit: Duration) -> bool {
    let Some(pid) = pid_file::running(path) else { return false };
    pid_file::signal(pid, Signal::TERM);
    if !wait(limit, || pid_file::running(path).is_none()) {
        tracing::warn!(pid, "does not end by itself; killed");
        pid_file::signal(pid, Signal::KILL);
        wait(SERVER_LIMIT, || pid_file::running(path).is_none());
    }
    true
}
