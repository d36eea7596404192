//! What the master will make of a change, where this mount is alone and so knows all that it depends on.
//!
//! `None`: it cannot be told for certain, ask. Where there is an answer it is the master's to the last bit, the version included
//! (`master/src/core/namespace`): what is foreseen stays in the cache, and the master says only whether it was done.
//! Whether the caller may do it is for the kernel, as with all operations.

use super::cache::{Found, MetaCache};
use crate::engine::attr::{DIRECTORY, FileAttr, REGULAR, TYPE_MASK, Timestamp};
use crate::engine::attrs::{SetAttr, SetTime};
use crate::engine::names::NewNode;

const SETGID: u32 = 0o2000;
const SYMLINK: u32 = 0o120_000;
/// The longest target of a symbolic link, bytes.
const LONGEST_TARGET: usize = 4095;
/// Far from any limit on names of an inode, which the master knows.
const MANY_LINKS: u32 = 1 << 30;

/// A rename as it will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Renamed {
    /// What was moved, as it is then.
    pub moved: FileAttr,
    /// What had the new name before, as it is then.
    pub replaced: Option<FileAttr>,
    /// The directories, as they are then: one, or from and to.
    pub directories: Vec<FileAttr>,
}

impl MetaCache {
    /// `name` made in `parent` as inode `inode`: its attributes, and the directory's.
    pub fn foresee_make(
        &mut self,
        parent: u64,
        name: &[u8],
        node: &NewNode,
        inode: u64,
        at: Timestamp,
    ) -> Option<(FileAttr, FileAttr)> {
        let directory = self.changeable_directory(parent)?;
        // It may have a default ACL.
        if directory.has_xattrs || !is_name(name) || self.lookup(parent, name) != Found::Nothing {
            return None;
        }
        let kind = if node.mode & TYPE_MASK == 0 { REGULAR } else { node.mode & TYPE_MASK };
        let link = kind == SYMLINK;
        if link && (node.target.is_empty() || node.target.len() > LONGEST_TARGET) {
            return None;
        }
        let inherits = directory.mode & SETGID != 0;
        let permissions = if link { 0o777 } else { node.mode & 0o7777 & !(node.umask & 0o777) };
        let is_directory = kind == DIRECTORY;
        let attr = FileAttr {
            inode,
            mode: kind | permissions | if inherits && is_directory { SETGID } else { 0 },
            nlink: if is_directory { 2 } else { 1 },
            uid: node.uid,
            gid: if inherits { directory.gid } else { node.gid },
            rdev: node.rdev,
            size: if link { node.target.len() as u64 } else { 0 },
            atime: at,
            mtime: at,
            ctime: at,
            version: 1,
            has_xattrs: false,
        };
        let mut after = entries_changed(directory, at);
        after.nlink += u32::from(is_directory);
        Some((attr, after))
    }

    /// A name taken away that is not a directory's: what lost it, and the directory.
    pub fn foresee_unlink(
        &mut self,
        parent: u64,
        name: &[u8],
        at: Timestamp,
    ) -> Option<(FileAttr, FileAttr)> {
        let directory = self.changeable_directory(parent)?;
        let target = self.file_of(parent, name)?;
        Some((name_lost(target, at), entries_changed(directory, at)))
    }

    /// A directory removed that is known to be empty: what is left of it, and the one that it was in.
    pub fn foresee_rmdir(&mut self, parent: u64, name: &[u8], at: Timestamp) -> Option<(FileAttr, FileAttr)> {
        let directory = self.changeable_directory(parent)?;
        let Found::Inode(attr) = self.lookup(parent, name) else { return None };
        if !attr.is_directory() || !self.is_empty(attr.inode) {
            return None;
        }
        let mut after = entries_changed(directory, at);
        after.nlink = after.nlink.saturating_sub(1);
        Some((FileAttr { nlink: 0, ctime: at, ..attr }, after))
    }

