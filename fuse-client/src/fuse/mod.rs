//! The FUSE adapter: translates the kernel's requests into calls of the engine, and their results back.
//!
//! The protocol (Linux's `include/uapi/linux/fuse.h`) is spoken here directly: requests can be interrupted,
//! the kernel's suid/sgid flags are seen, and a request's buffer goes along with it, so that data is not copied on the
//! way to the engine.

mod abi;
mod adapter;
mod answer;
mod device;
mod dirs;
mod files;
mod handshake;
mod interrupts;
mod linger;
mod locks;
mod metadata;
mod notify;
mod operation;
mod permit;
mod report;
mod requests;

pub(crate) use adapter::Adapter;
pub(crate) use device::{clone_device, serve};
pub(crate) use handshake::handshake;
pub(crate) use notify::KernelCaches;
pub(crate) use report::report;
