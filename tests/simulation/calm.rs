//! When nothing else goes wrong any more: a block of one replica silently becomes another one, with a checksum that fits.
//! It is found by the digests, goes nowhere else, and is what most replicas have again.
//!
//! Only here: while sets change, nobody could tell which of two contents is the right one.

use crate::chunkserver::disk::BLOCKS;
use crate::executor::NodeId;
use crate::invariants::healed;
use crate::message::Content;
use crate::world::World;
use std::rc::Rc;

/// A scrub begins every 15 s, and what it has been through is compared 5 s later.
const HEALED: u64 = 90_000_000;

struct Planted {
    server: NodeId,
    chunk: u64,
    block: u32,
    was: Content,
}

/// In every third run.
pub fn divergence(world: &Rc<World>) {
    if world.rng.borrow_mut().below(3) > 0 {
        return;
    }
    let planted = plant(world);
    let end = world.exec.now() + HEALED;
    while let Err(what) = healed::check(world) {
        if let Some((server, chunk)) = spread(world, &planted) {
            return world
                .fail("divergence never spreads", format!("server {server} has it in chunk {chunk}"));
        }
        if world.exec.now() > end {
            return world.fail("divergence is healed", what);
        }
        world.exec.run_until(world.exec.now() + 100_000);
    }
    for Planted { server, chunk, block, was } in planted {
        world.coverage.hit("what had silently become something else is what most replicas had");
        for s in world.servers() {
            let contents = world.disks[&s].borrow().contents(chunk);
            if contents.get(block as usize).is_some_and(|c| *c != was) {
                let what = format!(
                    "server {s} has {contents:?} of chunk {chunk}, block {block} was {was}, planted at {server}"
                );
                return world.fail("divergence is healed", what);
            }
        }
    }
}

/// One block each of some of the chunks that have three whole copies at least.
fn plant(world: &Rc<World>) -> Vec<Planted> {
    let mut planted = Vec::new();
    for record in world.store.borrow().chunks.values().filter(|r| r.in_sync.len() >= 3) {
        let mut rng = world.rng.borrow_mut();
        let (chunk, block) = (record.chunk.0, rng.below(BLOCKS.into()) as u32);
        let server = record.in_sync[rng.below(record.in_sync.len() as u64) as usize].0;
        let all_good = record.in_sync.iter().all(|s| world.disks[&s.0].borrow().is_good_everywhere(chunk));
        if all_good && let Some(was) = world.disks[&server].borrow_mut().diverge(chunk, block) {
            trace!(world, "s{server} c{chunk} block {block} silently becomes another one");
            planted.push(Planted { server, chunk, block, was });
        }
    }
    planted
}

fn spread(world: &World, planted: &[Planted]) -> Option<(NodeId, u64)> {
    let chunks: Vec<u64> = planted.iter().map(|p| p.chunk).collect();
    let everywhere = world.servers().flat_map(|s| chunks.iter().map(move |c| (s, *c)));
    let elsewhere = |(s, c): &(NodeId, u64)| !planted.iter().any(|p| (p.server, p.chunk) == (*s, *c));
    everywhere.filter(elsewhere).find(|(s, c)| world.disks[s].borrow().has_diverged(*c))
}
