//! Requests as the kernel sends them, taken apart.

use super::abi::{Fields, IN_HEADER, LK_FLOCK, READ_LOCKOWNER, RELEASE_FLOCK_UNLOCK, Short, fattr, opcode};
use crate::engine::attr::Timestamp;
use crate::engine::{SetAttr, SetTime};

/// What every request says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) opcode: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The caller counts as the anonymous user, who these are; the kernel does not say that.
    pub(super) squashed: bool,
}

/// What is asked for. The inode in the header is the parent where there is a name.
#[derive(Debug)]
pub(super) enum Operation<'a> {
    Lookup { name: &'a [u8] },
    Forget { times: u64 },
    BatchForget(ForgetList<'a>),
    GetAttr,
    SetAttr(Box<SetAttr>),
    ReadLink,
    SymLink { name: &'a [u8], target: &'a [u8] },
    MkNod { name: &'a [u8], mode: u32, rdev: u32, umask: u32 },
    MkDir { name: &'a [u8], mode: u32, umask: u32 },
    Unlink { name: &'a [u8] },
    RmDir { name: &'a [u8] },
    Rename { name: &'a [u8], new_parent: u64, new_name: &'a [u8], flags: u32 },
    Link { inode: u64, name: &'a [u8] },
    Open { flags: u32, kill: u32 },
    Create { name: &'a [u8], flags: u32, mode: u32, umask: u32, kill: u32 },
    Read { handle: u64, offset: u64, size: u32, into_cache: bool },
    Write { handle: u64, offset: u64, data: &'a [u8], write_flags: u32, flags: u32 },
    Flush { handle: u64, lock_owner: u64 },
    Release { handle: u64, flock: bool },
    TestLock { handle: u64, lock: FileLock },
    SetLock { handle: u64, lock: FileLock, wait: bool },
    Fsync { handle: u64, only_data: bool },
    OpenDir,
    ReadDir { handle: u64, offset: u64, size: u32, plus: bool },
    ReleaseDir { handle: u64 },
    FsyncDir,
    StatFs,
    SetXattr { name: &'a [u8], value: &'a [u8], flags: u32, more: u32 },
    GetXattr { name: &'a [u8], size: u32 },
    ListXattr { size: u32 },
    RemoveXattr { name: &'a [u8] },
    Fallocate { handle: u64, offset: u64, len: u64, mode: u32 },
    Seek { handle: u64, offset: u64, whence: u32 },
    CopyRange { from: (u64, u64), to: (u64, u64), len: u64 },
    Interrupt { unique: u64 },
    Destroy,
    Unknown,
}

/// A lock as the kernel speaks of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileLock {
    /// Of `flock`, not of `fcntl`.
    pub(super) flock: bool,
    /// Of the process or the open file description.
    pub(super) owner: u64,
    pub(super) first: u64,
    /// Included.
    pub(super) last: u64,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub(super) kind: i32,
    pub(super) pid: u32,
}

/// Inodes that the kernel has forgotten, each with how often it had been told of it.
#[derive(Debug)]
pub(super) struct ForgetList<'a>(&'a [u8]);

impl ForgetList<'_> {
    pub(super) fn pairs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.chunks_exact(16).filter_map(|pair| {
            let mut f = Fields(pair);
            Some((f.u64().ok()?, f.u64().ok()?))
        })
    }
}

impl Header {
    pub(super) fn parse(request: &[u8]) -> Result<Self, Short> {
        let mut f = Fields(request.get(..IN_HEADER).ok_or(Short)?);
        let _len = f.u32()?;
        let (opcode, unique, node, uid, gid) = (f.u32()?, f.u64()?, f.u64()?, f.u32()?, f.u32()?);
        Ok(Self { opcode, unique, node, uid, gid, squashed: false })
    }
}

impl<'a> Operation<'a> {
    /// `body`: the request without its header. Extensions behind the body are not asked for and do not occur.
    pub(super) fn parse(code: u32, body: &'a [u8]) -> Result<Self, Short> {
        let mut f = Fields(body);
        Ok(match code {
            opcode::LOOKUP => Self::Lookup { name: f.name()? },
            opcode::FORGET => Self::Forget { times: f.u64()? },
            opcode::BATCH_FORGET => {
                let (_count, _padding) = (f.u32()?, f.u32()?);
                Self::BatchForget(ForgetList(f.0))
            }
            opcode::GETATTR => Self::GetAttr,
            opcode::SETATTR => Self::SetAttr(Box::new(set_attr(&mut f)?)),
            opcode::READLINK => Self::ReadLink,
            opcode::UNLINK => Self::Unlink { name: f.name()? },
            opcode::RMDIR => Self::RmDir { name: f.name()? },
            opcode::OPEN => Self::Open { flags: f.u32()?, kill: f.u32()? },
            opcode::STATFS => Self::StatFs,
            opcode::FLUSH => {
                let (handle, _unused, _padding) = (f.u64()?, f.u32()?, f.u32()?);
                Self::Flush { handle, lock_owner: f.u64()? }
            }
            opcode::RELEASE => {
                let (handle, _flags, flags) = (f.u64()?, f.u32()?, f.u32()?);
                Self::Release { handle, flock: flags & RELEASE_FLOCK_UNLOCK != 0 }
            }
            opcode::GETLK | opcode::SETLK | opcode::SETLKW => lock(code, &mut f)?,
            opcode::OPENDIR => Self::OpenDir,
            opcode::RELEASEDIR => Self::ReleaseDir { handle: f.u64()? },
            opcode::FSYNCDIR => Self::FsyncDir,
            opcode::FSYNC => Self::Fsync { handle: f.u64()?, only_data: f.u32()? & 1 != 0 },
            opcode::INTERRUPT => Self::Interrupt { unique: f.u64()? },
            opcode::DESTROY => Self::Destroy,
            opcode::READ | opcode::READDIR | opcode::READDIRPLUS => {
                let (handle, offset, size) = (f.u64()?, f.u64()?, f.u32()?);
                match code {
                    opcode::READ => {
                        // Who reads past the page cache is named, for the sake of mandatory locks.
                        let into_cache = f.u32()? & READ_LOCKOWNER == 0;
                        Self::Read { handle, offset, size, into_cache }
                    }
                    _ => Self::ReadDir { handle, offset, size, plus: code == opcode::READDIRPLUS },
                }
            }
            opcode::WRITE => write(&mut f)?,
            opcode::SYMLINK | opcode::MKNOD | opcode::MKDIR | opcode::CREATE | opcode::LINK => {
                make(code, &mut f)?
            }
            opcode::RENAME | opcode::RENAME2 => rename(code, &mut f)?,
            opcode::SETXATTR | opcode::GETXATTR | opcode::LISTXATTR | opcode::REMOVEXATTR => {
                xattr(code, &mut f)?
            }
            opcode::FALLOCATE => {
                let (handle, offset, len) = (f.u64()?, f.u64()?, f.u64()?);
                Self::Fallocate { handle, offset, len, mode: f.u32()? }
            }
            opcode::LSEEK => Self::Seek { handle: f.u64()?, offset: f.u64()?, whence: f.u32()? },
            opcode::COPY_FILE_RANGE => {
                let from = (f.u64()?, f.u64()?);
                let _inode = f.u64()?;
                Self::CopyRange { from, to: (f.u64()?, f.u64()?), len: f.u64()? }
            }
            _ => Self::Unknown,
        })
    }
}

fn write<'a>(f: &mut Fields<'a>) -> Result<Operation<'a>, Short> {
    let (handle, offset, size, write_flags) = (f.u64()?, f.u64()?, f.u32()?, f.u32()?);
    let (_owner, flags, _padding) = (f.u64()?, f.u32()?, f.u32()?);
    Ok(Operation::Write { handle, offset, write_flags, flags, data: f.bytes(size as usize)? })
}

fn make<'a>(code: u32, f: &mut Fields<'a>) -> Result<Operation<'a>, Short> {
    Ok(match code {
        opcode::SYMLINK => Operation::SymLink { name: f.name()?, target: f.name()? },
        opcode::MKNOD => {
            let (mode, rdev, umask, _padding) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
            Operation::MkNod { mode, rdev, umask, name: f.name()? }
        }
        opcode::MKDIR => Operation::MkDir { mode: f.u32()?, umask: f.u32()?, name: f.name()? },
        opcode::LINK => Operation::Link { inode: f.u64()?, name: f.name()? },
        _ => {
            let (flags, mode, umask, kill) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
            Operation::Create { flags, mode, umask, kill, name: f.name()? }
        }
    })
}

fn lock<'a>(code: u32, f: &mut Fields<'a>) -> Result<Operation<'a>, Short> {
    let (handle, owner, first, last) = (f.u64()?, f.u64()?, f.u64()?, f.u64()?);
    let (kind, pid, flags) = (f.u32()?.cast_signed(), f.u32()?, f.u32()?);
    let lock = FileLock { flock: flags & LK_FLOCK != 0, owner, first, last, kind, pid };
    Ok(match code {
        opcode::GETLK => Operation::TestLock { handle, lock },
        _ => Operation::SetLock { handle, lock, wait: code == opcode::SETLKW },
    })
}

