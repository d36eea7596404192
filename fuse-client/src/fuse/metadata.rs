//! Requests about names and attributes.

use bytes::Bytes;

use super::abi::SETXATTR_ACL_KILL_SGID;
use super::adapter::Adapter;
use super::answer::Answer;
use super::operation::{Header, Operation};
use crate::engine::NewNode;
use crate::engine::attr::DIRECTORY;

const SYMLINK: u32 = 0o120_777;

/// The answer to a question for a value: its size where the caller has no room, the value where he has enough.
fn sized(value: Bytes, room: u32) -> Result<Answer, Answer> {
    let len = u32::try_from(value.len()).map_err(|_| Answer::Error(libc::E2BIG))?;
    match room {
        0 => Ok(Answer::XattrSize(len)),
        room if len > room => Err(Answer::Error(libc::ERANGE)),
        _ => Ok(Answer::Data(value)),
    }
}

impl Adapter {
    pub(super) async fn on_metadata(&self, h: &Header, operation: Operation<'_>) -> Result<Answer, Answer> {
        let engine = &self.engine;
        let node = |mode, umask| NewNode { mode, umask, uid: h.uid, gid: h.gid, ..NewNode::default() };
        Ok(match operation {
            Operation::Lookup { name } => Answer::Entry(engine.lookup(h.node, name).await?),
            Operation::GetAttr => Answer::Attr(engine.getattr(h.node).await?),
            Operation::SetAttr(change) => Answer::Attr(engine.setattr(h.node, *change).await?),
            Operation::ReadLink => Answer::Data(engine.readlink(h.node).await?),
            Operation::SymLink { name, target } => {
                let node = NewNode { target: Bytes::copy_from_slice(target), ..node(SYMLINK, 0) };
                Answer::Entry(Some(engine.make(h.node, name, node).await?))
            }
            Operation::MkNod { name, mode, rdev, umask } => {
                let node = NewNode { rdev, ..node(mode, umask) };
                Answer::Entry(Some(engine.make(h.node, name, node).await?))
            }
            Operation::MkDir { name, mode, umask } => {
                let node = node(DIRECTORY | (mode & 0o7777), umask);
                Answer::Entry(Some(engine.make(h.node, name, node).await?))
            }
            Operation::Unlink { name } => {
                engine.unlink(h.node, name).await?;
                Answer::Done
            }
            Operation::RmDir { name } => {
                engine.rmdir(h.node, name).await?;
                Answer::Done
            }
            Operation::Rename { name, new_parent, new_name, flags } => {
                engine.rename((h.node, name), (self.inode(new_parent), new_name), flags).await?;
                Answer::Done
            }
            Operation::Link { inode, name } => Answer::Entry(Some(engine.link(inode, h.node, name).await?)),
            Operation::StatFs => Answer::Space(engine.statfs().await?),
            other => return self.on_xattr(h, other).await,
        })
    }

    async fn on_xattr(&self, h: &Header, operation: Operation<'_>) -> Result<Answer, Answer> {
        let engine = &self.engine;
        match operation {
            Operation::SetXattr { name, value, flags, more } => {
                let kill_sgid = more & SETXATTR_ACL_KILL_SGID != 0;
                engine.setxattr(h.node, name, value, flags, kill_sgid).await?;
                Ok(Answer::Done)
            }
            Operation::GetXattr { name, size } => sized(engine.getxattr(h.node, name).await?, size),
            Operation::ListXattr { size } => {
                let mut list = Vec::new();
                for name in engine.listxattr(h.node).await? {
                    list.extend_from_slice(&name);
                    list.push(0);
                }
                sized(list.into(), size)
            }
            Operation::RemoveXattr { name } => {
                engine.removexattr(h.node, name).await?;
                Ok(Answer::Done)
            }
            _ => Err(Answer::Error(libc::ENOSYS)),
        }
    }
}
