//! Epochs never go back, at the master or at a replica.
//!
//! From `docs/design.md`, section 4, "Replication". A replica that is deleted may be made again under any epoch, and one whose
//! server lost power may have forgotten epochs that were not on stable storage yet.

use crate::executor::NodeId;
use std::collections::BTreeMap;

#[derive(Default)]
pub struct Epochs(BTreeMap<(NodeId, u64), u64>);

impl Epochs {
    pub fn seen(&mut self, node: NodeId, chunk: u64, epoch: u64) -> Result<(), String> {
        let highest = self.0.entry((node, chunk)).or_insert(epoch);
        if epoch < *highest {
            return Err(format!("node {node} has chunk {chunk} at epoch {epoch}, after {highest}"));
        }
        *highest = epoch;
        Ok(())
    }

    pub fn forget(&mut self, node: NodeId, chunk: u64) {
        self.0.remove(&(node, chunk));
    }

    pub fn forget_server(&mut self, node: NodeId) {
        self.0.retain(|(n, _), _| *n != node);
    }
}
