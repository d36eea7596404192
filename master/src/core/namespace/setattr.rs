//! Attributes that are set, and the size and times that writing brings.

use cairn_proto::{InodeId, rpc};

use super::{Context, Done, Fail, acl, attr_reply, chunks, inodes};
use crate::core::errno;
use crate::core::records::{Inode, S_IFDIR, S_IFMT, S_IFREG, S_ISGID, S_ISUID, S_IXGRP};
use crate::core::scratch::Scratch;

/// The largest file, in bytes.
pub(super) const SIZE_MAX: u64 = i64::MAX as u64;
const NANOS: u32 = 1_000_000_000;

pub(super) fn set_attr(s: &mut Scratch<'_>, c: &mut Context<'_>, op: &rpc::SetAttr) -> Done {
    let inode = InodeId(op.inode);
    let mut record = inodes::load(s, inode)?;
    if op.if_version.is_some_and(|version| version != record.version) {
        return Err(errno::EAGAIN.into());
    }
    let times = [op.atime, op.mtime, op.ctime];
    if times.iter().flatten().any(|t| t.nanos >= NANOS) {
        return Err(errno::EINVAL.into());
    }
    let nothing = op.mode.is_none()
        && op.uid.is_none()
        && op.gid.is_none()
        && op.size.is_none()
        && times.iter().all(Option::is_none)
        && !(op.atime_now || op.mtime_now || op.kill_suidgid);
    if nothing {
        return attr_reply(inode, &record);
    }
    if let Some(size) = op.size {
        resize(s, c, inode, &mut record, size)?;
    }
    record.uid = op.uid.unwrap_or(record.uid);
    record.gid = op.gid.unwrap_or(record.gid);
    if let Some(mode) = op.mode {
        record.mode = (record.mode & S_IFMT) | (mode & 0o7_777);
        acl::follow_chmod(s, inode, &record)?;
    }
    if op.kill_suidgid {
        kill_suidgid(&mut record);
    }
    if let Some(atime) = op.atime.or(op.atime_now.then_some(c.now)) {
        record.atime = atime;
    }
    if let Some(mtime) = op.mtime.or(op.mtime_now.then_some(c.now)) {
        record.mtime = mtime;
    }
    record.ctime = op.ctime.unwrap_or(c.now);
    inodes::store(s, inode, &mut record);
    attr_reply(inode, &record)
}

fn resize(
    s: &mut Scratch<'_>,
    c: &mut Context<'_>,
    inode: InodeId,
    record: &mut Inode,
    size: u64,
) -> Result<(), Fail> {
    match record.kind() {
        S_IFREG => {}
        S_IFDIR => return Err(errno::EISDIR.into()),
        _ => return Err(errno::EINVAL.into()),
    }
    if size > SIZE_MAX {
        return Err(errno::EFBIG.into());
    }
    if size < record.size {
        chunks::drop_all(s, c, inode, size.div_ceil(c.chunk_size), u64::MAX)?;
    }
    record.size = size;
    record.mtime = c.now;
    Ok(())
}

/// What a write by one without privileges does to the mode.
fn kill_suidgid(record: &mut Inode) {
    if record.is_dir() {
        return;
    }
    record.mode &= !S_ISUID;
    if record.mode & S_IXGRP != 0 {
        record.mode &= !S_ISGID;
    }
}

/// Whether nothing is told but that there is something to be read anew.
pub(super) fn says_nothing(op: &rpc::Grow) -> bool {
    *op == rpc::Grow { inode: op.inode, ..rpc::Grow::default() }
}

pub(super) fn grow(s: &mut Scratch<'_>, op: &rpc::Grow) -> Done {
    let inode = InodeId(op.inode);
    let mut record = inodes::load(s, inode)?;
    if says_nothing(op) {
        inodes::touch(s, inode, &record);
        return attr_reply(inode, &record);
    }
    let size =
        record.size.max(op.size).checked_add(op.append).filter(|s| *s <= SIZE_MAX).ok_or(errno::EFBIG)?;
    if [op.mtime, op.atime].iter().flatten().any(|t| t.nanos >= NANOS) {
        return Err(errno::EINVAL.into());
    }
    if size > record.size {
        if record.kind() != S_IFREG {
            return Err(errno::EINVAL.into());
        }
        record.size = size;
    }
    if let Some(mtime) = op.mtime {
        record.mtime = mtime;
        // A write changes both. The mount's clock counts for both, so that what it showed stays true.
        if (mtime.secs, mtime.nanos) > (record.ctime.secs, record.ctime.nanos) {
            record.ctime = mtime;
        }
    }
    if let Some(atime) = op.atime {
        record.atime = atime;
    }
    inodes::store(s, inode, &mut record);
    attr_reply(inode, &record)
}