    /// Another name for what is not a directory: its attributes, and the directory's.
    pub fn foresee_link(
        &mut self,
        inode: u64,
        parent: u64,
        name: &[u8],
        at: Timestamp,
    ) -> Option<(FileAttr, FileAttr)> {
        let directory = self.changeable_directory(parent)?;
        let mut attr = self.attr(inode).filter(|a| !a.is_directory() && a.nlink < MANY_LINKS)?;
        if !is_name(name) || self.lookup(parent, name) != Found::Nothing {
            return None;
        }
        attr.nlink += 1;
        attr.ctime = at;
        attr.version += 1;
        Some((attr, entries_changed(directory, at)))
    }

    /// A rename of what is not a directory to a name that is free or another file's.
    pub fn foresee_rename(&mut self, from: (u64, &[u8]), to: (u64, &[u8]), at: Timestamp) -> Option<Renamed> {
        let source = self.changeable_directory(from.0)?;
        let target = self.changeable_directory(to.0)?;
        let mut moved = self.file_of(from.0, from.1)?;
        let replaced = match self.lookup(to.0, to.1) {
            Found::Nothing if is_name(to.1) => None,
            Found::Inode(attr) if !attr.is_directory() && attr.inode != moved.inode => {
                Some(name_lost(attr, at))
            }
            _ => return None,
        };
        moved.ctime = at;
        moved.version += 1;
        let directories = if from.0 == to.0 {
            vec![entries_changed(entries_changed(source, at), at)]
        } else {
            vec![entries_changed(source, at), entries_changed(target, at)]
        };
        Some(Renamed { moved, replaced, directories })
    }

    /// Attributes changed, but for the size.
    pub fn foresee_set(&mut self, inode: u64, change: &SetAttr, at: Timestamp) -> Option<FileAttr> {
        let SetAttr { mode, uid, gid, size, atime, mtime, ctime, kill_suidgid } = *change;
        let mut attr = self.attr(inode).filter(|_| self.enabled())?;
        // An ACL follows the mode, and the mode the ACL.
        if size.is_some() || change.is_nothing() || (mode.is_some() && attr.has_xattrs) {
            return None;
        }
        let time = |t| match t {
            SetTime::Now => at,
            SetTime::To(t) => t,
        };
        attr.uid = uid.unwrap_or(attr.uid);
        attr.gid = gid.unwrap_or(attr.gid);
        attr.mode = mode.map_or(attr.mode, |m| (attr.mode & TYPE_MASK) | (m & 0o7777));
        if kill_suidgid && !attr.is_directory() {
            attr.mode = attr.without_suidgid();
        }
        attr.atime = atime.map_or(attr.atime, time);
        attr.mtime = mtime.map_or(attr.mtime, time);
        attr.ctime = ctime.unwrap_or(at);
        attr.version += 1;
        Some(attr)
    }

    /// What a file is once the master has been told of writes.
    pub fn foresee_grow(&mut self, inode: u64, size: u64, mtime: Option<Timestamp>) -> Option<FileAttr> {
        let mut attr = self.attr(inode).filter(|a| self.enabled() && a.is_regular())?;
        attr.size = attr.size.max(size);
        if let Some(mtime) = mtime {
            attr.mtime = mtime;
            attr.ctime = attr.ctime.max(mtime);
        }
        attr.version += 1;
        Some(attr)
    }

    fn changeable_directory(&mut self, inode: u64) -> Option<FileAttr> {
        self.attr(inode).filter(|a| self.enabled() && a.is_directory() && a.nlink < MANY_LINKS)
    }

    fn file_of(&mut self, parent: u64, name: &[u8]) -> Option<FileAttr> {
        match self.lookup(parent, name) {
            Found::Inode(attr) if !attr.is_directory() => Some(attr),
            _ => None,
        }
    }
}

fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|b| matches!(b, b'/' | 0))
}

fn entries_changed(mut directory: FileAttr, at: Timestamp) -> FileAttr {
    directory.mtime = at;
    directory.ctime = at;
    directory.version += 1;
    directory
}

fn name_lost(mut attr: FileAttr, at: Timestamp) -> FileAttr {
    attr.nlink = attr.nlink.saturating_sub(1);
    attr.ctime = at;
    attr.version += 1;
    attr
}

#[cfg(test)]
mod tests {
    use super::super::cache::Limits;
    use super::*;

    const AT: Timestamp = Timestamp { secs: 100, nanos: 5 };

