//! Mirrors `node/lost_disk.rs`: a disk of a running server fails for good, and the server goes on with the others.

use super::node::Node;
use cairn_chunkserver::core::replica::Fault;
use std::rc::Rc;

/// Which of a server's two disks a chunk lies on.
pub fn lies_on(chunk: u64, disk: u64) -> bool {
    chunk % 2 == disk
}

/// Gives up all replicas on the disk.
pub fn give_up(node: &Rc<Node>, disk: u64) {
    node.lost_disk.set(true);
    let lost: Vec<_> = node.all_chunks().into_iter().filter(|c| lies_on(c.id, disk)).collect();
    node.disk.borrow_mut().lose(disk);
    for chunk in lost {
        let (member, epoch) = {
            let machine = chunk.replica.borrow();
            (machine.is_member(), machine.epoch())
        };
        trace!(node.world, "s{} c{} is gone with its disk", node.id, chunk.id);
        node.forget(chunk.id);
        if member {
            node.world.coverage.hit("a replica was given up with its disk");
            node.report(&chunk, epoch, vec![node.id], Fault::Disk);
        }
    }
}
