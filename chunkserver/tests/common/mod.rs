//! A small master, and chunkservers that can be killed.

#![allow(dead_code, missing_docs)]

pub mod cluster;
pub mod master;