    fn directory(inode: u64, mode: u32) -> FileAttr {
        FileAttr { inode, mode: DIRECTORY | mode, nlink: 2, gid: 7, version: 4, ..FileAttr::default() }
    }

    fn alone() -> MetaCache {
        let mut cache = MetaCache::new(Limits::default(), true);
        cache.made(9, b"d", &directory(1, 0o755), None);
        cache
    }

    fn file(cache: &mut MetaCache, name: &[u8], inode: u64) -> FileAttr {
        let node = NewNode { mode: 0o666, umask: 0o22, ..NewNode::default() };
        let (attr, after) = cache.foresee_make(1, name, &node, inode, AT).unwrap();
        cache.made(1, name, &attr, Some(&after));
        attr
    }

    #[test]
    fn what_is_made_inherits_and_its_directory_changes() {
        let mut cache = alone();
        let made = file(&mut cache, b"a", 2);
        assert_eq!((made.mode, made.nlink, made.gid, made.version), (REGULAR | 0o644, 1, 0, 1));
        let after = cache.attr(1).unwrap();
        assert_eq!((after.mtime, after.ctime, after.version, after.nlink), (AT, AT, 5, 2));
        let node = NewNode { mode: DIRECTORY | 0o777, ..NewNode::default() };
        cache.replace_attr(&FileAttr { version: 9, ..directory(1, 0o2755) });
        let (child, after) = cache.foresee_make(1, b"b", &node, 3, AT).unwrap();
        assert_eq!((child.mode, child.gid, child.nlink), (DIRECTORY | 0o2777, 7, 2));
        assert_eq!((after.nlink, after.version), (3, 10));
    }

    #[test]
    fn what_is_not_certain_is_asked_for() {
        let mut cache = alone();
        let node = NewNode { mode: 0o644, ..NewNode::default() };
        file(&mut cache, b"a", 2);
        assert!(cache.foresee_make(1, b"a", &node, 3, AT).is_none(), "the name is there");
        assert!(cache.foresee_make(8, b"a", &node, 3, AT).is_none(), "the directory is not known");
        cache.replace_attr(&FileAttr { has_xattrs: true, version: 50, ..directory(1, 0o755) });
        assert!(cache.foresee_make(1, b"b", &node, 3, AT).is_none(), "there may be a default ACL");
        assert!(cache.foresee_unlink(9, b"d", AT).is_none(), "a directory");
        assert!(cache.foresee_unlink(1, b"none", AT).is_none());
        let truncate = SetAttr { size: Some(0), ..SetAttr::default() };
        assert!(cache.foresee_set(2, &truncate, AT).is_none());
        cache.reset(false);
        assert!(cache.foresee_make(1, b"b", &node, 3, AT).is_none(), "others are there");
    }

    #[test]
    fn a_directory_is_removed_when_it_is_known_to_be_empty() {
        let mut cache = alone();
        let node = NewNode { mode: DIRECTORY | 0o755, ..NewNode::default() };
        let (child, after) = cache.foresee_make(1, b"d", &node, 5, AT).unwrap_or_else(|| {
            // Nothing is known of the directory's names until it has been listed.
            let asked = cache.asking();
            cache.learn_listed(asked, 1, b"", &[], true);
            cache.foresee_make(1, b"d", &node, 5, AT).unwrap()
        });
        cache.made(1, b"d", &child, Some(&after));
        let file = NewNode { mode: 0o644, ..NewNode::default() };
        let (attr, after) = cache.foresee_make(5, b"f", &file, 6, AT).unwrap();
        cache.made(5, b"f", &attr, Some(&after));
        assert!(cache.foresee_rmdir(1, b"d", AT).is_none(), "it has a name");
        let (lost, after) = cache.foresee_unlink(5, b"f", AT).unwrap();
        cache.removed(5, b"f", Some(&lost), Some(&after));
        let links = cache.attr(1).unwrap().nlink;
        let (gone, after) = cache.foresee_rmdir(1, b"d", AT).unwrap();
        assert_eq!((gone.nlink, after.nlink), (0, links - 1));
        cache.removed(1, b"d", Some(&gone), Some(&after));
        assert!(cache.attr(5).is_none() && cache.lookup(1, b"d") == Found::Nothing);
    }

