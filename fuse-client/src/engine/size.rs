//! Size and times of written files on their way to the master.
//!
//! In exclusive mode this mount is ahead of the master: it tells it on fsync, after write-back, at close
//! and every few seconds.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use cairn_proto::rpc::{self, op::Op};

use super::inode::{Forgotten, InUse};
use super::meta::Answer;
use super::meta::core::cache::Asked;
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
        let Some((answer, size, asked)) = self.start_telling(file).await? else { return Ok(()) };
        let result = self.session.answer(answer).await.and_then(attr_of);
        // The cache first: until it is right, the overlay must not go away.
        if let Ok(attr) = &result {
            self.cache.lock().learn_attr(asked, attr);
        }
        let mut local = file.local.lock();
        let told = local.telling.take();
        match result {
            Ok(_) => {
                local.recorded_size = local.recorded_size.max(size);
                Ok(())
            }
            Err(e) => {
                local.mtime = local.mtime.or(told);
                Err(e)
            }
        }
    }

    /// Sends what the master does not know. The size and the time are taken at the moment of sending, so that a time that is set
    /// meanwhile is not overwritten by an older one.
    async fn start_telling(&self, file: &InUse) -> Result<Option<(Answer, u64, Asked)>, FsError> {
        loop {
            {
                let mut cache = self.cache.lock();
                let mut local = file.local.lock();
                let size = file.data.size();
                if local.mtime.is_none() && size <= local.recorded_size {
                    return Ok(None);
                }
                let mtime = local.mtime;
                let grow = rpc::Grow { inode: file.inode, size, mtime: mtime.map(Into::into), atime: None };
                if let Ok(answer) = self.session.try_start(Op::Grow(grow))? {
                    local.telling = local.mtime.take();
                    match cache.foresee_grow(file.inode, size, mtime) {
                        Some(attr) => cache.replace_attr(&attr),
                        None => cache.changed(file.inode),
                    }
                    return Ok(Some((answer, size, cache.asking())));
                }
            }
            self.session.room().await?;
        }
    }

    /// The same, without anybody waiting for it. Errors are tried again later.
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
