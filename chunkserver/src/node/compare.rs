//! A primary compares its replica with the members' and makes them equal: after a crash, when it becomes
//! the primary, when a bad block was found.
//!
//! Of a block the highest version counts, wherever it is. No write is taken meanwhile.

use super::ask::{Failed, ask, decoded, install, state_on, sync_member, table};
use super::chunk::{Chunk, Machine};
use super::effects::INSTALL_BLOCKS;
use super::state::Node;
use crate::core::differences::{Decisions, Told, at, decide, differing, is_bad, is_newcomer, of_newcomer};
use crate::core::layout::ChunkMeta;
use crate::core::replica::{Event, Fault};
use crate::disk::DiskError;
use bytes::Bytes;
use cairn_proto::block::{BLOCK, piece_crcs, zero_block_crc};
use cairn_proto::data::{Client, Kind};
use cairn_proto::rpc::{ReadMeta, ReadReply, ReconcileMeta, StateReply};
use futures::future::try_join_all;
use parking_lot::MutexGuard;
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::oneshot;

const AGAIN: Duration = Duration::from_millis(100);
/// So often the primary is asked to heal bad blocks, over about ten seconds.
const HEAL_TRIES: u32 = 8;
/// The longest pauses between questions: at first, and once it was of no use.
const SOON: Duration = Duration::from_secs(2);
const SELDOM: Duration = Duration::from_secs(60);

/// Begins a comparison; the lock is held.
pub(super) fn start(node: &Arc<Node>, chunk: &Arc<Chunk>, machine: &Machine) {
    let meta = machine.meta();
    let (node, chunk) = (node.clone(), chunk.clone());
    node.clone().handle.spawn(async move {
        let failures = chunk.failures.load(Ordering::Relaxed);
        if failures > 0 {
            tokio::time::sleep((AGAIN * failures).min(Duration::from_secs(1)).mul_f64(rand::random())).await;
        }
        let result = {
            let _turn = node.heavy.acquire().await;
            compare(&node, &chunk, &meta).await
        };
        match &result {
            Ok(_) => chunk.failures.store(0, Ordering::Relaxed),
            Err(f) => {
                chunk.failures.store(failures.saturating_add(1).min(20), Ordering::Relaxed);
                tracing::info!(chunk = chunk.id, server = f.server, fault = ?f.fault, "comparison failed");
            }
        }
        if !chunk.is_retired() {
            let result = result.map_err(|f| (f.server, f.fault));
            chunk.handle(&node, Event::Compared { epoch: meta.epoch, result });
        }
    });
}

async fn compare(node: &Arc<Node>, chunk: &Arc<Chunk>, meta: &ChunkMeta) -> Result<u64, Failed> {
    let me = node.config.id;
    let here = |e: DiskError| failed_here(me, chunk, &e);
    verify(chunk).await.map_err(here)?;
    let members: Vec<u32> = meta.in_sync.iter().copied().filter(|s| *s != me).collect();
    let mut seq = chunk.file.meta().seq.max(meta.seq);
    // A comparison that failed may have brought here what others lack.
    let failed_before = chunk.failures.load(Ordering::Relaxed) > 0;
    let mut differ = failed_before || chunk.file.in_doubt() || meta.suspect;
    let own_digest = chunk.unit.disk.digest(&chunk.file).map_err(here)?;
    let mut states = Vec::new();
    let mut connections = Vec::new();
    for m in &members {
        let (state, connection) = state_on(node, chunk, meta, *m).await?;
        connections.push(connection);
        differ |= state.seq != seq || !state.exists || state.digest.is_some_and(|d| d != own_digest);
        seq = seq.max(state.seq);
        states.push(state);
    }
    let in_doubt = states.iter().any(|s| s.unclean);
    if differ || in_doubt {
        let tables = tables(node, chunk, meta, &members).await?;
        let own = own_table(chunk).map_err(here)?.len();
        let by = fetch_newer(node, chunk, meta, &members, &known(&tables, &states, own, seq), seq).await?;
        let Decisions { higher_version, majority, primary } = by;
        tracing::info!(
            chunk = chunk.id,
            epoch = meta.epoch,
            seq,
            ?members,
            higher_version,
            majority,
            primary,
            "replicas compared: so many blocks were decided by the higher version, by the majority, by the primary"
        );
        for ((m, table), on) in members.iter().zip(&tables).zip(&connections) {
            send_differing(node, chunk, meta, (*m, on), table).await?;
        }
    } else {
        tracing::info!(
            chunk = chunk.id,
            epoch = meta.epoch,
            seq,
            ?members,
            "replicas compared: equal seq and digest"
        );
    }
    let level = ChunkMeta { seq, ..meta.clone() };
    for (m, on) in members.iter().zip(&connections) {
        // Also says that the member holds everything.
        install(node, chunk, &level, (*m, on), (0, 0)).await?;
    }
    {
        let _still = still(chunk, meta)?;
        chunk.unit.disk.settle(&chunk.file, seq).map_err(here)?;
    }
    // At once: writers may be waiting.
    let elsewhere = try_join_all(members.iter().map(|m| sync_member(node, chunk, meta, *m)));
    let (elsewhere, own) = futures::join!(elsewhere, sync_here(chunk));
    elsewhere?;
    own.map_err(here)?;
    Ok(seq)
}

