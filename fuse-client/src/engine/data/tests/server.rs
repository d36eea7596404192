//! One chunkserver of the test cluster.

use super::cluster::{CHUNK, CLUSTER, Chunk, State};
use bytes::Bytes;
use cairn_proto::block::{self, BLOCK};
use cairn_proto::data::{Frame, Greeting, Kind, Outbox, Preamble, Status, Stream, flags};
use cairn_proto::rpc::{MapReply, ReadMeta, ReadReply, WriteMeta, WriteReply};
use parking_lot::Mutex;
use prost::Message;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};

type Shared = Arc<Mutex<State>>;

pub async fn start(id: u32, state: Shared) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if state.lock().faults.down.contains(&id) {
                continue;
            }
            let task = tokio::spawn(serve(id, socket, state.clone()));
            state.lock().connections.entry(id).or_default().push(task.abort_handle());
        }
    });
    addr
}

async fn serve(id: u32, mut socket: TcpStream, state: Shared) {
    let hello = Preamble::receive(&mut socket).await.unwrap();
    assert_eq!(hello.cluster, CLUSTER);
    Greeting { cluster: CLUSTER, server: id }.send(&mut socket).await.unwrap();
    socket.set_nodelay(true).unwrap();
    let (mut frames, out) = Stream::Tcp(socket).into_frames();
    while let Ok(Some(frame)) = frames.next().await {
        let (silent, delay) = {
            let s = state.lock();
            (s.faults.silent.contains(&id), s.faults.delay.get(&id).copied())
        };
        match delay {
            _ if silent => {}
            Some(delay) => {
                let (state, out) = (state.clone(), out.clone());
                tokio::spawn(async move {
                    tokio::time::sleep(delay).await;
                    answer(id, &state, &frame, &out);
                });
            }
            None => {
                if !answer(id, &state, &frame, &out) {
                    return;
                }
            }
        }
    }
}

/// False: the connection breaks.
fn answer(id: u32, state: &Shared, frame: &Frame, out: &Outbox) -> bool {
    let mut s = state.lock();
    let fault = s.faults.roll();
    match fault {
        Some(0..20) => return false,
        Some(20..40) => return send(out, frame, Status::Busy, 0, &[], Bytes::new()),
        Some(40..50) => return send(out, frame, Status::NotServing, 0, &[], Bytes::new()),
        _ => {}
    }
    let sent = handle(id, &mut s, frame, out);
    // Carried out, but the answer is lost.
    fault.is_none_or(|f| f < 80) && sent
}

fn send(out: &Outbox, frame: &Frame, status: Status, epoch: u32, meta: &[u8], data: Bytes) -> bool {
    out.send(&frame.header.reply(status, epoch), meta, data)
}

fn handle(id: u32, s: &mut State, frame: &Frame, out: &Outbox) -> bool {
    let kind = match frame.header.kind {
        Kind::Write if frame.header.flags & flags::SYNC != 0 => "write_sync",
        Kind::Write => "write",
        Kind::Read => "read",
        Kind::Sync => "sync",
        Kind::Map => "map",
        other => panic!("unexpected {other:?}"),
    };
    *s.counts.entry(kind).or_default() += 1;
    let full = s.faults.full || s.faults.full_from.is_some_and(|from| frame.header.offset >= from);
    let corrupt = s.faults.corrupt.contains(&id);
    let Some(chunk) = s.chunks.get_mut(&frame.header.chunk) else {
        return send(out, frame, Status::NoChunk, 0, &[], Bytes::new());
    };
    let epoch = chunk.info.epoch as u32;
    let refuse = |status| send(out, frame, status, epoch, &[], Bytes::new());
    if frame.header.epoch != epoch {
        return refuse(if frame.header.epoch < epoch { Status::StaleEpoch } else { Status::Behind });
    }
    let change = matches!(frame.header.kind, Kind::Write | Kind::Sync);
    if change && chunk.info.in_sync[0] != id {
        return refuse(Status::NotPrimary);
    }
    match frame.header.kind {
        Kind::Write if full => return refuse(Status::NoSpace),
        Kind::Write => {
            if !write(chunk, frame) {
                return refuse(Status::Garbled);
            }
            if frame.header.flags & flags::SYNC != 0 {
                chunk.stable.copy_from_slice(&chunk.data);
            }
        }
        Kind::Sync => chunk.stable.copy_from_slice(&chunk.data),
        Kind::Map => {
            return send(out, frame, Status::Ok, epoch, &map(chunk, frame).encode_to_vec(), Bytes::new());
        }
        _ => {
            let (meta, data) = read(chunk, frame, corrupt);
            return send(out, frame, Status::Ok, epoch, &meta.encode_to_vec(), data);
        }
    }
    send(out, frame, Status::Ok, epoch, &WriteReply::default().encode_to_vec(), Bytes::new())
}

fn write(chunk: &mut Chunk, frame: &Frame) -> bool {
    let meta: WriteMeta = frame.meta().unwrap();
    let at = frame.header.offset as usize;
    if !block::crcs_match(at as u64, &frame.data, &meta.crcs) {
        return false;
    }
    if !chunk.ids.insert((meta.session, meta.write)) {
        return true;
    }
    if meta.zero_len > 0 {
        chunk.data[at..at + meta.zero_len as usize].fill(0);
        let end = at + meta.zero_len as usize;
        for b in at.div_ceil(BLOCK)..end / BLOCK {
            chunk.blocks.remove(&(b as u32));
        }
        return true;
    }
    chunk.data[at..at + frame.data.len()].copy_from_slice(&frame.data);
    chunk.blocks.extend(block::pieces(at as u64, frame.data.len()).map(|(b, ..)| b as u32));
    true
}

fn read(chunk: &Chunk, frame: &Frame, corrupt: bool) -> (ReadReply, Bytes) {
    let ReadMeta { len } = frame.meta().unwrap();
    let at = frame.header.offset as usize;
    assert!(at.is_multiple_of(BLOCK) && (len as usize).is_multiple_of(BLOCK) && len <= 1 << 20);
    assert!(at + len as usize <= CHUNK as usize);
    let mut data = chunk.data[at..at + len as usize].to_vec();
    let crcs = block::piece_crcs(at as u64, &data);
    if corrupt {
        data[100] ^= 4;
    }
    (ReadReply { crcs }, data.into())
}

fn map(chunk: &Chunk, frame: &Frame) -> MapReply {
    let mut extents: Vec<u32> = Vec::new();
    for b in chunk.blocks.range(frame.header.offset / BLOCK as u32..) {
        let start = b * BLOCK as u32;
        match extents.last_mut() {
            Some(end) if *end == start => *end += BLOCK as u32,
            _ => extents.extend([start, start + BLOCK as u32]),
        }
    }
    MapReply { extents }
}
