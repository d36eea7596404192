//! The system calls for locks. Whatever waits does so for a bounded time.

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;
use std::sync::Once;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use crate::exclusion::{Lock, Place};
use crate::files::CELL;

/// Within this a wait usually ends after its signal.
const PROMPT: Duration = Duration::from_millis(500);

/// How something is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Try,
    /// Until a signal comes, after this time.
    Wait(Duration),
}

pub enum Answer {
    Granted,
    Refused,
    Interrupted,
    Failed(Error),
}

impl Way {
    /// Whether an interrupted wait ended so late after its signal that it may have left the lock behind for a while.
    pub fn is_late(self, start: u64, end: u64) -> bool {
        let Way::Wait(time) = self else { return false };
        Duration::from_nanos(end - start) > time + PROMPT
    }
}

fn raw_range(lock: &Lock) -> libc::flock {
    libc::flock {
        l_type: if lock.exclusive { libc::F_WRLCK } else { libc::F_RDLCK } as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: (lock.range.start as usize * CELL) as i64,
        l_len: ((lock.range.end - lock.range.start) as usize * CELL) as i64,
        l_pid: 0,
    }
}

/// Asks for a lock.
pub fn ask(handle: &File, lock: &Lock, way: Way) -> Answer {
    let fd = handle.as_raw_fd();
    let call = || {
        let wait = way != Way::Try;
        let done = match lock.place {
            Place::Whole { .. } => {
                let mode = if lock.exclusive { libc::LOCK_EX } else { libc::LOCK_SH };
                // SAFETY: the handle is open.
                unsafe { libc::flock(fd, if wait { mode } else { mode | libc::LOCK_NB }) }
            }
            Place::Ranges { .. } => {
                let command = if wait { libc::F_OFD_SETLKW } else { libc::F_OFD_SETLK };
                // SAFETY: the handle is open and the structure complete.
                unsafe { libc::fcntl(fd, command, &raw_range(lock)) }
            }
        };
        if done < 0 { Err(Error::last_os_error()) } else { Ok(()) }
    };
    let result = match way {
        Way::Try => call(),
        Way::Wait(time) => interrupted_after(time, call),
    };
    let Err(error) = result else { return Answer::Granted };
    match error.raw_os_error() {
        // A wait in a circle is refused like one that somebody is in the way of.
        Some(libc::EAGAIN | libc::EDEADLK) => Answer::Refused,
        Some(libc::EINTR) => Answer::Interrupted,
        _ => Answer::Failed(error),
    }
}

/// Whether a range is free, or only locked through this very handle.
pub fn is_free(handle: &File, lock: &Lock) -> Result<bool> {
    let mut range = raw_range(lock);
    // SAFETY: the handle is open and the structure complete.
    let done = unsafe { libc::fcntl(handle.as_raw_fd(), libc::F_OFD_GETLK, &mut range) };
    if done < 0 { Err(Error::last_os_error()) } else { Ok(range.l_type == libc::F_UNLCK as libc::c_short) }
}

/// Gives it back.
pub fn unlock(handle: &File, lock: &Lock) -> Result<()> {
    let fd = handle.as_raw_fd();
    let done = match lock.place {
        // SAFETY: the handle is open.
        Place::Whole { .. } => unsafe { libc::flock(fd, libc::LOCK_UN) },
        Place::Ranges { .. } => {
            let range = libc::flock { l_type: libc::F_UNLCK as libc::c_short, ..raw_range(lock) };
            // SAFETY: the handle is open and the structure complete.
            unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &range) }
        }
    };
    if done < 0 { Err(Error::last_os_error()) } else { Ok(()) }
}

/// Calls what waits in the kernel. From `time` on a signal interrupts it, again and again, since one that comes before it waits does nothing.
fn interrupted_after<T>(time: Duration, call: impl FnOnce() -> T) -> T {
    static HANDLED: Once = Once::new();
    HANDLED.call_once(handle_signal);
    // SAFETY: of the calling thread.
    let thread = unsafe { libc::pthread_self() };
    let (over, told) = channel::<()>();
    let result = std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut time = time;
            while told.recv_timeout(time) == Err(RecvTimeoutError::Timeout) {
                // SAFETY: that thread waits for this one to end.
                unsafe { libc::pthread_kill(thread, libc::SIGUSR1) };
                time = Duration::from_millis(20);
            }
        });
        let result = call();
        drop(over);
        result
    });
    // A signal that came too late ends here, and interrupts nothing that follows.
    std::thread::yield_now();
    result
}

extern "C" fn nothing(_: libc::c_int) {}

fn handle_signal() {
    let handler: extern "C" fn(libc::c_int) = nothing;
    // SAFETY: a zeroed action is a valid one: no flags, so that calls are not made again.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // SAFETY: the handler does nothing at all.
    assert_eq!(unsafe { libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut()) }, 0);
}
