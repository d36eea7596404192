//! The gRPC services: they translate, hand over to the owner, and pass its answers on.

pub(crate) mod admin;
pub(crate) mod attach;
mod attach_probe;
pub(crate) mod fsck;
pub(crate) mod monitor;
pub(crate) mod node_hook;
pub(crate) mod session;
