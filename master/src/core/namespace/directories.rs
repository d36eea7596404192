//! Looking names up, reading directories.

use bytes::Bytes;
use cairn_proto::InodeId;
use cairn_proto::rpc::{self, reply::Result as Body2};

use super::inodes;
use super::{Done, attr_reply};
use crate::core::errno;
use crate::core::keys;
use crate::core::records::Entry;
use crate::core::scratch::Scratch;
use crate::core::view::View;

/// The most entries in a page.
const PAGE_ENTRIES: usize = 8_192;
/// The most bytes in a page, roughly: entries are added until it is reached.
const PAGE_BYTES: usize = 1 << 20;
/// What an entry takes in a page beside its name, at most.
const ENTRY_BYTES: usize = 24;
/// What attributes take in a page, at most.
const ATTR_BYTES: usize = 112;

pub(super) fn lookup(s: &Scratch<'_>, op: &rpc::Lookup) -> Done {
    let parent = InodeId(op.parent);
    inodes::check_name(&op.name)?;
    if inodes::is_dots(&op.name) {
        return Err(errno::EINVAL.into());
    }
    let Some(entry) = inodes::find_entry(s, parent, &op.name)? else {
        // Only now: a name that is found says that its parent is a directory.
        inodes::load_dir(s, parent)?;
        return Err(errno::ENOENT.into());
    };
    attr_reply(entry.inode, &inodes::load(s, entry.inode)?)
}

pub(super) fn read_dir(s: &Scratch<'_>, op: &rpc::ReadDir) -> Done {
    let dir = InodeId(op.inode);
    let record = inodes::load_dir(s, dir)?;
    let limit = (op.limit as usize).clamp(1, PAGE_ENTRIES);
    let prefix = keys::entries(dir);
    let mut from = keys::entry(dir, &op.after);
    if !op.after.is_empty() {
        // The first name that is greater.
        from.push(0);
    }
    let per_entry = ENTRY_BYTES + if op.plus { ATTR_BYTES } else { 0 };
    let (mut found, mut bytes, mut end) = (Vec::new(), 0, true);
    let mut malformed = None;
    s.scan(&prefix, &from, &mut |key, value| {
        if found.len() >= limit || bytes >= PAGE_BYTES {
            end = false;
            return false;
        }
        match Entry::decode(value) {
            Ok(entry) => {
                let name = keys::tail(key);
                bytes += name.len() + per_entry;
                found.push((Bytes::copy_from_slice(name), entry));
                true
            }
            Err(e) => {
                malformed = Some(e);
                false
            }
        }
    })?;
    if let Some(e) = malformed {
        return Err(e.into());
    }
    let mut entries = Vec::with_capacity(found.len());
    for (name, entry) in found {
        let attr =
            if op.plus { inodes::find(s, entry.inode)?.map(|record| record.attr(entry.inode)) } else { None };
        entries.push(rpc::DirEntry { name, inode: entry.inode.0, mode: entry.kind, attr });
    }
    Ok(Some(Body2::Dir(rpc::DirPage { entries, end, parent: record.parent })))
}
