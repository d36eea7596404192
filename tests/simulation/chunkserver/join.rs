//! Mirrors `node/join.rs`: brings a server up to date.

use super::chunk::Chunk;
use super::compare::{self, Failed};
use super::effects::{INSTALL_BLOCKS, NotSent, member_answer};
use super::node::{Node, Question};
use crate::net::ConnId;
use cairn_chunkserver::core::differences::{any_bad, differing};
use cairn_chunkserver::core::layout::ChunkMeta;
use cairn_chunkserver::core::replica::{Event, MemberAnswer};
use cairn_proto::rpc::{CaughtUp, ChunkInfo, server_message::Msg};
use futures::channel::oneshot;
use std::rc::Rc;

const WINDOW: usize = 4;
const LIMIT: u64 = 5_000;
const TRIES: usize = 5;

pub async fn add_replica(node: &Rc<Node>, chunk: &Rc<Chunk>, target: u32) -> Result<(), String> {
    // It may just be starting, and writes are not to be held up by that.
    let meta = chunk.replica.borrow().meta();
    let (_, on) = compare::state_on(node, chunk, &meta, target).await.map_err(text)?;
    chunk.handle(node, Event::Join { target });
    still_joining(chunk, target)?;
    let done = bring_up(node, chunk, target, on).await;
    if done.is_err() {
        chunk.handle(node, Event::JoinFailed { target });
    }
    done
}

fn still_joining(chunk: &Chunk, target: u32) -> Result<(), String> {
    let machine = chunk.replica.borrow();
    if machine.joining() == Some(target) { Ok(()) } else { Err("ended, or not level".into()) }
}

fn text(f: Failed) -> String {
    format!("server {} {:?}", f.server, f.fault)
}

async fn bring_up(node: &Rc<Node>, chunk: &Rc<Chunk>, target: u32, on: ConnId) -> Result<(), String> {
    let epoch = chunk.replica.borrow().epoch();
    let theirs = compare::table(node, chunk, epoch, target).await.map_err(text)?;
    let own = compare::own_table(node, chunk).map_err(|e| format!("{e:?}"))?;
    if any_bad(&own) {
        chunk.handle(node, Event::Doubt);
        return Err("bad blocks here have to be healed first".into());
    }
    let runs = differing(&own, &theirs, INSTALL_BLOCKS);
    node.world.coverage.hit(match (theirs.is_empty(), runs.is_empty()) {
        (_, true) => "brought up to date: it had missed nothing",
        (true, false) => "brought up to date: a full copy",
        (false, false) => "brought up to date: what it had missed",
    });
    let mut flying = Vec::new();
    for run in runs {
        if flying.len() == WINDOW {
            // The oldest: answers come in order.
            let _: Result<(), _> = flying.remove(0).await;
        }
        still_joining(chunk, target)?;
        let (c, n) = (chunk.clone(), node.clone());
        let (tx, rx) = oneshot::channel::<()>();
        flying.push(rx);
        let meta = chunk.replica.borrow().meta();
        let sent = chunk.install_at(node, &meta, (target, Some(on)), run, false, move |reply| {
            drop(tx);
            if member_answer(reply.as_ref()) != MemberAnswer::Done {
                c.handle(&n, Event::JoinFailed { target });
            }
        });
        match sent {
            Ok(()) => {}
            Err(NotSent::Unreadable) => {
                chunk.handle(node, Event::Doubt);
                return Err("bad blocks here have to be healed first".into());
            }
            Err(NotSent::Unreachable) => return Err("connection lost".into()),
        }
    }
    finish(node, chunk, target, on).await
}

async fn finish(node: &Rc<Node>, chunk: &Rc<Chunk>, target: u32, on: ConnId) -> Result<(), String> {
    let (tx, rx) = oneshot::channel();
    let meta = chunk.replica.borrow().meta();
    let sent =
        chunk.install_at(node, &meta, (target, Some(on)), (0, 0), false, move |reply| drop(tx.send(reply)));
    sent.map_err(|_| "connection lost")?;
    let last = node.world.exec.timeout(node.life, LIMIT, rx).await.ok_or("no answer in time")?;
    let last = last.ok().flatten().ok_or("connection lost")?;
    if member_answer(Some(&last)) != MemberAnswer::Done {
        return Err(format!("refused: {:?}", last.status));
    }
    compare::sync_member(node, chunk, &meta, target).await.map_err(text)?;
    still_joining(chunk, target)?;
    chunk.handle(node, Event::Joined { target });
    for _ in 0..TRIES {
        let epoch = chunk.replica.borrow().epoch();
        let (tx, rx) = oneshot::channel();
        let caught_up = |req| Msg::CaughtUp(CaughtUp { req, chunk: chunk.id, epoch, server: target });
        if !node.ask_master(Question::CaughtUp(tx), caught_up) {
            return Err("no master".into());
        }
        let reply =
            node.world.exec.timeout(node.life, LIMIT, rx).await.ok_or("the master does not answer")?;
        let reply = reply.map_err(|_| "the master is gone")?;
        if let Some(info) = &reply.chunk {
            chunk.handle(node, Event::Epoch(meta_of(info)));
            if info.in_sync.contains(&target) {
                return Ok(());
            }
        }
        still_joining(chunk, target)?;
        if chunk.replica.borrow().epoch() == epoch {
            return Err(format!("the master refuses: {}", reply.detail));
        }
    }
    Err("the set keeps changing".into())
}

pub fn meta_of(info: &ChunkInfo) -> ChunkMeta {
    let (epoch, in_sync, wanted) = (info.epoch, info.in_sync.clone(), info.wanted);
    ChunkMeta { epoch, in_sync, wanted, ..ChunkMeta::default() }
}