fn rename<'a>(code: u32, f: &mut Fields<'a>) -> Result<Operation<'a>, Short> {
    let new_parent = f.u64()?;
    let flags = if code == opcode::RENAME2 { (f.u32()?, f.u32()?).0 } else { 0 };
    Ok(Operation::Rename { new_parent, flags, name: f.name()?, new_name: f.name()? })
}

fn xattr<'a>(code: u32, f: &mut Fields<'a>) -> Result<Operation<'a>, Short> {
    Ok(match code {
        opcode::SETXATTR => {
            let (size, flags, more, _padding) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
            Operation::SetXattr { flags, more, name: f.name()?, value: f.bytes(size as usize)? }
        }
        opcode::REMOVEXATTR => Operation::RemoveXattr { name: f.name()? },
        opcode::GETXATTR => {
            let (size, _padding) = (f.u32()?, f.u32()?);
            Operation::GetXattr { size, name: f.name()? }
        }
        _ => Operation::ListXattr { size: f.u32()? },
    })
}

fn set_attr(f: &mut Fields<'_>) -> Result<SetAttr, Short> {
    let (valid, _padding, _handle, size, _owner) = (f.u32()?, f.u32()?, f.u64()?, f.u64()?, f.u64()?);
    let secs = [f.u64()?, f.u64()?, f.u64()?].map(u64::cast_signed);
    let nanos = [f.u32()?, f.u32()?, f.u32()?];
    let (mode, _unused, uid, gid) = (f.u32()?, f.u32()?, f.u32()?, f.u32()?);
    let has = |bit| valid & bit != 0;
    let stamp = |n: usize| Timestamp { secs: secs[n], nanos: nanos[n] };
    let time = |n, set, now| match (has(set), has(now)) {
        (_, true) => Some(SetTime::Now),
        (true, false) => Some(SetTime::To(stamp(n))),
        (false, false) => None,
    };
    Ok(SetAttr {
        mode: has(fattr::MODE).then_some(mode),
        uid: has(fattr::UID).then_some(uid),
        gid: has(fattr::GID).then_some(gid),
        size: has(fattr::SIZE).then_some(size),
        atime: time(0, fattr::ATIME, fattr::ATIME_NOW),
        mtime: time(1, fattr::MTIME, fattr::MTIME_NOW),
        ctime: has(fattr::CTIME).then(|| stamp(2)),
        kill_suidgid: has(fattr::KILL_SUIDGID),
    })
}

