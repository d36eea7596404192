//! A file system as plainly as it can be said: directories are maps, inodes are counted by walking.

use std::collections::BTreeMap;

use super::super::{Body, errno};

/// An inode of the model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir(BTreeMap<String, u64>),
    Other { kind: u32, size: u64 },
}

/// All of it. Ids are given in the order of making, as the master does.
#[derive(Clone, Debug)]
pub(super) struct Model {
    pub(super) nodes: BTreeMap<u64, Node>,
    next: u64,
}

type Outcome = Result<(), i32>;

impl Model {
    pub(super) fn new() -> Self {
        Self { nodes: BTreeMap::from([(1, Node::Dir(BTreeMap::new()))]), next: 2 }
    }

    fn dir(&self, id: u64) -> Result<&BTreeMap<String, u64>, i32> {
        match self.nodes.get(&id) {
            Some(Node::Dir(entries)) => Ok(entries),
            Some(Node::Other { .. }) => Err(errno::ENOTDIR.0),
            None => Err(errno::ENOENT.0),
        }
    }

    fn entries(&mut self, id: u64) -> &mut BTreeMap<String, u64> {
        match self.nodes.get_mut(&id) {
            Some(Node::Dir(entries)) => entries,
            other => panic!("{id} is no directory: {other:?}"),
        }
    }

    fn is_dir(&self, id: u64) -> bool {
        matches!(self.nodes.get(&id), Some(Node::Dir(_)))
    }

    fn is_empty(&self, id: u64) -> bool {
        self.dir(id).is_ok_and(BTreeMap::is_empty)
    }

    /// Names of a file, or 2 and the subdirectories of a directory.
    pub(super) fn nlink(&self, id: u64) -> usize {
        match &self.nodes[&id] {
            Node::Dir(entries) => 2 + entries.values().filter(|e| self.is_dir(**e)).count(),
            Node::Other { .. } => self
                .nodes
                .values()
                .filter_map(|n| if let Node::Dir(entries) = n { Some(entries) } else { None })
                .map(|entries| entries.values().filter(|e| **e == id).count())
                .sum(),
        }
    }

    fn parent(&self, id: u64) -> Option<u64> {
        self.nodes.iter().find_map(|(dir, node)| match node {
            Node::Dir(entries) if entries.values().any(|e| *e == id) => Some(*dir),
            _ => None,
        })
    }

    /// Whether `id` is `ancestor`, or below it.
    fn is_below(&self, id: u64, ancestor: u64) -> bool {
        let mut at = Some(id);
        while let Some(dir) = at {
            if dir == ancestor {
                return true;
            }
            at = self.parent(dir);
        }
        false
    }

    /// Files without names are gone.
    fn sweep(&mut self) {
        let lost: Vec<_> =
            self.nodes.keys().copied().filter(|id| !self.is_dir(*id) && self.nlink(*id) == 0).collect();
        for id in lost {
            self.nodes.remove(&id);
        }
    }

    pub(super) fn run(&mut self, op: &Body) -> Outcome {
        let outcome = self.apply(op);
        self.sweep();
        outcome
    }

    fn apply(&mut self, op: &Body) -> Outcome {
        let text = |name: &[u8]| String::from_utf8(name.to_vec()).unwrap();
        match op {
            Body::Make(op) => self.make(op.parent, text(&op.name), op.mode & 0o170_000),
            Body::Link(op) => self.link(op.inode, op.new_parent, text(&op.new_name)),
            Body::Unlink(op) => self.remove(op.parent, &text(&op.name), false),
            Body::Rmdir(op) => self.remove(op.parent, &text(&op.name), true),
            Body::Rename(op) => {
                self.rename((op.parent, text(&op.name)), (op.new_parent, text(&op.new_name)), op.flags)
            }
            Body::SetAttr(op) => self.truncate(op.inode, op.size.unwrap()),
            other => panic!("not modelled: {other:?}"),
        }
    }

    fn make(&mut self, parent: u64, name: String, kind: u32) -> Outcome {
        if self.dir(parent)?.contains_key(&name) {
            return Err(errno::EEXIST.0);
        }
        let node = match kind {
            0o040_000 => Node::Dir(BTreeMap::new()),
            0o120_000 => Node::Other { kind, size: 6 },
            _ => Node::Other { kind, size: 0 },
        };
        self.nodes.insert(self.next, node);
        let id = self.next;
        self.entries(parent).insert(name, id);
        self.next += 1;
        Ok(())
    }

    fn link(&mut self, id: u64, parent: u64, name: String) -> Outcome {
        if !self.nodes.contains_key(&id) {
            return Err(errno::ESTALE.0);
        }
        if self.dir(parent)?.contains_key(&name) {
            return Err(errno::EEXIST.0);
        }
        if self.is_dir(id) {
            return Err(errno::EPERM.0);
        }
        self.entries(parent).insert(name, id);
        Ok(())
    }

    fn remove(&mut self, parent: u64, name: &str, want_dir: bool) -> Outcome {
        let id = *self.dir(parent)?.get(name).ok_or(errno::ENOENT.0)?;
        match (want_dir, self.is_dir(id)) {
            (true, false) => return Err(errno::ENOTDIR.0),
            (false, true) => return Err(errno::EISDIR.0),
            (true, true) if !self.is_empty(id) => return Err(errno::ENOTEMPTY.0),
            _ => {}
        }
        self.entries(parent).remove(name);
        if want_dir {
            self.nodes.remove(&id);
        }
        Ok(())
    }

    fn rename(&mut self, from: (u64, String), to: (u64, String), flags: u32) -> Outcome {
        let source = self.dir(from.0)?.get(&from.1).copied();
        let target = self.dir(to.0)?.get(&to.1).copied();
        let source = source.ok_or(errno::ENOENT.0)?;
        if flags == 1 && target.is_some() {
            return Err(errno::EEXIST.0);
        }
        if target == Some(source) {
            return Ok(());
        }
        if flags == 2 {
            let target = target.ok_or(errno::ENOENT.0)?;
            let cycle = (self.is_dir(source) && self.is_below(to.0, source))
                || (self.is_dir(target) && self.is_below(from.0, target));
            if cycle {
                return Err(errno::EINVAL.0);
            }
            self.entries(from.0).insert(from.1, target);
            self.entries(to.0).insert(to.1, source);
            return Ok(());
        }
        if self.is_dir(source) && self.is_below(to.0, source) {
            return Err(errno::EINVAL.0);
        }
        if let Some(target) = target {
            match (self.is_dir(source), self.is_dir(target)) {
                (true, false) => return Err(errno::ENOTDIR.0),
                (false, true) => return Err(errno::EISDIR.0),
                (true, true) if !self.is_empty(target) => return Err(errno::ENOTEMPTY.0),
                (true, true) => drop(self.nodes.remove(&target)),
                (false, false) => {}
            }
        }
        self.entries(from.0).remove(&from.1);
        self.entries(to.0).insert(to.1, source);
        Ok(())
    }

    fn truncate(&mut self, id: u64, to: u64) -> Outcome {
        match self.nodes.get_mut(&id) {
            Some(Node::Other { kind: 0o100_000, size }) => {
                *size = to;
                Ok(())
            }
            Some(Node::Other { .. }) => Err(errno::EINVAL.0),
            Some(Node::Dir(_)) => Err(errno::EISDIR.0),
            None => Err(errno::ESTALE.0),
        }
    }
}
