//! Open files: reading, writing, making stable.

use std::sync::Arc;

use bytes::Bytes;
use cairn_proto::rpc::{self, op::Op};

use super::attr::{FileAttr, REGULAR};
use super::attrs::{LARGEST, SetAttr};
use super::inode::{InUse, InodeRef};
use super::locks::RangeOwners;
use super::names::NewNode;
use super::{Engine, FsError, is_errno};

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// O_DIRECT: writes return when the chunkservers have acknowledged them.
    pub direct: bool,
    /// O_SYNC or O_DSYNC: writes return when they are stable.
    pub sync: bool,
    /// For writing.
    pub write: bool,
    /// O_TRUNC.
    pub truncate: bool,
    /// With `truncate`: the opener may not keep suid and sgid.
    pub kill_suidgid: bool,
    /// O_EXCL, where the file is made.
    pub exclusive: bool,
}

/// How one write is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WriteOptions {
    /// At the end of the file, wherever that is by then; the offset does not count.
    pub append: bool,
    /// The writer may not keep suid and sgid.
    pub kill_suidgid: bool,
}

/// An open file. Dropping it closes it.
pub struct FileHandle {
    inode: InodeRef,
    options: OpenOptions,
    range_owners: RangeOwners,
}

impl FileHandle {
    /// Whose handle.
    pub fn inode(&self) -> u64 {
        self.inode.inode
    }

    fn new(inode: InodeRef, options: OpenOptions) -> Self {
        Self { inode, options, range_owners: RangeOwners::default() }
    }

    pub(super) fn range_owners(&self) -> &RangeOwners {
        &self.range_owners
    }

    pub(super) fn file(&self) -> &Arc<InUse> {
        &self.inode
    }
}

impl Engine {
    /// Opens a regular file.
    ///
    /// # Errors
    /// Those of the master; outages.
    pub async fn open(&self, inode: u64, options: OpenOptions) -> Result<FileHandle, FsError> {
        if options.write || options.truncate {
            self.changeable()?;
        }
        let handle = FileHandle::new(self.hold_existing(inode).await?, options);
        // Where there is a lease, its recall asks what is open.
        if !self.exclusive() && !self.is_leased(inode) {
            self.register(&handle).await?;
        }
        if options.truncate {
            self.truncate_at_open(&handle).await?;
        }
        Ok(handle)
    }

    async fn truncate_at_open(&self, handle: &FileHandle) -> Result<(), FsError> {
        let o = handle.options;
        let attr = self.getattr(handle.inode()).await?;
        if self.exclusive() && attr.size == 0 && !(o.kill_suidgid && attr.loses_bits_on_write()) {
            self.touched(handle.file());
            return Ok(());
        }
        let change = SetAttr { size: Some(0), kill_suidgid: o.kill_suidgid, ..SetAttr::default() };
        self.setattr(handle.inode(), change).await?;
        if o.kill_suidgid {
            self.upper_drops_attr(handle.inode());
        }
        Ok(())
    }

    /// Others may unlink what is open here: the master has to know.
    async fn register(&self, handle: &FileHandle) -> Result<(), FsError> {
        if handle.inode.local.lock().registered {
            return Ok(());
        }
        self.session.call(Op::Opened(rpc::Opened { inodes: vec![handle.inode()] })).await?;
        handle.inode.local.lock().registered = true;
        Ok(())
    }

    /// Makes a regular file and opens it; opens it where it is there already and `exclusive` is not asked for.
    ///
    /// # Errors
    /// EEXIST; those of the master; outages.
    pub async fn create(
        &self,
        parent: u64,
        name: &[u8],
        mut node: NewNode,
        options: OpenOptions,
    ) -> Result<(FileAttr, FileHandle), FsError> {
        node.mode = REGULAR | (node.mode & 0o7777);
        let shared = !self.exclusive();
        match self.make_node(parent, name, node, shared).await {
            Ok(attr) => {
                let inode = self.hold(&attr);
                inode.local.lock().registered |= shared;
                Ok((attr, FileHandle::new(inode, options)))
            }
            Err(e) if is_errno(&e, libc::EEXIST) && !options.exclusive => {
                let attr = self.lookup(parent, name).await?.ok_or(e)?;
                if !attr.is_regular() {
                    // The kernel looks the name up itself and finds out what it is.
                    return Err(FsError::Stale);
                }
                let handle = self.open(attr.inode, options).await?;
                Ok((self.getattr(attr.inode).await?, handle))
            }
            Err(e) => Err(e),
        }
    }

    /// Reads at most `len` bytes; fewer only at the end of the file.
    ///
    /// # Errors
    /// EIO where no replica has intact data; outages.
    pub async fn read(&self, handle: &FileHandle, offset: u64, len: usize) -> Result<Bytes, FsError> {
        let file = handle.file();
        if !self.exclusive() {
            return self.read_in_company(file, offset, len).await;
        }
        if let Some(data) = file.data.try_read(offset, len) {
            return Ok(data);
        }
        self.read_from_servers(file, offset, len).await
    }

