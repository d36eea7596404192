//! Mirrors `node/compare.rs`: a primary compares its replica with the members' and makes them equal.

use super::chunk::Chunk;
use super::disk::DiskError;
use super::effects::{INSTALL_BLOCKS, NotSent};
use super::node::Node;
use super::peers::CallError;
use crate::message::{Answer, Ask, Content, Reply, Request, Told};
use crate::net::ConnId;
use cairn_chunkserver::core::differences::{Rule, at, decide, differing, is_bad, is_newcomer, of_newcomer};
use cairn_chunkserver::core::layout::ChunkMeta;
use cairn_chunkserver::core::replica::{Event, Fault};
use cairn_proto::block::zero_block_crc;
use cairn_proto::data::Status;
use futures::channel::oneshot;
use futures::future::try_join_all;
use std::rc::Rc;

const LIMIT: u64 = 2_000;
const STARTING: u64 = 1_500;
const AGAIN: u64 = 100;
const HEAL_TRIES: u32 = 8;
const SOON: u64 = 2_000;
const SELDOM: u64 = 60_000;

/// Of a replica: seq, whether it is unclean, whether there is one, the digest of its table.
type State = (u64, bool, bool, u64);

/// A member that did not do its part, or this server itself.
pub struct Failed {
    pub server: u32,
    pub fault: Fault,
}

/// A block turned out to be bad only now: the replicas are compared again.
const BAD_BLOCK: Failed = Failed { server: 0, fault: Fault::Disk };

pub fn start(node: &Rc<Node>, chunk: &Rc<Chunk>, meta: ChunkMeta) {
    let (node, chunk) = (node.clone(), chunk.clone());
    node.world.clone().exec.spawn(node.life, async move {
        let failures = chunk.failures.get();
        if failures > 0 {
            let most = (AGAIN * u64::from(failures)).min(1000);
            let ms = node.world.rng.borrow_mut().below(most);
            node.sleep(ms).await;
        }
        let result = compare(&node, &chunk, &meta).await;
        chunk.failures.set(if result.is_ok() { 0 } else { (failures + 1).min(20) });
        if !chunk.is_retired() {
            let result = result.map_err(|f| (f.server, f.fault));
            chunk.handle(&node, Event::Compared { epoch: meta.epoch, result });
        }
    });
}

async fn compare(node: &Rc<Node>, chunk: &Rc<Chunk>, meta: &ChunkMeta) -> Result<u64, Failed> {
    let here = |e: DiskError| failed_here(node.id, e);
    verify(node, chunk).await.map_err(here)?;
    let members: Vec<u32> = meta.in_sync.iter().copied().filter(|s| *s != node.id).collect();
    let (mut seq, mut differ) = {
        let disk = node.disk.borrow();
        (
            disk.meta(chunk.id).seq.max(meta.seq),
            disk.in_doubt(chunk.id) || meta.suspect || chunk.failures.get() > 0,
        )
    };
    let own_digest = node.disk.borrow().digest(chunk.id);
    let mut connections = Vec::new();
    let mut states = Vec::new();
    for m in &members {
        let ((its, unclean, exists, digest), connection) = state_on(node, chunk, meta, *m).await?;
        connections.push(connection);
        states.push((its, unclean, exists));
        if its == seq && exists && digest != own_digest {
            node.world.coverage.hit("compared: digests differ at equal seq");
        }
        differ |= its != seq || !exists || unclean || digest != own_digest;
        seq = seq.max(its);
    }
    if differ {
        let mut tables = Vec::new();
        for m in &members {
            tables.push(table(node, chunk, meta.epoch, *m).await?);
        }
        let own = own_table(node, chunk).map_err(here)?.len();
        fetch_newer(node, chunk, meta, &members, &known(node, &tables, &states, own, seq), seq).await?;
        for ((m, table), on) in members.iter().zip(&tables).zip(&connections) {
            let own = own_table(node, chunk).map_err(here)?;
            for run in differing(&own, table, INSTALL_BLOCKS) {
                install(node, chunk, meta, (*m, *on), run).await?;
            }
        }
    } else {
        node.world.coverage.hit("compared: equal seq and digest");
    }
    let level = ChunkMeta { seq, ..meta.clone() };
    for (m, on) in members.iter().zip(&connections) {
        install(node, chunk, &level, (*m, *on), (0, 0)).await?;
    }
    still(chunk, meta)?;
    chunk.disk(node).and_then(|mut d| d.settle(chunk.id, seq)).map_err(here)?;
    let elsewhere = try_join_all(members.iter().map(|m| sync_member(node, chunk, meta, *m)));
    let (elsewhere, ()) = futures::join!(elsewhere, sync_here(node, chunk));
    elsewhere?;
    Ok(seq)
}

