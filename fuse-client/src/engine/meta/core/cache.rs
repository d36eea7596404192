//! Attributes and directory entries that may be answered without asking the master.
//!
//! While the session is exclusive nobody else changes anything, and the cache is exact as long as it follows this mount's own
//! changes. Otherwise only what there is a lease on is kept (`leased`). Answers to questions and effects of changes reach the cache from several tasks, in
//! any order; the `asked` mark keeps an answer that is older than a change from overwriting it.

use bytes::Bytes;
use lru::LruCache;

use super::directory::{Directory, ReadAhead};
use super::entry_key::{EntryKey, Parts};
use super::leased::Leased;
use super::listings::Listings;
use crate::engine::attr::FileAttr;

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Attributes.
    pub attrs: usize,
    /// Names.
    pub entries: usize,
    /// Directories of which something is known as a whole, and inodes whose last change is remembered.
    pub directories: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { attrs: 1 << 20, entries: 1 << 20, directories: 1 << 16 }
    }
}

/// A moment in the cache's own time: how many changes it had seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked(u64);

/// What the cache says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The inode of that name.
    Inode(FileAttr),
    /// There is no such name.
    Nothing,
    /// Ask the master.
    Unknown,
}

/// An entry of a directory page.
#[derive(Clone, Debug)]
pub struct PageEntry {
    /// The name.
    pub name: Bytes,
    /// Its inode's attributes.
    pub attr: FileAttr,
}

/// The inode of a name, if there is one.
#[derive(Clone, Copy, Debug)]
struct Entry {
    inode: Option<u64>,
    /// The lease on the directory under which it was stored; 0: the session was exclusive.
    under: u64,
}

/// The cache.
#[derive(Debug)]
pub struct MetaCache {
    limits: Limits,
    enabled: bool,
    changes: u64,
    pub(super) leased: Leased,
    pub(super) listings: Listings,
    attrs: LruCache<u64, FileAttr>,
    entries: LruCache<EntryKey, Entry>,
    pub(super) directories: LruCache<u64, Directory>,
    /// When an inode (a directory: also its entries) was last changed from here.
    changed: LruCache<u64, u64>,
    /// The latest of those that were forgotten.
    changed_floor: u64,
    /// Names dropped for want of room, which the kernel may still know.
    evicted: Vec<(u64, Box<[u8]>)>,
}

impl MetaCache {
    /// An empty cache.
    pub fn new(limits: Limits, enabled: bool) -> Self {
        // Unbounded maps whose bound is kept here: a bounded one allocates for its limit at once.
        Self {
            limits,
            enabled,
            changes: 0,
            leased: Leased::default(),
            listings: Listings::default(),
            attrs: LruCache::unbounded(),
            entries: LruCache::unbounded(),
            directories: LruCache::unbounded(),
            changed: LruCache::unbounded(),
            changed_floor: 0,
            evicted: Vec::new(),
        }
    }

    /// Whether everything may be kept: the session is exclusive.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Attributes and entries kept.
    pub fn sizes(&self) -> (usize, usize) {
        (self.attrs.len(), self.entries.len())
    }

    /// Forgets everything; from now on everything is kept, or only what there is a lease on. Questions under way are not stored.
    pub fn reset(&mut self, enabled: bool) {
        self.enabled = enabled;
        self.changes += 1;
        self.changed_floor = self.changes;
        self.leased.clear(enabled);
        self.listings.clear();
        self.attrs.clear();
        self.entries.clear();
        self.directories.clear();
        self.changed.clear();
        self.evicted.clear();
    }

    /// To be taken before a question goes to the master and handed in with the answer.
    pub fn asking(&self) -> Asked {
        Asked(self.changes)
    }

    /// What is known of a name.
    pub fn lookup(&mut self, parent: u64, name: &[u8]) -> Found {
        let Some(under) = self.keeps_under(parent) else { return Found::Unknown };
        match self.entries.get(&(parent, name) as &dyn Parts).filter(|e| e.under == under).map(|e| e.inode) {
            Some(Some(inode)) => self.attr(inode).map_or(Found::Unknown, Found::Inode),
            Some(None) => Found::Nothing,
            None if self.directories.get(&parent).is_some_and(|d| d.complete) => {
                // The kernel will keep it: what it keeps has to be named when it is to be forgotten.
                self.put_entry(parent, name, None);
                Found::Nothing
            }
            None => Found::Unknown,
        }
    }

    /// The inode of a name, where it is known.
    pub fn inode_of(&mut self, parent: u64, name: &[u8]) -> Option<u64> {
        let under = self.keeps_under(parent)?;
        self.entries.get(&(parent, name) as &dyn Parts).filter(|e| e.under == under)?.inode
    }

