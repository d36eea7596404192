//! What callers who count as the anonymous user may do (`squash`).

use super::adapter::Adapter;
use super::answer::Answer;
use super::operation::{Header, Operation};
use crate::engine::attr::FileAttr;
use crate::squash::{EXECUTE, READ, WRITE};

/// A file is opened to be executed: the kernel's `FMODE_EXEC`.
const TO_EXECUTE: u32 = 0x20;

/// What opening a file with these flags asks of it.
fn opens_for(flags: u32) -> u32 {
    let access = match flags.cast_signed() & libc::O_ACCMODE {
        libc::O_RDONLY if flags & TO_EXECUTE != 0 => EXECUTE,
        libc::O_RDONLY => READ,
        libc::O_WRONLY => WRITE,
        _ => READ | WRITE,
    };
    if flags.cast_signed() & libc::O_TRUNC == 0 { access } else { access | WRITE }
}

impl Adapter {
    /// Refuses what the anonymous user may not do. What is done with an open file was permitted when it was opened.
    pub(super) async fn permit(&self, h: &Header, operation: &Operation<'_>) -> Result<(), Answer> {
        let refuse = |errno: Result<(), i32>| errno.map_err(Answer::Error);
        match operation {
            Operation::Lookup { .. } => self.needs(h.node, EXECUTE).await.map(drop),
            Operation::OpenDir => self.needs(h.node, READ).await.map(drop),
            Operation::Open { flags, .. } => self.needs(h.node, opens_for(*flags)).await.map(drop),
            Operation::SymLink { .. }
            | Operation::MkNod { .. }
            | Operation::MkDir { .. }
            | Operation::Create { .. }
            | Operation::Link { .. } => self.needs(h.node, WRITE | EXECUTE).await.map(drop),
            Operation::Unlink { name } | Operation::RmDir { name } => self.removes(h.node, name).await,
            Operation::Rename { name, new_parent, new_name, .. } => {
                self.removes(h.node, name).await?;
                self.removes(self.inode(*new_parent), new_name).await
            }
            Operation::SetAttr(change) => {
                let attr = self.engine.getattr(h.node).await?;
                refuse(self.squash.may_set(&attr, change))
            }
            Operation::SetXattr { name, .. } | Operation::RemoveXattr { name } => {
                let attr = self.engine.getattr(h.node).await?;
                refuse(self.squash.may_set_xattr(&attr, name))
            }
            Operation::GetXattr { name, .. } if name.starts_with(b"user.") => {
                self.needs(h.node, READ).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    async fn needs(&self, inode: u64, want: u32) -> Result<FileAttr, Answer> {
        let attr = self.engine.getattr(inode).await?;
        if self.squash.permits(&attr, want) { Ok(attr) } else { Err(Answer::Error(libc::EACCES)) }
    }

    async fn removes(&self, parent: u64, name: &[u8]) -> Result<(), Answer> {
        let directory = self.needs(parent, WRITE | EXECUTE).await?;
        match self.engine.lookup(parent, name).await? {
            Some(victim) => self.squash.may_remove(&directory, &victim).map_err(Answer::Error),
            None => Ok(()),
        }
    }
}
