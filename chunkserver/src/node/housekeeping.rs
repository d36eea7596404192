//! What goes on in the background: ticks, checkpoints, removal of files, free space.

use super::agreement::agree;
use super::clock::now;
use super::lost_disk::give_up;
use super::scrub::scrub;
use super::state::{DiskUnit, Node};
use crate::core::replica::Event;
use crate::disk::Recovered;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often replicas that wait for something are told the time.
const TICK: Duration = Duration::from_millis(50);
/// A disk whose last checkpoint is so long ago gets one, so that a restart has little to do.
const CHECKPOINT: Duration = Duration::from_secs(10);
/// After so long the master has noticed which replicas this server has lost.
const SETTLED: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
/// Files removed or emptied in one go: the file system must have time for others in between.
const UNLINKS: usize = 64;
/// Tables kept in memory, bytes a disk.
const TABLES: u64 = 256 << 20;

/// Enters the replicas found on a disk.
pub fn recover_chunks(node: &Arc<Node>, unit: &Arc<DiskUnit>, found: Vec<Recovered>) {
    for (chunk, epoch) in &unit.disk.deleted_before {
        node.deleted.lock().add(now(), *chunk, *epoch);
    }
    for r in found {
        let id = r.file.id;
        if node.chunk(id).is_some() {
            tracing::error!(chunk = id, disk = %unit.path.display(), "on two disks; the second is ignored");
            continue;
        }
        let chunk = node.add(unit, r.file, r.recent);
        if unit.behind {
            chunk.replica.lock().distrust();
        }
    }
}

/// Runs until it is dropped.
pub async fn housekeep(node: Arc<Node>) {
    for chunk in node.all_chunks() {
        chunk.handle(&node, Event::Start);
    }
    let disks = || node.disks.iter().cloned();
    let workers = futures::future::join_all(disks().map(|unit| look_after(node.clone(), unit)));
    let scrubs = futures::future::join_all(disks().map(|unit| scrub(node.clone(), unit)));
    tokio::join!(tick(node.clone()), unlink(node.clone()), agree(node.clone()), workers, scrubs);
}

/// Whether nothing is missing from any replica on the disk that counts.
pub fn is_whole(node: &Node, unit: &Arc<DiskUnit>) -> bool {
    node.may_serve()
        && node.all_chunks().iter().filter(|c| Arc::ptr_eq(&c.unit, unit)).all(|c| {
            let machine = c.replica.lock();
            machine.is_trusted() || !machine.is_member()
        })
}

async fn tick(node: Arc<Node>) {
    let mut every = interval(TICK);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let waiting = std::mem::take(&mut *node.ticking.lock());
        let still: Vec<_> = waiting.into_iter().filter(|c| c.tick(&node)).collect();
        node.ticking.lock().extend(still);
    }
}

async fn look_after(node: Arc<Node>, unit: Arc<DiskUnit>) {
    let mut every = interval(Duration::from_millis(100));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let started = Instant::now();
    let (mut measured, mut checkpointed, mut behind) = (started, started, unit.behind);
    loop {
        every.tick().await;
        if unit.disk.has_failed() {
            return give_up(&node, &unit);
        }
        if measured.elapsed() >= SECOND {
            measured = Instant::now();
            if behind && started.elapsed() >= SETTLED && is_whole(&node, &unit) {
                match unit.mark.record() {
                    Ok(()) => behind = false,
                    Err(e) => {
                        tracing::warn!(disk = %unit.path.display(), "cannot record the machine's start: {e}")
                    }
                }
            }
            let disk = unit.disk.clone();
            off_thread(move || disk.measure()).await;
            if unit.disk.loaded_tables() > TABLES {
                let chunks = node.all_chunks();
                let u = unit.clone();
                off_thread(move || {
                    let mine = chunks.iter().filter(|c| Arc::ptr_eq(&c.unit, &u)).map(|c| &c.file);
                    u.disk.drop_tables(mine);
                })
                .await;
            }
        }
        let due = checkpointed.elapsed() >= CHECKPOINT && unit.disk.is_dirty();
        if unit.disk.wants_checkpoint() || (due && !unit.disk.has_failed()) {
            let disk = unit.disk.clone();
            off_thread(move || {
                if let Err(e) = disk.checkpoint() {
                    tracing::error!("checkpoint: {e}");
                }
            })
            .await;
            checkpointed = Instant::now();
        }
    }
}

async fn unlink(node: Arc<Node>) {
    let mut every = interval(Duration::from_millis(100));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        for unit in node.disks.iter().filter(|u| !u.disk.has_failed()) {
            let disk = unit.disk.clone();
            off_thread(move || {
                if let Err(e) = disk.unlink_some(UNLINKS) {
                    tracing::warn!("cannot remove chunk files: {e}");
                }
            })
            .await;
        }
    }
}

async fn off_thread(f: impl FnOnce() + Send + 'static) {
    if let Err(e) = tokio::task::spawn_blocking(f).await {
        tracing::error!("background work ended early: {e}");
    }
}
