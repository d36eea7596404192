//! The clock of leases and time-outs: it also runs while the machine sleeps or the process is stopped.

use crate::core::Millis;
use rustix::time::{ClockId, clock_gettime};

/// Milliseconds since the machine started.
pub fn now() -> Millis {
    let t = clock_gettime(ClockId::Boottime);
    t.tv_sec as u64 * 1000 + t.tv_nsec as u64 / 1_000_000
}
