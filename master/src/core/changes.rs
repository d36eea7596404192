//! What a change of records means for people: which names were made, removed and renamed, which files written.
//!
//! Read off the records that were touched, so no list of what which operation changes has to be kept right.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cairn_proto::InodeId;

use super::keys;
use super::records::{Entry, Inode, decode};
use super::scratch::Scratch;
use super::view::{View, ViewError};

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The directory.
    pub parent: InodeId,
    /// The name.
    pub name: Bytes,
}

/// A change that somebody may want to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A name is gone.
    Removed(Place, Entry),
    /// An inode has another name instead of this one.
    Renamed {
        /// The name that it had.
        from: Place,
        /// The name that it has.
        to: Place,
        /// The inode.
        entry: Entry,
    },
    /// There is a name that was not there.
    Made(Place, Entry),
    /// The size or the time of the last write is another.
    Written {
        /// Which.
        inode: InodeId,
        /// Bytes.
        size: u64,
    },
    /// Mode, owner, group or extended attributes are others.
    Attributes(InodeId),
}

/// What has changed since the last savepoint: names first, those that are gone before those that are there instead.
///
/// # Errors
/// When the store cannot be read.
pub fn since_savepoint(scratch: &Scratch<'_>) -> Result<Vec<Change>, ViewError> {
    let (mut gone, mut there) = (Vec::new(), Vec::new());
    let (mut inodes, mut of_xattrs) = (BTreeMap::new(), BTreeSet::new());
    for (key, before) in scratch.before()? {
        let Some(id) = keys::head_id(&key).map(InodeId) else { continue };
        let after = scratch.get(&key)?;
        match key[0] {
            keys::ENTRY if before != after => {
                let place = Place { parent: id, name: Bytes::copy_from_slice(keys::tail(&key)) };
                gone.extend(before.map(|b| Entry::decode(&b)).transpose()?.map(|e| (place.clone(), e)));
                there.extend(after.map(|a| Entry::decode(&a)).transpose()?.map(|e| (place, e)));
            }
            // Of one that is new or gone the names tell.
            keys::INODE => {
                if let (Some(before), Some(after)) = (before, after) {
                    let read = |value: &Bytes| decode::<Inode>("an inode", value);
                    inodes.insert(id, (read(&before)?, read(&after)?));
                }
            }
            keys::XATTR if before != after => _ = of_xattrs.insert(id),
            _ => {}
        }
    }
    let mut changes = named(gone, there);
    for (inode, (before, after)) in inodes {
        changes.extend(of_inode(inode, &before, &after, of_xattrs.contains(&inode)));
    }
    Ok(changes)
}

/// What has lost a name and got one was renamed.
fn named(gone: Vec<(Place, Entry)>, mut there: Vec<(Place, Entry)>) -> Vec<Change> {
    let (mut removed, mut renamed) = (Vec::new(), Vec::new());
    for (from, entry) in gone {
        match there.iter().position(|(_, new)| new.inode == entry.inode) {
            Some(at) => {
                let (to, entry) = there.swap_remove(at);
                renamed.push(Change::Renamed { from, to, entry });
            }
            None => removed.push(Change::Removed(from, entry)),
        }
    }
    let made = there.into_iter().map(|(place, entry)| Change::Made(place, entry));
    removed.into_iter().chain(renamed).chain(made).collect()
}

fn of_inode(inode: InodeId, before: &Inode, after: &Inode, xattrs: bool) -> Option<Change> {
    // A directory's times and size follow its names.
    if !after.is_dir() && (before.size, before.mtime) != (after.size, after.mtime) {
        return Some(Change::Written { inode, size: after.size });
    }
    let attributes = (before.mode, before.uid, before.gid) != (after.mode, after.uid, after.gid);
    (attributes || xattrs).then_some(Change::Attributes(inode))
}

#[cfg(test)]
mod tests {
    use cairn_proto::rpc::Time;

    use super::*;
    use crate::core::records::{Counters, S_IFDIR, S_IFREG};
    use crate::store::{MemoryStore, Store};

