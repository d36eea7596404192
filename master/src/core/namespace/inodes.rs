//! Inode records: read, write, count, destroy.

use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::rpc::{self, reply::Result as Body2};

use super::chunks;
use super::{Context, Done, Fail, NOBODY, attr_reply};
use crate::core::errno;
use crate::core::keys;
use crate::core::records::{self, Entry, Inode, S_IFDIR, S_IFLNK};
use crate::core::scratch::Scratch;
use crate::core::view::{View, ViewError};

/// The longest name, in bytes.
pub(super) const NAME_MAX: usize = 255;

/// An inode's record, if there is such an inode.
pub(super) fn find(s: &Scratch<'_>, inode: InodeId) -> Result<Option<Inode>, ViewError> {
    s.get(&keys::inode(inode))?.map(|v| records::decode("an inode", &v)).transpose()
}

/// An inode that an operation is about. ESTALE: it is gone; the kernel then looks its name up again.
pub(super) fn load(s: &Scratch<'_>, inode: InodeId) -> Result<Inode, Fail> {
    find(s, inode)?.ok_or_else(|| errno::ESTALE.into())
}

/// A directory that a name is looked up or changed in. ENOENT: it has been removed.
pub(super) fn load_dir(s: &Scratch<'_>, inode: InodeId) -> Result<Inode, Fail> {
    let record = find(s, inode)?.ok_or(errno::ENOENT)?;
    if record.is_dir() { Ok(record) } else { Err(errno::ENOTDIR.into()) }
}

/// Puts a changed inode.
pub(super) fn store(s: &mut Scratch<'_>, inode: InodeId, record: &mut Inode) {
    record.version += 1;
    s.put(keys::inode(inode), record.encode());
}

/// Puts an inode as it is, so that it counts as touched.
pub(super) fn touch(s: &mut Scratch<'_>, inode: InodeId, record: &Inode) {
    s.put(keys::inode(inode), record.encode());
}

/// Changes a directory whose entries have changed: the times, then what `change` does.
pub(super) fn touch_dir(
    s: &mut Scratch<'_>,
    dir: InodeId,
    now: rpc::Time,
    change: impl FnOnce(&mut Inode),
) -> Result<(), Fail> {
    let mut record = load_dir(s, dir)?;
    record.mtime = now;
    record.ctime = now;
    change(&mut record);
    store(s, dir, &mut record);
    Ok(())
}

/// Whether a name can be one. "." and ".." are for the caller to refuse, each operation in its way.
pub(super) fn check_name(name: &[u8]) -> Result<(), Fail> {
    if name.is_empty() {
        return Err(errno::ENOENT.into());
    }
    if name.len() > NAME_MAX {
        return Err(errno::ENAMETOOLONG.into());
    }
    if name.iter().any(|b| *b == b'/' || *b == 0) {
        return Err(errno::EINVAL.into());
    }
    Ok(())
}

/// "." or "..".
pub(super) fn is_dots(name: &[u8]) -> bool {
    name == b"." || name == b".."
}

/// The entry of a name, if there is one.
pub(super) fn find_entry(s: &Scratch<'_>, parent: InodeId, name: &[u8]) -> Result<Option<Entry>, ViewError> {
    s.get(&keys::entry(parent, name))?.map(|v| Entry::decode(&v)).transpose()
}

/// The entry of a name.
pub(super) fn entry(s: &Scratch<'_>, parent: InodeId, name: &[u8]) -> Result<Entry, Fail> {
    find_entry(s, parent, name)?.ok_or_else(|| errno::ENOENT.into())
}

/// Puts an entry.
pub(super) fn put_entry(s: &mut Scratch<'_>, parent: InodeId, name: &[u8], entry: Entry) {
    s.put(keys::entry(parent, name), entry.encode());
}

/// Takes one name from a file. With its last name it goes, unless somebody holds it open. In company it stays for a moment in any
/// case: a kernel that has just been told of it asks for its attributes or opens it next. It takes one refusal for a name that
/// has changed, but a second one in a row for an error.
pub(super) fn drop_link(
    s: &mut Scratch<'_>,
    c: &mut Context<'_>,
    inode: InodeId,
    keep_open: bool,
) -> Result<Inode, Fail> {
    let mut record = load(s, inode)?;
    record.nlink = record.nlink.saturating_sub(1);
    record.ctime = c.now;
    if record.nlink > 0 {
        store(s, inode, &mut record);
        return Ok(record);
    }
    if keep_open {
        s.put(keys::opener(inode, c.session), Bytes::new());
    }
    if c.linger {
        s.put(keys::opener(inode, NOBODY), Bytes::new());
        c.lingering.push(inode);
    }
    if keep_open || c.linger || has_opener(s, inode)? {
        store(s, inode, &mut record);
    } else {
        destroy(s, c, inode, &record)?;
    }
    Ok(record)
}

/// Removes an inode that has no name and no opener: its record, attributes and chunks.
pub(super) fn destroy(
    s: &mut Scratch<'_>,
    c: &mut Context<'_>,
    inode: InodeId,
    record: &Inode,
) -> Result<(), Fail> {
    s.delete(keys::inode(inode));
    if record.xattrs > 0 {
        s.delete_all(&keys::xattrs(inode))?;
    }
    if record.kind() == records::S_IFREG {
        chunks::drop_all(s, c, inode, 0, u64::MAX)?;
    }
    s.counters.inodes = s.counters.inodes.saturating_sub(1);
    Ok(())
}

/// Whether any session holds the inode open.
///
/// # Errors
/// When the store cannot be read.
pub fn has_opener(view: &dyn View, inode: InodeId) -> Result<bool, ViewError> {
    let prefix = keys::openers(inode);
    let mut found = false;
    view.scan(&prefix, &prefix, &mut |_, _| {
        found = true;
        false
    })?;
    Ok(found)
}

/// The root directory of a new cluster.
pub fn root(now: rpc::Time) -> Inode {
    Inode {
        mode: S_IFDIR | 0o755,
        nlink: 2,
        atime: now,
        mtime: now,
        ctime: now,
        version: 1,
        parent: InodeId::ROOT.0,
        ..Inode::default()
    }
}

pub(super) fn get_attr(s: &Scratch<'_>, op: &rpc::GetAttr) -> Done {
    let inode = InodeId(op.inode);
    attr_reply(inode, &load(s, inode)?)
}

pub(super) fn read_link(s: &Scratch<'_>, op: &rpc::ReadLink) -> Done {
    let record = load(s, InodeId(op.inode))?;
    if record.kind() != S_IFLNK {
        return Err(errno::EINVAL.into());
    }
    Ok(Some(Body2::Data(record.target)))
}
