//! Chunks that are read very much for a time, and servers that have too much to do, in some of the runs.
//!
//! What the clients of a run read is far too little for either, so what servers tell in their heartbeats is made up here. It is drawn from
//! a generator of its own: runs without it stay what they were.

use crate::rng::SplitMix64;
use crate::world::{HARNESS, World};
use cairn_proto::rpc::ChunkUse;
use std::rc::Rc;

/// One run of so many has it.
const ONE_OF: u64 = 8;
/// What earns both extra copies, and what a chunk on a server with too much to do is used by, bytes a second.
const HOT: u64 = 900 << 20;
const BUSY: u64 = 20 << 20;

/// What is hot at the moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Heat {
    chunk: Option<u64>,
    server: Option<u32>,
}

impl Heat {
    /// What a server that holds these chunks tells.
    pub fn told(&self, server: u32, held: &[u64]) -> (u64, Vec<ChunkUse>) {
        let used = |chunk: &u64| {
            let hot = if self.chunk == Some(*chunk) { HOT } else { 0 };
            let busy = if self.server == Some(server) { BUSY } else { 0 };
            ChunkUse { chunk: *chunk, read: hot + busy, written: 0 }
        };
        let hot: Vec<_> = held.iter().map(used).filter(|u| u.read > 0).collect();
        (hot.iter().map(|u| u.read).sum(), hot)
    }
}

/// Makes chunks and servers hot for some seconds each, in the runs that have it, until that time.
pub fn begin(world: &Rc<World>, seed: u64, until_ms: u64) {
    if seed % ONE_OF != 4 {
        return;
    }
    let (world, mut rng) = (world.clone(), SplitMix64::new(!seed));
    let life = world.exec.life(HARNESS);
    world.clone().exec.spawn(life, async move {
        while world.exec.now() / 1000 < until_ms {
            let chunks: Vec<_> = world.store.borrow().chunks.keys().map(|c| c.0).collect();
            let chunk = (!chunks.is_empty()).then(|| chunks[rng.below(chunks.len() as u64) as usize]);
            let server = rng.between(1, u64::from(world.config.servers) + 1) as u32;
            let heat = match rng.below(3) {
                0 => Heat::default(),
                1 => Heat { chunk, server: None },
                _ => Heat { chunk: None, server: Some(server) },
            };
            trace!(world, "{heat:?}");
            world.heat.set(heat);
            world.exec.sleep(life, rng.between(1_000, 6_000)).await;
        }
        world.heat.set(Heat::default());
    });
}
