//! The file system as a library.

pub mod attr;
pub mod data;
pub mod error;
pub mod meta;

pub use error::FsError;