    #[test]
    fn names_are_counted_whether_they_come_before_or_behind_what_was_read() {
        let mut cache = alone();
        cache.made(1, b"d", &directory(5, 0o755), None);
        cache.replace_attr(&FileAttr { nlink: 3, version: 9, ..directory(5, 0o755) });
        let entry = |name: &'static [u8], inode| super::super::cache::PageEntry {
            name: bytes::Bytes::from_static(name),
            attr: FileAttr { inode, mode: REGULAR, nlink: 1, version: 1, ..FileAttr::default() },
        };
        cache.reset(true);
        cache.replace_attr(&directory(1, 0o755));
        let asked = cache.asking();
        cache.learn_entry(asked, 1, b"d", Some(&directory(5, 0o755)));
        cache.learn_listed(asked, 5, b"", &[entry(b"b", 10), entry(b"m", 11)], false);
        for (name, inode) in [(b"a", 12), (b"z", 13)] {
            cache.made(5, name, &entry(b"", inode).attr, None);
        }
        let asked = cache.asking();
        cache.learn_listed(asked, 5, b"m", &[entry(b"z", 13)], true);
        cache.learn_attr(asked, &directory(5, 0o755));
        for name in [b"a", b"b", b"m", b"z"] {
            assert!(cache.foresee_rmdir(1, b"d", AT).is_none(), "{name:?} is left");
            let (lost, after) = cache.foresee_unlink(5, name, AT).unwrap();
            cache.removed(5, name, Some(&lost), Some(&after));
        }
        assert!(cache.foresee_rmdir(1, b"d", AT).is_some());
    }

    #[test]
    fn a_name_lost_and_a_name_moved() {
        let mut cache = alone();
        let (a, b) = (file(&mut cache, b"a", 2), file(&mut cache, b"b", 3));
        let (linked, after) = cache.foresee_link(2, 1, b"c", AT).unwrap();
        cache.made(1, b"c", &linked, Some(&after));
        assert_eq!((linked.nlink, linked.version), (2, a.version + 1));
        assert!(cache.foresee_rename((1, b"a"), (1, b"c"), AT).is_none(), "two names of one inode");
        let before = cache.attr(1).unwrap().version;
        let renamed = cache.foresee_rename((1, b"a"), (1, b"b"), AT).unwrap();
        assert_eq!(renamed.replaced, Some(FileAttr { nlink: 0, version: b.version + 1, ..b }));
        assert_eq!((renamed.moved.inode, renamed.moved.version), (2, 3));
        assert_eq!(renamed.directories.iter().map(|d| d.version).collect::<Vec<_>>(), [before + 2]);
        let (lost, _) = cache.foresee_unlink(1, b"c", AT).unwrap();
        assert_eq!(lost.nlink, 1);
    }

    #[test]
    fn attributes_are_set_as_the_master_sets_them() {
        let mut cache = alone();
        file(&mut cache, b"a", 2);
        let old = Timestamp { secs: 1, nanos: 0 };
        let change = SetAttr {
            mode: Some(0o106_755),
            uid: Some(5),
            mtime: Some(SetTime::To(old)),
            atime: Some(SetTime::Now),
            ..SetAttr::default()
        };
        let later = Timestamp { secs: 200, nanos: 0 };
        let set = cache.foresee_set(2, &change, later).unwrap();
        assert_eq!((set.mode, set.uid, set.gid, set.version), (REGULAR | 0o6755, 5, 0, 2));
        assert_eq!((set.mtime, set.atime, set.ctime), (old, later, later));
        cache.replace_attr(&set);
        let kill = SetAttr { kill_suidgid: true, ..SetAttr::default() };
        assert_eq!(cache.foresee_set(2, &kill, later).unwrap().mode, REGULAR | 0o755);
        let grown = cache.foresee_grow(2, 10, Some(AT)).unwrap();
        assert_eq!((grown.size, grown.mtime, grown.ctime, grown.version), (10, AT, later, 3));
        cache.replace_attr(&FileAttr { has_xattrs: true, version: 7, ..set });
        assert!(cache.foresee_set(2, &change, later).is_none(), "an ACL has to follow");
        assert!(cache.foresee_set(2, &SetAttr { uid: Some(1), ..SetAttr::default() }, later).is_some());
    }
}
