//! Inodes in use by this mount: open, or closed with something left to write back.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, Notify, RwLock as AsyncRwLock};

use super::attr::{FileAttr, Timestamp};
use super::data::FileData;
use super::{Engine, FsError};

/// What this mount knows of an inode before the master does.
#[derive(Debug, Default)]
pub(super) struct Local {
    /// Last write that the master has not been told of.
    pub(super) mtime: Option<Timestamp>,
    /// The same, on its way.
    pub(super) telling: Option<Timestamp>,
    /// The size that the master has; in shared mode, had when it was last asked.
    pub(super) recorded_size: u64,
    /// The version of the attributes that said so.
    recorded_version: u64,
    /// In shared mode, the furthest end of the writes that the master has not been told of. What this mount takes for the
    /// size may be old then: another has cut the file since, and to tell it would bring the old size back.
    pub(super) written_to: u64,
    /// It has no names any more.
    pub(super) orphan: bool,
    /// The master knows that it is open here.
    pub(super) registered: bool,
}

/// An inode in use.
pub struct InUse {
    /// Which.
    pub(super) inode: u64,
    /// Its contents.
    pub(super) data: Arc<FileData>,
    /// Writes share it; what reads the size to change it (append, truncate) holds it alone.
    pub(super) order: AsyncRwLock<()>,
    /// Held while the master is told of size and times, so that they are told in order.
    pub(super) telling: AsyncMutex<()>,
    pub(super) local: Mutex<Local>,
}

impl InUse {
    /// The master says the size. Not taken over while it has not been told of what was written here, which is so
    /// for a while after another mount has come; nor from an answer that a later one has overtaken.
    pub(super) fn learn_size(&self, attr: &FileAttr) {
        let mut local = self.local.lock();
        if attr.version >= local.recorded_version && self.data.size() <= local.recorded_size {
            self.record_size(&mut local, attr);
        }
    }

    fn record_size(&self, local: &mut Local, attr: &FileAttr) {
        local.recorded_version = attr.version;
        local.recorded_size = attr.size;
        self.data.set_known_size(attr.size);
    }

    /// The master has set the size, which was asked for here while nothing else was written or told here.
    pub(super) fn resized(&self, attr: &FileAttr) {
        let mut local = self.local.lock();
        local.written_to = 0;
        local.mtime = None;
        // A reader may have asked for the size before, or another mount changed it since.
        if attr.version >= local.recorded_version {
            self.record_size(&mut local, attr);
        }
    }

    /// What was written here and the master was not told of is lost.
    pub(super) fn lose_writes(&self) {
        let mut local = self.local.lock();
        local.mtime = None;
        local.written_to = 0;
        self.data.set_known_size(local.recorded_size);
    }

    /// Lays what the master does not know yet over what it said.
    pub(super) fn overlay(&self, attr: &mut FileAttr) {
        attr.size = self.data.size();
        let local = self.local.lock();
        if let Some(t) = local.mtime.or(local.telling) {
            attr.mtime = t;
            attr.ctime = attr.ctime.max(t);
        }
    }

    /// A time was set: that of the writes before, told or not, counts no more.
    pub(super) fn mtime_set(&self) {
        let mut local = self.local.lock();
        local.mtime = None;
        local.telling = None;
    }

    /// As [`Self::overlay`], where other mounts may have changed the file, too: only what will be told.
    pub(super) fn overlay_untold(&self, attr: &mut FileAttr) {
        let local = self.local.lock();
        attr.size = attr.size.max(self.size_to_tell(&local));
        if let Some(t) = local.mtime {
            attr.mtime = attr.mtime.max(t);
            attr.ctime = attr.ctime.max(t);
        }
    }

    /// The size that the master has to be told of; 0: of none.
    pub(super) fn size_to_tell(&self, local: &Local) -> u64 {
        let size = self.data.size();
        let ahead = if size > local.recorded_size { size } else { 0 };
        ahead.max(local.written_to)
    }

