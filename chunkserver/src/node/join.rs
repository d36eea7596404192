//! Brings a server up to date: a returning one or a new one. Every write goes to it, too, from the
//! beginning on; what differs is sent between them.

use super::ask::{self, Failed};
use super::chunk::Chunk;
use super::clock::micros;
use super::compare;
use super::effects::NotSent;
use super::master::epoch_event;
use super::state::Node;
use crate::core::differences::{any_bad, differing};
use crate::core::replica::{Event, Fault};
use crate::disk::Blocks;
use cairn_proto::block::BLOCK;
use cairn_proto::data::{Client, Frame};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Installs of one copy under way at once.
const WINDOW: usize = 4;
/// Blocks in one of them: little, so that those who share processor and disk with it wait but briefly.
const RUN_BLOCKS: u32 = 64;
const LIMIT: Duration = Duration::from_secs(5);
/// Tries to have the master take it into the set, as epochs change meanwhile.
const TRIES: usize = 5;

/// Does it; `Err` says why not.
pub(super) async fn add_replica(node: &Arc<Node>, chunk: &Arc<Chunk>, target: u32) -> Result<(), String> {
    // It may just be starting, and writes are not to be held up by that.
    let meta = chunk.replica.lock().meta();
    let (_, connection) = ask::state_on(node, chunk, &meta, target).await.map_err(|f| text(&f))?;
    chunk.handle(node, Event::Join { target });
    still_joining(chunk, target)?;
    let done = bring_up(node, chunk, (target, &connection)).await;
    match done {
        Ok(()) => Ok(()),
        Err(why) => {
            chunk.handle(node, Event::JoinFailed { target });
            Err(why)
        }
    }
}

fn still_joining(chunk: &Chunk, target: u32) -> Result<(), String> {
    let machine = chunk.replica.lock();
    if machine.joining() == Some(target) {
        Ok(())
    } else if machine.is_level() {
        Err("ended by a failure or a change of the set".into())
    } else {
        Err("not a primary that is level with its members".into())
    }
}

async fn bring_up(node: &Arc<Node>, chunk: &Arc<Chunk>, (target, on): (u32, &Client)) -> Result<(), String> {
    let epoch = chunk.replica.lock().epoch();
    let theirs = ask::table(node, chunk, epoch, target).await.map_err(|f| text(&f))?;
    let own = compare::own_table(chunk).map_err(|e| e.to_string())?;
    if any_bad(&own) {
        // It would be given the chunk without them, as if they had never been written.
        chunk.handle(node, Event::Doubt);
        return Err("bad blocks here have to be healed first".into());
    }
    let window = Arc::new(Semaphore::new(WINDOW));
    let runs = differing(&own, &theirs, RUN_BLOCKS);
    let blocks: u32 = runs.iter().map(|(_, count)| count).sum();
    let how = if theirs.is_empty() { "all of it" } else { "what it missed" };
    tracing::info!(
        chunk = chunk.id,
        target,
        epoch,
        blocks,
        of = own.len(),
        "brought up to date: it is sent {how}"
    );
    for run in runs {
        let permit = window.clone().acquire_owned().await.map_err(|e| e.to_string())?;
        its_turn(node, u64::from(run.1) * BLOCK as u64).await;
        still_joining(chunk, target)?;
        let read = read(chunk, run).await;
        let (c, n) = (chunk.clone(), node.clone());
        let machine = chunk.replica.lock();
        let then = move |frame: Option<Frame>| {
            drop(permit);
            if super::wire::member_answer(frame.as_ref()) != crate::core::replica::MemberAnswer::Done {
                c.handle(&n, Event::JoinFailed { target });
            }
        };
        match chunk.copy_at(node, &machine.meta(), (target, on), run, read, then) {
            Ok(()) => {}
            Err(NotSent::Unreadable) => {
                drop(machine);
                chunk.handle(node, Event::Doubt);
                return Err("bad blocks here have to be healed first".into());
            }
            Err(NotSent::Unreachable) => return Err("connection lost".into()),
        }
    }
    finish(node, chunk, (target, on)).await
}

/// Waits until so many bytes of a copy may be sent: copies go evenly, as fast as the master has said.
async fn its_turn(node: &Node, bytes: u64) {
    loop {
        let turn = node.copying.lock().turn(micros(), bytes);
        match turn {
            Ok(()) => return,
            Err(wait) => tokio::time::sleep(Duration::from_micros(wait)).await,
        }
    }
}

/// Reads blocks where that holds up nobody. `None`: they have to be read again when nothing can change them.
async fn read(chunk: &Arc<Chunk>, (first, count): (u32, u32)) -> Option<Blocks> {
    let c = chunk.clone();
    let read = move || c.unit.disk.read_for_copy(&c.file, first, count);
    match tokio::task::spawn_blocking(read).await {
        Ok(Ok(blocks)) => blocks,
        // It shows again when it is read under the lock.
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Everything is on its way: the last word, made stable, and the master's consent.
async fn finish(node: &Arc<Node>, chunk: &Arc<Chunk>, (target, on): (u32, &Client)) -> Result<(), String> {
    let (tx, rx) = oneshot::channel();
    let meta = {
        let machine = chunk.replica.lock();
        let meta = machine.meta();
        let sent = chunk.install_at(node, &meta, (target, Some(on)), (0, 0), false, move |frame| {
            // Given up on after the time limit.
            let _ = tx.send(frame);
        });
        sent.map_err(|_| "connection lost")?;
        meta
    };
    let last = tokio::time::timeout(LIMIT, rx).await.map_err(|_| "no answer in time")?;
    let last = last.ok().flatten().ok_or("connection lost")?;
    if super::wire::member_answer(Some(&last)) != crate::core::replica::MemberAnswer::Done {
        return Err(format!("refused: {:?} {}", last.status(), last.text()));
    }
    ask::sync_member(node, chunk, &meta, target).await.map_err(|f| text(&f))?;
    still_joining(chunk, target)?;
    chunk.handle(node, Event::Joined { target });
    for _ in 0..TRIES {
        let epoch = chunk.replica.lock().epoch();
        let asked = node.master.caught_up(chunk.id, epoch, target).ok_or("no master")?;
        let reply = tokio::time::timeout(LIMIT, asked).await.map_err(|_| "the master does not answer")?;
        let reply = reply.map_err(|_| "the master is gone")?;
        if let Some(info) = &reply.chunk {
            chunk.handle(node, epoch_event(info));
            if info.in_sync.contains(&target) {
                return Ok(());
            }
        }
        still_joining(chunk, target)?;
        if chunk.replica.lock().epoch() == epoch {
            return Err(format!("the master refuses: {}", reply.detail));
        }
    }
    Err("the set keeps changing".into())
}

fn text(f: &Failed) -> String {
    let what = match f.fault {
        Fault::Unreachable => "cannot be reached",
        Fault::Silent => "does not answer",
        Fault::NoSpace => "is full",
        Fault::Disk => "has a failing disk",
        Fault::Stale => "knows a higher epoch",
    };
    format!("server {} {what}", f.server)
}
