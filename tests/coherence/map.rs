//! Memory maps.

use std::fs::File;
use std::io::{Error, Result};
use std::os::fd::AsRawFd;

use crate::files::{CELL, CELLS};

/// A shared map of a whole file of fixed size.
pub struct Map(*mut libc::c_void);

const MAPPED: usize = CELLS * CELL;

impl Map {
    pub fn new(file: &File) -> Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new map at a place of the kernel's choice.
        let at = unsafe {
            libc::mmap(std::ptr::null_mut(), MAPPED, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        if at == libc::MAP_FAILED { Err(Error::last_os_error()) } else { Ok(Self(at)) }
    }

    pub fn read(&self, offset: usize, length: usize) -> Vec<u8> {
        assert!(offset + length <= MAPPED);
        let words = (0..length / 8).map(|i| {
            // SAFETY: within the map; the file keeps its size.
            unsafe { self.0.byte_add(offset + i * 8).cast::<u64>().read_volatile() }
        });
        words.flat_map(u64::to_ne_bytes).collect()
    }

    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= MAPPED);
        for (i, word) in bytes.chunks(8).enumerate() {
            let word = u64::from_ne_bytes(word.try_into().unwrap());
            // SAFETY: within the map; the file keeps its size.
            unsafe { self.0.byte_add(offset + i * 8).cast::<u64>().write_volatile(word) };
        }
    }

    pub fn sync(&self) -> Result<()> {
        // SAFETY: the whole map.
        if unsafe { libc::msync(self.0, MAPPED, libc::MS_SYNC) } == 0 {
            Ok(())
        } else {
            Err(Error::last_os_error())
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the whole map, which nobody has a reference into.
        unsafe { libc::munmap(self.0, MAPPED) };
    }
}