fn known(
    node: &Node,
    tables: &[Vec<Told>],
    states: &[(u64, bool, bool)],
    own: usize,
    seq: u64,
) -> Vec<Vec<Told>> {
    let longest = tables.iter().map(Vec::len).max().unwrap_or(0).max(own);
    let told = |(table, (its, unclean, exists)): (&Vec<Told>, &(u64, bool, bool))| {
        if !is_newcomer(*exists, *unclean, *its, seq) {
            return table.clone();
        }
        node.world.coverage.hit("compared with a replica that was made anew");
        of_newcomer(table, longest)
    };
    tables.iter().zip(states).map(told).collect()
}

fn still(chunk: &Chunk, meta: &ChunkMeta) -> Result<(), Failed> {
    let machine = chunk.replica.borrow();
    let same = machine.epoch() == meta.epoch && machine.is_primary();
    if same { Ok(()) } else { Err(Failed { server: 0, fault: Fault::Stale }) }
}

fn failed_here(server: u32, e: DiskError) -> Failed {
    let fault = if e == DiskError::Full { Fault::NoSpace } else { Fault::Disk };
    Failed { server, fault }
}

pub async fn verify(node: &Rc<Node>, chunk: &Chunk) -> Result<(), DiskError> {
    if !node.disk.borrow().is_unverified(chunk.id) {
        return Ok(());
    }
    node.sleep(1).await;
    chunk.disk(node)?.verify(chunk.id)
}

async fn sync_here(node: &Rc<Node>, chunk: &Chunk) {
    let (tx, rx) = oneshot::channel();
    node.sync(chunk.id, move |_| {
        // Nobody else waits for it.
        let _ = tx.send(());
    });
    // Fails only with this very life.
    let _ = rx.await;
}

pub async fn ask(
    node: &Rc<Node>,
    chunk: &Chunk,
    epoch: u64,
    server: u32,
    body: Ask,
) -> Result<Reply, Failed> {
    let request = Request { chunk: chunk.id, epoch, sync: false, body };
    checked(server, node.call(server, request, LIMIT).await)
}

fn checked(server: u32, reply: Result<Reply, CallError>) -> Result<Reply, Failed> {
    let fault = match reply {
        Ok(reply) => match reply.status {
            Status::Ok => return Ok(reply),
            Status::NoSpace => Fault::NoSpace,
            Status::StaleEpoch | Status::NotPrimary => Fault::Stale,
            Status::Corrupt => return Err(BAD_BLOCK),
            _ => Fault::Disk,
        },
        Err(CallError::TimedOut) => Fault::Silent,
        Err(CallError::Lost) => Fault::Unreachable,
    };
    Err(Failed { server, fault })
}

async fn state(
    node: &Rc<Node>,
    chunk: &Chunk,
    meta: &ChunkMeta,
    server: u32,
    patience: u64,
) -> Result<State, Failed> {
    let begun = node.now();
    loop {
        match ask(node, chunk, meta.epoch, server, Ask::State).await {
            Err(Failed { fault: Fault::Unreachable, .. }) if node.now() - begun < patience => {
                node.sleep(AGAIN).await;
            }
            Err(e) => return Err(e),
            Ok(Reply { body: Answer::State { seq, unclean, exists, digest }, .. }) => {
                return Ok((seq, unclean, exists, digest));
            }
            Ok(_) => return Err(Failed { server, fault: Fault::Disk }),
        }
    }
}

/// What a server says of the chunk, and the connection that it was answered on.
pub async fn state_on(
    node: &Rc<Node>,
    chunk: &Chunk,
    meta: &ChunkMeta,
    server: u32,
) -> Result<(State, ConnId), Failed> {
    for _ in 0..5 {
        let before = node.connection(server);
        let reply = state(node, chunk, meta, server, STARTING).await?;
        let after = node.connection(server);
        if let Some(conn) = before
            && before == after
        {
            return Ok((reply, conn));
        }
    }
    Err(Failed { server, fault: Fault::Unreachable })
}

/// A server's whole table; empty where it has no such chunk.
pub async fn table(node: &Rc<Node>, chunk: &Chunk, epoch: u64, server: u32) -> Result<Vec<Told>, Failed> {
    let request = Request { chunk: chunk.id, epoch, sync: false, body: Ask::Table };
    let reply = node.call(server, request, LIMIT).await;
    if matches!(&reply, Ok(r) if r.status == Status::NoChunk) {
        return Ok(Vec::new());
    }
    match checked(server, reply)?.body {
        Answer::Table(told) => Ok(told),
        _ => Err(Failed { server, fault: Fault::Disk }),
    }
}

pub fn own_table(node: &Node, chunk: &Chunk) -> Result<Vec<Told>, DiskError> {
    chunk.disk(node)?.told(chunk.id)
}

