//! Which inodes lie below the directory that is watched, and where. Follows the master's changes; looks at nothing itself.

use std::collections::{BTreeSet, HashMap};

use cairn_proto::rpc::{FileChange, FileChangeKind as Kind};

/// A path below the directory; of the directory itself empty.
pub type Below = Vec<u8>;

/// No directory lies deeper; a circle, which a change that was missed could make of what is known, ends there.
const DEEPEST: usize = 4_096;
/// Type bits of a mode, and those of a directory.
const TYPE_MASK: u32 = 0o170_000;
const DIRECTORY: u32 = 0o040_000;

/// What is to be told of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line {
    /// A name was made, or moved here from elsewhere.
    Made(Below),
    /// A name was removed, or moved elsewhere.
    Removed(Below),
    /// From, to.
    Renamed(Below, Below),
    /// Written, or cut, with the size in bytes.
    Written(Below, u64),
    /// Mode, owner or extended attributes.
    Attributes(Below),
}

/// What follows from a change.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// It is to be told.
    pub line: Option<Line>,
    /// A directory has come from elsewhere: what is in it is to be added.
    pub look_into: Option<(u64, Below)>,
}

/// Names below a directory.
#[derive(Debug)]
pub struct Tree {
    root: u64,
    /// The names of each inode: parent, name.
    names: HashMap<u64, BTreeSet<(u64, Vec<u8>)>>,
}

impl Tree {
    /// Nothing known below `root`.
    pub fn new(root: u64) -> Self {
        Self { root, names: HashMap::new() }
    }

    /// There is this name.
    pub fn add(&mut self, parent: u64, name: &[u8], inode: u64) {
        self.names.entry(inode).or_default().insert((parent, name.to_vec()));
    }

    fn remove(&mut self, parent: u64, name: &[u8], inode: u64) {
        if let Some(names) = self.names.get_mut(&inode) {
            names.remove(&(parent, name.to_vec()));
            if names.is_empty() {
                self.names.remove(&inode);
            }
        }
    }

    /// Where an inode is, by one of its names; `None`: not below.
    fn path(&self, inode: u64) -> Option<Below> {
        let mut parts: Vec<&[u8]> = Vec::new();
        let mut at = inode;
        while at != self.root {
            let (parent, name) = self.names.get(&at)?.first()?;
            parts.push(name);
            at = *parent;
            if parts.len() > DEEPEST {
                return None;
            }
        }
        parts.reverse();
        Some(parts.join(&b'/'))
    }

    /// The path of a name in a directory.
    fn place(&self, parent: u64, name: &[u8]) -> Option<Below> {
        let mut path = self.path(parent)?;
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Some(path)
    }

    /// Forgets what does not lie below any more.
    fn sweep(&mut self) {
        let gone: Vec<u64> = self.names.keys().copied().filter(|inode| self.path(*inode).is_none()).collect();
        gone.iter().for_each(|inode| _ = self.names.remove(inode));
    }

    /// Something has changed somewhere in the cluster.
    pub fn follow(&mut self, change: &FileChange) -> Outcome {
        let inode = change.inode;
        let told = |line| Outcome { line, look_into: None };
        match change.kind() {
            Kind::Made => {
                let path = self.place(change.parent, &change.name);
                if path.is_some() {
                    self.add(change.parent, &change.name, inode);
                }
                told(path.map(Line::Made))
            }
            Kind::Removed => {
                let path = self.place(change.parent, &change.name);
                self.remove(change.parent, &change.name, inode);
                let path = if inode == self.root { Some(Below::new()) } else { path };
                told(path.map(Line::Removed))
            }
            Kind::Renamed => self.renamed(change),
            Kind::Written => told(self.path(inode).map(|path| Line::Written(path, change.size))),
            Kind::Attributes => told(self.path(inode).map(Line::Attributes)),
            Kind::Missed => Outcome::default(),
        }
    }

