//! Size and times of written files on their way to the master.
//!
//! In exclusive mode this mount is ahead of the master: it tells it on fsync, after write-back, at close
//! and every few seconds.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use cairn_proto::rpc::{self, op::Op};

use super::attr::{FileAttr, Timestamp};
use super::inode::{Forgotten, InUse};
use super::leases::Changing;
use super::meta::Answer;
use super::{Engine, FsError, attr_of, is_errno};

/// The master's size and mtime of a file that is being written lag behind by at most about this.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// Files of which the master is told at the same time, at most.
const TELL_AT_ONCE: usize = 32;

impl Engine {
    /// The file was written just now.
    pub(super) fn touched(&self, file: &InUse) {
        file.local.lock().mtime = Some(SystemTime::now().into());
    }

    /// Tells the master size and mtime, if it does not know them.
    pub(super) async fn tell(&self, file: &Arc<InUse>) -> Result<(), FsError> {
        if !file.untold() && file.local.lock().telling.is_none() {
            return Ok(());
        }
        let _in_order = file.telling.lock().await;
        let Some((answer, size, mut changing)) = self.start_telling(file).await? else { return Ok(()) };
        let mut result = self.session.answer(answer).await;
        changing.answered(&mut result);
        let result = result.and_then(attr_of);
        // The cache first: until it is right, the overlay must not go away.
        match &result {
            Ok(attr) => changing.settle(|cache, now| cache.settle_attr(now, attr)),
            Err(_) => drop(changing),
        }
        let mut local = file.local.lock();
        let told = local.telling.take();
        let shared = !self.exclusive();
        match result {
            Ok(attr) => {
                local.recorded_size = local.recorded_size.max(size);
                drop(local);
                if shared {
                    file.learn_size(&attr);
                }
                Ok(())
            }
            Err(e) => {
                local.mtime = local.mtime.or(told);
                if shared {
                    local.written_to = local.written_to.max(size);
                }
                Err(e)
            }
        }
    }

    /// Sends what the master does not know. The size and the time are taken at the moment of sending, so that a time that is set
    /// meanwhile is not overwritten by an older one.
    async fn start_telling(&self, file: &InUse) -> Result<Option<(Answer, u64, Changing<'_>)>, FsError> {
        loop {
            {
                let mut cache = self.cache.lock();
                let mut local = file.local.lock();
                let size = file.size_to_tell(&local);
                if local.mtime.is_none() && size == 0 {
                    return Ok(None);
                }
                let mtime = local.mtime;
                let grow = rpc::Grow {
                    inode: file.inode,
                    size,
                    mtime: mtime.map(Into::into),
                    ..rpc::Grow::default()
                };
                if let Ok(answer) = self.session.try_start(Op::Grow(grow))? {
                    local.telling = local.mtime.take();
                    local.written_to = 0;
                    let foreseen = cache.foresee_grow(file.inode, size, mtime);
                    let changing = match foreseen {
                        Some(attr) => {
                            cache.replace_attr(&attr);
                            Changing::begin(self, &mut cache, &[])
                        }
                        None => Changing::begin(self, &mut cache, &[file.inode]),
                    };
                    return Ok(Some((answer, size, changing)));
                }
            }
            self.session.room().await?;
        }
    }

    /// Has the master make the file longer by `len` bytes for an append of this mount's, whoever else appends to it; where they begin. A mount that dies
    /// before it has written them leaves zeros.
    pub(super) async fn reserve_append(&self, file: &InUse, len: u64) -> Result<u64, FsError> {
        let mtime = Some(Timestamp::from(SystemTime::now()).into());
        let grow = rpc::Grow { inode: file.inode, append: len, mtime, ..rpc::Grow::default() };
        let attr = self.grow_now(file, grow).await?;
        Ok(attr.size - len.min(attr.size))
    }

