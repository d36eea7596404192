//! An in-sync set never falls below a majority of the wanted copies, and its servers are distinct.
//!
//! From `docs/design.md`, section 3, "Cluster".

use cairn_master::core::cluster::ChunkRecord;
use std::collections::BTreeSet;

pub fn check(record: &ChunkRecord) -> Result<(), String> {
    let distinct: BTreeSet<_> = record.in_sync.iter().collect();
    if record.in_sync.len() >= record.majority() && distinct.len() == record.in_sync.len() {
        Ok(())
    } else {
        Err(format!("{record:?}"))
    }
}