    const DIR: InodeId = InodeId(1);

    fn place(name: &'static str) -> Place {
        Place { parent: DIR, name: Bytes::from_static(name.as_bytes()) }
    }

    fn file(inode: u64) -> Entry {
        Entry { inode: InodeId(inode), kind: S_IFREG }
    }

    fn name(entry: &str) -> Vec<u8> {
        keys::entry(DIR, entry.as_bytes())
    }

    /// A directory with the files 2 and 3, called "a" and "b".
    fn store() -> MemoryStore {
        let mut store = MemoryStore::default();
        let inode = |mode| Inode { mode, ..Inode::default() }.encode();
        let records = [
            (keys::inode(DIR), Some(inode(S_IFDIR))),
            (keys::inode(InodeId(2)), Some(inode(S_IFREG))),
            (keys::inode(InodeId(3)), Some(inode(S_IFREG))),
            (name("a"), Some(file(2).encode())),
            (name("b"), Some(file(3).encode())),
        ];
        store.commit(records.into()).unwrap();
        store
    }

    #[test]
    fn names_come_go_and_move() {
        let store = store();
        let mut s = Scratch::new(&store, Counters::fresh());
        // An earlier operation of the same group: not of this one.
        s.put(name("earlier"), file(9).encode());
        s.savepoint();
        s.put(name("c"), file(4).encode());
        s.put(keys::inode(InodeId(4)), Inode { mode: S_IFREG, size: 5, ..Inode::default() }.encode());
        assert_eq!(since_savepoint(&s).unwrap(), [Change::Made(place("c"), file(4))]);
        // Over another, which loses its name by it.
        s.savepoint();
        s.delete(name("a"));
        s.put(name("b"), file(2).encode());
        let moved = Change::Renamed { from: place("a"), to: place("b"), entry: file(2) };
        assert_eq!(since_savepoint(&s).unwrap(), [Change::Removed(place("b"), file(3)), moved]);
        s.savepoint();
        s.delete(name("earlier"));
        assert_eq!(since_savepoint(&s).unwrap(), [Change::Removed(place("earlier"), file(9))]);
        s.savepoint();
        assert_eq!(since_savepoint(&s).unwrap(), []);
    }

    #[test]
    fn an_exchange_is_two_renames() {
        let store = store();
        let mut s = Scratch::new(&store, Counters::fresh());
        s.savepoint();
        s.put(name("a"), file(3).encode());
        s.put(name("b"), file(2).encode());
        let renamed =
            |from, to, inode| Change::Renamed { from: place(from), to: place(to), entry: file(inode) };
        assert_eq!(since_savepoint(&s).unwrap(), [renamed("a", "b", 2), renamed("b", "a", 3)]);
    }

    #[test]
    fn writes_are_told_from_changes_of_attributes() {
        let store = store();
        let mut s = Scratch::new(&store, Counters::fresh());
        s.savepoint();
        let mtime = Time { secs: 1, nanos: 0 };
        s.put(keys::inode(InodeId(2)), Inode { mode: S_IFREG, size: 7, mtime, ..Inode::default() }.encode());
        s.put(keys::inode(InodeId(3)), Inode { mode: S_IFREG | 0o600, ..Inode::default() }.encode());
        // A directory's times follow its names.
        s.put(keys::inode(DIR), Inode { mode: S_IFDIR, mtime, ..Inode::default() }.encode());
        let want = [Change::Written { inode: InodeId(2), size: 7 }, Change::Attributes(InodeId(3))];
        assert_eq!(since_savepoint(&s).unwrap(), want);
        s.savepoint();
        s.put(keys::xattr(InodeId(3), b"user.a"), Bytes::from_static(b"x"));
        s.put(
            keys::inode(InodeId(3)),
            Inode { mode: S_IFREG | 0o600, xattrs: 1, ..Inode::default() }.encode(),
        );
        assert_eq!(since_savepoint(&s).unwrap(), [Change::Attributes(InodeId(3))]);
    }
}
