//! What is done with each kind of frame. Nothing here waits: what takes time answers later.

use super::answer::Answer;
use super::chunk::{Chunk, ChunkEvent};
use super::state::Node;
use super::{agreement, reads, verify, wire};
use crate::core::layout::ChunkMeta;
use crate::core::replica::{Event, Fault, Made};
use crate::disk::{Change, DiskError};
use bytes::Bytes;
use cairn_proto::block::{BLOCK, piece_crcs, zero_block_crc};
use cairn_proto::data::{Frame, FrameError, Kind, Role, Status, flags};
use cairn_proto::rpc::{InstallMeta, SyncMeta, WriteMeta};
use std::sync::Arc;

/// Who asks.
#[derive(Clone, Copy)]
pub struct Asker {
    /// A client or another chunkserver.
    pub role: Role,
    /// Its session or server id.
    pub id: u64,
}

/// Handles one frame. An error means that the peer speaks nonsense.
pub fn dispatch(node: &Arc<Node>, asker: Asker, frame: Frame, answer: Answer) -> Result<(), FrameError> {
    match frame.header.kind {
        Kind::Ping => answer.send(Status::Ok, 0, &[], Bytes::new()),
        Kind::Write => write(node, frame, answer)?,
        Kind::Forward => forward(node, asker, frame, answer)?,
        Kind::Sync => sync(node, asker, frame, answer)?,
        Kind::Install => install(node, asker, frame, answer)?,
        Kind::Read => reads::read(node, asker, &frame, answer)?,
        Kind::Map => reads::map(node, &frame, answer),
        Kind::State => reads::state(node, &frame, answer)?,
        Kind::Table => reads::table(node, &frame, answer),
        Kind::Reconcile => reconcile(node, asker, &frame, answer)?,
        Kind::Verify => verify::verify(node, &frame, answer)?,
        Kind::List => verify::list(node, &frame, answer),
    }
    Ok(())
}

fn write(node: &Arc<Node>, frame: Frame, answer: Answer) -> Result<(), FrameError> {
    let mut meta: WriteMeta = frame.meta()?;
    if !node.may_serve() {
        answer.refuse(Status::NotServing, 0, "no lease from the master");
        return Ok(());
    }
    let change = match wire::change(&frame, &mut meta) {
        Ok(change) => change,
        Err(status) => {
            answer.refuse(status, 0, "write refused");
            return Ok(());
        }
    };
    let fence = node.fence.read();
    if !fence.admits(meta.session) {
        answer.refuse(Status::Fenced, 0, "the session is over");
        return Ok(());
    }
    let Some((chunk, answer)) = written_chunk(node, &frame, &meta, &change, answer) else { return Ok(()) };
    let mut machine = chunk.replica.lock();
    if let Err(e) = chunk.unit.disk.may_apply(Some(&chunk.file), &change) {
        if matches!(e, DiskError::NoSpace) {
            let event = Event::NoRoom { epoch: frame.header.epoch.into(), answer };
            chunk.handle_locked(node, &mut machine, event);
            return Ok(());
        }
        let epoch = machine.epoch();
        drop(machine);
        if matches!(e, DiskError::Corrupt { .. }) {
            chunk.doubt(node);
        }
        answer.refuse(e.status(), epoch, &e.to_string());
        return Ok(());
    }
    Chunk::count_written(node, frame.data.len());
    node.heat.lock().written(chunk.id, frame.data.len() as u64);
    let event = Event::Write {
        id: change.id,
        epoch: frame.header.epoch.into(),
        sync: frame.header.flags & flags::SYNC != 0,
        write: Arc::new(change),
        answer,
    };
    chunk.handle_locked(node, &mut machine, event);
    agreement::written(node, &chunk);
    Ok(())
}