    /// Whether the master has to be told of a size.
    pub(super) fn size_untold(&self) -> bool {
        self.size_to_tell(&self.local.lock()) > 0
    }

    /// Whether the master has to be told anything.
    pub(super) fn untold(&self) -> bool {
        self.local.lock().mtime.is_some() || self.size_untold()
    }

    /// Whether nothing would be lost if it were forgotten now.
    fn clean(&self) -> bool {
        !self.data.dirty() && !self.untold() && self.local.lock().telling.is_none()
    }
}

struct Slot {
    inode: Arc<InUse>,
    users: usize,
}

/// The inodes in use.
#[derive(Default)]
pub(super) struct Inodes {
    slots: Mutex<HashMap<u64, Slot>>,
    /// Inodes that were not open when a name of theirs began to be taken away: whether they live on is not known yet.
    losing_name: Mutex<HashMap<u64, Arc<Notify>>>,
}

/// A name is being taken away. When this is dropped, those who wait to open the inode find out whether it is still there.
pub(super) struct LosingName<'a> {
    inodes: &'a Inodes,
    inode: Option<u64>,
    /// Whether the master must keep the inode, as it is open here.
    pub(super) keep_open: bool,
}

impl Drop for LosingName<'_> {
    fn drop(&mut self) {
        let waiting = self.inode.and_then(|inode| self.inodes.losing_name.lock().remove(&inode));
        if let Some(waiting) = waiting {
            waiting.notify_waiters();
        }
    }
}

/// What became of an inode when its last name went.
pub(super) enum Unnamed {
    /// It is open here and lives on.
    Open,
    /// Nobody here has it open.
    Unused,
}

/// What became of an inode that nobody uses any more.
pub(super) enum Forgotten {
    /// Somebody uses it again, or something is left to be written back.
    Kept,
    /// It is not in the table any more. True: the master thinks it is open here.
    Gone(bool),
}

impl Inodes {
    /// The inode, if it is in use.
    pub(super) fn get(&self, inode: u64) -> Option<Arc<InUse>> {
        self.slots.lock().get(&inode).map(|s| s.inode.clone())
    }

    /// The inode, if it is open (not only waiting for write-back).
    pub(super) fn get_open(&self, inode: u64) -> Option<Arc<InUse>> {
        self.slots.lock().get(&inode).filter(|s| s.users > 0).map(|s| s.inode.clone())
    }

    /// All in use.
    pub(super) fn all(&self) -> Vec<Arc<InUse>> {
        self.slots.lock().values().map(|s| s.inode.clone()).collect()
    }

    /// All that are open (not only waiting for write-back).
    pub(super) fn open(&self) -> Vec<Arc<InUse>> {
        self.slots.lock().values().filter(|s| s.users > 0).map(|s| s.inode.clone()).collect()
    }