    /// An inode's attributes, where they are known.
    pub fn attr(&mut self, inode: u64) -> Option<FileAttr> {
        if self.may_keep(inode) { self.attrs.get(&inode).copied() } else { None }
    }

    /// The master's answer: an inode's attributes.
    pub fn learn_attr(&mut self, asked: Asked, attr: &FileAttr) {
        if self.may_keep(attr.inode) && self.unchanged_since(asked, attr.inode) {
            self.put_attr(attr);
        }
    }

    /// The master's answer to an own change of an inode's attributes. Another own change may have been answered since this one was
    /// sent, and been carried out before it: then what is known is older than this, and what came of both is not known.
    pub fn settle_attr(&mut self, asked: Asked, attr: &FileAttr) {
        self.learn_attr(asked, attr);
        if self.attrs.peek(&attr.inode).is_some_and(|known| known.version < attr.version) {
            self.changed(attr.inode);
        }
    }

    /// The master's answer: a name and its inode, or that there is no such name.
    pub fn learn_entry(&mut self, asked: Asked, parent: u64, name: &[u8], attr: Option<&FileAttr>) {
        if let Some(attr) = attr {
            self.learn_attr(asked, attr);
        }
        if self.may_keep(parent) && self.unchanged_since(asked, parent) {
            self.put_entry(parent, name, attr.map(|a| a.inode));
        }
    }

    /// The master's answer: a page of a directory that begins where the last one ended.
    /// False: it was changed meanwhile, ask for the page again.
    pub fn learn_page(&mut self, asked: Asked, directory: u64, page: &[PageEntry], end: bool) -> bool {
        let fresh = self.may_keep(directory) && self.unchanged_since(asked, directory);
        for entry in page {
            self.learn_attr(asked, &entry.attr);
            if fresh {
                self.put_entry(directory, &entry.name, Some(entry.attr.inode));
            }
        }
        let Some(d) = self.directories.get_mut(&directory) else { return false };
        if fresh {
            let last = page.last().map(|e| e.name.clone());
            d.page_read(last, u32::try_from(page.len()).unwrap_or(u32::MAX), end);
            d.wants_more()
        } else {
            d.page_discarded()
        }
    }

    /// A page of a listing, which begins behind `after`. If the listing is the first to get so far, the directory is known
    /// up to there.
    pub fn learn_listed(
        &mut self,
        asked: Asked,
        directory: u64,
        after: &[u8],
        page: &[PageEntry],
        end: bool,
    ) {
        if !self.may_keep(directory) {
            return;
        }
        let known = self.directories.get_or_insert_mut(directory, Directory::default).continues_at(after);
        if known {
            self.learn_page(asked, directory, page, end);
            return;
        }
        for entry in page {
            self.learn_entry(asked, directory, &entry.name, Some(&entry.attr));
        }
    }

    /// Up to which name a directory has been read.
    pub fn cursor(&self, directory: u64) -> Option<Bytes> {
        self.directories.peek(&directory).map(Directory::cursor)
    }

    /// A lookup in `directory` had to ask: what should be read ahead now.
    pub fn missed(&mut self, directory: u64) -> Option<ReadAhead> {
        if !self.may_keep(directory) {
            return None;
        }
        while self.directories.len() > self.limits.directories {
            self.directories.pop_lru();
        }
        self.directories.get_or_insert_mut(directory, Directory::default).missed()
    }

    /// A read-ahead came to its end. `cursor`: where the directory would be read on.
    pub fn read_ahead_ended(&mut self, directory: u64) {
        if let Some(d) = self.directories.get_mut(&directory) {
            d.reading_ended();
        }
    }

    /// An own change of a directory's entries: how it is now, if the master said.
    pub fn entries_changed(&mut self, directory: u64, now: Option<&FileAttr>) {
        match now {
            Some(attr) => self.replace_attr(attr),
            None => self.changed(directory),
        }
    }

    /// An own change made `name`: an inode, or another name of one. `now`: the directory.
    pub fn made(&mut self, parent: u64, name: &[u8], attr: &FileAttr, now: Option<&FileAttr>) {
        self.entries_changed(parent, now);
        self.stamp(attr.inode);
        if self.may_keep(parent) {
            self.name_changed(parent, name, true);
            self.put_entry(parent, name, Some(attr.inode));
        }
        if self.may_keep(attr.inode) {
            self.put_attr(attr);
            if attr.is_directory() && attr.nlink <= 2 {
                self.know_empty(attr.inode);
            }
        }
    }

