//! Ids, messages and the data wire shared by every CairnFS process.
//!
//! Control calls are gRPC ([`rpc`], made from `proto/*.proto`); file data has a wire of its own
//! ([`data`]). [`block`] holds what both ends must agree on about blocks and their checksums.

pub mod backoff;
pub mod block;
pub mod data;
pub mod digest;
mod ids;
pub mod latency;
pub mod monitor;
pub use ids::{ChunkId, Epoch, InodeId, ServerId, SessionId};

/// The messages of `proto/*.proto`, as prost and tonic make them.
#[allow(missing_docs, clippy::all, clippy::too_many_lines, clippy::large_types_passed_by_value)]
pub mod rpc {
    tonic::include_proto!("cairn.v1");
}

impl rpc::NodeState {
    /// In one word, for people and programs.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "unknown",
            Self::Joining => "joining",
            Self::Alive => "alive",
            Self::Suspected => "suspected",
            Self::Dead => "dead",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
        }
    }
}

/// Version of everything that goes over a wire; peers with another one are refused.
///
/// History: 1, the first.
pub const PROTOCOL: u32 = 1;
