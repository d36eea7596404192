//! Mirrors `node/dispatch.rs` and `node/reads.rs`: what is done with each kind of request.

use super::agreement;
use super::chunk::{Chunk, Ticket, Write};
use super::compare::verify;
use super::disk::DiskError;
use super::node::Node;
use crate::message::{Answer, Ask, Content, Reply, Request, Told};
use cairn_chunkserver::core::layout::ChunkMeta;
use cairn_chunkserver::core::replica::{Event, Made};
use cairn_proto::block::zero_block_crc;
use cairn_proto::data::Status;
use std::rc::Rc;

/// Handles a request of another server, or of a client.
pub fn dispatch(node: &Rc<Node>, from: u32, request: Request, to: Ticket) {
    let is_server = node.world.is_server(from);
    let Request { chunk: id, epoch, sync, body } = request;
    match body {
        Ask::Ping => node.refuse(to, Status::Ok, 0),
        Ask::Write { change, create, wanted } => {
            if let Err(status) = write(node, (id, epoch, sync), &change, create, wanted, to) {
                node.refuse(to, status, 0);
            }
        }
        Ask::Forward { change, seq, in_sync, wanted } => {
            let said = ChunkMeta { epoch, in_sync, wanted, seq, suspect: false };
            if let Err(status) = forward(node, from, (id, sync), &change, said, to) {
                node.refuse(to, status, 0);
            }
        }
        Ask::Sync { local } => match node.chunk(id) {
            None => node.refuse(to, Status::NoChunk, 0),
            Some(chunk) if local => {
                let epoch = chunk.replica.borrow().epoch();
                node.sync(id, move |node| node.refuse(to, Status::Ok, epoch));
            }
            Some(_) if !node.may_serve() => node.refuse(to, Status::NotServing, 0),
            Some(chunk) => chunk.handle(node, Event::Sync { epoch, answer: to }),
        },
        Ask::Install { first, told, crcs, data, in_sync, seq } => {
            let wanted = in_sync.len() as u32;
            let said = ChunkMeta { epoch, in_sync, wanted, seq, suspect: false };
            if let Err((status, epoch)) =
                install(node, from, (id, sync), said, (first, &told, &crcs, &data), to)
            {
                node.refuse(to, status, epoch);
            }
        }
        Ask::Read { first, count } => read(node, is_server, (id, epoch), first, count, to),
        Ask::State => state(node, id, to),
        Ask::Table => table(node, id, to),
        Ask::Reconcile => {
            if let Some(chunk) = node.chunk(id)
                && chunk.replica.borrow().is_primary()
            {
                // (The borrow above has ended with the condition.)
                chunk_doubt(node, &chunk);
            }
            state(node, id, to);
        }
        Ask::Locate { .. } | Ask::Failed { .. } | Ask::Drop { .. } => node.refuse(to, Status::BadRequest, 0),
    }
}

fn chunk_doubt(node: &Rc<Node>, chunk: &Rc<Chunk>) {
    chunk.handle(node, Event::Doubt);
}

fn write(
    node: &Rc<Node>,
    (id, epoch, sync): (u64, u64, bool),
    change: &Write,
    create: Vec<u32>,
    wanted: u32,
    answer: Ticket,
) -> Result<(), Status> {
    if !node.may_serve() {
        return Err(Status::NotServing);
    }
    let session = change.id.session;
    if !node.fence.borrow().admits(session) {
        return Err(Status::Fenced);
    }
    if node.world.sessions.borrow().is_fenced(session) {
        node.world.fail("a session that is over", format!("s{} takes a write of session {session}", node.id));
    }
    let chunk = match node.chunk(id) {
        Some(chunk) => chunk,
        None if epoch == 1 && create.first() == Some(&node.id) => {
            let fits = node.disk.borrow_mut().may_apply(None, change);
            if fits == Err(DiskError::Full) {
                node.hand_over_unborn(id, answer);
                return Ok(());
            }
            fits.map_err(DiskError::status)?;
            let first = ChunkMeta { epoch: 1, in_sync: create, wanted, ..ChunkMeta::default() };
            let suspect = node.behind || node.lost_disk.get();
            let made = if suspect { Made::InDoubt } else { Made::ByClient };
            let chunk = node.create(id, &first, made).map_err(DiskError::status)?;
            chunk.handle(node, Event::Start);
            chunk
        }
        None => return Err(Status::Behind),
    };
    let may = node.disk.borrow_mut().may_apply(Some(id), change);
    if may == Err(DiskError::Full) {
        chunk.handle(node, Event::NoRoom { epoch, answer });
        return Ok(());
    }
    if let Err(e) = may {
        node.refuse(answer, e.status(), chunk.replica.borrow().epoch());
        return Ok(());
    }
    chunk.handle(node, Event::Write { id: change.id, epoch, sync, write: change.clone(), answer });
    agreement::written(node, &chunk);
    Ok(())
}

fn forward(
    node: &Rc<Node>,
    from: u32,
    (id, sync): (u64, bool),
    change: &Write,
    said: ChunkMeta,
    answer: Ticket,
) -> Result<(), Status> {
    let chunk = match node.chunk(id) {
        Some(chunk) => chunk,
        None if said.seq == 1 && said.in_sync.contains(&node.id) => node
            .create(id, &ChunkMeta { seq: 0, ..said.clone() }, Made::ByPrimary)
            .map_err(DiskError::status)?,
        None => return Err(Status::Behind),
    };
    let may = node.disk.borrow_mut().may_apply(Some(id), change);
    if let Err(e) = may {
        node.refuse(answer, e.status(), chunk.replica.borrow().epoch());
        return Ok(());
    }
    chunk.handle(
        node,
        Event::Forward { from, meta: said, id: change.id, sync, write: change.clone(), answer },
    );
    Ok(())
}

