//! Reading requests from the device.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;

use super::abi::{IN_HEADER, Short, opcode};
use super::adapter::Adapter;
use super::handshake::MAX_WRITE;
use super::operation::{Header, Operation};

/// Room for the longest write with its header.
const BUFFER: usize = MAX_WRITE as usize + 4096;
/// Requests up to so long are copied out of the large buffers.
const SMALL: usize = 2048;
/// Buffers kept for reuse: fresh memory is dear.
const KEPT: usize = 16;

/// Buffers for requests, used over and over.
#[derive(Default)]
pub(super) struct Buffers {
    free: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    fn take(&self) -> Vec<u8> {
        self.free.lock().pop().unwrap_or_else(|| vec![0; BUFFER])
    }

    fn put(&self, buffer: Vec<u8>) {
        let mut free = self.free.lock();
        if free.len() < KEPT {
            free.push(buffer);
        }
    }
}

/// A request with its buffer, which goes back when it has been dealt with.
pub(super) struct Request {
    pub(super) header: Header,
    buffer: Vec<u8>,
    len: usize,
    home: Option<Arc<Buffers>>,
}

impl Request {
    pub(super) fn operation(&self) -> Result<Operation<'_>, Short> {
        Operation::parse(self.header.opcode, &self.buffer[IN_HEADER..self.len])
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.put(std::mem::take(&mut self.buffer));
        }
    }
}

/// Opens the mount's device again, so that another thread reads from a queue of its own.
pub(crate) fn clone_device(device: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    let clone = rustix::fs::open("/dev/fuse", flags, rustix::fs::Mode::empty())?;
    // _IOR(229, 0, uint32_t)
    const FUSE_DEV_IOC_CLONE: libc::c_ulong = 0x8004_e500;
    let original = device.as_raw_fd();
    // SAFETY: the ioctl reads one u32 through the pointer, which is valid for the call; both descriptors are open.
    let result = unsafe { libc::ioctl(clone.as_raw_fd(), FUSE_DEV_IOC_CLONE, &raw const original) };
    if result == 0 { Ok(clone) } else { Err(rustix::io::Errno::from_raw_os_error(last_errno())) }
}

fn last_errno() -> i32 {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

/// Serves requests from the device until the file system is unmounted. To be run in a thread of its own, with the
/// runtime entered.
pub(crate) fn serve(device: &Arc<OwnedFd>, adapter: &Arc<Adapter>) {
    use rustix::io::Errno;
    let home = adapter.buffers();
    loop {
        let mut buffer = home.take();
        let len = match rustix::io::read(device, &mut buffer) {
            Ok(len) => len,
            // ENOENT: the request was given up while it was being read.
            Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {
                home.put(buffer);
                continue;
            }
            // Unmounted, or the connection was aborted.
            Err(Errno::NODEV | Errno::CONNABORTED) => return,
            Err(e) => {
                tracing::error!(error = %e, "cannot read from the FUSE device");
                return;
            }
        };
        let Ok(header) = Header::parse(&buffer[..len]) else {
            tracing::error!(len, "the kernel sent a request without a header");
            home.put(buffer);
            continue;
        };
        let destroyed = header.opcode == opcode::DESTROY;
        let request = if len <= SMALL {
            // A request that has to wait must not keep a large buffer.
            let small = buffer[..len].to_vec();
            home.put(buffer);
            Request { header, buffer: small, len, home: None }
        } else {
            Request { header, buffer, len, home: Some(home.clone()) }
        };
        adapter.process(device, request);
        if destroyed {
            return;
        }
    }
}