    /// Asks the master for the size, as another mount may have changed it. As of which version of the inode it is then.
    pub(super) async fn refresh_size(&self, file: &InUse) -> Result<u64, FsError> {
        let attr = self.getattr(file.inode).await?;
        file.learn_size(&attr);
        Ok(attr.version)
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// EFBIG; ENOSPC and EIO where writes are not held back; outages.
    pub async fn write(
        &self,
        handle: &FileHandle,
        offset: u64,
        data: &[u8],
        options: WriteOptions,
    ) -> Result<(), FsError> {
        self.changeable()?;
        let file = handle.file();
        if options.kill_suidgid {
            self.kill_suidgid(file.inode).await?;
        }
        // Where an append will be, nothing is kept that was there before.
        let end = offset.saturating_add(data.len() as u64);
        let _change = self.kept.change(file.inode, if options.append { 0..0 } else { offset..end });
        let shared = !self.exclusive();
        if options.append && !shared {
            let _alone = file.order.write().await;
            return self.store(handle, file.data.size(), data, shared).await;
        }
        let _together = match file.order.try_read() {
            Ok(guard) => guard,
            Err(_) => file.order.read().await,
        };
        if options.append {
            return self.append_shared(handle, data).await;
        }
        self.store(handle, offset, data, shared).await
    }

    /// Where other mounts may append, too. With its place the master has been told size and time.
    async fn append_shared(&self, handle: &FileHandle, data: &[u8]) -> Result<(), FsError> {
        let (file, sync) = (handle.file(), handle.options.sync);
        let offset = self.reserve_append(file, data.len() as u64).await?;
        let written = file.data.write_through(offset, Bytes::copy_from_slice(data), sync).await;
        self.or_announce(file, written)?;
        // Others may have read the zeros that were there until now, and keep them.
        self.announce(file).await?;
        if sync { self.settled(file.inode).await } else { Ok(()) }
    }

    async fn store(
        &self,
        handle: &FileHandle,
        offset: u64,
        data: &[u8],
        shared: bool,
    ) -> Result<(), FsError> {
        let (file, o) = (handle.file(), handle.options);
        let end = offset.checked_add(data.len() as u64).filter(|e| *e <= LARGEST).ok_or(FsError::TooLarge)?;
        if shared || o.direct || o.sync {
            let written = file.data.write_through(offset, Bytes::copy_from_slice(data), o.sync).await;
            self.or_announce(file, written)?;
        } else if !file.data.try_write(offset, data) {
            let written = file.data.write(offset, data).await;
            self.or_announce(file, written)?;
        }
        // Another mount may have come meanwhile.
        let shared = shared || !self.exclusive();
        if shared && !data.is_empty() {
            let mut local = file.local.lock();
            local.written_to = local.written_to.max(end);
        }
        self.touched(file);
        if shared || o.sync {
            self.tell(file).await?;
            self.settled(file.inode).await?;
        }
        Ok(())
    }

    pub(super) async fn kill_suidgid(&self, inode: u64) -> Result<(), FsError> {
        let attr = self.getattr(inode).await?;
        if !attr.loses_bits_on_write() {
            return Ok(());
        }
        let change = SetAttr { kill_suidgid: true, ..SetAttr::default() };
        self.setattr(inode, change).await?;
        self.upper_drops_attr(inode);
        Ok(())
    }

    fn upper_drops_attr(&self, inode: u64) {
        if let Some(upper) = self.upper.get() {
            upper.drop_attr(inode);
        }
    }

    /// A descriptor of the file was closed: write-back begins. An error of earlier write-back is reported, once.
    ///
    /// # Errors
    /// That error.
    pub async fn flush(&self, handle: &FileHandle) -> Result<(), FsError> {
        let data = &handle.file().data;
        if data.dirty() {
            data.push();
        }
        let failure = self.session.take_failure(handle.inode());
        data.take_error().or(failure).map_or(Ok(()), Err)
    }

    /// Returns when everything written is stable at every in-sync replica, and size and times are at the master
    /// (with `only_data`: the size is), and so is every change of names and attributes that was made before.
    ///
    /// # Errors
    /// Errors of write-back since the last report; outages.
    pub async fn fsync(&self, handle: &FileHandle, only_data: bool) -> Result<(), FsError> {
        let file = handle.file();
        let tell = async {
            if only_data && !file.size_untold() && file.local.lock().telling.is_none() {
                return Ok(());
            }
            self.tell(file).await
        };
        let (settled, data, told) = tokio::join!(self.settled(file.inode), file.data.fsync(), tell);
        data.and(told).and(settled)
    }
}
