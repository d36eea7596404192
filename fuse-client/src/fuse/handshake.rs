//! The first exchange with the kernel: version and capabilities.

use std::io;
use std::os::fd::AsFd;

use super::abi::{Body, Fields, IN_HEADER, MAJOR, MINOR, OLDEST_MINOR, OUT_HEADER, Short, init, opcode};
use super::operation::Header;

/// Longest piece of a write, and of read-ahead, bytes.
pub(super) const MAX_WRITE: u32 = 1 << 20;
const MAX_READAHEAD: u32 = 1 << 20;
const MAX_BACKGROUND: u16 = 64;
const CONGESTED: u16 = 48;
const PAGE: u32 = 4096;

/// Must have: without them some promise would not hold. Truncating in OPEN (FUSE_ATOMIC_O_TRUNC) is not among them: the
/// kernel finds out only after it that a program is running from the file, which would then be gone.
const NEEDED: u64 = init::HANDLE_KILLPRIV_V2 | init::POSIX_ACL | init::DONT_MASK;
const WANTED: u64 = NEEDED
    | init::ASYNC_READ
    | init::POSIX_LOCKS
    | init::FLOCK_LOCKS
    | init::BIG_WRITES
    | init::DO_READDIRPLUS
    | init::READDIRPLUS_AUTO
    | init::ASYNC_DIO
    | init::PARALLEL_DIROPS
    | init::MAX_PAGES
    | init::CACHE_SYMLINKS
    | init::EXPLICIT_INVAL_DATA
    | init::SETXATTR_EXT
    | init::INIT_EXT
    | init::DIRECT_IO_ALLOW_MMAP;

struct Offer {
    major: u32,
    minor: u32,
    max_readahead: u32,
    capabilities: u64,
}

fn offer(body: &[u8]) -> Result<Offer, Short> {
    let mut f = Fields(body);
    let (major, minor, max_readahead, low) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
    let high = if u64::from(low) & init::INIT_EXT != 0 { f.u32()? } else { 0 };
    Ok(Offer { major, minor, max_readahead, capabilities: u64::from(high) << 32 | u64::from(low) })
}

fn answer(unique: u64, error: i32, body: &Body) -> Vec<u8> {
    let mut b = Body::default();
    b.u32(u32::try_from(OUT_HEADER + body.0.len()).unwrap_or(u32::MAX));
    b.u32(error.cast_unsigned()).u64(unique);
    b.0.extend_from_slice(&body.0);
    b.0
}

/// A `fuse_init_out`.
fn accept(offer: &Offer) -> Body {
    let capabilities = offer.capabilities & WANTED;
    let [low, high] = [capabilities as u32, (capabilities >> 32) as u32];
    let mut b = Body::default();
    b.u32(MAJOR).u32(MINOR.min(offer.minor)).u32(offer.max_readahead.min(MAX_READAHEAD)).u32(low);
    b.0.extend_from_slice(&MAX_BACKGROUND.to_ne_bytes());
    b.0.extend_from_slice(&CONGESTED.to_ne_bytes());
    let time_granularity = 1;
    b.u32(MAX_WRITE).u32(time_granularity);
    b.u32(MAX_WRITE / PAGE).u32(high);
    b.0.resize(64, 0);
    b
}

/// Answers the kernel's INIT on a device that has just been mounted.
///
/// # Errors
/// The device's; `Unsupported` for a kernel that is too old.
pub(crate) fn handshake(device: impl AsFd) -> io::Result<()> {
    let mut buffer = vec![0; MAX_WRITE as usize + IN_HEADER];
    let n = loop {
        match rustix::io::read(&device, &mut buffer) {
            Ok(n) => break n,
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    };
    let malformed = |_| io::Error::new(io::ErrorKind::InvalidData, "malformed first request of the kernel");
    let request = &buffer[..n];
    let header = Header::parse(request).map_err(malformed)?;
    let offer = offer(&request[IN_HEADER..]).map_err(malformed)?;
    let fits = header.opcode == opcode::INIT
        && offer.major == MAJOR
        && offer.minor >= OLDEST_MINOR
        && offer.capabilities & NEEDED == NEEDED;
    if !fits {
        let _ = rustix::io::write(&device, &answer(header.unique, -libc::EPROTO, &Body::default()));
        return Err(io::Error::new(
            io::ErrorKind::Unsupported,
            format!("the kernel speaks FUSE {}.{}; Linux 5.12 or later is needed", offer.major, offer.minor),
        ));
    }
    rustix::io::write(&device, &answer(header.unique, 0, &accept(&offer)))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_accepted_that_was_not_offered() {
        let offer = Offer { major: 7, minor: 36, max_readahead: 131_072, capabilities: NEEDED | 1 << 41 };
        let b = accept(&offer).0;
        assert_eq!(b.len(), 64);
        let word = |n: usize| u32::from_ne_bytes(b[n * 4..][..4].try_into().unwrap());
        assert_eq!((word(0), word(1), word(2)), (7, 36, 131_072));
        assert_eq!(u64::from(word(3)), NEEDED);
        assert_eq!(word(8), 0, "io_uring must never be accepted");
    }
}
