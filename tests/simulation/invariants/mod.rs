//! What the cluster promises, one file each.

pub mod acknowledged_survives;
pub mod epochs;
pub mod healed;
pub mod majority;
pub mod no_stale_read;
pub mod one_primary;
pub mod register;
pub mod replicas_equal;
pub mod synced_survives;
