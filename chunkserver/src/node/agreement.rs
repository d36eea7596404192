//! In-sync replicas of chunks that have become quiet compare what they hold, by a digest each.

use super::ask::{Failed, state};
use super::chunk::Chunk;
use super::clock::now;
use super::state::Node;
use crate::core::Millis;
use crate::core::agreement::{Said, differing};
use crate::core::layout::ChunkMeta;
use crate::core::replica::{Event, Fault};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval};

/// A chunk that was not written to for so long is quiet.
const QUIET: Millis = 5_000;
const LOOK: Duration = Duration::from_secs(1);

/// The primary has taken a write.
pub(super) fn written(node: &Node, chunk: &Arc<Chunk>) {
    chunk.written_at.store(now(), Ordering::Relaxed);
    due(node, chunk);
}

/// The replicas are compared when the chunk is quiet.
pub(super) fn due(node: &Node, chunk: &Arc<Chunk>) {
    if !chunk.unsettled.swap(true, Ordering::AcqRel) {
        node.unsettled.lock().push(chunk.clone());
    }
}

/// Compares, for ever.
pub(super) async fn agree(node: Arc<Node>) {
    let mut every = interval(LOOK);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let waiting = std::mem::take(&mut *node.unsettled.lock());
        let quiet = |c: &Arc<Chunk>| now().saturating_sub(c.written_at.load(Ordering::Relaxed)) >= QUIET;
        let (quiet, busy): (Vec<_>, Vec<_>) = waiting.into_iter().partition(quiet);
        node.unsettled.lock().extend(busy);
        for chunk in quiet {
            chunk.unsettled.store(false, Ordering::Release);
            if let Err(f) = check(&node, &chunk).await {
                tracing::debug!(chunk = chunk.id, server = f.server, fault = ?f.fault, "not compared");
            }
        }
    }
}

async fn check(node: &Arc<Node>, chunk: &Arc<Chunk>) -> Result<(), Failed> {
    let c = chunk.clone();
    let own = tokio::task::spawn_blocking(move || own(&c)).await.ok().flatten();
    let Some((own, meta)) = own else { return Ok(()) };
    let mut members = Vec::new();
    for m in meta.in_sync.iter().copied().filter(|s| *s != node.config.id) {
        let s = state(node, chunk, &meta, m, Duration::ZERO).await?;
        let digest = s.digest.ok_or(Failed { server: m, fault: Fault::Disk })?;
        members.push((m, Said { epoch: s.epoch, seq: s.seq, digest }));
    }
    let differ = differing(own, &members).unwrap_or_default();
    if !differ.is_empty() {
        tracing::error!(chunk = chunk.id, seq = own.seq, servers = ?differ,
            "in-sync replicas differ; of each block the highest version counts, then the majority");
        chunk.handle(node, Event::Doubt);
    }
    Ok(())
}

/// What this replica holds, if it is the primary's and nothing is under way.
fn own(chunk: &Chunk) -> Option<(Said, ChunkMeta)> {
    // The table may have to be read: not under the lock.
    chunk.unit.disk.digest(&chunk.file).ok()?;
    let machine = chunk.replica.lock();
    if !machine.is_primary() || !machine.is_level() || machine.wants_ticks() || chunk.is_retired() {
        return None;
    }
    let digest = chunk.unit.disk.digest(&chunk.file).ok()?;
    let meta = machine.meta();
    Some((Said { epoch: meta.epoch, seq: meta.seq, digest }, meta))
}
