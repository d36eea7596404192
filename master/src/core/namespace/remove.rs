//! Names that go: unlink, rmdir.

use cairn_proto::{InodeId, rpc};

use super::inodes::{self, drop_link, entry, load_dir, touch_dir};
use super::{Context, Done, Fail, attr_reply};
use crate::core::errno;
use crate::core::keys;
use crate::core::records::{Inode, S_IFDIR};
use crate::core::scratch::Scratch;

pub(super) fn unlink(s: &mut Scratch<'_>, c: &mut Context<'_>, op: &rpc::Unlink) -> Done {
    let parent = InodeId(op.parent);
    load_dir(s, parent)?;
    inodes::check_name(&op.name)?;
    if inodes::is_dots(&op.name) {
        return Err(errno::EISDIR.into());
    }
    let found = entry(s, parent, &op.name)?;
    if found.kind == S_IFDIR {
        return Err(errno::EISDIR.into());
    }
    s.delete(keys::entry(parent, &op.name));
    touch_dir(s, parent, c.now, |dir| dir.entries = dir.entries.saturating_sub(1))?;
    let record = drop_link(s, c, found.inode, op.keep_open)?;
    attr_reply(found.inode, &record)
}

pub(super) fn rmdir(s: &mut Scratch<'_>, c: &mut Context<'_>, op: &rpc::Rmdir) -> Done {
    let parent = InodeId(op.parent);
    load_dir(s, parent)?;
    inodes::check_name(&op.name)?;
    match op.name.as_ref() {
        b"." => return Err(errno::EINVAL.into()),
        b".." => return Err(errno::ENOTEMPTY.into()),
        _ => {}
    }
    let found = entry(s, parent, &op.name)?;
    if found.kind != S_IFDIR {
        return Err(errno::ENOTDIR.into());
    }
    let record = remove_dir(s, c, found.inode)?;
    s.delete(keys::entry(parent, &op.name));
    touch_dir(s, parent, c.now, |dir| {
        dir.entries = dir.entries.saturating_sub(1);
        dir.nlink = dir.nlink.saturating_sub(1);
    })?;
    attr_reply(found.inode, &record)
}

/// Removes an empty directory itself; its name and its parent's count are for the caller.
pub(super) fn remove_dir(s: &mut Scratch<'_>, c: &mut Context<'_>, dir: InodeId) -> Result<Inode, Fail> {
    let mut record = load_dir(s, dir)?;
    if record.entries > 0 {
        return Err(errno::ENOTEMPTY.into());
    }
    record.nlink = 0;
    record.ctime = c.now;
    inodes::destroy(s, c, dir, &record)?;
    Ok(record)
}
