//! The bound on memory: a count of bytes, and a wake-up when some are given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Notify;

/// A soft bound: those who take look first, so it is exceeded by at most what each takes at once.
pub(super) struct Memory {
    used: AtomicUsize,
    limit: usize,
    pub freed: Notify,
}

impl Memory {
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit, freed: Notify::new() })
    }

    /// Bytes taken.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Nothing more should be taken.
    pub fn is_short(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.limit
    }

    /// More than half is taken.
    pub fn is_tight(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.limit / 2
    }

    /// What was `before` is `after` now.
    pub fn change(&self, before: usize, after: usize) {
        if after >= before {
            self.used.fetch_add(after - before, Ordering::Relaxed);
        } else {
            self.used.fetch_sub(before - after, Ordering::Relaxed);
            self.freed.notify_waiters();
        }
    }

    /// Takes `bytes` until the lease is dropped; `None`: there is no room.
    pub fn lease(self: &Arc<Self>, bytes: usize) -> Option<Lease> {
        if self.used.load(Ordering::Relaxed) + bytes > self.limit {
            return None;
        }
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Some(Lease { memory: self.clone(), bytes })
    }
}

/// Bytes taken.
pub(super) struct Lease {
    memory: Arc<Memory>,
    bytes: usize,
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.memory.change(self.bytes, 0);
    }
}
