//! Attributes: reading and changing them; the space report.

use cairn_proto::rpc::reply::Result as ReplyResult;
use cairn_proto::rpc::{self, op::Op};

use super::attr::{FileAttr, Timestamp};
use super::inode::InUse;
use super::{Engine, FsError, attr_of, is_errno};

/// The largest file: 2^63 − 1 bytes.
pub(super) const LARGEST: u64 = i64::MAX as u64;

/// How often a file is cut anew since others write to it at the same time; then it is cut whatever they do.
const IN_COMPANY: usize = 100;

/// A time to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// To the present.
    Now,
    /// To this.
    To(Timestamp),
}

/// Attributes to be changed; those that are `None` stay.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttr {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Truncate or extend to so many bytes.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last change of the content.
    pub mtime: Option<SetTime>,
    /// Last change of the attributes (the kernel's, where it keeps it).
    pub ctime: Option<Timestamp>,
    /// Take suid, and sgid where the group may execute, away.
    pub kill_suidgid: bool,
}

/// What `statfs` reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpaceReport {
    /// Bytes that would fit into the empty cluster, all copies counted.
    pub total_bytes: u64,
    /// Bytes that still fit.
    pub free_bytes: u64,
    /// Inodes in use.
    pub files: u64,
    /// Inodes that may still be made.
    pub free_files: u64,
}

impl SetAttr {
    /// Whether nothing but the size is to be changed.
    fn only_size(&self) -> bool {
        let Self { mode, uid, gid, size: _, atime, mtime, ctime, kill_suidgid } = self;
        let others = mode.is_some() || uid.is_some() || gid.is_some() || ctime.is_some() || *kill_suidgid;
        !others && atime.is_none() && mtime.is_none()
    }

    /// Whether it changes nothing at all.
    pub(super) fn is_nothing(&self) -> bool {
        self.size.is_none() && self.only_size()
    }

    pub(super) fn request(&self, inode: u64) -> rpc::SetAttr {
        let time = |t: Option<SetTime>| match t {
            Some(SetTime::To(t)) => Some(rpc::Time::from(t)),
            _ => None,
        };
        rpc::SetAttr {
            inode,
            mode: self.mode.map(|m| m & 0o7777),
            uid: self.uid,
            gid: self.gid,
            size: self.size,
            atime: time(self.atime),
            mtime: time(self.mtime),
            atime_now: self.atime == Some(SetTime::Now),
            mtime_now: self.mtime == Some(SetTime::Now),
            kill_suidgid: self.kill_suidgid,
            ctime: self.ctime.map(Into::into),
            if_version: None,
        }
    }
}

impl Engine {
    /// An inode's attributes.
    ///
    /// # Errors
    /// [`FsError::Refused`] when there is no such inode; outages.
    pub async fn getattr(&self, inode: u64) -> Result<FileAttr, FsError> {
        let asked = {
            let mut cache = self.known();
            if let Some(attr) = cache.attr(inode) {
                drop(cache);
                return Ok(self.seen(attr));
            }
            cache.asking()
        };
        let mut reply = self.session.call(Op::GetAttr(rpc::GetAttr { inode })).await?;
        let leased = std::mem::take(&mut reply.leased);
        let attr = attr_of(reply)?;
        {
            let mut cache = self.cache.lock();
            cache.granted(asked, &leased);
            cache.learn_attr(asked, &attr);
        }
        Ok(self.seen(attr))
    }

    /// The attributes as a caller is to see them: with what was written here and is not known to the master.
    ///
    /// The answer `attr` may have been overtaken by one about the size. An inode leaves the table of those in use after
    /// the cache has learned its size; so the table is looked at before the cache.
    pub(super) fn seen(&self, mut attr: FileAttr) -> FileAttr {
        if !attr.is_regular() {
            return attr;
        }
        let file = self.inodes.get(attr.inode);
        if !self.exclusive() {
            // Another mount is there, or waits to be let in until everything here has been written back and told.
            file.inspect(|file| file.overlay_untold(&mut attr));
            return attr;
        }
        if let Some(known) = self.cache.lock().attr(attr.inode)
            && known.version > attr.version
        {
            attr = known;
        }
        if let Some(file) = file {
            file.overlay(&mut attr);
        }
        attr
    }

