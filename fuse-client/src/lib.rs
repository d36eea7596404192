//! CairnFS: the client engine, and the FUSE adapter over it.
//!
//! [`engine`] is the file system as a library: names, attributes, file data, caches, without FUSE in
//! it. `fuse` translates the kernel's requests into calls of it. [`mount`] puts both together.

pub mod engine;
mod fuse;
pub mod mount;
pub mod options;
