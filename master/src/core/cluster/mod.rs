//! The chunkservers and the replicas: who is alive, who holds what, who must copy what to whom.
//!
//! A state machine: [`Event`]s in, [`Effect`]s out. What must survive a restart is in [`ChunkRecord`]s and
//! [`ServerRecord`]s, which the effects put; everything else is learned again from the chunkservers.

mod effect;
mod event;
mod records;
mod settings;

pub use effect::{Down, Effect, Refusal};
pub use event::{Event, LinkId, Token};
pub use records::{ChunkRecord, ChunkView, GarbageRecord, ServerRecord, majority};
pub use settings::Settings;

use crate::core::Millis;
use cairn_proto::{ServerId, rpc};

/// The cluster's state.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
}

/// Space for data, in bytes, already divided by the number of copies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// All of it.
    pub total_bytes: u64,
    /// What is free.
    pub free_bytes: u64,
}

/// How many chunks there are, and how they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All chunks.
    pub total: u64,
    /// Chunks with fewer in-sync replicas than wanted.
    pub under_replicated: u64,
    /// Chunks of whose in-sync replicas none is on a live server. A chunk to which nothing was ever written counts too:
    /// that it is empty only its servers can say.
    pub missing: u64,
}

/// Why there is no place for a new chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// Fewer servers are alive than a majority of the copies.
    #[error("{alive} chunkservers are alive, {needed} are needed")]
    TooFew {
        /// So many are alive.
        alive: usize,
        /// So many are needed.
        needed: usize,
    },
    /// Enough servers are alive, but too few of them have space.
    #[error("{with_space} chunkservers have space left, {needed} are needed")]
    Full {
        /// So many have space.
        with_space: usize,
        /// So many are needed.
        needed: usize,
    },
}

impl Cluster {
    /// A cluster whose master has just started; `servers` are all that ever registered.
    pub fn new(settings: Settings, servers: Vec<ServerRecord>) -> Self {
        let _ = servers;
        Self { settings }
    }

    /// Handles one event. `random` gives uniform 64-bit numbers.
    pub fn handle(
        &mut self,
        now: Millis,
        view: &dyn ChunkView,
        event: Event,
        random: &mut dyn FnMut() -> u64,
    ) -> Vec<Effect> {
        let _ = (now, view, event, random, &self.settings);
        Vec::new()
    }

    /// Servers for a new chunk, the primary first: as many of `copies` as can be had, at least a majority.
    pub fn place(&self, copies: u32, random: &mut dyn FnMut() -> u64) -> Result<Vec<ServerId>, PlaceError> {
        let _ = random;
        Err(PlaceError::TooFew { alive: 0, needed: majority(copies) })
    }

    /// Every known server, ordered by id.
    pub fn servers(&self) -> Vec<rpc::ServerInfo> {
        Vec::new()
    }

    /// Space in the whole cluster.
    pub fn totals(&self) -> Totals {
        Totals::default()
    }

    /// For people: how each server is, ordered by id.
    pub fn status(&self) -> Vec<rpc::ChunkserverStatus> {
        Vec::new()
    }

    /// How many chunks there are, and how they are.
    pub fn counts(&self) -> Counts {
        Counts::default()
    }
}
