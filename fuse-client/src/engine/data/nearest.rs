//! Requests that any replica can carry out: reads. The best is asked first, another when it fails, is late,
//! or sends what does not match its checksums.

use super::core::replicas::{Candidate, rank};
use super::core::retry::{self, Outcome};
use super::locations::Place;
use super::peers::{Lane, Peer};
use super::primary::{FIRST_WAIT, MOST_WAIT, Replicas};
use crate::engine::error::FsError;
use bytes::Bytes;
use cairn_proto::backoff::Backoff;
use cairn_proto::block;
use cairn_proto::data::{Header, Kind, Reply, Status};
use cairn_proto::rpc::{ChunkInfo, Failure, MapReply, ReadMeta, ReadReply};
use futures::stream::{FuturesUnordered, StreamExt};
use prost::Message;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// A read that is not answered is given up after this; the next replica has been asked long before.
const ATTEMPT: Duration = Duration::from_secs(5);
/// No second replica is asked before.
const HEDGE_FLOOR: Duration = Duration::from_millis(20);
/// While a server's percentile is unknown.
const HEDGE_DEFAULT: Duration = Duration::from_millis(100);
/// How long a server that lost against a hedge is asked last.
const SUSPECT: Duration = Duration::from_secs(1);
/// Rounds in which every replica was damaged, before that is believed.
const DAMAGED_ROUNDS: u32 = 3;

/// A request to any replica.
#[derive(Clone, Copy, Debug)]
enum Ask {
    /// Whole blocks: offset in the chunk, length.
    Read(u32, u32),
    /// Where there is data, from this offset.
    Map(u32),
}

/// How one round over the replicas failed.
#[derive(Default)]
struct Round {
    failures: Vec<(u32, Outcome)>,
    unborn: usize,
    why: String,
}

impl Round {
    /// Somebody knows of a later in-sync set.
    fn is_outdated(&self) -> bool {
        self.failures.iter().any(|(_, outcome)| retry::next(*outcome) == retry::Step::Relocate)
    }
}

impl Replicas {
    /// Reads whole blocks (at most 1 MiB) of a chunk; `None`: they are a hole.
    pub async fn read(&self, place: Place, offset: u32, len: u32) -> Result<Option<Bytes>, FsError> {
        let reply = self.ask(place, Ask::Read(offset, len)).await?;
        if let Some(reply) = &reply {
            self.read_bytes.fetch_add(reply.data.len() as u64, Ordering::Relaxed);
        }
        Ok(reply.map(|r| r.data))
    }

    /// The ranges of a chunk that hold data, from `offset` on, sorted.
    pub async fn map(&self, place: Place, offset: u32) -> Result<Vec<Range<u32>>, FsError> {
        let Some(reply) = self.ask(place, Ask::Map(offset)).await? else { return Ok(Vec::new()) };
        let map: MapReply = reply.meta().map_err(|e| FsError::Io(e.to_string()))?;
        Ok(map.extents.chunks_exact(2).map(|e| e[0]..e[1]).collect())
    }

    async fn ask(&self, place: Place, ask: Ask) -> Result<Option<Reply>, FsError> {
        let mut why = String::new();
        match tokio::time::timeout(self.outage, self.rounds(place, ask, &mut why)).await {
            Ok(result) => result,
            Err(_) => Err(FsError::TimedOut(why)),
        }
    }

    async fn rounds(&self, place: Place, ask: Ask, why: &mut String) -> Result<Option<Reply>, FsError> {
        self.budget.lock().attempt();
        let mut backoff = Backoff::new(FIRST_WAIT, MOST_WAIT);
        let mut located = self.locations.get(place).await;
        let mut damaged = 0;
        loop {
            let chunk = match located {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(None),
                Err(e @ (FsError::TimedOut(_) | FsError::Unreachable(_))) => {
                    *why = e.to_string();
                    tokio::time::sleep(backoff.next(rand::random())).await;
                    located = self.locations.refresh(place).await;
                    continue;
                }
                Err(e) => return Err(e),
            };
            let round = match self.round(&chunk, ask).await {
                Ok(reply) => return Ok(Some(reply)),
                Err(round) => round,
            };
            self.retries.fetch_add(1, Ordering::Relaxed);
            let all = chunk.in_sync.len();
            if all > 0 && round.unborn == all {
                return Ok(None);
            }
            let is_damage = |o: &Outcome| {
                matches!(o, Outcome::Mismatch | Outcome::Answered(Status::Corrupt | Status::DiskError))
            };
            if all > 0 && round.failures.iter().filter(|(_, o)| is_damage(o)).count() == all {
                damaged += 1;
                if damaged == DAMAGED_ROUNDS {
                    return Err(FsError::Corrupt { chunk: chunk.chunk });
                }
            }
            if round.failures.iter().any(|(_, o)| *o == Outcome::Answered(Status::BadRequest)) {
                return Err(FsError::Io(round.why));
            }
            *why = format!("chunk {} epoch {}: {}", chunk.chunk, chunk.epoch, round.why);
            tracing::debug!("{why}");
            located = self.locations.refresh(place).await;
            match &located {
                Ok(Some(now)) if now.epoch != chunk.epoch => backoff.reset(),
                _ => self.pause(&chunk, &mut backoff).await,
            }
        }
    }