/// The replica that a client writes to; its first write makes it. `None`: the client is answered.
fn written_chunk(
    node: &Arc<Node>,
    frame: &Frame,
    meta: &WriteMeta,
    change: &Change,
    answer: Answer,
) -> Option<(Arc<Chunk>, Answer)> {
    let id = frame.header.chunk;
    if let Some(chunk) = node.chunk(id) {
        return Some((chunk, answer));
    }
    if frame.header.epoch != 1 || meta.create_in_sync.first() != Some(&node.config.id) {
        answer.refuse(Status::Behind, 0, "unknown chunk");
        return None;
    }
    // Room first: a replica that could not take its first write had better not be made.
    let fits = node.place().and_then(|u| u.disk.may_apply(None, change));
    let in_sync = meta.create_in_sync.clone();
    let wanted = if meta.wanted == 0 { in_sync.len() as u32 } else { meta.wanted };
    let first = ChunkMeta { epoch: 1, in_sync, wanted, ..ChunkMeta::default() };
    match fits.and_then(|()| node.create(id, first, change.blocks().1, node.made_by_client())) {
        Ok(chunk) => {
            chunk.handle(node, Event::Start);
            Some((chunk, answer))
        }
        Err(DiskError::NoSpace) => {
            node.master.hand_over_unborn(node.config.id, id, answer);
            None
        }
        Err(e) => {
            if matches!(e, DiskError::Failed | DiskError::Io(_)) {
                // The next in the set takes over; the client asks who that is.
                node.master.report_unborn(node.config.id, id, 1, Fault::Disk);
            }
            answer.refuse(e.status(), 0, &e.to_string());
            None
        }
    }
}

fn forward(node: &Arc<Node>, asker: Asker, frame: Frame, answer: Answer) -> Result<(), FrameError> {
    let mut meta: WriteMeta = frame.meta()?;
    let change = match wire::change(&frame, &mut meta) {
        Ok(change) if asker.role == Role::Server => change,
        Ok(_) => {
            answer.refuse(Status::BadRequest, 0, "only a chunkserver forwards");
            return Ok(());
        }
        Err(status) => {
            answer.refuse(status, 0, "write refused");
            return Ok(());
        }
    };
    let WriteMeta { in_sync, wanted, seq, .. } = meta;
    let epoch = u64::from(frame.header.epoch);
    let said = ChunkMeta { epoch, in_sync, wanted, seq, suspect: false };
    let member = said.in_sync.contains(&node.config.id);
    let found = match node.chunk(frame.header.chunk) {
        Some(chunk) => Ok(chunk),
        None if seq == 1 && member => node.create(
            frame.header.chunk,
            ChunkMeta { seq: 0, ..said.clone() },
            change.blocks().1,
            Made::ByPrimary,
        ),
        None => {
            answer.refuse(Status::Behind, 0, "unknown chunk");
            return Ok(());
        }
    };
    let chunk = match found {
        Ok(chunk) => chunk,
        Err(e) => {
            answer.refuse(e.status(), 0, &e.to_string());
            return Ok(());
        }
    };
    let mut machine = chunk.replica.lock();
    if let Err(e) = chunk.unit.disk.may_apply(Some(&chunk.file), &change) {
        answer.refuse(e.status(), machine.epoch(), &e.to_string());
        return Ok(());
    }
    let sync = frame.header.flags & flags::SYNC != 0;
    let from = asker.id as u32;
    node.heat.lock().written(chunk.id, frame.data.len() as u64);
    let event = Event::Forward { from, meta: said, id: change.id, sync, write: Arc::new(change), answer };
    chunk.handle_locked(node, &mut machine, event);
    Ok(())
}

fn sync(node: &Arc<Node>, asker: Asker, frame: Frame, answer: Answer) -> Result<(), FrameError> {
    let meta: SyncMeta = frame.meta()?;
    let Some(chunk) = node.chunk(frame.header.chunk) else {
        answer.refuse(Status::NoChunk, 0, "unknown chunk");
        return Ok(());
    };
    if meta.local {
        let (epoch, seq) = {
            let machine = chunk.replica.lock();
            (machine.epoch(), machine.seq())
        };
        chunk.sync_then_answer(node, epoch, seq, answer);
    } else if asker.role == Role::Client && !node.may_serve() {
        answer.refuse(Status::NotServing, 0, "no lease from the master");
    } else {
        chunk.handle(node, Event::Sync { epoch: frame.header.epoch.into(), answer });
    }
    Ok(())
}