/// What the members' tables say, but for the holes of those that were made anew.
fn known(tables: &[Vec<Told>], states: &[StateReply], own: usize, seq: u64) -> Vec<Vec<Told>> {
    let longest = tables.iter().map(Vec::len).max().unwrap_or(0).max(own);
    let told = |(table, s): (&Vec<Told>, &StateReply)| match is_newcomer(s.exists, s.unclean, s.seq, seq) {
        true => of_newcomer(table, longest),
        false => table.clone(),
    };
    tables.iter().zip(states).map(told).collect()
}

/// Holds the replica as it was when the comparison began: once another epoch has come, what was found is out of
/// date, and newer writes may be here already.
fn still<'a>(chunk: &'a Chunk, meta: &ChunkMeta) -> Result<MutexGuard<'a, Machine>, Failed> {
    let machine = chunk.replica.lock();
    if machine.epoch() == meta.epoch && machine.is_primary() {
        Ok(machine)
    } else {
        // Nobody is to blame.
        Err(Failed { server: 0, fault: Fault::Stale })
    }
}

fn failed_here(server: u32, chunk: &Chunk, e: &DiskError) -> Failed {
    tracing::warn!(chunk = chunk.id, "comparison: {e}");
    let fault = if matches!(e, DiskError::NoSpace) { Fault::NoSpace } else { Fault::Disk };
    Failed { server, fault }
}

/// Reads all blocks after a crash, or when a bad one was found, off the connections' threads.
pub(super) async fn verify(chunk: &Arc<Chunk>) -> Result<(), DiskError> {
    if !chunk.file.is_unverified() {
        return Ok(());
    }
    let c = chunk.clone();
    let bad = tokio::task::spawn_blocking(move || c.unit.disk.verify(&c.file)).await;
    let bad = bad.unwrap_or(Err(DiskError::Failed))?;
    if !bad.is_empty() {
        tracing::info!(chunk = chunk.id, blocks = bad.len(), "bad blocks");
    }
    Ok(())
}

pub(super) async fn sync_here(chunk: &Arc<Chunk>) -> Result<(), DiskError> {
    let (tx, rx) = oneshot::channel();
    chunk.unit.syncer.sync(chunk.file.clone(), move |r| {
        // Nobody else waits for it.
        let _ = tx.send(r);
    });
    rx.await.unwrap_or(Err(DiskError::Failed))
}

async fn tables(
    node: &Arc<Node>,
    chunk: &Chunk,
    meta: &ChunkMeta,
    members: &[u32],
) -> Result<Vec<Vec<Told>>, Failed> {
    let mut all = Vec::with_capacity(members.len());
    for m in members {
        all.push(table(node, chunk, meta.epoch, *m).await?);
    }
    Ok(all)
}

/// This replica's whole table.
pub(super) fn own_table(chunk: &Chunk) -> Result<Vec<Told>, DiskError> {
    Ok(chunk.unit.disk.told(&chunk.file, 0, u32::MAX)?.0)
}

/// Takes over the blocks that a member has as they are to be; tells which rule has decided about how many blocks.
async fn fetch_newer(
    node: &Arc<Node>,
    chunk: &Arc<Chunk>,
    meta: &ChunkMeta,
    members: &[u32],
    tables: &[Vec<Told>],
    seq: u64,
) -> Result<Decisions, Failed> {
    let here = |e: DiskError| failed_here(node.config.id, chunk, &e);
    let own = own_table(chunk).map_err(here)?;
    let longest = tables.iter().map(Vec::len).chain([own.len()]).max().unwrap_or(0);
    let best = |block: usize| decide(&own, tables, block).and_then(|d| d.from);
    let mut decisions = Decisions::default();
    (0..longest).filter_map(|b| decide(&own, tables, b)).for_each(|d| decisions.add(d.rule));
    let mut block = 0;
    while block < longest {
        let Some(i) = best(block) else {
            if is_bad(at(&own, block)) && chunk.file.meta().suspect {
                // Nobody has it whole: torn by a crash, before anyone was promised that it is stable.
                tracing::warn!(chunk = chunk.id, block, "taken as it is: no replica has it whole");
                let _still = still(chunk, meta)?;
                chunk.unit.disk.adopt(&chunk.file, block as u32, seq).map_err(here)?;
            }
            block += 1;
            continue;
        };
        let mut end = block + 1;
        while end < longest && end - block < INSTALL_BLOCKS as usize && best(end) == Some(i) {
            end += 1;
        }
        let told: Vec<Told> = (block..end).map(|b| at(&tables[i], b)).collect();
        let data = fetch(node, chunk, meta.epoch, members[i], block as u32, &told).await?;
        {
            let _still = still(chunk, meta)?;
            chunk.unit.disk.install(&chunk.file, block as u32, &data, &told).map_err(here)?;
        }
        block = end;
    }
    Ok(decisions)
}

