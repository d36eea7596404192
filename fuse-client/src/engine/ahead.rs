//! Changes carried out here before the master has them.
//!
//! While this mount is alone, it knows what most changes of names and attributes will come to
//! (`meta/core/foresee`). It then answers at once; the operation is on its way in the order of all others, is sent again until the
//! master has made it durable, and what a later question asks is answered behind it. `fsync` waits until all of it is. What
//! the master refuses after all (the session had ended) is an error of the next fsync or close. When its disk is nearly full it
//! takes what had been answered, and says that nothing more is to be.

use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use cairn_proto::rpc::reply::Result as ReplyResult;
use cairn_proto::rpc::{self, Reply, op::Op};

use super::attr::{FileAttr, Timestamp};
use super::attrs::SetAttr;
use super::leases::Changing;
use super::meta::core::cache::MetaCache;
use super::meta::core::foresee::Renamed;
use super::meta::core::numbers::RESERVE;
use super::names::NewNode;
use super::{Engine, FsError};

/// After the master has refused something, everything is asked for so long: whoever asks gets the reason as his own error.
const CAREFUL: Duration = Duration::from_secs(5);

impl Engine {
    /// Carries out what is foreseen and sends it on its way. `None`: it cannot be foreseen, ask.
    async fn ahead<T>(
        &self,
        mut foresee: impl FnMut(&mut MetaCache, Timestamp) -> Option<(Op, T)>,
        carry_out: impl FnOnce(&mut MetaCache, &T),
    ) -> Result<Option<T>, FsError> {
        loop {
            if !self.exclusive() || self.careful() {
                return Ok(None);
            }
            if self.session.has_room() {
                // Sent under the cache's lock: changes reach the master in the order in which they were foreseen.
                let mut cache = self.cache.lock();
                if !cache.enabled() {
                    return Ok(None);
                }
                let at = Timestamp::from(SystemTime::now());
                let Some((op, outcome)) = foresee(&mut cache, at) else { return Ok(None) };
                if self.session.try_start_ahead(op, at.into())?.is_none() {
                    carry_out(&mut cache, &outcome);
                    return Ok(Some(outcome));
                }
            }
            self.session.room().await?;
        }
    }

    /// Has the master carry out a change. What is known of the inodes that it `touches` is forgotten until there is an answer: only
    /// then can anything be foreseen of them again.
    pub(super) async fn change(&self, op: Op, touches: &[u64]) -> Result<(Reply, Changing<'_>), FsError> {
        self.change_with(op, touches, || ()).await
    }

    /// The same; `sending` is done at the moment of sending.
    pub(super) async fn change_with(
        &self,
        mut op: Op,
        touches: &[u64],
        sending: impl FnOnce(),
    ) -> Result<(Reply, Changing<'_>), FsError> {
        let (answer, mut changing) = loop {
            {
                let mut cache = self.cache.lock();
                match self.session.try_start(op)? {
                    Ok(answer) => {
                        let changing = Changing::begin(self, &mut cache, touches);
                        sending();
                        break (answer, changing);
                    }
                    Err(back) => op = back,
                }
            }
            self.session.room().await?;
        };
        let mut result = self.session.answer(answer).await;
        changing.answered(&mut result);
        Ok((result?, changing))
    }

    pub(super) async fn make_ahead(
        &self,
        parent: u64,
        name: &Bytes,
        node: &NewNode,
    ) -> Result<Option<FileAttr>, FsError> {
        let foresee = |cache: &mut MetaCache, at| {
            let inode = self.numbers.lock().take()?;
            let outcome = cache.foresee_make(parent, name, node, inode, at)?;
            Some((Op::Make(node.request(parent, name.clone(), inode)), outcome))
        };
        let made =
            self.ahead(foresee, |cache, (attr, after)| cache.made(parent, name, attr, Some(after))).await?;
        self.reserve_numbers();
        Ok(made.map(|(attr, _)| attr))
    }

    pub(super) async fn unlink_ahead(
        &self,
        parent: u64,
        name: &Bytes,
        keep_open: bool,
    ) -> Result<Option<FileAttr>, FsError> {
        let foresee = |cache: &mut MetaCache, at| {
            let outcome = cache.foresee_unlink(parent, name, at)?;
            Some((Op::Unlink(rpc::Unlink { parent, name: name.clone(), keep_open }), outcome))
        };
        let carry_out = |cache: &mut MetaCache, (lost, after): &(FileAttr, FileAttr)| {
            cache.removed(parent, name, Some(lost), Some(after));
        };
        Ok(self.ahead(foresee, carry_out).await?.map(|(lost, _)| lost))
    }

