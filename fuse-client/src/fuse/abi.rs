//! The kernel's numbers, and reading and writing its structures.

use std::time::Duration;

use crate::engine::attr::FileAttr;

/// The protocol version spoken here.
pub(super) const MAJOR: u32 = 7;
pub(super) const MINOR: u32 = 40;
/// Oldest that has all that is needed (Linux 5.12: HANDLE_KILLPRIV_V2).
pub(super) const OLDEST_MINOR: u32 = 33;

/// Length of the header of a request, and of an answer.
pub(super) const IN_HEADER: usize = 40;
/// What the kernel calls the root of any mount.
pub(super) const ROOT_NODE: u64 = 1;
pub(super) const OUT_HEADER: usize = 16;
/// How long the kernel may use what it is told.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Keep {
    /// A name, or that there is none.
    pub(super) name: Duration,
    /// Attributes.
    pub(super) attr: Duration,
}

/// Bytes of a `fuse_entry_out`.
pub(super) const ENTRY_OUT: usize = 128;

/// Operation codes.
pub(super) mod opcode {
    pub(in crate::fuse) const LOOKUP: u32 = 1;
    pub(in crate::fuse) const FORGET: u32 = 2;
    pub(in crate::fuse) const GETATTR: u32 = 3;
    pub(in crate::fuse) const SETATTR: u32 = 4;
    pub(in crate::fuse) const READLINK: u32 = 5;
    pub(in crate::fuse) const SYMLINK: u32 = 6;
    pub(in crate::fuse) const MKNOD: u32 = 8;
    pub(in crate::fuse) const MKDIR: u32 = 9;
    pub(in crate::fuse) const UNLINK: u32 = 10;
    pub(in crate::fuse) const RMDIR: u32 = 11;
    pub(in crate::fuse) const RENAME: u32 = 12;
    pub(in crate::fuse) const LINK: u32 = 13;
    pub(in crate::fuse) const OPEN: u32 = 14;
    pub(in crate::fuse) const READ: u32 = 15;
    pub(in crate::fuse) const WRITE: u32 = 16;
    pub(in crate::fuse) const STATFS: u32 = 17;
    pub(in crate::fuse) const RELEASE: u32 = 18;
    pub(in crate::fuse) const FSYNC: u32 = 20;
    pub(in crate::fuse) const SETXATTR: u32 = 21;
    pub(in crate::fuse) const GETXATTR: u32 = 22;
    pub(in crate::fuse) const LISTXATTR: u32 = 23;
    pub(in crate::fuse) const REMOVEXATTR: u32 = 24;
    pub(in crate::fuse) const FLUSH: u32 = 25;
    pub(in crate::fuse) const INIT: u32 = 26;
    pub(in crate::fuse) const OPENDIR: u32 = 27;
    pub(in crate::fuse) const READDIR: u32 = 28;
    pub(in crate::fuse) const RELEASEDIR: u32 = 29;
    pub(in crate::fuse) const FSYNCDIR: u32 = 30;
    pub(in crate::fuse) const GETLK: u32 = 31;
    pub(in crate::fuse) const SETLK: u32 = 32;
    pub(in crate::fuse) const SETLKW: u32 = 33;
    pub(in crate::fuse) const CREATE: u32 = 35;
    pub(in crate::fuse) const INTERRUPT: u32 = 36;
    pub(in crate::fuse) const DESTROY: u32 = 38;
    pub(in crate::fuse) const BATCH_FORGET: u32 = 42;
    pub(in crate::fuse) const FALLOCATE: u32 = 43;
    pub(in crate::fuse) const READDIRPLUS: u32 = 44;
    pub(in crate::fuse) const RENAME2: u32 = 45;
    pub(in crate::fuse) const LSEEK: u32 = 46;
    pub(in crate::fuse) const COPY_FILE_RANGE: u32 = 47;
}

