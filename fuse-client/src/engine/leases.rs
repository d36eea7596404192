//! Leases: what is kept under them while other mounts are there, and giving it up.

use std::sync::{Arc, Weak};
use std::time::Duration;

use cairn_proto::rpc::reply::Result as ReplyResult;
use cairn_proto::rpc::{self, op::Op};
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::MutexGuard;

use super::attr::FileAttr;
use super::inode::InUse;
use super::meta::LeaseHolder;
use super::meta::core::cache::{Asked, MetaCache};
use super::{Engine, FsError};

/// A change on its way to the master. What it touches is not answered from memory until this is settled or dropped.
pub(super) struct Changing<'a> {
    engine: &'a Engine,
    touched: Vec<u64>,
    asked: Asked,
    /// What the answer speaks of, and on which of it there are leases.
    about: Vec<u64>,
    leased: Vec<u64>,
}

impl<'a> Changing<'a> {
    /// The change is about to be sent; `cache` stays locked until it is.
    pub(super) fn begin(engine: &'a Engine, cache: &mut MetaCache, touched: &[u64]) -> Self {
        cache.change_began(touched);
        let (about, leased) = (Vec::new(), Vec::new());
        Self { engine, touched: touched.to_vec(), asked: cache.asking(), about, leased }
    }

    /// The answer is here, if there is any.
    pub(super) fn answered(&mut self, result: &mut Result<rpc::Reply, FsError>) {
        match result {
            Ok(reply) => {
                self.leased = std::mem::take(&mut reply.leased);
                self.about = spoken_of(reply);
            }
            // It may be carried out yet, nobody knows when: nothing is known of these inodes from now on.
            Err(FsError::TimedOut(_)) => self.touched.clear(),
            Err(_) => {}
        }
    }

    /// Has the cache follow the change; `update` is given the moment as of which it may learn what the answer says.
    pub(super) fn settle<T>(mut self, update: impl FnOnce(&mut MetaCache, Asked) -> T) -> T {
        let mut cache = self.engine.cache.lock();
        let touched = std::mem::take(&mut self.touched);
        let now = cache.change_ended(self.asked, &touched, &self.about, &self.leased);
        update(&mut cache, now)
    }
}

impl Drop for Changing<'_> {
    fn drop(&mut self) {
        if !self.touched.is_empty() {
            self.engine.cache.lock().change_ended(self.asked, &self.touched, &self.about, &self.leased);
        }
    }
}

/// The inodes whose attributes a reply tells.
fn spoken_of(reply: &rpc::Reply) -> Vec<u64> {
    let of_result: Vec<u64> = match &reply.result {
        Some(ReplyResult::Attr(attr)) => vec![attr.inode],
        Some(ReplyResult::Rename(r)) => r.moved.iter().chain(&r.replaced).map(|a| a.inode).collect(),
        _ => Vec::new(),
    };
    of_result.into_iter().chain(reply.parents.iter().map(|a| a.inode)).collect()
}

impl Engine {
    /// The cache, for answering from it: without what was kept under leases that have run out.
    pub(super) fn known(&self) -> MutexGuard<'_, MetaCache> {
        let mut cache = self.cache.lock();
        if !cache.enabled() && self.session.lease_left().is_zero() {
            cache.leases_ran_out();
        }
        cache
    }

    /// For how long what is known of an inode may be kept above the engine; zero: not at all, it may have changed since
    /// `attr` was learned. Not for an inode that what is above comes to know by this very answer.
    pub fn keep_for(&self, attr: &FileAttr) -> Duration {
        let left = self.session.lease_left();
        let stands = self.known().attr(attr.inode).is_some_and(|known| known.version == attr.version);
        if stands { left } else { Duration::ZERO }
    }

    /// Whether a lease has the master ask this mount before anybody else takes the inode's last name.
    pub(super) fn is_leased(&self, inode: u64) -> bool {
        self.known().may_keep(inode)
    }

    /// The master wants leases back: those on `inodes`.
    pub(super) async fn recalled(&self, id: u64, inodes: Vec<u64>) {
        self.cache.lock().revoke(&inodes);
        self.kept.forget(&inodes);
        self.upper_drops_attrs(inodes.clone()).await;
        self.gave_up(id, &inodes, Vec::new());
    }

    /// The master wants all leases back but `keep`.
    pub(super) async fn trim(&self, id: u64, keep: usize) {
        let inodes = self.cache.lock().give_back(keep);
        tracing::debug!(given_back = inodes.len(), keep, "leases are given back");
        self.kept.forget(&inodes);
        self.upper_drops_attrs(inodes.clone()).await;
        self.gave_up(id, &inodes, inodes.clone());
    }

    /// Acknowledges. What is open without the master's knowledge was safe as long as there was the lease: now it is told.
    fn gave_up(&self, id: u64, inodes: &[u64], given_back: Vec<u64>) {
        let files = inodes.iter().filter_map(|inode| self.inodes.get_open(*inode));
        let files: Vec<_> = files.filter(newly_registered).collect();
        let open: Vec<u64> = files.iter().map(|f| f.inode).collect();
        self.session.acknowledge(rpc::EventAck { id, open: open.clone(), given_back });
        // Whoever closed it meanwhile may have said so before.
        let closed: Vec<u64> = open.into_iter().filter(|i| self.inodes.get(*i).is_none()).collect();
        if !closed.is_empty() {
            self.session.tell(Op::Closed(rpc::Closed { inodes: closed }));
        }
    }

    async fn upper_drops_attrs(&self, inodes: Vec<u64>) {
        let Some(upper) = self.upper.get().map(Arc::clone) else { return };
        // Never in a thread that reads the kernel's requests: the kernel may be waiting for that one.
        if tokio::task::spawn_blocking(move || upper.drop_attrs(&inodes)).await.is_err() {
            tracing::error!("the kernel's attributes could not be dropped");
        }
    }
}

/// Whether the master did not know that it is open; it is about to.
fn newly_registered(file: &Arc<InUse>) -> bool {
    !std::mem::replace(&mut file.local.lock().registered, true)
}

/// The engine, as the session knows it.
pub(super) struct Holder(pub(super) Weak<Engine>);

impl LeaseHolder for Holder {
    fn drop_leases(&self) -> BoxFuture<'_, Vec<u64>> {
        async move {
            let Some(engine) = self.0.upgrade().filter(|engine| !engine.exclusive()) else {
                return Vec::new();
            };
            let lost = engine.cache.lock().lose_leases();
            engine.kept.clear();
            engine.upper_drops_attrs(lost).await;
            engine.inodes.open().iter().filter(|f| newly_registered(f)).map(|f| f.inode).collect()
        }
        .boxed()
    }
}