    fn renamed(&mut self, change: &FileChange) -> Outcome {
        let old = self.place(change.old_parent, &change.old_name);
        let new = self.place(change.parent, &change.name);
        let directory = change.mode & TYPE_MASK == DIRECTORY;
        self.remove(change.old_parent, &change.old_name, change.inode);
        if new.is_some() {
            self.add(change.parent, &change.name, change.inode);
        }
        if directory && old.is_some() && new.is_none() {
            self.sweep();
        }
        let comes = directory && old.is_none();
        let look_into = new.clone().filter(|_| comes).map(|path| (change.inode, path));
        let line = match (old, new) {
            (Some(old), Some(new)) => Some(Line::Renamed(old, new)),
            (Some(old), None) => Some(Line::Removed(old)),
            (None, new) => new.map(Line::Made),
        };
        Outcome { line, look_into }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: u64 = 10;
    const ELSEWHERE: u64 = 99;

    fn named(kind: Kind, parent: u64, name: &str, inode: u64) -> FileChange {
        let name = name.as_bytes().to_vec().into();
        FileChange { kind: kind.into(), parent, name, inode, ..FileChange::default() }
    }

    fn renamed(from: (u64, &str), to: (u64, &str), inode: u64, mode: u32) -> FileChange {
        let old_name = from.1.as_bytes().to_vec().into();
        FileChange { old_parent: from.0, old_name, mode, ..named(Kind::Renamed, to.0, to.1, inode) }
    }

    fn written(inode: u64) -> FileChange {
        FileChange { kind: Kind::Written.into(), inode, size: 5, ..FileChange::default() }
    }

    fn line(tree: &mut Tree, change: &FileChange) -> Option<Line> {
        tree.follow(change).line
    }

    fn path(text: &str) -> Below {
        text.as_bytes().to_vec()
    }

    #[test]
    fn what_happens_below_is_told_and_nothing_else() {
        let mut tree = Tree::new(ROOT);
        tree.add(ROOT, b"d", 11);
        assert_eq!(line(&mut tree, &named(Kind::Made, 11, "f", 12)), Some(Line::Made(path("d/f"))));
        assert_eq!(line(&mut tree, &written(12)), Some(Line::Written(path("d/f"), 5)));
        assert_eq!(line(&mut tree, &named(Kind::Made, ELSEWHERE, "f", 13)), None);
        assert_eq!(line(&mut tree, &written(13)), None);
        assert_eq!(line(&mut tree, &named(Kind::Removed, 11, "f", 12)), Some(Line::Removed(path("d/f"))));
        assert_eq!(line(&mut tree, &written(12)), None);
        // The directory itself.
        let mode = FileChange { kind: Kind::Attributes.into(), inode: ROOT, ..FileChange::default() };
        assert_eq!(line(&mut tree, &mode), Some(Line::Attributes(path(""))));
        assert_eq!(line(&mut tree, &named(Kind::Removed, 1, "w", ROOT)), Some(Line::Removed(path(""))));
    }

    #[test]
    fn a_second_name_elsewhere_does_not_hide_the_first() {
        let mut tree = Tree::new(ROOT);
        tree.add(ROOT, b"f", 12);
        assert_eq!(line(&mut tree, &named(Kind::Made, ELSEWHERE, "a", 12)), None);
        assert_eq!(line(&mut tree, &written(12)), Some(Line::Written(path("f"), 5)));
        assert_eq!(line(&mut tree, &named(Kind::Removed, ELSEWHERE, "a", 12)), None);
        assert_eq!(line(&mut tree, &written(12)), Some(Line::Written(path("f"), 5)));
    }

    #[test]
    fn directories_come_and_go_with_what_is_in_them() {
        let mut tree = Tree::new(ROOT);
        tree.add(ROOT, b"d", 11);
        tree.add(11, b"f", 12);
        let inside = tree.follow(&renamed((ROOT, "d"), (ROOT, "e"), 11, DIRECTORY));
        assert_eq!(inside, Outcome { line: Some(Line::Renamed(path("d"), path("e"))), look_into: None });
        assert_eq!(line(&mut tree, &written(12)), Some(Line::Written(path("e/f"), 5)));
        let out = line(&mut tree, &renamed((ROOT, "e"), (ELSEWHERE, "e"), 11, DIRECTORY));
        assert_eq!(out, Some(Line::Removed(path("e"))));
        assert_eq!(line(&mut tree, &written(12)), None);
        assert!(tree.names.is_empty());
        let back = tree.follow(&renamed((ELSEWHERE, "e"), (ROOT, "x"), 11, DIRECTORY));
        let want = Outcome { line: Some(Line::Made(path("x"))), look_into: Some((11, path("x"))) };
        assert_eq!(back, want);
    }

    #[test]
    fn a_circle_of_what_was_missed_has_an_end() {
        let mut tree = Tree::new(ROOT);
        tree.add(11, b"a", 12);
        tree.add(12, b"b", 11);
        assert_eq!(line(&mut tree, &written(11)), None);
    }
}
