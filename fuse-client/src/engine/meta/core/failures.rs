//! What the master has refused after it had been answered here, until somebody is told.

use std::collections::HashMap;

use cairn_proto::rpc::op::Op;

/// Inodes that are remembered, at most: somebody is told of each, or nobody asks.
const MOST: usize = 16_384;

/// By inode: the first errno.
#[derive(Debug, Default)]
pub struct Failures(HashMap<u64, i32>);

impl Failures {
    /// An operation was refused.
    pub fn add(&mut self, op: &Op, errno: i32) {
        for inode in concerned(op) {
            if self.0.len() < MOST || self.0.contains_key(&inode) {
                self.0.entry(inode).or_insert(errno);
            }
        }
    }

    /// The error to report for an inode.
    pub fn take(&mut self, inode: u64) -> Option<i32> {
        if self.0.is_empty() { None } else { self.0.remove(&inode) }
    }
}

/// Whose fsync is to report it: the inode's, and the directories' whose entries have not changed after all.
fn concerned(op: &Op) -> Vec<u64> {
    match op {
        Op::Make(make) => vec![make.parent, make.inode],
        Op::Unlink(unlink) => vec![unlink.parent],
        Op::Rmdir(rmdir) => vec![rmdir.parent],
        Op::Link(link) => vec![link.inode, link.new_parent],
        Op::Rename(rename) => vec![rename.parent, rename.new_parent],
        Op::SetAttr(set) => vec![set.inode],
        // Nothing else is answered here.
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use cairn_proto::rpc;

    use super::*;

    #[test]
    fn each_inode_hears_of_it_once() {
        let mut failures = Failures::default();
        let make = Op::Make(rpc::Make { parent: 1, inode: 9, ..rpc::Make::default() });
        failures.add(&make, libc::ENOSPC);
        failures.add(&Op::SetAttr(rpc::SetAttr { inode: 9, ..rpc::SetAttr::default() }), libc::ESTALE);
        assert_eq!(failures.take(9), Some(libc::ENOSPC), "the first reason");
        assert_eq!((failures.take(9), failures.take(1)), (None, Some(libc::ENOSPC)));
    }
}