fn install(node: &Arc<Node>, asker: Asker, frame: Frame, answer: Answer) -> Result<(), FrameError> {
    let meta: InstallMeta = frame.meta()?;
    let (first, count) = (frame.header.offset / BLOCK as u32, meta.blocks as usize);
    let said = ChunkMeta {
        epoch: frame.header.epoch.into(),
        in_sync: meta.in_sync.clone(),
        wanted: meta.in_sync.len() as u32,
        seq: meta.seq,
        suspect: false,
    };
    if asker.role != Role::Server || meta.crcs.len() != count || meta.versions.len() != count {
        answer.refuse(Status::BadRequest, 0, "install refused");
        return Ok(());
    }
    if !frame.data.is_empty() && piece_crcs(0, &frame.data) != meta.crcs {
        answer.refuse(Status::Garbled, 0, "blocks do not match their checksums");
        return Ok(());
    }
    let blocks = first.saturating_add(meta.blocks as u32);
    let made = node.create(frame.header.chunk, ChunkMeta { seq: 0, ..said.clone() }, blocks, Made::InDoubt);
    let chunk = match made {
        Ok(chunk) => chunk,
        Err(e) => {
            answer.refuse(e.status(), 0, &e.to_string());
            return Ok(());
        }
    };
    let mut machine = chunk.replica.lock();
    if let Err(status) = chunk.may_install(node, &mut machine, asker.id as u32, &said) {
        answer.refuse(status, machine.epoch(), "install refused");
        return Ok(());
    }
    let hole =
        |(crc, version): (&u32, &u64)| if *version == 0 { (zero_block_crc(), 0) } else { (*crc, *version) };
    let told: Vec<_> = meta.crcs.iter().zip(&meta.versions).map(hole).collect();
    let whole = count == 0 || machine.is_trusted();
    let disk = &chunk.unit.disk;
    let done = disk.install(&chunk.file, first, &frame.data, &told).and_then(|()| {
        // Only a replica that misses nothing below may say that it holds everything up to here.
        match whole {
            // What it had that the primary has not is gone.
            true if !machine.is_trusted() => disk.level(&chunk.file, meta.seq),
            true => disk.settle(&chunk.file, meta.seq),
            false => Ok(()),
        }
    });
    let epoch = machine.epoch();
    match done {
        Ok(()) => {
            if whole {
                chunk.handle_locked(node, &mut machine, Event::Leveled { seq: meta.seq });
            }
            drop(machine);
            if frame.header.flags & flags::SYNC != 0 {
                chunk.sync_then_answer(node, epoch, meta.seq, answer);
            } else if meta.copying && count > 0 {
                // The source sends no more until it is answered.
                let c = chunk.clone();
                node.handle.spawn_blocking(move || {
                    // An error shows at the latest when the copy is made stable.
                    let _ = c.unit.disk.write_out(&c.file, first, count as u32);
                    answer.written(Status::Ok, epoch, meta.seq);
                });
            } else {
                answer.written(Status::Ok, epoch, meta.seq);
            }
        }
        Err(e) => answer.refuse(e.status(), epoch, &e.to_string()),
    }
    Ok(())
}

fn reconcile(node: &Arc<Node>, asker: Asker, frame: &Frame, answer: Answer) -> Result<(), FrameError> {
    if let Some(chunk) = node.chunk(frame.header.chunk)
        && asker.role == Role::Server
    {
        let mut machine = chunk.replica.lock();
        if machine.is_primary() {
            let event: ChunkEvent = Event::Doubt;
            chunk.handle_locked(node, &mut machine, event);
        }
    }
    // The asker looks again: it is told by an Install when it is level.
    reads::state(node, frame, answer)
}

impl Chunk {
    /// Whether this primary may install blocks here; a higher epoch that it brings is taken over.
    fn may_install(
        self: &Arc<Self>,
        node: &Arc<Node>,
        machine: &mut super::chunk::Machine,
        from: u32,
        said: &ChunkMeta,
    ) -> Result<(), Status> {
        if said.in_sync.first() != Some(&from) {
            return Err(Status::NotPrimary);
        }
        if said.epoch > machine.epoch() {
            let wanted = machine.meta().wanted.max(said.wanted);
            self.handle_locked(node, machine, Event::Epoch(ChunkMeta { wanted, ..said.clone() }));
        }
        machine.may_install(from, said)
    }
}
