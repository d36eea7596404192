//! At most one server acknowledges as a chunk's primary under an epoch, and none under an epoch that was over
//! when a later one's primary had acknowledged something.
//!
//! From `docs/design.md`, section 3, "Cluster": a deposed primary has no lease, or knows.

use crate::executor::NodeId;
use std::collections::BTreeMap;

#[derive(Default)]
pub struct OnePrimary {
    /// By chunk: the highest epoch under which something was acknowledged, and by whom.
    latest: BTreeMap<u64, (u64, NodeId)>,
}

impl OnePrimary {
    pub fn acknowledged(&mut self, chunk: u64, epoch: u64, server: NodeId) -> Result<(), String> {
        let latest = self.latest.entry(chunk).or_insert((epoch, server));
        if epoch < latest.0 || (epoch == latest.0 && server != latest.1) {
            return Err(format!(
                "server {server} acknowledges for chunk {chunk} at epoch {epoch}, after server {} at epoch {}",
                latest.1, latest.0
            ));
        }
        *latest = (epoch, server);
        Ok(())
    }
}