    /// Changes attributes.
    ///
    /// # Errors
    /// Those of the master; [`FsError::TooLarge`] beyond 2^63 − 1 bytes; outages.
    pub async fn setattr(&self, inode: u64, change: SetAttr) -> Result<FileAttr, FsError> {
        self.changeable()?;
        if let Some(size) = change.size {
            return self.resize(inode, size, change).await;
        }
        let file = self.inodes.get(inode).filter(|_| change.mtime.is_some());
        let sending = || {
            if let Some(file) = &file {
                file.mtime_set();
            }
        };
        let attr = match self.set_ahead(inode, &change, sending).await? {
            Some(attr) => attr,
            None => self.send_setattr(change.request(inode), sending).await?,
        };
        Ok(self.seen(attr))
    }

    async fn resize(&self, inode: u64, size: u64, change: SetAttr) -> Result<FileAttr, FsError> {
        if size > LARGEST {
            return Err(FsError::TooLarge);
        }
        let file = self.hold_existing(inode).await?;
        let _alone = file.order.write().await;
        let _in_order = file.telling.lock().await;
        let _change = self.kept.change(inode, size..u64::MAX);
        let mut attempts = 0..IN_COMPANY;
        loop {
            let if_version = if self.exclusive() {
                None
            } else {
                // Another mount may have written further: all of that has to go.
                let version = self.refresh_size(&file).await?;
                attempts.next().map(|_| version)
            };
            match self.resize_if(&file, size, &change, if_version).await {
                // It has written while the tail was zeroed here, perhaps behind that: it would come to light when the file grows.
                Err(e) if if_version.is_some() && is_errno(&e, libc::EAGAIN) => {}
                result => return self.or_announce(&file, result),
            }
        }
    }

    async fn resize_if(
        &self,
        file: &InUse,
        size: u64,
        change: &SetAttr,
        if_version: Option<u64>,
    ) -> Result<FileAttr, FsError> {
        let inode = file.inode;
        let recorded = file.local.lock().recorded_size;
        let before = file.data.size().max(recorded);
        if size == before && size == recorded && self.exclusive() && change.only_size() {
            // Nothing but the times changes, which the master learns later.
            self.touched(file);
            return self.getattr(inode).await;
        }
        file.data.truncate(size).await?;
        let set = rpc::SetAttr { if_version, ..change.request(inode) };
        let attr = self.send_setattr(set, || ()).await?;
        if size < before {
            let dropped = size.div_ceil(self.chunk_size)..before.div_ceil(self.chunk_size);
            file.data.forget_locations(dropped);
        }
        file.resized(&attr);
        Ok(self.seen(attr))
    }

    async fn send_setattr(&self, set: rpc::SetAttr, sending: impl FnOnce()) -> Result<FileAttr, FsError> {
        let inode = set.inode;
        let (reply, changing) = self.change_with(Op::SetAttr(set), &[inode], sending).await?;
        let attr = attr_of(reply)?;
        changing.settle(|cache, now| cache.settle_attr(now, &attr));
        Ok(attr)
    }

    /// Space and inodes, total and free.
    ///
    /// # Errors
    /// Outages.
    pub async fn statfs(&self) -> Result<SpaceReport, FsError> {
        match self.session.call(Op::Statfs(rpc::Statfs {})).await?.result {
            Some(ReplyResult::Statfs(s)) => Ok(SpaceReport {
                total_bytes: s.total_bytes,
                free_bytes: s.free_bytes,
                files: s.files,
                free_files: s.free_files,
            }),
            _ => Err(FsError::Io("the master's answer has no space report".into())),
        }
    }
}
