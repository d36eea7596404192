//! Brings a server up to date: a returning one or a new one. Every write goes to it, too, from the
//! beginning on; what differs is sent between them.

use super::ask::{self, Failed};
use super::chunk::Chunk;
use super::compare;
use super::effects::{INSTALL_BLOCKS, NotSent};
use super::master::epoch_event;
use super::state::Node;
use crate::core::differences::{any_bad, differing};
use crate::core::replica::{Event, Fault};
use cairn_proto::data::Client;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};

/// Installs under way at once.
const WINDOW: usize = 4;
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
    for run in differing(&own, &theirs, INSTALL_BLOCKS) {
        let permit = window.clone().acquire_owned().await.map_err(|e| e.to_string())?;
        still_joining(chunk, target)?;
        let (c, n) = (chunk.clone(), node.clone());
        let machine = chunk.replica.lock();
        let sent = chunk.install_at(node, &machine.meta(), (target, Some(on)), run, false, move |frame| {
            drop(permit);
            if super::wire::member_answer(frame.as_ref()) != crate::core::replica::MemberAnswer::Done {
                c.handle(&n, Event::JoinFailed { target });
            }
        });
        match sent {
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
