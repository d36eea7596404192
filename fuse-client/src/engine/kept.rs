//! Reading while other mounts are there: what there is a lease on is kept in this mount's memory, and read again from there.
//!
//! A write by another mount touches the inode's record before it returns, so that the lease is recalled first; and whoever reads looks
//! for the lease each time, its term included. So a mount that was stopped for long answers nothing that it had kept.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use cairn_proto::rpc;
use parking_lot::Mutex;

use super::data::core::kept::{Found, Kept};
use super::inode::InUse;
use super::{Engine, FsError};

/// For how long what was read is kept, milliseconds. No lease is recalled for a write of which nobody ever hears whether it took place, as
/// its mount died amid it: so long two mounts may differ about it.
const LIFETIME: u64 = 60_000;
/// How long a read waits for chunkservers that are known not to answer.
const READ_AGAIN: Duration = Duration::from_millis(200);

/// What was read of files in company.
pub(super) struct KeptData {
    kept: Mutex<Kept>,
}

/// A change of this mount's own, until this is dropped.
pub(super) struct OwnChange<'a> {
    data: &'a KeptData,
    inode: u64,
}

impl Drop for OwnChange<'_> {
    fn drop(&mut self) {
        self.data.kept.lock().change_ended(self.inode);
    }
}

impl KeptData {
    /// `memory` bytes at most.
    pub(super) fn new(memory: usize) -> Self {
        Self { kept: Mutex::new(Kept::new(memory, LIFETIME)) }
    }

    /// Bytes of memory in use.
    pub(super) fn used(&self) -> usize {
        self.kept.lock().used()
    }

    /// This mount begins to change a range of a file. Whatever mode it is in: that may change meanwhile.
    pub(super) fn change(&self, inode: u64, range: Range<u64>) -> OwnChange<'_> {
        self.kept.lock().change_began(inode, range);
        OwnChange { data: self, inode }
    }

    /// These files may be changed by others from now on.
    pub(super) fn forget(&self, inodes: &[u64]) {
        let mut kept = self.kept.lock();
        inodes.iter().for_each(|inode| kept.forget(*inode));
    }

    /// All files may have been.
    pub(super) fn clear(&self) {
        self.kept.lock().clear();
    }
}

impl Engine {
    /// Reads where other mounts may write, too.
    pub(super) async fn read_in_company(
        &self,
        file: &InUse,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, FsError> {
        self.refresh_size(file).await?;
        let range = offset..offset.saturating_add(len as u64).min(file.data.size());
        // The lease must be that under which the size was learned, at which the read is cut.
        let lease = self.known().lease_at_size(file.inode, file.data.size());
        let (Some(lease), false) = (lease, range.is_empty()) else {
            return self.read_from_servers(file, offset, len).await;
        };
        let found = self.kept.kept.lock().find(file.inode, lease, range, self.data.now());
        let fetch = match found {
            Found::Here(data) => return Ok(data),
            Found::Missing(fetch) => fetch,
            Found::Changing => return self.read_from_servers(file, offset, len).await,
        };
        let data = self.read_from_servers(file, offset, len).await?;
        self.kept.kept.lock().store(&fetch, offset, data.clone(), self.data.now());
        Ok(data)
    }

    /// An outage is waited for once, not by each of the many reads of which a program's one consists.
    pub(super) async fn read_from_servers(
        &self,
        file: &InUse,
        offset: u64,
        len: usize,
    ) -> Result<Bytes, FsError> {
        let read = file.data.read(offset, len);
        let result = if self.silent.load(Ordering::Relaxed) {
            let late = |_| FsError::TimedOut("the chunkservers do not answer".into());
            tokio::time::timeout(READ_AGAIN, read).await.map_err(late).flatten()
        } else {
            read.await
        };
        let silent = matches!(result, Err(FsError::TimedOut(_) | FsError::Unreachable(_)));
        if silent != self.silent.load(Ordering::Relaxed) {
            self.silent.store(silent, Ordering::Relaxed);
        }
        result
    }

    /// Bytes of a file have changed at the replicas since the master last heard of it: whoever has read them meanwhile is to forget them.
    ///
    /// # Errors
    /// Those of the master; outages.
    pub(super) async fn announce(&self, file: &InUse) -> Result<(), FsError> {
        let grow = rpc::Grow { inode: file.inode, ..rpc::Grow::default() };
        self.grow_now(file, grow).await.map(drop)
    }

    /// As [`Self::announce`], without anybody waiting for it.
    pub(super) fn announce_in_background(&self, inode: u64) {
        self.kept.forget(&[inode]);
        let Some(file) = self.inodes.get(inode) else { return };
        let me = self.me.clone();
        self.runtime.spawn(async move {
            let Some(engine) = me.upgrade() else { return };
            if let Err(e) = engine.announce(&file).await {
                tracing::debug!(inode, error = %e, "other mounts could not be told that a file may have changed");
            }
        });
    }

    /// A write that failed may have left something at the replicas.
    pub(super) fn or_announce<T>(&self, file: &InUse, written: Result<T, FsError>) -> Result<T, FsError> {
        if written.is_err() && !self.exclusive() {
            self.announce_in_background(file.inode);
        }
        written
    }
}
