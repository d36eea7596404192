//! What may be kept while other mounts are there: what the master has given a read lease on, until it is recalled.
//!
//! While a change of this mount is under way, others may see it before its answer is here. So what it touches is not answered
//! from memory meanwhile; when the answer is there, what it says counts only if the lease has stood all the time.

use std::collections::{HashMap, HashSet};

use lru::LruCache;

use super::cache::{Asked, MetaCache};

/// The leases of this mount.
#[derive(Debug)]
pub(super) struct Leased {
    /// By inode: what an entry or listing of it must have been stored under. The last used comes first.
    held: LruCache<u64, u64>,
    next: u64,
    /// Given up without telling the master, which still counts them.
    dropped: HashSet<u64>,
    /// Own changes under way, by what they touch.
    changing: HashMap<u64, u32>,
}

impl Default for Leased {
    fn default() -> Self {
        Self { held: LruCache::unbounded(), next: 1, dropped: HashSet::new(), changing: HashMap::new() }
    }
}

impl Leased {
    /// The lease on an inode, if what it covers may be answered from memory. Counts as a use.
    pub(super) fn usable(&mut self, inode: u64) -> Option<u64> {
        if self.changing.contains_key(&inode) { None } else { self.held.get(&inode).copied() }
    }

    /// All are given up. `alone`: the master knows, as this is the only mount.
    pub(super) fn clear(&mut self, alone: bool) {
        let held = std::mem::replace(&mut self.held, LruCache::unbounded());
        self.dropped.extend(held.into_iter().map(|(inode, _)| inode));
        if alone {
            self.dropped.clear();
        }
    }

    fn drop_untold(&mut self, inode: u64) {
        if self.held.pop(&inode).is_some() {
            self.dropped.insert(inode);
        }
    }
}

impl MetaCache {
    /// Whether there is a lease on this inode, or everything may be kept.
    pub fn may_keep(&mut self, inode: u64) -> bool {
        self.keeps_under(inode).is_some()
    }

    /// Under which lease what is known of this inode is kept; 0: everything may be kept.
    pub(super) fn keeps_under(&mut self, inode: u64) -> Option<u64> {
        if self.enabled() { Some(0) } else { self.leased.usable(inode) }
    }

    /// The lease on an inode, if under it the inode has been learned to have so many bytes.
    pub fn lease_at_size(&mut self, inode: u64, size: u64) -> Option<u64> {
        let lease = self.keeps_under(inode).filter(|lease| *lease != 0)?;
        self.attr(inode).filter(|attr| attr.size == size).map(|_| lease)
    }

    /// An answer came with leases.
    pub fn granted(&mut self, asked: Asked, inodes: &[u64]) {
        if self.enabled() {
            return;
        }
        for inode in inodes {
            if self.unchanged_since(asked, *inode) && self.leased.held.get(inode).is_none() {
                self.leased.held.put(*inode, self.leased.next);
                self.leased.next += 1;
                self.leased.dropped.remove(inode);
            }
        }
    }

    /// The leases on these are recalled.
    pub fn revoke(&mut self, inodes: &[u64]) {
        if self.enabled() {
            return;
        }
        for inode in inodes {
            self.leased.held.pop(inode);
            self.leased.dropped.remove(inode);
            self.forget_inode(*inode);
        }
    }

    /// Gives back all but `keep` leases, those used longest ago: which.
    pub fn give_back(&mut self, keep: usize) -> Vec<u64> {
        let mut given: Vec<u64> = self.leased.dropped.iter().copied().collect();
        let excess = self.leased.held.len().saturating_sub(keep);
        given.extend(self.leased.held.iter().rev().take(excess).map(|(inode, _)| *inode));
        self.revoke(&given);
        given
    }

    /// No lease holds any more, and the master will hear that: all that there were.
    pub fn lose_leases(&mut self) -> Vec<u64> {
        let mut lost: Vec<u64> = std::mem::take(&mut self.leased.dropped).into_iter().collect();
        lost.extend(self.leased.held.iter().map(|(inode, _)| *inode));
        self.reset(self.enabled());
        self.leased.dropped.clear();
        lost
    }

    /// The leases have run out, as the master is not heard: what they covered is forgotten.
    pub fn leases_ran_out(&mut self) {
        if !self.enabled() && !self.leased.held.is_empty() {
            self.reset(false);
        }
    }

    /// A change of these inodes is sent.
    pub fn change_began(&mut self, inodes: &[u64]) {
        for inode in inodes {
            *self.leased.changing.entry(*inode).or_default() += 1;
            self.changed(*inode);
        }
    }

    /// The answer to a change is here, or there will be none. `about`: what the answer speaks of; on which of these it came with
    /// a lease. What of it may be stored is stored as of the moment returned.
    pub fn change_ended(&mut self, asked: Asked, touched: &[u64], about: &[u64], leased: &[u64]) -> Asked {
        for inode in touched {
            if let Some(n) = self.leased.changing.get_mut(inode) {
                *n -= 1;
                if *n == 0 {
                    self.leased.changing.remove(inode);
                }
            }
        }
        if self.enabled() {
            return asked;
        }
        self.granted(asked, leased);
        for inode in touched.iter().chain(about) {
            let stands = leased.contains(inode) && self.unchanged_since(asked, *inode);
            if !stands {
                self.leased.drop_untold(*inode);
                self.forget_inode(*inode);
            }
        }
        for inode in touched {
            self.changed(*inode);
        }
        self.asking()
    }

    fn forget_inode(&mut self, inode: u64) {
        self.changed(inode);
        self.directories.pop(&inode);
    }
}
