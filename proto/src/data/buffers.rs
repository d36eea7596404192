//! A pool of buffers for bulk data.
//!
//! Fresh memory is dear on virtual machines (610 µs a MiB at first touch against 25 to copy one),
//! so buffers go back to the pool when the last reference is dropped.

use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes in a pooled buffer: one full frame of streaming data and the blocks at its ends.
const SIZE: usize = crate::block::PIECE + 2 * crate::block::BLOCK;
/// Buffers kept at most (about 64 MiB), unless [`Buffer::keep`] says otherwise.
static KEPT: AtomicUsize = AtomicUsize::new(64);
/// Below this a plain allocation is cheaper than the pool.
const SMALL: usize = 32 << 10;

static POOL: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// A buffer of a wanted length, to be filled and then frozen into [`Bytes`]. Aligned to nothing in particular.
pub struct Buffer {
    memory: Vec<u8>,
    len: usize,
}

impl Buffer {
    /// From now on at most so many buffers (of a little over 1 MiB) wait in the pool for their next use: as many as are
    /// in use at once at most, where that is bounded.
    pub fn keep(buffers: usize) {
        KEPT.store(buffers, Ordering::Relaxed);
    }

    /// A buffer of `len` bytes, whose content is arbitrary (old data or zeros).
    pub fn new(len: usize) -> Self {
        let pooled = if len > SMALL && len <= SIZE { POOL.lock().pop() } else { None };
        let memory = pooled.unwrap_or_else(|| vec![0; if len > SMALL { len.max(SIZE) } else { len }]);
        Self { memory, len }
    }

    /// A buffer holding a copy of `data`.
    pub fn copy_of(data: &[u8]) -> Self {
        let mut b = Self::new(data.len());
        b.as_mut_slice().copy_from_slice(data);
        b
    }

    /// The bytes, to be filled.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[..self.len]
    }

    /// Cuts it to `len` bytes, if it is longer.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Cheap to share from here on; the memory goes back to the pool with the last reference.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.memory.len() == SIZE {
            let mut pool = POOL.lock();
            if pool.len() < KEPT.load(Ordering::Relaxed) {
                pool.push(std::mem::take(&mut self.memory));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_has_the_length_asked_for() {
        for len in [0, 1, SMALL, SMALL + 1, SIZE, SIZE + 1] {
            let mut b = Buffer::new(len);
            b.as_mut_slice().fill(3);
            let b = b.freeze();
            assert_eq!(b.len(), len);
            assert!(b.iter().all(|x| *x == 3));
        }
    }
}
