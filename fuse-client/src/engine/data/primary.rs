//! Requests that a chunk's primary carries out: writes, zeroing, syncs. Each is tried until it succeeds,
//! its deadline passes, or no attempt can succeed any more.

use super::core::retry::{self, Fatal, Outcome, Step};
use super::locations::{Locations, Place};
use super::peers::{Lane, Peers};
use crate::engine::error::FsError;
use bytes::Bytes;
use cairn_proto::backoff::{Backoff, RetryBudget};
use cairn_proto::block;
use cairn_proto::data::{Header, Kind, flags};
use cairn_proto::rpc::{ChunkInfo, SyncMeta, WriteMeta};
use parking_lot::Mutex;
use prost::Message;
use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// An attempt is given up after this; a primary itself gives a silent member up much sooner.
const ATTEMPT: Duration = Duration::from_secs(5);
pub(super) const FIRST_WAIT: Duration = Duration::from_millis(5);
pub(super) const MOST_WAIT: Duration = Duration::from_millis(500);

/// The way to the replicas of chunks.
pub(super) struct Replicas {
    pub peers: Peers,
    pub locations: Arc<Locations>,
    pub outage: Duration,
    pub read_bytes: AtomicU64,
    pub written_bytes: AtomicU64,
    /// Attempts that did not succeed.
    pub retries: AtomicU64,
    pub turn: AtomicU64,
    /// Of all requests of this mount about file data.
    pub budget: Mutex<RetryBudget>,
    next_write: AtomicU64,
}

/// A change of a chunk.
#[derive(Clone, Debug)]
pub(super) struct ChunkWrite {
    /// The session under which the data was written: under a later one it is not sent any more.
    pub session: u64,
    /// Offset in the chunk, bytes.
    pub offset: u32,
    pub body: Body,
    /// Probably there is no such chunk yet.
    pub new: bool,
    /// Acknowledge only when everything acknowledged so far, and this, is stable.
    pub sync: bool,
}

#[derive(Clone, Debug)]
pub(super) enum Body {
    Data(Bytes),
    /// So many bytes become zeros.
    Zeros(u64),
}

/// What is done where there is no chunk.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absent {
    /// It is a hole.
    Hole,
    /// It is made.
    Make,
    /// The same, and that it is absent is so likely that the master is not asked before.
    MakeAtOnce,
}

/// A request to a primary, ready to be sent any number of times.
enum Request {
    Write { write: ChunkWrite, id: u64, crcs: Vec<u32> },
    Sync,
}

impl Request {
    /// It belongs to a session that is over: others may have written the same place since.
    fn is_fenced(&self, session: u64) -> bool {
        matches!(self, Self::Write { write, .. } if write.session != session)
    }

    fn encode(&self, chunk: &ChunkInfo) -> (Header, Vec<u8>, Bytes) {
        let epoch = u32::try_from(chunk.epoch).unwrap_or(u32::MAX);
        match self {
            Self::Sync => {
                let header = Header::request(Kind::Sync, chunk.chunk, epoch, 0);
                (header, SyncMeta { local: false }.encode_to_vec(), Bytes::new())
            }
            Self::Write { write, id, crcs } => {
                let mut header = Header::request(Kind::Write, chunk.chunk, epoch, write.offset);
                if write.sync {
                    header.flags |= flags::SYNC;
                }
                let (data, zero_len) = match &write.body {
                    Body::Data(data) => (data.clone(), 0),
                    Body::Zeros(len) => (Bytes::new(), *len),
                };
                let meta = WriteMeta {
                    session: write.session,
                    write: *id,
                    crcs: crcs.clone(),
                    zero_len,
                    create_in_sync: if chunk.epoch == 1 { chunk.in_sync.clone() } else { Vec::new() },
                    wanted: chunk.wanted,
                    ..WriteMeta::default()
                };
                (header, meta.encode_to_vec(), data)
            }
        }
    }
}

impl Replicas {
    pub fn new(peers: Peers, locations: Arc<Locations>, outage: Duration) -> Self {
        Self {
            peers,
            locations,
            outage,
            read_bytes: AtomicU64::new(0),
            written_bytes: AtomicU64::new(0),
            retries: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            budget: Mutex::default(),
            next_write: AtomicU64::new(1),
        }
    }

    /// Changes a chunk, which is made if there is none.
    pub async fn write(&self, place: Place, write: ChunkWrite) -> Result<(), FsError> {
        let (crcs, bytes) = match &write.body {
            Body::Data(data) => (block::piece_crcs(write.offset.into(), data), data.len()),
            Body::Zeros(_) => (Vec::new(), 0),
        };
        let id = self.next_write.fetch_add(1, Relaxed);
        let absent = if write.new { Absent::MakeAtOnce } else { Absent::Make };
        self.until_done(place, &Request::Write { write, id, crcs }, absent).await?;
        self.written_bytes.fetch_add(bytes as u64, Relaxed);
        Ok(())
    }

    /// Zeroes a part of a chunk, if there is one.
    pub async fn zero(&self, session: u64, place: Place, offset: u32, len: u64) -> Result<(), FsError> {
        let id = self.next_write.fetch_add(1, Relaxed);
        let write = ChunkWrite { session, offset, body: Body::Zeros(len), new: false, sync: false };
        self.until_done(place, &Request::Write { write, id, crcs: Vec::new() }, Absent::Hole).await
    }

    /// Everything acknowledged of a chunk becomes stable.
    pub async fn sync(&self, place: Place) -> Result<(), FsError> {
        self.until_done(place, &Request::Sync, Absent::Hole).await
    }