    /// Asks the replicas, the best first, until one answers as it should.
    async fn round(&self, chunk: &Arc<ChunkInfo>, ask: Ask) -> Result<Reply, Round> {
        let mut order = self.order(chunk).into_iter();
        let mut round = Round::default();
        let Some(first) = order.next() else {
            round.why = format!("no server of {:?} is known", chunk.in_sync);
            return Err(round);
        };
        let late = late(&first);
        let mut calls = FuturesUnordered::new();
        let mut first_call = Box::pin(self.one(first.clone(), chunk, ask));
        // Nearly always this is all there is to do.
        match tokio::time::timeout(late, &mut first_call).await {
            Ok((_, Ok(reply))) => return Ok(reply),
            Ok((server, Err((outcome, text)))) => self.note(chunk, &mut round, server, outcome, text),
            Err(_) => calls.push(first_call),
        }
        loop {
            // Who is left keeps silent: whom to ask instead has to be found out, not waited for.
            if round.is_outdated() {
                return Err(round);
            }
            if let Some(next) = order.next() {
                calls.push(Box::pin(self.one(next, chunk, ask)));
            } else if calls.is_empty() {
                return Err(round);
            }
            match tokio::time::timeout(if order.len() > 0 { late } else { ATTEMPT * 2 }, calls.next()).await {
                Ok(Some((server, Ok(reply)))) => {
                    if server != first.id() && !round.failures.iter().any(|(s, _)| *s == first.id()) {
                        first.suspect(SUSPECT);
                    }
                    return Ok(reply);
                }
                Ok(Some((server, Err((outcome, text))))) => {
                    self.note(chunk, &mut round, server, outcome, text);
                }
                Ok(None) | Err(_) => {}
            }
        }
    }

    fn order(&self, chunk: &ChunkInfo) -> Vec<Arc<Peer>> {
        let peers: Vec<_> = chunk.in_sync.iter().filter_map(|s| self.peers.get(*s)).collect();
        let mut candidates: Vec<_> = peers
            .iter()
            .enumerate()
            .map(|(index, p)| Candidate {
                index,
                local: p.is_local(),
                broken: p.is_broken(),
                suspect: p.is_suspect(),
                outstanding: p.outstanding(),
            })
            .collect();
        rank(&mut candidates, self.turn.fetch_add(1, Ordering::Relaxed) as usize);
        candidates.iter().map(|c| peers[c.index].clone()).collect()
    }

    /// Asks one replica, and checks what it sends.
    async fn one(
        &self,
        peer: Arc<Peer>,
        chunk: &ChunkInfo,
        ask: Ask,
    ) -> (u32, Result<Reply, (Outcome, String)>) {
        let epoch = u32::try_from(chunk.epoch).unwrap_or(u32::MAX);
        let (kind, offset, meta, lane) = match ask {
            Ask::Read(offset, len) => {
                (Kind::Read, offset, ReadMeta { len }.encode_to_vec(), Lane::for_read(len as usize))
            }
            Ask::Map(offset) => (Kind::Map, offset, Vec::new(), Lane::Small),
        };
        let header = Header::request(kind, chunk.chunk, epoch, offset);
        let reply = self.peers.call(&peer, lane, header, &meta, Bytes::new(), ATTEMPT).await;
        let result = match reply {
            Err(outcome) => Err((outcome, format!("{outcome:?}"))),
            Ok(reply) if reply.status() != Status::Ok => {
                let outcome = Outcome::Answered(reply.status());
                let unborn = retry::is_unborn(reply.status(), reply.header.epoch);
                let outcome = if unborn { Outcome::Answered(Status::NoChunk) } else { outcome };
                Err((outcome, format!("{:?} {}", reply.status(), reply.text())))
            }
            Ok(reply) => match check(ask, &reply) {
                true => Ok(reply),
                false => Err((Outcome::Mismatch, "data does not match its checksums".into())),
            },
        };
        (peer.id(), result)
    }

    fn note(&self, chunk: &Arc<ChunkInfo>, round: &mut Round, server: u32, outcome: Outcome, text: String) {
        if outcome == Outcome::Answered(Status::NoChunk) {
            round.unborn += 1;
        }
        if matches!(outcome, Outcome::Mismatch | Outcome::Answered(Status::Corrupt)) {
            tracing::warn!(chunk = chunk.chunk, server, "a replica is damaged");
            self.report_later(chunk.clone(), server, Failure::Corrupt);
        }
        round.why = format!("server {server}: {text}");
        round.failures.push((server, outcome));
    }

    /// Tells the master without making the reader wait for it.
    fn report_later(&self, chunk: Arc<ChunkInfo>, server: u32, failure: Failure) {
        let locations = self.locations.clone();
        tokio::spawn(async move {
            if let Err(e) = locations.report(&chunk, server, failure).await {
                tracing::warn!(chunk = chunk.chunk, server, "cannot report a damaged replica: {e}");
            }
        });
    }
}

/// After which time another replica is asked too.
fn late(peer: &Peer) -> Duration {
    match peer.p95() {
        Duration::ZERO => HEDGE_DEFAULT,
        p95 => p95.max(HEDGE_FLOOR),
    }
}

/// Whether a reply holds what was asked for, intact.
fn check(ask: Ask, reply: &Reply) -> bool {
    match ask {
        Ask::Map(_) => true,
        Ask::Read(offset, len) => match reply.meta::<ReadReply>() {
            Ok(meta) => {
                reply.data.len() == len as usize && block::crcs_match(offset.into(), &reply.data, &meta.crcs)
            }
            Err(_) => false,
        },
    }
}