/// Reads blocks from another replica and checks that they are what its table said.
async fn fetch(
    node: &Arc<Node>,
    chunk: &Chunk,
    epoch: u64,
    server: u32,
    first: u32,
    told: &[Told],
) -> Result<Bytes, Failed> {
    if told.iter().all(|t| t.1 == 0) {
        return Ok(Bytes::new());
    }
    let meta = ReadMeta { len: (told.len() * BLOCK) as u32 }.encode_to_vec();
    let reply = ask(node, chunk, epoch, server, (Kind::Read, first * BLOCK as u32), &meta).await?;
    let _: ReadReply = decoded(server, &reply)?;
    let want = told.iter().map(|t| if t.1 == 0 { zero_block_crc() } else { t.0 });
    if piece_crcs(0, &reply.data).into_iter().eq(want) {
        Ok(reply.data)
    } else {
        Err(Failed { server, fault: Fault::Disk })
    }
}

/// Sends a member what it has otherwise.
async fn send_differing(
    node: &Arc<Node>,
    chunk: &Arc<Chunk>,
    meta: &ChunkMeta,
    member: (u32, &Client),
    table: &[Told],
) -> Result<(), Failed> {
    let own = own_table(chunk).map_err(|e| failed_here(node.config.id, chunk, &e))?;
    for (first, count) in differing(&own, table, INSTALL_BLOCKS) {
        install(node, chunk, meta, member, (first, count)).await?;
    }
    Ok(())
}

/// Bad blocks here are not healed, although the primary has been asked for it. If it is whole itself, this replica cannot be
/// healed in place, and is to be replaced.
fn give_up(node: &Arc<Node>, chunk: &Arc<Chunk>, epoch: u64, primary_whole: bool) {
    if primary_whole {
        tracing::warn!(chunk = chunk.id, "bad blocks cannot be healed in place: the replica is given up");
        node.master.report(node, chunk, epoch, vec![node.config.id], Fault::Disk);
    } else {
        tracing::error!(chunk = chunk.id, "bad blocks that no replica has whole");
    }
}

/// As a member: asks the primary for a comparison until it has been made, or the replica does not count any more.
pub(super) fn ask_primary(node: &Arc<Node>, chunk: &Arc<Chunk>) {
    if chunk.asking.swap(true, Ordering::AcqRel) {
        return;
    }
    let (node, chunk) = (node.clone(), chunk.clone());
    node.clone().handle.spawn(async move {
        let mut wait = Duration::from_millis(50);
        for tries in 0u32.. {
            let verified = {
                let _turn = node.heavy.acquire().await;
                verify(&chunk).await
            };
            if let Err(e) = verified {
                tracing::warn!(chunk = chunk.id, "cannot verify: {e}");
            }
            let (primary, epoch, trusted, wanted) = {
                let m = chunk.replica.lock();
                let whole = m.is_trusted() && !chunk.file.in_doubt();
                let asks = m.is_member() && !m.is_primary() && !whole && !chunk.is_retired();
                (m.meta().in_sync.first().copied(), m.epoch(), m.is_trusted(), asks)
            };
            let Some(primary) = primary.filter(|_| wanted) else { break };
            let meta = ReconcileMeta { server: node.config.id }.encode_to_vec();
            let reply = ask(&node, &chunk, epoch, primary, (Kind::Reconcile, 0), &meta).await;
            let state = reply.and_then(|r| decoded::<StateReply>(primary, &r));
            if let Err(f) = &state {
                tracing::debug!(chunk = chunk.id, primary, fault = ?f.fault, "primary not asked");
            }
            let mut most = SOON;
            if trusted
                && tries >= HEAL_TRIES
                && let Ok(s) = state
            {
                give_up(&node, &chunk, epoch, s.exists && !s.unclean);
                most = SELDOM;
            }
            tokio::time::sleep(wait.mul_f64(0.5 + rand::random::<f64>() / 2.0)).await;
            wait = (wait * 2).min(most);
        }
        chunk.asking.store(false, Ordering::Release);
    });
}
