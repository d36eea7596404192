//! Extended attributes.

use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::rpc::{self, reply::Result as Body2};

use super::acl::{self, Acl};
use super::{Context, Done, Fail, inodes};
use crate::core::errno;
use crate::core::keys;
use crate::core::records::{Inode, S_IFLNK, S_ISGID};
use crate::core::scratch::Scratch;
use crate::core::view::{View, ViewError};

const CREATE: u32 = 1;
const REPLACE: u32 = 2;
/// The longest name, in bytes, as Linux has it.
const NAME_MAX: usize = 255;
/// The longest value, in bytes, as Linux has it.
const VALUE_MAX: usize = 65_536;
/// All names of an inode with their ends, in bytes: what listxattr can give back.
const LIST_MAX: usize = 65_536;

pub(super) fn get(s: &Scratch<'_>, op: &rpc::GetXattr) -> Done {
    let inode = InodeId(op.inode);
    check_name(&op.name)?;
    match s.get(&keys::xattr(inode, &op.name))? {
        Some(value) => Ok(Some(Body2::Data(value))),
        None => {
            inodes::load(s, inode)?;
            Err(errno::ENODATA.into())
        }
    }
}

pub(super) fn list(s: &Scratch<'_>, op: &rpc::ListXattr) -> Done {
    let inode = InodeId(op.inode);
    let record = inodes::load(s, inode)?;
    let names = if record.xattrs == 0 { Vec::new() } else { names(s, inode)? };
    Ok(Some(Body2::Names(rpc::Names { names })))
}

fn names(s: &Scratch<'_>, inode: InodeId) -> Result<Vec<Bytes>, ViewError> {
    let mut names = Vec::new();
    let prefix = keys::xattrs(inode);
    s.scan(&prefix, &prefix, &mut |key, _| {
        names.push(Bytes::copy_from_slice(keys::tail(key)));
        true
    })?;
    Ok(names)
}

fn check_name(name: &[u8]) -> Result<(), Fail> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(errno::ERANGE.into());
    }
    if name.contains(&0) {
        return Err(errno::EINVAL.into());
    }
    Ok(())
}

pub(super) fn set(s: &mut Scratch<'_>, c: &Context<'_>, op: &rpc::SetXattr) -> Done {
    let inode = InodeId(op.inode);
    check_name(&op.name)?;
    if op.value.len() > VALUE_MAX {
        return Err(errno::E2BIG.into());
    }
    if op.flags & !(CREATE | REPLACE) != 0 || op.flags == CREATE | REPLACE {
        return Err(errno::EINVAL.into());
    }
    let mut record = inodes::load(s, inode)?;
    let there = s.get(&keys::xattr(inode, &op.name))?.is_some();
    if op.flags == CREATE && there {
        return Err(errno::EEXIST.into());
    }
    if op.flags == REPLACE && !there {
        return Err(errno::ENODATA.into());
    }
    let value = match as_acl(&op.name, &op.value, &mut record)? {
        Acls::NotOne => Some(Bytes::copy_from_slice(&op.value)),
        Acls::Keep(acl) => Some(acl.encode()),
        Acls::Remove => None,
    };
    match value {
        Some(value) => {
            if !there {
                check_room(s, inode, &record, &op.name)?;
                record.xattrs += 1;
            }
            s.put(keys::xattr(inode, &op.name), value);
        }
        None if there => {
            s.delete(keys::xattr(inode, &op.name));
            record.xattrs = record.xattrs.saturating_sub(1);
        }
        None => {}
    }
    if op.kill_sgid {
        record.mode &= !S_ISGID;
    }
    record.ctime = c.now;
    inodes::store(s, inode, &mut record);
    super::attr_reply(inode, &record)
}

/// What an attribute that may be an ACL is.
enum Acls {
    /// An attribute like any other.
    NotOne,
    /// An ACL that says more than the mode.
    Keep(Acl),
    /// An ACL that says no more than the mode, or nothing.
    Remove,
}

/// Checks an ACL; the permission bits follow an access ACL.
fn as_acl(name: &[u8], value: &[u8], record: &mut Inode) -> Result<Acls, Fail> {
    let is_access = name == acl::ACCESS;
    if !is_access && name != acl::DEFAULT {
        return if name.starts_with(b"system.") { Err(errno::EOPNOTSUPP.into()) } else { Ok(Acls::NotOne) };
    }
    if record.kind() == S_IFLNK {
        return Err(errno::EOPNOTSUPP.into());
    }
    let Some(acl) = Acl::parse(value)? else { return Ok(Acls::Remove) };
    if !is_access {
        return if record.is_dir() { Ok(Acls::Keep(acl)) } else { Err(errno::EACCES.into()) };
    }
    record.mode = (record.mode & !0o777) | acl.permissions();
    Ok(if acl.is_minimal() { Acls::Remove } else { Acls::Keep(acl) })
}

/// One more name must leave the list short enough to be read.
fn check_room(s: &Scratch<'_>, inode: InodeId, record: &Inode, name: &[u8]) -> Result<(), Fail> {
    if (record.xattrs as usize + 1) * (NAME_MAX + 1) <= LIST_MAX {
        return Ok(());
    }
    let taken: usize = names(s, inode)?.iter().map(|n| n.len() + 1).sum();
    if taken + name.len() + 1 > LIST_MAX { Err(errno::ENOSPC.into()) } else { Ok(()) }
}

pub(super) fn remove(s: &mut Scratch<'_>, c: &Context<'_>, op: &rpc::RemoveXattr) -> Done {
    let inode = InodeId(op.inode);
    check_name(&op.name)?;
    let mut record = inodes::load(s, inode)?;
    let key = keys::xattr(inode, &op.name);
    if s.get(&key)?.is_none() {
        let is_acl = op.name == acl::ACCESS || op.name == acl::DEFAULT;
        // Linux takes the removal of an absent ACL for done.
        return if is_acl { super::attr_reply(inode, &record) } else { Err(errno::ENODATA.into()) };
    }
    s.delete(key);
    record.xattrs = record.xattrs.saturating_sub(1);
    record.ctime = c.now;
    inodes::store(s, inode, &mut record);
    super::attr_reply(inode, &record)
}
