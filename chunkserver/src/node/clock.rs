//! The clock of leases and time-outs: it also runs while the machine sleeps or the process is stopped.

use crate::core::Millis;
use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the machine started.
pub fn now() -> Millis {
    micros() / 1000
}

/// Microseconds since the machine started.
pub fn micros() -> u64 {
    let t = clock_gettime(ClockId::Boottime);
    t.tv_sec as u64 * 1_000_000 + t.tv_nsec as u64 / 1_000
}