    /// A name of the inode is going to be taken away; `None`: it is not known which inode that is, so that
    /// anything that is open could be it.
    pub(super) fn losing_name(&self, inode: Option<u64>) -> LosingName<'_> {
        let slots = self.slots.lock();
        let keep_open = match inode {
            Some(inode) => slots.get(&inode).is_some_and(|s| s.users > 0),
            None => slots.values().any(|s| s.users > 0),
        };
        let inode = inode.filter(|_| !keep_open);
        if let Some(inode) = inode {
            self.losing_name.lock().entry(inode).or_default();
        }
        LosingName { inodes: self, inode, keep_open }
    }

    /// Returns at once, unless the inode is losing a name: then when that has been done.
    async fn until_settled(&self, inode: u64) {
        let Some(waiting) = self.losing_name.lock().get(&inode).cloned() else { return };
        let notified = waiting.notified();
        if self.losing_name.lock().contains_key(&inode) {
            notified.await;
        }
    }

    fn acquire(&self, inode: u64, make: impl FnOnce() -> Arc<InUse>) -> Arc<InUse> {
        Self::acquire_in(&mut self.slots.lock(), inode, make)
    }

    /// None: it is losing a name, wait until that is settled.
    fn acquire_settled(&self, inode: u64, make: impl FnOnce() -> Arc<InUse>) -> Option<Arc<InUse>> {
        let mut slots = self.slots.lock();
        if self.losing_name.lock().contains_key(&inode) {
            return None;
        }
        Some(Self::acquire_in(&mut slots, inode, make))
    }

    fn acquire_in(
        slots: &mut HashMap<u64, Slot>,
        inode: u64,
        make: impl FnOnce() -> Arc<InUse>,
    ) -> Arc<InUse> {
        let slot = slots.entry(inode).or_insert_with(|| Slot { inode: make(), users: 0 });
        slot.users += 1;
        slot.inode.clone()
    }

    /// True: that was the last user.
    fn release(&self, inode: u64) -> bool {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.get_mut(&inode) else { return false };
        slot.users -= 1;
        slot.users == 0
    }

    /// Takes the inode out if nobody uses it and nothing is left to be written back (or it has no names).
    pub(super) fn forget_if_done(&self, inode: u64) -> Forgotten {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.get(&inode) else { return Forgotten::Kept };
        let (orphan, registered) = {
            let local = slot.inode.local.lock();
            (local.orphan, local.registered)
        };
        if slot.users > 0 || !(orphan || slot.inode.clean()) {
            return Forgotten::Kept;
        }
        slots.remove(&inode);
        Forgotten::Gone(orphan || registered)
    }

    /// The inode has lost its last name.
    pub(super) fn unnamed(&self, inode: u64) -> Unnamed {
        let mut slots = self.slots.lock();
        match slots.get(&inode) {
            Some(slot) if slot.users > 0 => {
                slot.inode.local.lock().orphan = true;
                Unnamed::Open
            }
            Some(slot) => {
                // Write-back that is under way need not complain any more.
                slot.inode.local.lock().orphan = true;
                slots.remove(&inode);
                Unnamed::Unused
            }
            None => Unnamed::Unused,
        }
    }
}

/// A use of an inode. When the last one is dropped, what is left is written back in the background.
pub struct InodeRef {
    engine: Weak<Engine>,
    inode: Arc<InUse>,
}

impl std::ops::Deref for InodeRef {
    type Target = Arc<InUse>;
    fn deref(&self) -> &Arc<InUse> {
        &self.inode
    }
}

impl Drop for InodeRef {
    fn drop(&mut self) {
        let Some(engine) = self.engine.upgrade() else { return };
        if engine.inodes.release(self.inode.inode) {
            engine.unused(&self.inode);
        }
    }
}

impl Engine {
    /// Begins to use an inode that was just made; `attr` is what was just learned of it.
    pub(super) fn hold(&self, attr: &FileAttr) -> InodeRef {
        InodeRef { engine: self.me.clone(), inode: self.inodes.acquire(attr.inode, || self.in_use(attr)) }
    }

    /// Begins to use an inode. If a name of it is being taken away, waits and sees whether it is still there.
    ///
    /// # Errors
    /// It is not there any more; outages.
    pub(super) async fn hold_existing(&self, inode: u64) -> Result<InodeRef, FsError> {
        loop {
            let attr = self.getattr(inode).await?;
            if let Some(inode) = self.inodes.acquire_settled(inode, || self.in_use(&attr)) {
                return Ok(InodeRef { engine: self.me.clone(), inode });
            }
            self.inodes.until_settled(inode).await;
        }
    }

    fn in_use(&self, attr: &FileAttr) -> Arc<InUse> {
        // Somebody may have written, closed and told the master since `attr` was asked for.
        let size = self.cache.lock().attr(attr.inode).map_or(attr.size, |a| a.size);
        Arc::new(InUse {
            inode: attr.inode,
            data: self.data.file(cairn_proto::InodeId(attr.inode), size),
            order: AsyncRwLock::new(()),
            telling: AsyncMutex::new(()),
            local: Mutex::new(Local { recorded_size: size, ..Local::default() }),
        })
    }
}
