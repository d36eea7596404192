//! CairnFS: stores chunk replicas, replicates writes, heals.