    async fn until_done(&self, place: Place, request: &Request, absent: Absent) -> Result<(), FsError> {
        let mut why = String::new();
        let attempts = self.attempts(place, request, absent, &mut why);
        match tokio::time::timeout(self.outage, attempts).await {
            Ok(result) => result,
            Err(_) => Err(FsError::TimedOut(why)),
        }
    }

    async fn attempts(
        &self,
        place: Place,
        request: &Request,
        absent: Absent,
        why: &mut String,
    ) -> Result<(), FsError> {
        self.budget.lock().attempt();
        let mut backoff = Backoff::new(FIRST_WAIT, MOST_WAIT);
        let mut asked = self.locate(place, absent, false, &mut backoff, why).await?;
        while let Some(chunk) = asked {
            let (step, text) = self.attempt(&chunk, request).await;
            if step == Step::Done {
                return Ok(());
            }
            self.retries.fetch_add(1, Relaxed);
            *why = format!("chunk {} epoch {}: {text}", chunk.chunk, chunk.epoch);
            tracing::debug!(?step, "{why}");
            let next = match step {
                Step::Fail(fatal) => return Err(failed(fatal, why)),
                Step::Report(failure) => {
                    let server = chunk.in_sync.first().copied().unwrap_or(0);
                    match self.locations.report(&chunk, server, failure).await {
                        Ok(now) if now.chunk == chunk.chunk => Some(now),
                        _ => self.locate(place, absent, true, &mut backoff, why).await?,
                    }
                }
                Step::Wait => {
                    self.pause(&chunk, &mut backoff).await;
                    self.locate(place, absent, true, &mut backoff, why).await?
                }
                Step::Relocate | Step::Done => self.locate(place, absent, true, &mut backoff, why).await?,
            };
            match next.as_ref().map(|n| n.epoch.cmp(&chunk.epoch)) {
                // Others are asked now, who have not been waited for.
                Some(Ordering::Greater) => backoff.reset(),
                Some(Ordering::Equal) if step != Step::Wait => self.pause(&chunk, &mut backoff).await,
                _ => {}
            }
            asked = next;
        }
        // A hole: it is zero, and stable, already.
        Ok(())
    }

    /// Waits a little; not on when a later epoch becomes known: then the waiting begins anew, too.
    pub(super) async fn pause(&self, chunk: &ChunkInfo, backoff: &mut Backoff) {
        let wait = match self.budget.lock().retry() {
            true => backoff.next(rand::random()),
            false => backoff.longest(rand::random()),
        };
        if tokio::time::timeout(wait, self.locations.outdated(chunk)).await.is_ok() {
            backoff.reset();
        }
    }

    async fn locate(
        &self,
        place: Place,
        absent: Absent,
        afresh: bool,
        backoff: &mut Backoff,
        why: &mut String,
    ) -> Result<Option<Arc<ChunkInfo>>, FsError> {
        loop {
            let found = match absent {
                _ if afresh => self.locations.refresh(place).await,
                Absent::MakeAtOnce => Ok(None),
                Absent::Make | Absent::Hole => self.locations.get(place).await,
            };
            let found = match found {
                Ok(None) if absent != Absent::Hole => self.locations.alloc(place).await.map(Some),
                other => other,
            };
            match found {
                Err(e @ (FsError::TimedOut(_) | FsError::Unreachable(_))) => {
                    *why = e.to_string();
                    tokio::time::sleep(backoff.next(rand::random())).await;
                }
                other => return other,
            }
        }
    }

    /// One request to the primary; what follows from how it ended, and that in words.
    async fn attempt(&self, chunk: &ChunkInfo, request: &Request) -> (Step, String) {
        let Some(peer) = chunk.in_sync.first().and_then(|s| self.peers.get(*s)) else {
            return (Step::Wait, format!("its primary is unknown: {:?}", chunk.in_sync));
        };
        if self.locations.is_outdated(chunk) {
            return (Step::Relocate, "a later epoch is known".into());
        }
        if request.is_fenced(self.peers.session()) {
            return (Step::Fail(Fatal::Fenced), "its session is over".into());
        }
        let (header, meta, data) = request.encode(chunk);
        let lane = Lane::for_write(data.len());
        let call = self.peers.call(&peer, lane, header, &meta, data, ATTEMPT);
        tokio::select! {
            biased;
            answer = call => match answer {
                Ok(reply) => {
                    let epoch = u64::from(reply.header.epoch);
                    if epoch > chunk.epoch {
                        self.locations.outgrown(chunk, epoch);
                    }
                    let status = reply.status();
                    let step = retry::next(Outcome::Answered(status));
                    let text = if step == Step::Done { String::new() } else {
                        format!("server {} answers {status:?} {}", peer.id(), reply.text())
                    };
                    (step, text)
                }
                Err(outcome) => (retry::next(outcome), format!("server {}: {outcome:?}", peer.id())),
            },
            () = self.locations.outdated(chunk) => (Step::Relocate, "it moved to another primary".into()),
        }
    }
}

fn failed(fatal: Fatal, why: &str) -> FsError {
    match fatal {
        Fatal::NoSpace => FsError::NoSpace,
        Fatal::Fenced => FsError::Fenced,
        Fatal::Protocol => FsError::Io(why.to_owned()),
    }
}

/// A time before which something has to be done.
pub(super) fn deadline(outage: Duration) -> Instant {
    Instant::now() + outage
}