fn install(
    node: &Rc<Node>,
    from: u32,
    (id, sync): (u64, bool),
    said: ChunkMeta,
    (first, told, crcs, data): (u32, &[Told], &[u32], &[Content]),
    to: Ticket,
) -> Result<(), (Status, u64)> {
    let made = node.create(id, &ChunkMeta { seq: 0, ..said.clone() }, Made::InDoubt);
    let chunk = made.map_err(|e| (e.status(), 0))?;
    may_install(node, &chunk, from, &said).map_err(|s| (s, chunk.replica.borrow().epoch()))?;
    let told: Vec<Told> = crcs
        .iter()
        .zip(told)
        .map(|(crc, t)| if t.1 == 0 { (zero_block_crc(), 0) } else { (*crc, t.1) })
        .collect();
    let whole = told.is_empty() || chunk.replica.borrow().is_trusted();
    let epoch = chunk.replica.borrow().epoch();
    let done = {
        let mut disk = node.disk.borrow_mut();
        disk.install(id, first, data, &told).and_then(|()| match whole {
            true if !chunk.replica.borrow().is_trusted() => disk.level(id, said.seq),
            true => disk.settle(id, said.seq),
            false => Ok(()),
        })
    };
    done.map_err(|e| (e.status(), epoch))?;
    if whole {
        chunk.handle(node, Event::Leveled { seq: said.seq });
    }
    if sync {
        node.sync(id, move |node| node.refuse(to, Status::Ok, epoch));
    } else {
        node.refuse(to, Status::Ok, epoch);
    }
    Ok(())
}

fn may_install(node: &Rc<Node>, chunk: &Rc<Chunk>, from: u32, said: &ChunkMeta) -> Result<(), Status> {
    if said.in_sync.first() != Some(&from) {
        return Err(Status::NotPrimary);
    }
    let (epoch, wanted) = {
        let m = chunk.replica.borrow();
        (m.epoch(), m.meta().wanted)
    };
    if said.epoch > epoch {
        let wanted = wanted.max(said.wanted);
        chunk.handle(node, Event::Epoch(ChunkMeta { wanted, ..said.clone() }));
    }
    chunk.replica.borrow_mut().may_install(from, said)
}

fn unknown(node: &Node) -> Status {
    if node.lost_disk.get() { Status::DiskError } else { Status::NoChunk }
}

fn readable(node: &Rc<Node>, (id, epoch): (u64, u64)) -> Result<Rc<Chunk>, (Status, u64)> {
    if !node.may_serve() {
        return Err((Status::NotServing, 0));
    }
    let Some(chunk) = node.chunk(id) else {
        let gone = node.deleted.borrow().epoch(node.now(), id).filter(|gone| epoch <= *gone);
        return Err(gone.map_or((unknown(node), 0), |gone| (Status::StaleEpoch, gone)));
    };
    let held = chunk.replica.borrow().epoch();
    chunk.replica.borrow().may_read(epoch).map_err(|s| (s, held))?;
    Ok(chunk)
}

fn read(node: &Rc<Node>, is_server: bool, (id, epoch): (u64, u64), first: u32, count: u32, to: Ticket) {
    let chunk = match is_server {
        true => node.chunk(id).ok_or((unknown(node), 0)),
        false => readable(node, (id, epoch)),
    };
    let chunk = match chunk {
        Ok(chunk) => chunk,
        Err((status, epoch)) => return node.refuse(to, status, epoch),
    };
    let read = node.disk.borrow_mut().read(id, first, count);
    match read {
        Ok((data, crcs, _)) => {
            node.answer(to, Reply { status: Status::Ok, epoch, body: Answer::Blocks(data, crcs) });
        }
        Err(e) => {
            let corrupt = matches!(e, DiskError::Corrupt(_));
            let soon = corrupt && !is_server && chunk.is_healing();
            node.refuse(to, if soon { Status::Busy } else { e.status() }, epoch);
            if corrupt {
                chunk.doubt(node);
            }
        }
    }
}

fn state(node: &Rc<Node>, id: u64, to: Ticket) {
    let reply = node.chunk(id).map(|chunk| {
        let m = chunk.replica.borrow();
        let disk = node.disk.borrow();
        let unclean = !m.is_trusted() || disk.in_doubt(id);
        (m.epoch(), Answer::State { seq: m.seq(), unclean, exists: true, digest: disk.digest(id) })
    });
    let nothing = (0, Answer::State { seq: 0, unclean: false, exists: false, digest: 0 });
    let (epoch, body) = reply.unwrap_or(nothing);
    node.answer(to, Reply { status: Status::Ok, epoch, body });
}

fn table(node: &Rc<Node>, id: u64, to: Ticket) {
    let Some(chunk) = node.chunk(id) else { return node.refuse(to, Status::NoChunk, 0) };
    if !node.disk.borrow().is_unverified(id) {
        return told(node, &chunk, to);
    }
    let node = node.clone();
    node.world.clone().exec.spawn(node.life, async move {
        match verify(&node, &chunk).await {
            Ok(()) => told(&node, &chunk, to),
            Err(e) => node.refuse(to, e.status(), 0),
        }
    });
}

fn told(node: &Rc<Node>, chunk: &Chunk, to: Ticket) {
    let epoch = chunk.replica.borrow().epoch();
    let told = node.disk.borrow_mut().told(chunk.id);
    match told {
        Ok(told) => node.answer(to, Reply { status: Status::Ok, epoch, body: Answer::Table(told) }),
        Err(e) => node.refuse(to, e.status(), epoch),
    }
}
