//! Whole listings of directories, while other mounts are there: who lists a leased directory again asks nobody.

use std::sync::Arc;

use lru::LruCache;

use super::cache::{Asked, MetaCache};
use crate::engine::DirItem;

/// The longest listing that is kept, entries.
const LONGEST: usize = 1 << 15;
/// Entries of all that are kept.
const ALL: usize = 1 << 18;

#[derive(Debug)]
struct Listing {
    items: Arc<[Arc<DirItem>]>,
    /// The lease under which it was read.
    under: u64,
}

#[derive(Debug)]
pub(super) struct Listings {
    kept: LruCache<u64, Listing>,
    entries: usize,
}

impl Default for Listings {
    fn default() -> Self {
        Self { kept: LruCache::unbounded(), entries: 0 }
    }
}

impl Listings {
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn forget(&mut self, directory: u64) {
        self.entries -= self.kept.pop(&directory).map_or(0, |l| l.items.len());
    }
}

impl MetaCache {
    /// A directory was listed from its beginning to its end. `asked`: before the first of it was asked for.
    pub fn learn_listing(&mut self, asked: Asked, directory: u64, items: &[Arc<DirItem>]) {
        if self.enabled() || items.len() > LONGEST || !self.unchanged_since(asked, directory) {
            return;
        }
        let Some(under) = self.keeps_under(directory) else { return };
        self.listings.forget(directory);
        self.listings.entries += items.len();
        self.listings.kept.put(directory, Listing { items: items.into(), under });
        while self.listings.entries > ALL {
            let Some((_, oldest)) = self.listings.kept.pop_lru() else { return };
            self.listings.entries -= oldest.items.len();
        }
    }

    /// A directory's listing, "." and ".." included, if it is known.
    pub fn listing(&mut self, directory: u64) -> Option<Arc<[Arc<DirItem>]>> {
        let under = self.keeps_under(directory).filter(|under| *under != 0)?;
        self.listings.kept.get(&directory).filter(|l| l.under == under).map(|l| l.items.clone())
    }
}
