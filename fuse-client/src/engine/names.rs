//! Names: looking them up, making, removing, renaming, linking.

use bytes::Bytes;
use cairn_proto::rpc::reply::Result as ReplyResult;
use cairn_proto::rpc::{self, op::Op};

use super::attr::FileAttr;
use super::inode::{LosingName, Unnamed};
use super::meta::core::cache::Found;
use super::{Engine, FsError, attr_of};

/// The longest name, bytes.
const LONGEST_NAME: usize = 255;

/// An inode to be made.
#[derive(Clone, Debug, Default)]
pub struct NewNode {
    /// Type and permission bits, before the umask.
    pub mode: u32,
    /// The maker's umask.
    pub umask: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, of devices.
    pub rdev: u32,
    /// Of a symbolic link.
    pub target: Bytes,
}

impl NewNode {
    /// `inode`: the number that it gets; 0: the master gives one.
    pub(super) fn request(&self, parent: u64, name: Bytes, inode: u64) -> rpc::Make {
        let Self { mode, umask, uid, gid, rdev, ref target } = *self;
        rpc::Make { parent, name, mode, umask, uid, gid, rdev, target: target.clone(), open: false, inode }
    }
}

fn check(name: &[u8]) -> Result<(), FsError> {
    if name.len() > LONGEST_NAME {
        return Err(FsError::Refused { errno: libc::ENAMETOOLONG, detail: String::new() });
    }
    Ok(())
}

fn checked(name: &[u8]) -> Result<Bytes, FsError> {
    check(name).map(|()| Bytes::copy_from_slice(name))
}

/// A reply, and the directories whose entries the operation has changed, as they are now.
fn with_parents(mut reply: rpc::Reply) -> (rpc::Reply, Vec<FileAttr>) {
    let parents = std::mem::take(&mut reply.parents);
    (reply, parents.into_iter().map(FileAttr::from).collect())
}

impl Engine {
    /// The inode of a name; `None`: there is no such name.
    ///
    /// # Errors
    /// Those of the master; outages.
    pub async fn lookup(&self, parent: u64, name: &[u8]) -> Result<Option<FileAttr>, FsError> {
        check(name)?;
        let (asked, ahead) = {
            let mut cache = self.known();
            match cache.lookup(parent, name) {
                Found::Inode(attr) => {
                    drop(cache);
                    return Ok(Some(self.seen(attr)));
                }
                Found::Nothing => return Ok(None),
                Found::Unknown => (cache.asking(), cache.missed(parent)),
            }
        };
        if let Some(ahead) = ahead {
            self.read_directory_ahead(parent, ahead);
        }
        let lookup = rpc::Lookup { parent, name: Bytes::copy_from_slice(name) };
        let mut reply = self.session.ask(Op::Lookup(lookup)).await?;
        let leased = std::mem::take(&mut reply.leased);
        let found = match reply.errno {
            0 => Some(attr_of(reply)?),
            libc::ENOENT => None,
            errno => return Err(FsError::Refused { errno, detail: reply.detail }),
        };
        {
            let mut cache = self.cache.lock();
            cache.granted(asked, &leased);
            cache.learn_entry(asked, parent, name, found.as_ref());
        }
        Ok(found.map(|a| self.seen(a)))
    }

    /// Makes a file, directory, symbolic link, device, fifo or socket.
    ///
    /// # Errors
    /// Those of the master (EEXIST, ENOSPC, …); outages.
    pub async fn make(&self, parent: u64, name: &[u8], node: NewNode) -> Result<FileAttr, FsError> {
        self.make_node(parent, name, node, false).await
    }

    pub(super) async fn make_node(
        &self,
        parent: u64,
        name: &[u8],
        node: NewNode,
        open: bool,
    ) -> Result<FileAttr, FsError> {
        self.changeable()?;
        let name = checked(name)?;
        if !open && let Some(attr) = self.make_ahead(parent, &name, &node).await? {
            return Ok(attr);
        }
        let make = rpc::Make { open, ..node.request(parent, name.clone(), 0) };
        let (reply, changing) = self.change(Op::Make(make), &[parent]).await?;
        let (reply, now) = with_parents(reply);
        let attr = attr_of(reply)?;
        changing.settle(|cache, _| cache.made(parent, &name, &attr, now.first()));
        Ok(attr)
    }

    /// Removes a name that is not a directory's. What is open lives on.
    ///
    /// # Errors
    /// Those of the master; outages.
    pub async fn unlink(&self, parent: u64, name: &[u8]) -> Result<(), FsError> {
        self.changeable()?;
        let name = checked(name)?;
        let losing = self.losing_name(parent, &name);
        if let Some(after) = self.unlink_ahead(parent, &name, losing.keep_open).await? {
            self.lost_name(&after, &losing);
            return Ok(());
        }
        let unlink = rpc::Unlink { parent, name: name.clone(), keep_open: losing.keep_open };
        let touches = self.touched_by([(parent, &*name)]);
        let (reply, changing) = self.change(Op::Unlink(unlink), &touches).await?;
        let (reply, now) = with_parents(reply);
        let after = attr_of(reply)?;
        changing.settle(|cache, _| cache.removed(parent, &name, Some(&after), now.first()));
        self.lost_name(&after, &losing);
        Ok(())
    }

