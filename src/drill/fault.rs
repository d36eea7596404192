//! Faults of chunkserver processes on this machine.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::error::Failure;

/// How a server fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL: its connections break at once. Whoever watches over it starts it again.
    Kill,
    /// SIGSTOP: it keeps silent, as a machine does that hangs or is cut off; later it goes on.
    Stop,
}

impl Fault {
    /// All kinds.
    pub const ALL: [Self; 2] = [Self::Kill, Self::Stop];

    /// For how long a server fails before it may come back.
    pub fn lasts(self) -> Duration {
        match self {
            Self::Kill => Duration::from_secs(3),
            // Longer than a lease, so that the worst case is seen.
            Self::Stop => Duration::from_secs(6),
        }
    }

    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Stop => "stop",
        }
    }
}

/// A process with a fault. When this is dropped a stopped one goes on.
pub struct Faulty {
    pid: Pid,
    stopped: bool,
}

impl Faulty {
    /// Brings the fault about, to a chunkserver of this machine.
    ///
    /// # Errors
    /// The process is not there, is no chunkserver, or may not be signalled.
    pub fn make(fault: Fault, pid: u32) -> Result<Self, Failure> {
        let no = |why: &str| Failure::System(format!("process {pid} cannot be made to fail: {why}"));
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).map_err(|e| no(&e.to_string()))?;
        // Ids of processes are used again: nothing else is to be hit.
        if !command.split(|b| *b == 0).any(|word| word == b"chunkserver") {
            return Err(no("it is no chunkserver"));
        }
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or_else(|| no("no such number"))?;
        let signal = match fault {
            Fault::Kill => Signal::KILL,
            Fault::Stop => Signal::STOP,
        };
        kill_process(raw, signal).map_err(|e| no(&e.to_string()))?;
        Ok(Self { pid: raw, stopped: fault == Fault::Stop })
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        if self.stopped
            && let Err(e) = kill_process(self.pid, Signal::CONT)
        {
            tracing::error!("a stopped chunkserver cannot be continued: {e}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_a_chunkserver_is_hit() {
        let Err(e) = Faulty::make(Fault::Kill, std::process::id()) else { panic!("hit") };
        assert!(e.to_string().contains("no chunkserver"), "{e}");
        assert!(Faulty::make(Fault::Stop, u32::MAX).is_err());
    }
}