/// Capabilities that are asked for at INIT.
pub(super) mod init {
    pub(in crate::fuse) const ASYNC_READ: u64 = 1 << 0;
    pub(in crate::fuse) const POSIX_LOCKS: u64 = 1 << 1;
    pub(in crate::fuse) const BIG_WRITES: u64 = 1 << 5;
    pub(in crate::fuse) const DONT_MASK: u64 = 1 << 6;
    pub(in crate::fuse) const FLOCK_LOCKS: u64 = 1 << 10;
    pub(in crate::fuse) const DO_READDIRPLUS: u64 = 1 << 13;
    pub(in crate::fuse) const READDIRPLUS_AUTO: u64 = 1 << 14;
    pub(in crate::fuse) const ASYNC_DIO: u64 = 1 << 15;
    pub(in crate::fuse) const PARALLEL_DIROPS: u64 = 1 << 18;
    pub(in crate::fuse) const POSIX_ACL: u64 = 1 << 20;
    pub(in crate::fuse) const MAX_PAGES: u64 = 1 << 22;
    pub(in crate::fuse) const CACHE_SYMLINKS: u64 = 1 << 23;
    pub(in crate::fuse) const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    pub(in crate::fuse) const HANDLE_KILLPRIV_V2: u64 = 1 << 28;
    pub(in crate::fuse) const SETXATTR_EXT: u64 = 1 << 29;
    pub(in crate::fuse) const INIT_EXT: u64 = 1 << 30;
    pub(in crate::fuse) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
}

/// Which fields of a SETATTR count.
pub(super) mod fattr {
    pub(in crate::fuse) const MODE: u32 = 1 << 0;
    pub(in crate::fuse) const UID: u32 = 1 << 1;
    pub(in crate::fuse) const GID: u32 = 1 << 2;
    pub(in crate::fuse) const SIZE: u32 = 1 << 3;
    pub(in crate::fuse) const ATIME: u32 = 1 << 4;
    pub(in crate::fuse) const MTIME: u32 = 1 << 5;
    pub(in crate::fuse) const ATIME_NOW: u32 = 1 << 7;
    pub(in crate::fuse) const MTIME_NOW: u32 = 1 << 8;
    pub(in crate::fuse) const CTIME: u32 = 1 << 10;
    pub(in crate::fuse) const KILL_SUIDGID: u32 = 1 << 11;
}

/// Answers to OPEN and CREATE.
pub(super) mod fopen {
    pub(in crate::fuse) const DIRECT_IO: u32 = 1 << 0;
    pub(in crate::fuse) const KEEP_CACHE: u32 = 1 << 1;
    pub(in crate::fuse) const NOFLUSH: u32 = 1 << 5;
    pub(in crate::fuse) const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
}

/// Flags of OPEN, READ, WRITE and SETXATTR requests.
pub(super) const OPEN_KILL_SUIDGID: u32 = 1 << 0;
pub(super) const READ_LOCKOWNER: u32 = 1 << 1;
pub(super) const WRITE_CACHE: u32 = 1 << 0;
pub(super) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
pub(super) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
/// Flags of GETLK, SETLK and SETLKW, and of RELEASE.
pub(super) const LK_FLOCK: u32 = 1 << 0;
pub(super) const RELEASE_FLOCK_UNLOCK: u32 = 1 << 1;

/// Notifications to the kernel.
pub(super) mod notification {
    pub(in crate::fuse) const INVAL_INODE: i32 = 2;
    pub(in crate::fuse) const INVAL_ENTRY: i32 = 3;
    /// Linux 6.16: all names at once.
    pub(in crate::fuse) const INC_EPOCH: i32 = 8;
}

/// A request that is shorter than its kind demands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Short;

/// Reads the fields of a request in order.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, n: usize) -> Result<&'a [u8], Short> {
        let (head, rest) = self.0.split_at_checked(n).ok_or(Short)?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Short> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Short)?;
        self.0 = rest;
        Ok(u32::from_ne_bytes(*head))
    }

    pub(super) fn u64(&mut self) -> Result<u64, Short> {
        let (head, rest) = self.0.split_first_chunk().ok_or(Short)?;
        self.0 = rest;
        Ok(u64::from_ne_bytes(*head))
    }

    /// A string that ends with a zero byte, which is taken off.
    pub(super) fn name(&mut self) -> Result<&'a [u8], Short> {
        let end = self.0.iter().position(|b| *b == 0).ok_or(Short)?;
        let name = self.bytes(end)?;
        self.bytes(1)?;
        Ok(name)
    }
}

/// Appends the fields of an answer in order.
#[derive(Default)]
pub(super) struct Body(pub(super) Vec<u8>);

impl Body {
    pub(super) fn u32(&mut self, v: u32) -> &mut Self {
        self.0.extend_from_slice(&v.to_ne_bytes());
        self
    }

    pub(super) fn u64(&mut self, v: u64) -> &mut Self {
        self.0.extend_from_slice(&v.to_ne_bytes());
        self
    }

