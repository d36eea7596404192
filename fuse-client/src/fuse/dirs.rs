//! Requests about open directories.

use super::abi::{ENTRY_OUT, dirent_len};
use super::adapter::Adapter;
use super::answer::{Answer, Listing, ListingItem};
use super::operation::{Header, Operation};

impl Adapter {
    pub(super) async fn on_directory(&self, h: &Header, operation: Operation<'_>) -> Result<Answer, Answer> {
        match operation {
            Operation::OpenDir => {
                let directory = self.engine.opendir(h.node).await?;
                Ok(Answer::OpenDir { handle: self.directories.add(directory) })
            }
            Operation::ReadDir { handle, offset, size, plus } => {
                self.list(handle, offset, size as usize, plus).await
            }
            Operation::ReleaseDir { handle } => {
                drop(self.directories.remove(handle));
                Ok(Answer::Done)
            }
            Operation::FsyncDir => {
                self.engine.sync_directory(h.node).await?;
                Ok(Answer::Done)
            }
            _ => Err(Answer::Error(libc::ENOSYS)),
        }
    }

    async fn list(&self, handle: u64, offset: u64, room: usize, plus: bool) -> Result<Answer, Answer> {
        let directory = self.directories.get(handle)?;
        let overhead = if plus { ENTRY_OUT } else { 0 };
        let shortest = overhead + dirent_len(b"x");
        let offset = usize::try_from(offset).map_err(|_| Answer::Error(libc::EINVAL))?;
        let found = self.engine.readdir(&directory, offset, room / shortest).await?;
        let mut items = Vec::with_capacity(found.len());
        let mut left = room;
        for (n, item) in found.iter().enumerate() {
            let len = overhead + dirent_len(&item.name);
            if len > left {
                break;
            }
            left -= len;
            items.push(ListingItem {
                name: item.name.clone(),
                // Nothing above the mount's root is shown.
                inode: if &*item.name == b".." && directory.inode() == self.root {
                    self.root
                } else {
                    item.inode
                },
                mode: item.mode,
                next: (offset + n + 1) as u64,
                attr: if plus && item.attr.is_some() { self.engine.listed_attr(item) } else { None },
            });
        }
        let listing = Listing { items };
        Ok(if plus { Answer::ListingPlus(listing) } else { Answer::Listing(listing) })
    }
}
