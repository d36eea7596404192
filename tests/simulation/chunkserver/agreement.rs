//! Mirrors `node/agreement.rs`: in-sync replicas of chunks that have become quiet compare what they hold, by a digest each.

use super::chunk::Chunk;
use super::compare::{Failed, ask};
use super::node::Node;
use crate::message::{Answer, Ask, Reply};
use cairn_chunkserver::core::agreement::{Said, differing};
use cairn_chunkserver::core::layout::ChunkMeta;
use cairn_chunkserver::core::replica::{Event, Fault};
use std::rc::Rc;

const QUIET: u64 = 5_000;
const LOOK: u64 = 1_000;

/// The primary has taken a write.
pub fn written(node: &Node, chunk: &Rc<Chunk>) {
    chunk.written_at.set(node.now());
    due(node, chunk);
}

/// The replicas are compared when the chunk is quiet.
pub fn due(node: &Node, chunk: &Rc<Chunk>) {
    if !chunk.unsettled.replace(true) {
        node.unsettled.borrow_mut().push(chunk.clone());
    }
}

/// Compares, for ever.
pub async fn agree(node: Rc<Node>) {
    loop {
        node.sleep(LOOK).await;
        let waiting = std::mem::take(&mut *node.unsettled.borrow_mut());
        let quiet = |c: &Rc<Chunk>| node.now().saturating_sub(c.written_at.get()) >= QUIET;
        let (quiet, busy): (Vec<_>, Vec<_>) = waiting.into_iter().partition(quiet);
        node.unsettled.borrow_mut().extend(busy);
        for chunk in quiet {
            chunk.unsettled.set(false);
            // Not compared: there will be another time.
            let _: Result<(), Failed> = check(&node, &chunk).await;
        }
    }
}

async fn check(node: &Rc<Node>, chunk: &Rc<Chunk>) -> Result<(), Failed> {
    let Some((own, meta)) = own(node, chunk) else { return Ok(()) };
    let mut members = Vec::new();
    for m in meta.in_sync.iter().copied().filter(|s| *s != node.id) {
        match ask(node, chunk, meta.epoch, m, Ask::State).await? {
            Reply { epoch, body: Answer::State { seq, digest, .. }, .. } => {
                members.push((m, Said { epoch, seq, digest }));
            }
            _ => return Err(Failed { server: m, fault: Fault::Disk }),
        }
    }
    let differ = differing(own, &members);
    node.world.coverage.hit(match &differ {
        None => "quiet replicas could not be compared: a write or an epoch came in between",
        Some(d) if d.is_empty() => "quiet replicas agree",
        Some(_) => "quiet replicas differ, by their digests",
    });
    if differ.is_some_and(|d| !d.is_empty()) {
        chunk.handle(node, Event::Doubt);
    }
    Ok(())
}

/// What this replica holds, if it is the primary's and nothing is under way.
fn own(node: &Node, chunk: &Chunk) -> Option<(Said, ChunkMeta)> {
    let machine = chunk.replica.borrow();
    if !machine.is_primary() || !machine.is_level() || machine.wants_ticks() || chunk.is_retired() {
        return None;
    }
    let digest = node.disk.borrow().digest(chunk.id);
    let meta = machine.meta();
    Some((Said { epoch: meta.epoch, seq: meta.seq, digest }, meta))
}