    /// Tells the master this of the file, and waits for what it makes of it.
    pub(super) async fn grow_now(&self, file: &InUse, grow: rpc::Grow) -> Result<FileAttr, FsError> {
        let (reply, changing) = self.change(Op::Grow(grow), &[file.inode]).await?;
        let attr = attr_of(reply)?;
        changing.settle(|cache, now| cache.settle_attr(now, &attr));
        file.learn_size(&attr);
        Ok(attr)
    }

    /// As [`Self::tell`], without anybody waiting for it. Errors are tried again later.
    pub(super) fn tell_in_background(&self, inode: u64) {
        let Some(file) = self.inodes.get(inode) else { return };
        if !file.untold() {
            return;
        }
        let me = self.me.clone();
        self.runtime.spawn(async move {
            let Some(engine) = me.upgrade() else { return };
            if let Err(e) = engine.tell(&file).await {
                tracing::debug!(inode, error = %e, "size and times could not be recorded yet");
            }
        });
    }

    /// Nobody uses the inode any more: writes back what is left and forgets it.
    pub(super) fn unused(&self, file: &Arc<InUse>) {
        if self.forget_if_done(file) {
            return;
        }
        let (me, file) = (self.me.clone(), file.clone());
        self.runtime.spawn(async move {
            let Some(engine) = me.upgrade() else { return };
            engine.write_back(&file).await;
        });
    }

    async fn write_back(&self, file: &Arc<InUse>) {
        let flushed = file.data.flush().await;
        let told = self.tell(file).await;
        if matches!(&told, Err(e) if is_gone(e)) {
            // Deleted meanwhile, here or elsewhere.
            file.local.lock().orphan = true;
        }
        if !file.local.lock().orphan {
            if let Err(e) = flushed {
                tracing::error!(inode = file.inode, error = %e, "a closed file could not be written back");
            }
            if let Err(e) = told {
                // Stays in the table: the periodic round tries again.
                tracing::warn!(inode = file.inode, error = %e, "a closed file's size could not be recorded yet");
            }
        }
        self.forget_if_done(file);
    }

    fn forget_if_done(&self, file: &Arc<InUse>) -> bool {
        match self.inodes.forget_if_done(file.inode) {
            Forgotten::Kept => false,
            Forgotten::Gone(open_at_master) => {
                if file.local.lock().orphan {
                    self.data.forget_inode(cairn_proto::InodeId(file.inode));
                }
                if open_at_master {
                    self.session.tell(Op::Closed(rpc::Closed { inodes: vec![file.inode] }));
                }
                true
            }
        }
    }

    /// Everything written so far is at the chunkservers and the master; the first error.
    pub(super) async fn write_back_all(&self) -> Result<(), FsError> {
        let data = self.data.flush_all().await;
        let mut told = Ok(());
        for files in self.inodes.all().chunks(TELL_AT_ONCE) {
            for result in futures::future::join_all(files.iter().map(|f| self.tell(f))).await {
                told = told.and(result);
            }
        }
        data.and(told).and(self.session.settled().await)
    }
}

/// Tells the master of what has changed, every few seconds, and drops what needs no more attention.
pub(super) async fn tell_periodically(engine: Weak<Engine>) {
    let mut tick = tokio::time::interval(TELL_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let Some(engine) = engine.upgrade() else { return };
        let files: Vec<_> = engine.inodes.all().into_iter().filter(|f| f.untold()).collect();
        for files in files.chunks(TELL_AT_ONCE) {
            futures::future::join_all(files.iter().map(|f| engine.tell(f))).await;
        }
        let unused: Vec<_> = engine.inodes.all();
        for file in unused {
            engine.forget_if_done(&file);
        }
        let evicted = engine.cache.lock().take_evicted();
        if let (false, Some(upper)) = (evicted.is_empty(), engine.upper.get().cloned()) {
            tokio::task::spawn_blocking(move || upper.drop_names(evicted));
        }
    }
}

fn is_gone(error: &FsError) -> bool {
    is_errno(error, libc::ESTALE) || is_errno(error, libc::ENOENT)
}
