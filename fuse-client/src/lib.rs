//! CairnFS: the client engine, and the FUSE adapter over it.
//!
//! [`engine`] is the file system as a library: names, attributes, file data, caches, without FUSE in
//! it. `fuse` translates the kernel's requests into calls of it. [`run`] puts both together and serves a mount.

pub mod engine;
mod fuse;
mod mount;
mod mountpoint;
pub mod options;
mod squash;

pub use mount::{MountConfig, OnOutage, run};
pub use mountpoint::{MountError, unmount};
pub use options::MountOptions;
pub use squash::{Squash, Squashed};
