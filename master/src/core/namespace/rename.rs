//! Rename, in all its cases.

use cairn_proto::InodeId;
use cairn_proto::rpc::{self, reply::Result as Body2};

use super::inodes::{self, drop_link, entry, find_entry, load, load_dir, put_entry, touch_dir};
use super::remove::remove_dir;
use super::{Context, Done, Fail};
use crate::core::errno;
use crate::core::keys;
use crate::core::records::{Entry, S_IFDIR};
use crate::core::scratch::Scratch;

const NOREPLACE: u32 = 1;
const EXCHANGE: u32 = 2;

/// One end of a rename: a directory and a name in it.
#[derive(Clone, Copy)]
struct Place<'a> {
    dir: InodeId,
    name: &'a [u8],
}

pub(super) fn rename(s: &mut Scratch<'_>, c: &mut Context<'_>, op: &rpc::Rename) -> Done {
    if !matches!(op.flags, 0 | NOREPLACE | EXCHANGE) {
        return Err(errno::EINVAL.into());
    }
    let from = Place { dir: InodeId(op.parent), name: &op.name };
    let to = Place { dir: InodeId(op.new_parent), name: &op.new_name };
    load_dir(s, from.dir)?;
    load_dir(s, to.dir)?;
    inodes::check_name(from.name)?;
    inodes::check_name(to.name)?;
    if inodes::is_dots(from.name) || inodes::is_dots(to.name) {
        return Err(errno::EBUSY.into());
    }
    let moved = entry(s, from.dir, from.name)?;
    let target = find_entry(s, to.dir, to.name)?;
    match (op.flags, target) {
        (NOREPLACE, Some(_)) => Err(errno::EEXIST.into()),
        (EXCHANGE, None) => Err(errno::ENOENT.into()),
        // Two names of one file, or one name twice: POSIX wants nothing done.
        (_, Some(target)) if target.inode == moved.inode => reply(s, moved.inode, None),
        (EXCHANGE, Some(target)) => exchange(s, c, from, moved, to, target),
        (_, target) => replace(s, c, from, moved, to, target, op.keep_open),
    }
}

fn replace(
    s: &mut Scratch<'_>,
    c: &mut Context<'_>,
    from: Place<'_>,
    moved: Entry,
    to: Place<'_>,
    target: Option<Entry>,
    keep_open: bool,
) -> Done {
    let is_dir = moved.kind == S_IFDIR;
    if is_dir {
        refuse_cycle(s, moved.inode, from.dir, to.dir)?;
    }
    let mut replaced = None;
    if let Some(target) = target {
        let record = match (is_dir, target.kind == S_IFDIR) {
            (true, false) => return Err(errno::ENOTDIR.into()),
            (false, true) => return Err(errno::EISDIR.into()),
            (true, true) => remove_dir(s, c, target.inode)?,
            (false, false) => drop_link(s, c, target.inode, keep_open)?,
        };
        replaced = Some(record.attr(target.inode));
    }
    s.delete(keys::entry(from.dir, from.name));
    put_entry(s, to.dir, to.name, moved);
    touch_dir(s, from.dir, c.now, |dir| {
        dir.entries = dir.entries.saturating_sub(1);
        dir.nlink = dir.nlink.saturating_sub(u32::from(is_dir));
    })?;
    let is_new = replaced.is_none();
    touch_dir(s, to.dir, c.now, |dir| {
        dir.entries += u64::from(is_new);
        dir.nlink += u32::from(is_dir && is_new);
    })?;
    settle(s, c, moved, to.dir)?;
    reply(s, moved.inode, replaced)
}

fn exchange(
    s: &mut Scratch<'_>,
    c: &mut Context<'_>,
    from: Place<'_>,
    one: Entry,
    to: Place<'_>,
    other: Entry,
) -> Done {
    let (one_is_dir, other_is_dir) = (one.kind == S_IFDIR, other.kind == S_IFDIR);
    if one_is_dir {
        refuse_cycle(s, one.inode, from.dir, to.dir)?;
    }
    if other_is_dir {
        refuse_cycle(s, other.inode, to.dir, from.dir)?;
    }
    put_entry(s, from.dir, from.name, other);
    put_entry(s, to.dir, to.name, one);
    touch_dir(s, from.dir, c.now, |dir| {
        dir.nlink = dir.nlink.saturating_sub(u32::from(one_is_dir)) + u32::from(other_is_dir);
    })?;
    touch_dir(s, to.dir, c.now, |dir| {
        dir.nlink = dir.nlink.saturating_sub(u32::from(other_is_dir)) + u32::from(one_is_dir);
    })?;
    settle(s, c, one, to.dir)?;
    settle(s, c, other, from.dir)?;
    let exchanged = load(s, other.inode)?.attr(other.inode);
    reply(s, one.inode, Some(exchanged))
}

/// What has been moved changes its ctime, and a directory its "..".
fn settle(s: &mut Scratch<'_>, c: &Context<'_>, moved: Entry, dir: InodeId) -> Result<(), Fail> {
    let mut record = load(s, moved.inode)?;
    record.ctime = c.now;
    if record.is_dir() {
        record.parent = dir.0;
    }
    inodes::store(s, moved.inode, &mut record);
    Ok(())
}

/// A directory must not get into its own subtree. Walks from the new place up to the root.
fn refuse_cycle(s: &Scratch<'_>, moved: InodeId, from: InodeId, to: InodeId) -> Result<(), Fail> {
    if from == to {
        return Ok(());
    }
    let mut at = to;
    loop {
        if at == moved {
            return Err(errno::EINVAL.into());
        }
        if at == InodeId::ROOT {
            return Ok(());
        }
        at = InodeId(load_dir(s, at)?.parent);
    }
}

fn reply(s: &Scratch<'_>, moved: InodeId, replaced: Option<rpc::Attr>) -> Done {
    let moved = Some(load(s, moved)?.attr(moved));
    Ok(Some(Body2::Rename(rpc::RenameReply { moved, replaced })))
}
