//! New names: create, mknod, mkdir, symlink, link.

use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::rpc::{self, reply::Result as Body2};

use super::inodes::{self, find_entry, load_dir, put_entry, touch_dir};
use super::{Context, Done, Fail, acl, attr_reply};
use crate::core::errno;
use crate::core::keys;
use crate::core::records::{Entry, Inode, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_ISGID};
use crate::core::scratch::Scratch;

/// The longest target of a symbolic link, in bytes: PATH_MAX without its end.
const TARGET_MAX: usize = 4_095;
/// The most names of a file, and the most subdirectories of a directory.
const LINK_MAX: u32 = i32::MAX as u32;
/// The most inode numbers that are reserved at once.
const RESERVE_MAX: u32 = 1 << 16;
/// Types that can be made: fifo, character device, directory, block device, file, link, socket.
const KINDS: [u32; 7] = [0o010_000, 0o020_000, S_IFDIR, 0o060_000, S_IFREG, S_IFLNK, 0o140_000];

pub(super) fn make(s: &mut Scratch<'_>, c: &mut Context<'_>, op: &rpc::Make) -> Done {
    let parent = InodeId(op.parent);
    let dir = load_dir(s, parent)?;
    check_new_name(s, parent, &op.name)?;
    let kind = if op.mode & S_IFMT == 0 { S_IFREG } else { op.mode & S_IFMT };
    check_kind(kind, op, &dir)?;

    let inherited = if kind == S_IFLNK { acl::Inherited::default() } else { acl::inherit(s, parent, &dir)? };
    let permissions = op.mode & 0o7_777;
    let (permissions, access) = inherited.apply(permissions, op.umask, kind);
    let setgid = dir.mode & S_ISGID != 0;
    let inode = number(s, op)?;
    s.counters.inodes += 1;

    let mut record = Inode {
        mode: kind | permissions | if setgid && kind == S_IFDIR { S_ISGID } else { 0 },
        nlink: if kind == S_IFDIR { 2 } else { 1 },
        uid: op.uid,
        gid: if setgid { dir.gid } else { op.gid },
        rdev: op.rdev,
        size: if kind == S_IFLNK { op.target.len() as u64 } else { 0 },
        atime: c.now,
        mtime: c.now,
        ctime: c.now,
        parent: if kind == S_IFDIR { parent.0 } else { 0 },
        // A copy: the message's buffer is larger and would be kept alive by it.
        target: if kind == S_IFLNK { Bytes::copy_from_slice(&op.target) } else { Bytes::new() },
        ..Inode::default()
    };
    if let Some(access) = access {
        acl::put(s, inode, acl::ACCESS, &access);
        record.xattrs += 1;
    }
    if let (S_IFDIR, Some(default)) = (kind, inherited.default) {
        acl::put(s, inode, acl::DEFAULT, &default);
        record.xattrs += 1;
    }
    inodes::store(s, inode, &mut record);
    put_entry(s, parent, &op.name, Entry { inode, kind });
    touch_dir(s, parent, c.now, |dir| {
        dir.entries += 1;
        dir.nlink += u32::from(kind == S_IFDIR);
    })?;
    if op.open {
        s.put(keys::opener(inode, c.session), Bytes::new());
    }
    attr_reply(inode, &record)
}

/// The new inode's number: the one that the mount has reserved for it, or the next.
fn number(s: &mut Scratch<'_>, op: &rpc::Make) -> Result<InodeId, Fail> {
    if op.inode == 0 {
        let inode = InodeId(s.counters.next_inode);
        s.counters.next_inode += 1;
        return Ok(inode);
    }
    let inode = InodeId(op.inode);
    if op.inode >= s.counters.next_inode || inodes::find(s, inode)?.is_some() {
        return Err(Fail::Detail(errno::EINVAL, format!("inode {inode} was not reserved, or is in use")));
    }
    Ok(inode)
}

/// Numbers that only the mount that asks will give to inodes.
pub(super) fn reserve(s: &mut Scratch<'_>, op: rpc::ReserveInodes) -> Done {
    if op.count == 0 || op.count > RESERVE_MAX {
        return Err(errno::EINVAL.into());
    }
    let first = s.counters.next_inode;
    s.counters.next_inode += u64::from(op.count);
    Ok(Some(Body2::InodeRange(rpc::InodeRange { first, count: op.count })))
}

fn check_kind(kind: u32, op: &rpc::Make, dir: &Inode) -> Result<(), Fail> {
    if !KINDS.contains(&kind) {
        return Err(errno::EINVAL.into());
    }
    if kind == S_IFLNK && op.target.is_empty() {
        return Err(errno::ENOENT.into());
    }
    if kind == S_IFLNK && op.target.len() > TARGET_MAX {
        return Err(errno::ENAMETOOLONG.into());
    }
    if kind == S_IFDIR && dir.nlink >= LINK_MAX {
        return Err(errno::EMLINK.into());
    }
    Ok(())
}

/// A name that must not exist yet.
fn check_new_name(s: &Scratch<'_>, parent: InodeId, name: &[u8]) -> Result<(), Fail> {
    inodes::check_name(name)?;
    if inodes::is_dots(name) || find_entry(s, parent, name)?.is_some() {
        return Err(errno::EEXIST.into());
    }
    Ok(())
}

pub(super) fn link(s: &mut Scratch<'_>, c: &mut Context<'_>, op: &rpc::Link) -> Done {
    let (inode, parent) = (InodeId(op.inode), InodeId(op.new_parent));
    let mut record = inodes::load(s, inode)?;
    load_dir(s, parent)?;
    check_new_name(s, parent, &op.new_name)?;
    if record.is_dir() {
        return Err(errno::EPERM.into());
    }
    if record.nlink == 0 {
        return Err(errno::ENOENT.into());
    }
    if record.nlink >= LINK_MAX {
        return Err(errno::EMLINK.into());
    }
    record.nlink += 1;
    record.ctime = c.now;
    inodes::store(s, inode, &mut record);
    put_entry(s, parent, &op.new_name, Entry { inode, kind: record.kind() });
    touch_dir(s, parent, c.now, |dir| dir.entries += 1)?;
    attr_reply(inode, &record)
}
