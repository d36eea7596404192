//! Answers what changes nothing.

use super::answer::Answer;
use super::chunk::Chunk;
use super::clock::now;
use super::compare::verify;
use super::dispatch::Asker;
use super::state::Node;
use crate::disk::{Blocks, DiskError};
use bytes::Bytes;
use cairn_proto::block::{BLOCK, PIECE};
use cairn_proto::data::{Frame, FrameError, Role, Status};
use cairn_proto::rpc::{MapReply, ReadMeta, ReadReply, StateMeta, StateReply, TableReply};
use prost::Message;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Entries in one TableReply: what fits into a frame's metadata.
pub const TABLE_ENTRIES: u32 = 4096;
/// Extents in one MapReply; with more, the last one reaches to the end.
const EXTENTS: usize = 4096;

/// What is said of a chunk that there is none of. It may have been on a disk that has failed: then nobody may take it for one
/// that was never written.
fn unknown(node: &Node) -> Status {
    if node.has_lost_disk() { Status::DiskError } else { Status::NoChunk }
}

/// The chunk, if a client may read it from here.
fn readable(node: &Node, frame: &Frame) -> Result<Arc<Chunk>, (Status, u64)> {
    if !node.may_serve() {
        return Err((Status::NotServing, 0));
    }
    let asked = u64::from(frame.header.epoch);
    let Some(chunk) = node.chunk(frame.header.chunk) else {
        // Nobody takes what was moved away for never written.
        let gone = node.deleted.lock().epoch(now(), frame.header.chunk).filter(|gone| asked <= *gone);
        return Err(gone.map_or((unknown(node), 0), |gone| (Status::StaleEpoch, gone)));
    };
    let machine = chunk.replica.lock();
    let epoch = machine.epoch();
    machine.may_read(asked).map_err(|s| (s, epoch))?;
    drop(machine);
    Ok(chunk)
}

pub(super) fn read(node: &Arc<Node>, asker: Asker, frame: &Frame, answer: Answer) -> Result<(), FrameError> {
    let meta: ReadMeta = frame.meta()?;
    let block = BLOCK as u32;
    let (offset, len) = (frame.header.offset, meta.len);
    if offset % block != 0 || len % block != 0 || len == 0 || len as usize > PIECE {
        answer.refuse(Status::BadRequest, 0, "reads are whole blocks, at most 1 MiB");
        return Ok(());
    }
    let chunk = match asker.role {
        Role::Client => readable(node, frame),
        Role::Server => node.chunk(frame.header.chunk).ok_or((unknown(node), 0)),
    };
    let chunk = match chunk {
        Ok(chunk) => chunk,
        Err((status, epoch)) => {
            answer.refuse(status, epoch, "");
            return Ok(());
        }
    };
    let (first, count, epoch) = (offset / block, len / block, u64::from(frame.header.epoch));
    match chunk.unit.disk.read_cached(&chunk.file, first, count).transpose() {
        Some(done) => answer_read(node, asker, &chunk, epoch, answer, done),
        None => {
            // Not in memory: the disk is waited for elsewhere, other requests go on.
            let node = node.clone();
            tokio::task::spawn_blocking(move || {
                let done = chunk.unit.disk.read(&chunk.file, first, count);
                answer_read(&node, asker, &chunk, epoch, answer, done);
            });
        }
    }
    Ok(())
}

fn answer_read(
    node: &Arc<Node>,
    asker: Asker,
    chunk: &Arc<Chunk>,
    epoch: u64,
    answer: Answer,
    done: Result<Blocks, DiskError>,
) {
    match done {
        // The lease may have run out meanwhile, and others may have gone on without this replica.
        Ok(_) if asker.role == Role::Client && !node.may_serve() => answer.refuse(Status::NotServing, 0, ""),
        Ok(blocks) => {
            let bytes = blocks.data.len() as u64;
            node.traffic.bytes_out.fetch_add(bytes, Ordering::Relaxed);
            if asker.role == Role::Client {
                node.heat.lock().read(chunk.id, bytes);
            }
            let reply = ReadReply { crcs: blocks.crcs };
            answer.send(Status::Ok, epoch, &reply.encode_to_vec(), blocks.data);
        }
        Err(e) => {
            let corrupt = matches!(e, DiskError::Corrupt { .. });
            // A client that finds no replica whole had better come back than give up.
            let soon = corrupt && asker.role == Role::Client && chunk.is_healing();
            answer.refuse(if soon { Status::Busy } else { e.status() }, epoch, &e.to_string());
            if corrupt {
                chunk.doubt(node);
            }
        }
    }
}

pub(super) fn map(node: &Arc<Node>, frame: &Frame, answer: Answer) {
    let chunk = match readable(node, frame) {
        Ok(chunk) => chunk,
        Err((status, epoch)) => return answer.refuse(status, epoch, ""),
    };
    match chunk.unit.disk.extents(&chunk.file, frame.header.offset / BLOCK as u32) {
        Ok(mut runs) => {
            if runs.len() > EXTENTS {
                let end = runs.last().map_or(0, |r| r.1);
                runs.truncate(EXTENTS);
                if let Some(last) = runs.last_mut() {
                    last.1 = end;
                }
            }
            let extents = runs.iter().flat_map(|(a, b)| [a * BLOCK as u32, b * BLOCK as u32]).collect();
            let reply = MapReply { extents };
            answer.send(Status::Ok, frame.header.epoch.into(), &reply.encode_to_vec(), Bytes::new());
        }
        Err(e) => answer.refuse(e.status(), frame.header.epoch.into(), &e.to_string()),
    }
}

pub(super) fn state(node: &Arc<Node>, frame: &Frame, answer: Answer) -> Result<(), FrameError> {
    let meta: StateMeta = frame.meta()?;
    let chunk = node.chunk(frame.header.chunk);
    let send = move |reply: StateReply| {
        answer.send(Status::Ok, reply.epoch, &reply.encode_to_vec(), Bytes::new());
    };
    match chunk {
        None => send(StateReply::default()),
        // The table may have to be read.
        Some(chunk) if meta.digest => drop(node.handle.spawn_blocking(move || send(chunk.state(true)))),
        Some(chunk) => send(chunk.state(false)),
    }
    Ok(())
}

pub(super) fn table(node: &Arc<Node>, frame: &Frame, answer: Answer) {
    let Some(chunk) = node.chunk(frame.header.chunk) else {
        return answer.refuse(Status::NoChunk, 0, "unknown chunk");
    };
    let from = frame.header.offset / BLOCK as u32;
    if !chunk.file.is_unverified() {
        return told(&chunk, from, answer);
    }
    // After a crash: what is bad has to be known before it is compared.
    node.handle.spawn(async move {
        match verify(&chunk).await {
            Ok(()) => told(&chunk, from, answer),
            Err(e) => answer.refuse(e.status(), 0, &e.to_string()),
        }
    });
}

fn told(chunk: &Chunk, from: u32, answer: Answer) {
    let (epoch, seq) = {
        let machine = chunk.replica.lock();
        (machine.epoch(), machine.seq())
    };
    match chunk.unit.disk.told(&chunk.file, from, TABLE_ENTRIES) {
        Ok((told, end)) => {
            let (crcs, versions) = told.into_iter().unzip();
            let reply = TableReply { crcs, versions, end, seq };
            answer.send(Status::Ok, epoch, &reply.encode_to_vec(), Bytes::new());
        }
        Err(e) => answer.refuse(e.status(), epoch, &e.to_string()),
    }
}
