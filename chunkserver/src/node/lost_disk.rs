//! A disk has failed: its replicas are gone, and the server goes on with the others.

use super::state::{DiskUnit, Node};
use crate::core::replica::Fault;
use std::sync::Arc;

/// Gives up all replicas on the disk. The master is told of each that counts, so that the others go on at once; what it does not
/// hear so it sees by the digest.
pub(super) fn give_up(node: &Arc<Node>, unit: &Arc<DiskUnit>) {
    let lost: Vec<_> = node.all_chunks().into_iter().filter(|c| Arc::ptr_eq(&c.unit, unit)).collect();
    tracing::error!(disk = %unit.path.display(), replicas = lost.len(), "a disk has failed; its replicas are given up");
    for chunk in lost {
        let (member, epoch) = {
            let machine = chunk.replica.lock();
            (machine.is_member(), machine.epoch())
        };
        node.forget(&chunk);
        if member {
            node.master.report(node, &chunk, epoch, vec![node.config.id], Fault::Disk);
        }
    }
}
