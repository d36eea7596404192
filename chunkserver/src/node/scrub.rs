//! Verifies what is on a disk, a little at a time; what is bad is healed from the other replicas.

use super::agreement;
use super::clock::now;
use super::state::{DiskUnit, Node};
use crate::core::Millis;
use crate::core::replica::Event;
use crate::core::scrub::{Pace, Scrub, Step};
use crate::disk::{DiskError, ScrubMark, Source, Verified};
use cairn_proto::rpc::ScrubProgress;
use parking_lot::Mutex;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;
use tokio::time::Instant;

/// From the beginning of a pass to that of the next.
const EVERY: Duration = Duration::from_secs(24 * 3600);
/// How often the place is written down.
const WRITE_DOWN: Duration = Duration::from_secs(10);

/// The scrubbing of one disk, and those who have something to say about it.
pub struct DiskScrub {
    planner: Mutex<Scrub>,
    woken: Notify,
}

impl DiskScrub {
    /// Goes on where it was left. `rate`: bytes per second; 0: only on command.
    pub fn new(dir: &Path, rate: u64) -> Self {
        let mark = ScrubMark::read(dir);
        let ago = unix_now().saturating_sub(mark.began).saturating_mul(1000);
        let began = (mark.began > 0).then(|| now().saturating_sub(ago));
        let pace = Pace { rate, every: EVERY.as_millis() as Millis };
        Self { planner: Mutex::new(Scrub::new(pace, mark.cursor, began)), woken: Notify::new() }
    }

    /// Verify everything now.
    pub fn command(&self, command: u64, rate: u64) {
        self.planner.lock().command(command, rate);
        self.woken.notify_one();
    }

    fn mark(&self) -> ScrubMark {
        let (cursor, began) = self.planner.lock().place();
        let began = began.map_or(0, |b| unix_now().saturating_sub(now().saturating_sub(b) / 1000));
        ScrubMark { cursor, began }
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// How far it is, for the master.
pub(super) fn progress(unit: &DiskUnit) -> ScrubProgress {
    let p = unit.scrub.planner.lock().progress();
    let found = &unit.disk.findings;
    ScrubProgress {
        running: p.running,
        chunks_done: p.done,
        chunks_total: p.total,
        passes: p.passes,
        bytes: p.bytes,
        bad_blocks: found.bad_blocks.load(Ordering::Relaxed),
        healed_blocks: found.healed_blocks.load(Ordering::Relaxed),
        lost_files: found.lost_files.load(Ordering::Relaxed),
        command: p.command,
        command_done: p.command_done,
    }
}

/// Scrubs one disk until it is dropped.
pub(super) async fn scrub(node: Arc<Node>, unit: Arc<DiskUnit>) {
    let mut written = Instant::now();
    let mut bad = 0;
    while !unit.disk.has_failed() {
        let step = unit.scrub.planner.lock().next(now());
        match step {
            Step::List => unit.scrub.planner.lock().begin(now(), replicas(&node, &unit)),
            Step::Verify(id, from) => {
                bad = if from == 0 { 0 } else { bad };
                let (next, bytes) = match verify(&node, &unit, id, from).await {
                    Some(v) => {
                        bad += v.bad.len();
                        (v.next, v.bytes)
                    }
                    None => (None, 0),
                };
                if next.is_none() {
                    ended(&node, id, bad);
                }
                unit.scrub.planner.lock().verified(id, next, bytes);
            }
            Step::Wait(ms) => {
                write_down(&unit);
                // Woken by a command, or it is time.
                let _ = tokio::time::timeout(Duration::from_millis(ms), unit.scrub.woken.notified()).await;
            }
        }
        if written.elapsed() >= WRITE_DOWN {
            written = Instant::now();
            write_down(&unit);
        }
    }
}

fn replicas(node: &Node, unit: &Arc<DiskUnit>) -> Vec<u64> {
    node.all_chunks().iter().filter(|c| Arc::ptr_eq(&c.unit, unit)).map(|c| c.id).collect()
}

async fn verify(node: &Arc<Node>, unit: &Arc<DiskUnit>, id: u64, from: u32) -> Option<Verified> {
    let chunk = node.chunk(id).filter(|c| Arc::ptr_eq(&c.unit, unit))?;
    let read = move || chunk.unit.disk.verify_step(&chunk.file, from, Source::Disk);
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(verified)) => Some(verified),
        Ok(Err(DiskError::Deleted)) => None,
        Ok(Err(e)) => {
            tracing::warn!(chunk = id, "cannot be verified: {e}");
            None
        }
        Err(e) => {
            tracing::error!("verification ended early: {e}");
            None
        }
    }
}

/// All of a replica has been read.
fn ended(node: &Arc<Node>, id: u64, bad: usize) {
    let Some(chunk) = node.chunk(id) else { return };
    if bad > 0 {
        tracing::warn!(chunk = id, blocks = bad, "bad blocks found, to be healed from the other replicas");
        chunk.unit.disk.verified(&chunk.file);
        chunk.handle(node, Event::Doubt);
    }
    agreement::due(node, &chunk);
}

fn write_down(unit: &DiskUnit) {
    if let Err(e) = unit.scrub.mark().write(&unit.path) {
        tracing::debug!(disk = %unit.path.display(), "how far scrubbing is could not be written down: {e}");
    }
}