    /// An own change took `name` away. `after`: what lost it, `now`: the directory, if the master said.
    pub fn removed(&mut self, parent: u64, name: &[u8], after: Option<&FileAttr>, now: Option<&FileAttr>) {
        self.entries_changed(parent, now);
        if let Some(attr) = after {
            self.replace_attr(attr);
        }
        if self.may_keep(parent) {
            self.name_changed(parent, name, false);
            self.put_entry(parent, name, None);
        }
    }

    /// An own rename (after [`Self::entries_changed`] of both directories). `replaced`: what had the new name before;
    /// with `exchange` it has the old name now.
    pub fn renamed(
        &mut self,
        from: (u64, &[u8]),
        to: (u64, &[u8]),
        moved: &FileAttr,
        replaced: Option<&FileAttr>,
        exchange: bool,
    ) {
        self.replace_attr(moved);
        if let Some(attr) = replaced {
            self.replace_attr(attr);
        }
        if self.may_keep(from.0) {
            if !exchange {
                self.name_changed(from.0, from.1, false);
            }
            let back = replaced.filter(|_| exchange).map(|a| a.inode);
            self.put_entry(from.0, from.1, back);
        }
        if self.may_keep(to.0) {
            if replaced.is_none() {
                self.name_changed(to.0, to.1, true);
            }
            self.put_entry(to.0, to.1, Some(moved.inode));
        }
    }

    /// An own change of an inode, and how it is now.
    pub fn replace_attr(&mut self, attr: &FileAttr) {
        self.stamp(attr.inode);
        if attr.nlink == 0 {
            self.attrs.pop(&attr.inode);
        } else if self.may_keep(attr.inode) {
            self.put_attr(attr);
        }
    }

    /// An own change of an inode; how it is now is not known.
    pub fn changed(&mut self, inode: u64) {
        self.stamp(inode);
        self.attrs.pop(&inode);
    }

    /// Names that were dropped for want of room since the last call.
    pub fn take_evicted(&mut self) -> Vec<(u64, Box<[u8]>)> {
        std::mem::take(&mut self.evicted)
    }

    /// All names in the cache.
    pub fn names(&self) -> Vec<(u64, Box<[u8]>)> {
        self.entries.iter().map(|(k, _)| (k.parent, k.name.clone())).collect()
    }

    /// Parent, name and inode of every name that is kept and is there.
    pub(super) fn known_entries(&self) -> impl Iterator<Item = (u64, &[u8], u64)> {
        self.entries.iter().filter_map(|(key, e)| Some((key.parent, &key.name[..], e.inode?)))
    }

    /// A directory that was just made has no names: nothing in it need be asked for.
    fn know_empty(&mut self, directory: u64) {
        let d = self.directories.get_or_insert_mut(directory, Directory::default);
        d.page_read(None, 0, true);
    }

    /// Whether a directory is known to be empty.
    pub(super) fn is_empty(&mut self, directory: u64) -> bool {
        self.directories.get(&directory).is_some_and(Directory::is_empty)
    }

    fn name_changed(&mut self, directory: u64, name: &[u8], made: bool) {
        if let Some(d) = self.directories.get_mut(&directory) {
            d.name_changed(name, made);
        }
    }

    fn stamp(&mut self, inode: u64) {
        self.changes += 1;
        self.listings.forget(inode);
        self.changed.put(inode, self.changes);
        while self.changed.len() > self.limits.directories {
            if let Some((_, at)) = self.changed.pop_lru() {
                self.changed_floor = self.changed_floor.max(at);
            }
        }
    }

    pub(super) fn unchanged_since(&self, asked: Asked, inode: u64) -> bool {
        self.changed.peek(&inode).copied().unwrap_or(0).max(self.changed_floor) <= asked.0
    }

    fn put_attr(&mut self, attr: &FileAttr) {
        // Two answers may arrive in either order; versions only grow.
        if self.attrs.peek(&attr.inode).is_some_and(|known| known.version > attr.version) {
            return;
        }
        self.attrs.put(attr.inode, *attr);
        while self.attrs.len() > self.limits.attrs {
            self.attrs.pop_lru();
        }
    }

    fn put_entry(&mut self, parent: u64, name: &[u8], inode: Option<u64>) {
        let Some(under) = self.keeps_under(parent) else { return };
        self.entries.put(EntryKey { parent, name: name.into() }, Entry { inode, under });
        while self.entries.len() > self.limits.entries {
            let Some((key, entry)) = self.entries.pop_lru() else { break };
            if let (Some(_), Some(d)) = (entry.inode, self.directories.get_mut(&key.parent)) {
                d.entries_lost();
            }
            if entry.under == 0 {
                self.evicted.push((key.parent, key.name));
            }
        }
    }
}
