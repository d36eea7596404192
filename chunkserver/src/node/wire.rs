//! Between the messages of the data wire and the words of the core.

use crate::core::layout::ChunkMeta;
use crate::core::recent::WriteId;
use crate::core::replica::{Fault, MemberAnswer};
use crate::disk::{Change, Payload};
use cairn_proto::block::crcs_match;
use cairn_proto::data::{Frame, Header, Kind, Status, flags};
use cairn_proto::rpc::{Failure, WriteMeta};

/// What a Write or Forward puts into the chunk.
pub fn change(frame: &Frame, meta: &mut WriteMeta) -> Result<Change, Status> {
    let offset = u64::from(frame.header.offset);
    let payload = if frame.data.is_empty() {
        Payload::Zeros(meta.zero_len)
    } else if meta.zero_len != 0 {
        return Err(Status::BadRequest);
    } else {
        let crcs = std::mem::take(&mut meta.crcs);
        if !crcs_match(offset, &frame.data, &crcs) {
            return Err(Status::Garbled);
        }
        Payload::Data(frame.data.clone(), crcs)
    };
    Ok(Change { id: WriteId { session: meta.session, write: meta.write }, offset, payload })
}

/// A Forward's header, metadata and data.
pub fn forward(chunk: u64, m: &ChunkMeta, change: &Change, seq: u64, sync: bool) -> (Header, WriteMeta) {
    let mut header = Header::request(Kind::Forward, chunk, m.epoch as u32, change.offset as u32);
    if sync {
        header.flags |= flags::SYNC;
    }
    let (crcs, zero_len) = match &change.payload {
        Payload::Data(_, crcs) => (crcs.clone(), 0),
        Payload::Zeros(n) => (Vec::new(), *n),
    };
    let meta = WriteMeta {
        session: change.id.session,
        write: change.id.write,
        crcs,
        zero_len,
        seq,
        in_sync: m.in_sync.clone(),
        wanted: m.wanted,
        ..WriteMeta::default()
    };
    (header, meta)
}

/// What a member's answer to a Forward, Install or Sync means.
pub fn member_answer(frame: Option<&Frame>) -> MemberAnswer {
    let Some(frame) = frame else { return MemberAnswer::Failed(Fault::Unreachable) };
    match frame.status() {
        Status::Ok => MemberAnswer::Done,
        Status::NoSpace => MemberAnswer::Failed(Fault::NoSpace),
        Status::DiskError => MemberAnswer::Failed(Fault::Disk),
        Status::StaleEpoch | Status::NotPrimary => MemberAnswer::Failed(Fault::Stale),
        _ => MemberAnswer::NotLevel,
    }
}

/// A fault as the master is told it.
pub fn failure(fault: Fault) -> Failure {
    match fault {
        Fault::Unreachable | Fault::Stale => Failure::Unreachable,
        Fault::Silent => Failure::TimedOut,
        Fault::NoSpace => Failure::NoSpace,
        Fault::Disk => Failure::BadDisk,
    }
}
