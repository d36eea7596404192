//! Inodes that are held open, and go with their last opener when they have no name.

use bytes::Bytes;
use cairn_proto::{InodeId, SessionId, rpc};

use super::inodes::{self, find, has_opener};
use super::{Context, Done, Fail};
use crate::core::keys;
use crate::core::scratch::Scratch;
use crate::core::view::View;

pub(super) fn opened(s: &mut Scratch<'_>, c: &Context<'_>, op: &rpc::Opened) -> Done {
    for inode in op.inodes.iter().map(|i| InodeId(*i)) {
        // What is gone already cannot be held; the mount finds out when it uses it.
        if find(s, inode)?.is_some() {
            s.put(keys::opener(inode, c.session), Bytes::new());
        }
    }
    Ok(None)
}

pub(super) fn closed(s: &mut Scratch<'_>, c: &mut Context<'_>, op: &rpc::Closed) -> Done {
    for inode in &op.inodes {
        close(s, c, InodeId(*inode))?;
    }
    Ok(None)
}

fn close(s: &mut Scratch<'_>, c: &mut Context<'_>, inode: InodeId) -> Result<(), Fail> {
    let key = keys::opener(inode, c.session);
    if s.get(&key)?.is_some() {
        s.delete(key);
    }
    match find(s, inode)? {
        Some(record) if record.nlink == 0 && !has_opener(s, inode)? => inodes::destroy(s, c, inode, &record),
        _ => Ok(()),
    }
}

/// A session has ended: lets go what it held open, forgets its record and the replies kept for it.
///
/// # Errors
/// When the store cannot be read.
pub fn end_session(s: &mut Scratch<'_>, c: &mut Context<'_>, session: SessionId) -> Result<(), Fail> {
    let mut held = Vec::new();
    s.scan(&[keys::OPENER], &[keys::OPENER], &mut |key, _| {
        if keys::tail_id(key) == Some(session.0) {
            held.extend(keys::head_id(key).map(InodeId));
        }
        true
    })?;
    for inode in held {
        close(s, c, inode)?;
    }
    s.delete_all(&keys::replies(session))?;
    s.delete(keys::session(session));
    Ok(())
}
