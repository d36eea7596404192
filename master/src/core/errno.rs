//! Linux error numbers, as they go to the mount.

/// A Linux `errno`. Never 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "errno {}", self.0)
    }
}

/// Not permitted.
pub const EPERM: Errno = Errno(1);
/// No such name or inode.
pub const ENOENT: Errno = Errno(2);
/// The store failed.
pub const EIO: Errno = Errno(5);
/// Try again later.
pub const EAGAIN: Errno = Errno(11);
/// Not allowed on this kind of inode.
pub const EACCES: Errno = Errno(13);
/// "." or ".." where a name is needed.
pub const EBUSY: Errno = Errno(16);
/// The name exists.
pub const EEXIST: Errno = Errno(17);
/// Not a directory.
pub const ENOTDIR: Errno = Errno(20);
/// A directory where there must be none.
pub const EISDIR: Errno = Errno(21);
/// An argument makes no sense.
pub const EINVAL: Errno = Errno(22);
/// Beyond the largest file size.
pub const EFBIG: Errno = Errno(27);
/// No space left.
pub const ENOSPC: Errno = Errno(28);
/// Too many links.
pub const EMLINK: Errno = Errno(31);
/// Out of range: here a name of an extended attribute that is too long.
pub const ERANGE: Errno = Errno(34);
/// The name is too long.
pub const ENAMETOOLONG: Errno = Errno(36);
/// The directory is not empty.
pub const ENOTEMPTY: Errno = Errno(39);
/// No such extended attribute.
pub const ENODATA: Errno = Errno(61);
/// Waiting for a lock would have no end.
pub const EDEADLK: Errno = Errno(35);
/// Too many locks, or no room for one.
pub const ENOLCK: Errno = Errno(37);
/// Too big: an extended attribute's value.
pub const E2BIG: Errno = Errno(7);
/// Not supported on this kind of inode.
pub const EOPNOTSUPP: Errno = Errno(95);
/// The inode is gone.
pub const ESTALE: Errno = Errno(116);