    /// True: done.
    pub(super) async fn rmdir_ahead(&self, parent: u64, name: &Bytes) -> Result<bool, FsError> {
        let foresee = |cache: &mut MetaCache, at| {
            let outcome = cache.foresee_rmdir(parent, name, at)?;
            Some((Op::Rmdir(rpc::Rmdir { parent, name: name.clone() }), outcome))
        };
        let carry_out = |cache: &mut MetaCache, (gone, after): &(FileAttr, FileAttr)| {
            cache.removed(parent, name, Some(gone), Some(after));
        };
        Ok(self.ahead(foresee, carry_out).await?.is_some())
    }

    pub(super) async fn link_ahead(
        &self,
        inode: u64,
        parent: u64,
        name: &Bytes,
    ) -> Result<Option<FileAttr>, FsError> {
        let foresee = |cache: &mut MetaCache, at| {
            let outcome = cache.foresee_link(inode, parent, name, at)?;
            Some((Op::Link(rpc::Link { inode, new_parent: parent, new_name: name.clone() }), outcome))
        };
        let linked =
            self.ahead(foresee, |cache, (attr, after)| cache.made(parent, name, attr, Some(after))).await?;
        Ok(linked.map(|(attr, _)| attr))
    }

    /// A rename without flags.
    pub(super) async fn rename_ahead(&self, rename: &rpc::Rename) -> Result<Option<Renamed>, FsError> {
        let (from, to) = ((rename.parent, &*rename.name), (rename.new_parent, &*rename.new_name));
        let foresee = |cache: &mut MetaCache, at| {
            Some((Op::Rename(rename.clone()), cache.foresee_rename(from, to, at)?))
        };
        let carry_out = |cache: &mut MetaCache, renamed: &Renamed| {
            renamed.directories.iter().for_each(|d| cache.replace_attr(d));
            cache.renamed(from, to, &renamed.moved, renamed.replaced.as_ref(), false);
        };
        self.ahead(foresee, carry_out).await
    }

    /// `sending` is done at the moment of sending.
    pub(super) async fn set_ahead(
        &self,
        inode: u64,
        change: &SetAttr,
        sending: impl FnOnce(),
    ) -> Result<Option<FileAttr>, FsError> {
        let foresee = |cache: &mut MetaCache, at| {
            Some((Op::SetAttr(change.request(inode)), cache.foresee_set(inode, change, at)?))
        };
        let carry_out = |cache: &mut MetaCache, attr: &FileAttr| {
            cache.replace_attr(attr);
            sending();
        };
        self.ahead(foresee, carry_out).await
    }

    /// Asks for inode numbers, if they are running short.
    pub(super) fn reserve_numbers(&self) {
        if !self.exclusive() || self.careful() || !self.numbers.lock().ask() {
            return;
        }
        let me = self.me.clone();
        self.runtime.spawn(async move {
            let Some(engine) = me.upgrade() else { return };
            let reserve = rpc::ReserveInodes { count: RESERVE };
            let range = match engine.session.call(Op::ReserveInodes(reserve)).await {
                Ok(Reply { result: Some(ReplyResult::InodeRange(range)), .. }) => {
                    Some((range.first, range.count))
                }
                Ok(_) => None,
                Err(e) => {
                    tracing::debug!(error = %e, "no inode numbers could be reserved");
                    None
                }
            };
            engine.numbers.lock().asked(range);
        });
    }

    /// The master has refused what was answered here.
    pub(super) fn refused(&self) {
        *self.refused.lock() = Some(Instant::now());
    }

    /// Whether what could be foreseen is to be asked for all the same.
    fn careful(&self) -> bool {
        self.session.is_doubtful() || self.refused.lock().is_some_and(|at| at.elapsed() < CAREFUL)
    }

    /// Everything changed so far is durable at the master; an error of what concerns `inode` is reported, once.
    pub(super) async fn settled(&self, inode: u64) -> Result<(), FsError> {
        self.session.settled().await?;
        self.session.take_failure(inode).map_or(Ok(()), Err)
    }

    /// A directory's entries are durable.
    ///
    /// # Errors
    /// The master has refused a change of them; outages.
    pub async fn sync_directory(&self, inode: u64) -> Result<(), FsError> {
        self.settled(inode).await
    }
}
