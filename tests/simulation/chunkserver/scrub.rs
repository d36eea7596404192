//! Mirrors `node/scrub.rs`: verifies what is on the disk, a little at a time. The planner is the real one.

use super::agreement;
use super::disk::Disk;
use super::node::Node;
use cairn_chunkserver::core::replica::Event;
use cairn_chunkserver::core::scrub::{Pace, Scrub, Step};
use std::rc::Rc;

/// A pass over eight full chunks takes six seconds, and one begins every fifteen.
const PACE: Pace = Pace { rate: 40 << 10, every: 15_000 };

/// Goes on where it was left.
pub fn planner(disk: &Disk) -> Scrub {
    let (cursor, began) = disk.scrub_place;
    Scrub::new(PACE, cursor, began)
}

/// Scrubs, for ever.
pub async fn scrub(node: Rc<Node>) {
    let mut bad = 0;
    loop {
        let step = node.scrub.borrow_mut().next(node.now());
        match step {
            Step::List => {
                let all = node.all_chunks().iter().map(|c| c.id).collect();
                node.scrub.borrow_mut().begin(node.now(), all);
            }
            Step::Verify(id, from) => {
                node.sleep(1).await;
                bad = if from == 0 { 0 } else { bad };
                let (next, bytes, found) = node.disk.borrow_mut().verify_step(id, from);
                bad += found;
                if next.is_none() {
                    ended(&node, id, bad);
                }
                node.scrub.borrow_mut().verified(id, next, bytes);
            }
            Step::Wait(ms) => {
                node.disk.borrow_mut().scrub_place = node.scrub.borrow().place();
                node.sleep(ms.min(1_000)).await;
            }
        }
    }
}

/// All of a replica has been read.
fn ended(node: &Rc<Node>, id: u64, bad: usize) {
    let Some(chunk) = node.chunk(id) else { return };
    if bad > 0 {
        node.world.coverage.hit("scrubbing found a bad block");
        node.disk.borrow_mut().verified(id);
        chunk.handle(node, Event::Doubt);
    }
    agreement::due(node, &chunk);
}