#[cfg(test)]
mod tests {
    use super::super::abi::Body;
    use super::*;

    #[test]
    fn no_prefix_of_a_request_panics() {
        let body = [7u8; 200];
        for code in 0..60 {
            for len in 0..body.len() {
                let _ = Operation::parse(code, &body[..len]);
            }
        }
        assert_eq!(Header::parse(&body[..39]), Err(Short));
    }

    #[test]
    fn a_write_whose_data_is_cut_short_is_refused() {
        let mut b = Body::default();
        b.u64(1).u64(4096).u32(8).u32(4).u64(0).u32(0).u32(0);
        b.0.extend_from_slice(b"12345678");
        match Operation::parse(opcode::WRITE, &b.0) {
            Ok(Operation::Write { handle: 1, offset: 4096, data: b"12345678", write_flags: 4, .. }) => {}
            other => panic!("{other:?}"),
        }
        assert!(Operation::parse(opcode::WRITE, &b.0[..b.0.len() - 1]).is_err());
    }

    #[test]
    fn omitted_and_present_times_are_told_apart() {
        let mut b = Body::default();
        b.u32(fattr::ATIME | fattr::MTIME | fattr::MTIME_NOW).u32(0).u64(0).u64(0).u64(0);
        b.u64((-5i64).cast_unsigned()).u64(0).u64(0).u32(7).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0);
        let Ok(Operation::SetAttr(set)) = Operation::parse(opcode::SETATTR, &b.0) else { panic!() };
        assert_eq!(set.atime, Some(SetTime::To(Timestamp { secs: -5, nanos: 7 })));
        assert_eq!(set.mtime, Some(SetTime::Now));
        assert_eq!((set.ctime, set.size), (None, None));
    }
}
