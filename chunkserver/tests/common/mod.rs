//! A small master, and chunkservers that can be killed.

#![allow(dead_code, missing_docs, clippy::unwrap_used)]

pub mod cluster;
pub mod master;
