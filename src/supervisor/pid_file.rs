//! Pid files that tell a process from a later one with the same number: they hold its start time as well.

use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

/// When a process was started, in clock ticks since the machine's start; `None`: it is gone, or a zombie.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; the fields behind it are counted from `state`, the third.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Notes a process that runs now.
pub fn write(path: &Path, pid: u32) -> std::io::Result<()> {
    std::fs::write(path, format!("{pid} {}\n", started(pid).unwrap_or_default()))
}

/// The noted process, where it still runs.
pub fn running(path: &Path) -> Option<u32> {
    let text = std::fs::read_to_string(path).ok()?;
    let (pid, start) = text.trim().split_once(' ')?;
    let pid = pid.parse().ok()?;
    (started(pid)? == start.parse::<u64>().ok()?).then_some(pid)
}

/// Sends a signal; a process that is gone is none's concern.
pub fn signal(pid: u32, signal: Signal) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    if let Err(e) = kill_process(pid, signal)
        && e != rustix::io::Errno::SRCH
    {
        tracing::warn!(pid = pid.as_raw_nonzero(), error = %e, "cannot signal a process");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_until_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        assert_eq!(running(&path), None);
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        write(&path, child.id()).unwrap();
        assert_eq!(running(&path), Some(child.id()));
        signal(child.id(), Signal::KILL);
        child.wait().unwrap();
        assert_eq!(running(&path), None);
    }

    #[test]
    fn another_process_with_the_same_number_is_not_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.pid");
        let me = std::process::id();
        write(&path, me).unwrap();
        assert_eq!(running(&path), Some(me));
        std::fs::write(&path, format!("{me} 1\n")).unwrap();
        assert_eq!(running(&path), None);
    }
}
