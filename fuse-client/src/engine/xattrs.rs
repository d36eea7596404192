//! Extended attributes; POSIX ACLs are two of them.

use bytes::Bytes;
use cairn_proto::rpc::reply::Result as ReplyResult;
use cairn_proto::rpc::{self, op::Op};

use super::{Engine, FsError};

impl Engine {
    /// The value of an extended attribute.
    ///
    /// # Errors
    /// ENODATA when there is none; outages.
    pub async fn getxattr(&self, inode: u64, name: &[u8]) -> Result<Bytes, FsError> {
        if self.has_no_xattrs(inode) {
            return Err(FsError::Refused { errno: libc::ENODATA, detail: String::new() });
        }
        let get = rpc::GetXattr { inode, name: Bytes::copy_from_slice(name) };
        match self.session.call(Op::GetXattr(get)).await?.result {
            Some(ReplyResult::Data(value)) => Ok(value),
            _ => Err(FsError::Io("the master's answer has no value".into())),
        }
    }

    /// The names of all extended attributes.
    ///
    /// # Errors
    /// Those of the master; outages.
    pub async fn listxattr(&self, inode: u64) -> Result<Vec<Bytes>, FsError> {
        if self.has_no_xattrs(inode) {
            return Ok(Vec::new());
        }
        match self.session.call(Op::ListXattr(rpc::ListXattr { inode })).await?.result {
            Some(ReplyResult::Names(names)) => Ok(names.names),
            _ => Err(FsError::Io("the master's answer has no names".into())),
        }
    }

    /// Sets an extended attribute. `flags`: XATTR_CREATE, XATTR_REPLACE. `kill_sgid`: an access ACL set by one
    /// outside the file's group takes sgid away.
    ///
    /// # Errors
    /// Those of the master (EEXIST, ENODATA, ENOSPC, …); outages.
    pub async fn setxattr(
        &self,
        inode: u64,
        name: &[u8],
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> Result<(), FsError> {
        self.changeable()?;
        let (name, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        let set = rpc::SetXattr { inode, name, value, flags, kill_sgid };
        // An access ACL also changes the mode.
        self.change(Op::SetXattr(set), &[inode]).await.map(drop)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// ENODATA when there is none; outages.
    pub async fn removexattr(&self, inode: u64, name: &[u8]) -> Result<(), FsError> {
        self.changeable()?;
        let remove = rpc::RemoveXattr { inode, name: Bytes::copy_from_slice(name) };
        self.change(Op::RemoveXattr(remove), &[inode]).await.map(drop)
    }

    fn has_no_xattrs(&self, inode: u64) -> bool {
        self.known().attr(inode).is_some_and(|a| !a.has_xattrs)
    }
}
