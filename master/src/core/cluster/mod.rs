//! Chunkservers, chunks and their in-sync sets.

/// What happens in the cluster.
#[derive(Debug)]
pub enum Event {}