    /// Removes an empty directory.
    ///
    /// # Errors
    /// Those of the master (ENOTEMPTY, …); outages.
    pub async fn rmdir(&self, parent: u64, name: &[u8]) -> Result<(), FsError> {
        self.changeable()?;
        let name = checked(name)?;
        if self.rmdir_ahead(parent, &name).await? {
            return Ok(());
        }
        let rmdir = rpc::Rmdir { parent, name: name.clone() };
        let touches = self.touched_by([(parent, &*name)]);
        let (reply, changing) = self.change(Op::Rmdir(rmdir), &touches).await?;
        let (_, now) = with_parents(reply);
        changing.settle(|cache, _| {
            if let Some(inode) = cache.inode_of(parent, &name) {
                cache.changed(inode);
            }
            cache.removed(parent, &name, None, now.first());
        });
        Ok(())
    }

    /// Renames. `flags`: those of renameat2.
    ///
    /// # Errors
    /// Those of the master; outages.
    pub async fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), flags: u32) -> Result<(), FsError> {
        self.changeable()?;
        let (name, new_name) = (checked(from.1)?, checked(to.1)?);
        let exchange = flags & libc::RENAME_EXCHANGE != 0;
        let losing = (!exchange).then(|| self.losing_name(to.0, &new_name));
        let rename = rpc::Rename {
            parent: from.0,
            name: name.clone(),
            new_parent: to.0,
            new_name: new_name.clone(),
            flags,
            keep_open: losing.as_ref().is_some_and(|l| l.keep_open),
        };
        if flags == 0
            && let Some(renamed) = self.rename_ahead(&rename).await?
        {
            if let (Some(replaced), Some(losing)) = (renamed.replaced, &losing) {
                self.lost_name(&replaced, losing);
            }
            return Ok(());
        }
        let touches = self.touched_by([from, to]);
        let (reply, changing) = self.change(Op::Rename(rename), &touches).await?;
        let (reply, now) = with_parents(reply);
        let (moved, replaced) = match reply.result {
            Some(ReplyResult::Rename(rpc::RenameReply { moved: Some(moved), replaced })) => {
                (FileAttr::from(moved), replaced.map(FileAttr::from))
            }
            _ => return Err(FsError::Io("the master's answer does not say what was renamed".into())),
        };
        // Two names of one inode: nothing happens (POSIX), both names stay.
        let same = !exchange && replaced.is_some_and(|r| r.inode == moved.inode);
        let nothing_moved = same || (from.0 == to.0 && name == new_name);
        if nothing_moved {
            changing.settle(|cache, _| cache.replace_attr(&moved));
            return Ok(());
        }
        changing.settle(|cache, _| {
            for directory in [from.0, to.0] {
                cache.entries_changed(directory, now.iter().find(|a| a.inode == directory));
            }
            cache.renamed((from.0, &name), (to.0, &new_name), &moved, replaced.as_ref(), exchange);
        });
        if let (Some(replaced), Some(losing)) = (replaced, &losing) {
            self.lost_name(&replaced, losing);
        }
        Ok(())
    }

    /// Gives an inode another name.
    ///
    /// # Errors
    /// Those of the master (EEXIST, EMLINK, EPERM for directories, …); outages.
    pub async fn link(&self, inode: u64, parent: u64, name: &[u8]) -> Result<FileAttr, FsError> {
        self.changeable()?;
        let name = checked(name)?;
        if let Some(attr) = self.link_ahead(inode, parent, &name).await? {
            return Ok(self.seen(attr));
        }
        let link = rpc::Link { inode, new_parent: parent, new_name: name.clone() };
        let (reply, changing) = self.change(Op::Link(link), &[inode, parent]).await?;
        let (reply, now) = with_parents(reply);
        let attr = attr_of(reply)?;
        changing.settle(|cache, _| cache.made(parent, &name, &attr, now.first()));
        Ok(self.seen(attr))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    /// Those of the master; outages.
    pub async fn readlink(&self, inode: u64) -> Result<Bytes, FsError> {
        match self.session.call(Op::ReadLink(rpc::ReadLink { inode })).await?.result {
            Some(ReplyResult::Data(target)) => Ok(target),
            _ => Err(FsError::Io("the master's answer has no link target".into())),
        }
    }

    /// The inodes that change when these names do, as far as they are known.
    fn touched_by<const N: usize>(&self, names: [(u64, &[u8]); N]) -> Vec<u64> {
        let mut cache = self.cache.lock();
        names
            .iter()
            .flat_map(|(parent, name)| [Some(*parent), cache.inode_of(*parent, name)])
            .flatten()
            .collect()
    }

    /// To be held while the name is taken away.
    fn losing_name(&self, parent: u64, name: &[u8]) -> LosingName<'_> {
        let inode = self.cache.lock().inode_of(parent, name);
        self.inodes.losing_name(inode)
    }

    fn lost_name(&self, after: &FileAttr, losing: &LosingName<'_>) {
        if after.nlink > 0 || !after.is_regular() {
            return;
        }
        match self.inodes.unnamed(after.inode) {
            Unnamed::Open => {}
            Unnamed::Unused => {
                self.data.forget_inode(cairn_proto::InodeId(after.inode));
                if losing.keep_open {
                    self.session.tell(Op::Closed(rpc::Closed { inodes: vec![after.inode] }));
                }
            }
        }
    }
}