    /// A `fuse_attr`.
    fn attr(&mut self, a: &FileAttr) -> &mut Self {
        // Seconds before 1970 travel as two's complement.
        let secs = |t: crate::engine::attr::Timestamp| t.secs.cast_unsigned();
        self.u64(a.inode).u64(a.size).u64(a.size.div_ceil(512));
        self.u64(secs(a.atime)).u64(secs(a.mtime)).u64(secs(a.ctime));
        self.u32(a.atime.nanos).u32(a.mtime.nanos).u32(a.ctime.nanos);
        self.u32(a.mode).u32(a.nlink).u32(a.uid).u32(a.gid).u32(a.rdev);
        self.u32(BLOCK_SIZE).u32(0)
    }

    /// A `fuse_attr_out`.
    pub(super) fn attr_out(&mut self, attr: &FileAttr, keep: Keep) -> &mut Self {
        self.u64(keep.attr.as_secs()).u32(keep.attr.subsec_nanos()).u32(0).attr(attr)
    }

    /// A `fuse_entry_out`. Inode numbers are never used again, so the generation is always 0.
    pub(super) fn entry_out(&mut self, attr: &FileAttr, keep: Keep) -> &mut Self {
        self.u64(attr.inode).u64(0).u64(keep.name.as_secs()).u64(keep.attr.as_secs());
        self.u32(keep.name.subsec_nanos()).u32(keep.attr.subsec_nanos()).attr(attr)
    }

    /// A `fuse_entry_out` that says that there is no such name.
    pub(super) fn no_entry(&mut self, keep: Keep) -> &mut Self {
        self.u64(0).u64(0).u64(keep.name.as_secs()).u64(0);
        self.u32(keep.name.subsec_nanos()).u32(0).attr(&FileAttr::default())
    }

    /// A `fuse_open_out`.
    pub(super) fn open_out(&mut self, handle: u64, flags: u32) -> &mut Self {
        self.u64(handle).u32(flags).u32(0)
    }

    /// A `fuse_lk_out`.
    pub(super) fn lk_out(&mut self, first: u64, last: u64, kind: i32, pid: u32) -> &mut Self {
        self.u64(first).u64(last).u32(kind.cast_unsigned()).u32(pid)
    }

    /// A `fuse_dirent` with its name, padded.
    pub(super) fn dirent(&mut self, inode: u64, next: u64, mode: u32, name: &[u8]) -> &mut Self {
        let len = u32::try_from(name.len()).unwrap_or(u32::MAX);
        self.u64(inode).u64(next).u32(len).u32(mode >> 12 & 0o17);
        self.0.extend_from_slice(name);
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        self
    }
}

/// Preferred size of I/O as `stat` shows it; also the kernel's block size for the file.
const BLOCK_SIZE: u32 = 4096;

/// Bytes that a directory entry takes, padded, without the `fuse_entry_out` before it.
pub(super) fn dirent_len(name: &[u8]) -> usize {
    (24 + name.len()).next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_have_the_kernels_lengths() {
        let attr = FileAttr::default();
        let len = |f: &dyn Fn(&mut Body)| {
            let mut b = Body::default();
            f(&mut b);
            b.0.len()
        };
        assert_eq!(
            len(&|b| {
                b.entry_out(&attr, Keep::default());
            }),
            ENTRY_OUT
        );
        assert_eq!(
            len(&|b| {
                b.no_entry(Keep::default());
            }),
            ENTRY_OUT
        );
        assert_eq!(
            len(&|b| {
                b.attr_out(&attr, Keep::default());
            }),
            104
        );
        assert_eq!(
            len(&|b| {
                b.open_out(1, 2);
            }),
            16
        );
        for name in ["a", "12345678", "a long name indeed"] {
            assert_eq!(
                len(&|b| {
                    b.dirent(1, 2, 0, name.as_bytes());
                }),
                dirent_len(name.as_bytes())
            );
        }
    }

    #[test]
    fn a_request_cut_short_is_seen() {
        assert_eq!(Fields(b"abc").u32(), Err(Short));
        assert_eq!(Fields(b"no end").name(), Err(Short));
        let mut f = Fields(b"one\0two\0");
        assert_eq!((f.name(), f.name()), (Ok(b"one".as_slice()), Ok(b"two".as_slice())));
        assert_eq!(f.name(), Err(Short));
    }
}