async fn fetch_newer(
    node: &Rc<Node>,
    chunk: &Rc<Chunk>,
    meta: &ChunkMeta,
    members: &[u32],
    tables: &[Vec<Told>],
    seq: u64,
) -> Result<(), Failed> {
    let here = |e: DiskError| failed_here(node.id, e);
    let own = own_table(node, chunk).map_err(here)?;
    let longest = tables.iter().map(Vec::len).chain([own.len()]).max().unwrap_or(0);
    let best = |block: usize| decide(&own, tables, block).and_then(|d| d.from);
    for decision in (0..longest).filter_map(|b| decide(&own, tables, b)) {
        node.world.coverage.hit(match decision.rule {
            Rule::HigherVersion => "compared: the higher version decided",
            Rule::Majority => "compared: the majority decided",
            Rule::Primary => "compared: the primary decided",
        });
    }
    let mut block = 0;
    while block < longest {
        let Some(i) = best(block) else {
            if is_bad(at(&own, block)) && node.disk.borrow().meta(chunk.id).suspect {
                node.world.coverage.hit("adopted: no replica has it whole");
                still(chunk, meta)?;
                chunk.disk(node).and_then(|mut d| d.adopt(chunk.id, block as u32, seq)).map_err(here)?;
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
        still(chunk, meta)?;
        chunk.disk(node).and_then(|mut d| d.install(chunk.id, block as u32, &data, &told)).map_err(here)?;
        block = end;
    }
    Ok(())
}

async fn fetch(
    node: &Rc<Node>,
    chunk: &Chunk,
    epoch: u64,
    server: u32,
    first: u32,
    told: &[Told],
) -> Result<Vec<Content>, Failed> {
    if told.iter().all(|t| t.1 == 0) {
        return Ok(Vec::new());
    }
    let count = told.len() as u32;
    let reply = ask(node, chunk, epoch, server, Ask::Read { first, count }).await?;
    let want = told.iter().map(|t| if t.1 == 0 { zero_block_crc() } else { t.0 });
    match reply.body {
        Answer::Blocks(data, crcs) if crcs.iter().copied().eq(want) => Ok(data),
        _ => Err(Failed { server, fault: Fault::Disk }),
    }
}

async fn install(
    node: &Rc<Node>,
    chunk: &Chunk,
    meta: &ChunkMeta,
    (server, on): (u32, ConnId),
    run: (u32, u32),
) -> Result<(), Failed> {
    let (tx, rx) = oneshot::channel();
    match chunk.install_at(node, meta, (server, Some(on)), run, false, move |reply| drop(tx.send(reply))) {
        Ok(()) => {}
        Err(NotSent::Unreadable) => return Err(BAD_BLOCK),
        Err(NotSent::Unreachable) => return Err(Failed { server, fault: Fault::Unreachable }),
    }
    let reply = match node.world.exec.timeout(node.life, LIMIT, rx).await {
        None => Err(CallError::TimedOut),
        Some(Ok(Some(reply))) => Ok(reply),
        Some(_) => Err(CallError::Lost),
    };
    checked(server, reply).map(drop)
}

pub async fn sync_member(
    node: &Rc<Node>,
    chunk: &Chunk,
    meta: &ChunkMeta,
    server: u32,
) -> Result<(), Failed> {
    let reply = node.call(server, chunk.local_sync(meta.epoch), LIMIT * 5).await;
    checked(server, reply).map(drop)
}

/// As a member: asks the primary for a comparison until it has been made.
pub fn ask_primary(node: &Rc<Node>, chunk: &Rc<Chunk>) {
    if chunk.asking.replace(true) {
        return;
    }
    let (node, chunk) = (node.clone(), chunk.clone());
    node.world.clone().exec.spawn(node.life, async move {
        let mut wait = 50;
        for tries in 0.. {
            // What could not be read is seen by the comparison.
            let _ = verify(&node, &chunk).await;
            let (primary, epoch, trusted, asks) = {
                let m = chunk.replica.borrow();
                let whole = m.is_trusted() && !node.disk.borrow().in_doubt(chunk.id);
                let asks = m.is_member() && !m.is_primary() && !whole && !chunk.is_retired();
                (m.meta().in_sync.first().copied(), m.epoch(), m.is_trusted(), asks)
            };
            let Some(primary) = primary.filter(|_| asks) else { break };
            let reply = ask(&node, &chunk, epoch, primary, Ask::Reconcile).await;
            let mut most = SOON;
            if trusted
                && tries >= HEAL_TRIES
                && let Ok(r) = reply
            {
                if matches!(r.body, Answer::State { unclean: false, exists: true, .. }) {
                    node.world.coverage.hit("a replica that could not be healed gave itself up");
                    node.report(&chunk, epoch, vec![node.id], Fault::Disk);
                }
                most = SELDOM;
            }
            let jitter = node.world.rng.borrow_mut().between(wait / 2, wait + 1);
            node.sleep(jitter).await;
            wait = (wait * 2).min(most);
        }
        chunk.asking.set(false);
    });
}
