//! One chunkserver, as the master sees it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use cairn_proto::{ChunkId, rpc};

use super::arrivals::{Arrivals, Pace};
use super::digest_watch::DigestWatch;
use super::health::{Signs, health};
use super::node_states::State;
use super::opinion::Opinion;
use super::replicas::Replicas;
use super::score::permille;
use super::throttle::Foreground;
use super::{Duty, LinkId, ServerRecord};
use crate::core::Millis;

/// With less free space than this (bytes) a server may have no room for the next writes: heartbeats come once a second.
const NO_ROOM: u64 = 8 << 20;

#[derive(Debug)]
pub(super) struct Server {
    pub(super) record: ServerRecord,
    pub(super) state: State,
    pub(super) link: Option<LinkId>,
    /// The last connection that it had, while it has none.
    pub(super) last_link: Option<LinkId>,
    pub(super) incarnation: u64,
    pub(super) pid: u32,
    /// Where it answers questions over HTTP; empty: nowhere.
    pub(super) http: String,
    pub(super) last_heartbeat: Millis,
    pub(super) arrivals: Arrivals,
    pub(super) opinion: Opinion,
    /// Since when only its peers reach it.
    pub(super) unreachable: Option<Millis>,
    pub(super) suspicions: Recent,
    pub(super) load_permille: u32,
    pub(super) rtt_us: u32,
    /// What clients waited for it of late, microseconds.
    pub(super) foreground: Foreground,
    /// Its heartbeats come. (In maintenance that cannot be told from the state.)
    pub(super) beats: bool,
    /// From here on it certainly serves nothing, unless another heartbeat comes.
    pub(super) lease_until: Millis,
    pub(super) died: Option<Millis>,
    pub(super) disks: Vec<rpc::Disk>,
    pub(super) chunks: u64,
    pub(super) bytes_in: u64,
    pub(super) bytes_out: u64,
    /// Bytes a second that are read and written there of late.
    pub(super) use_rate: u64,
    /// The chunks with the most of that, as it tells.
    pub(super) hot: Vec<rpc::ChunkUse>,
    pub(super) replicas: Replicas,
    pub(super) watch: DigestWatch,
    /// The pieces of a report that is under way.
    pub(super) incoming: Option<BTreeMap<ChunkId, u32>>,
    /// Chunks whose set changed while it could not be told. It must hear of them before its lease is
    /// renewed, else it might serve as a member what it missed.
    pub(super) owed: BTreeSet<ChunkId>,
}

impl Server {
    pub(super) fn new(record: ServerRecord, lease_until: Millis) -> Self {
        let state = match record.duty {
            Duty::Maintenance { .. } => State::Maintenance,
            Duty::InService | Duty::Draining => State::Joining,
        };
        Self {
            record,
            state,
            link: None,
            last_link: None,
            incarnation: 0,
            pid: 0,
            http: String::new(),
            last_heartbeat: Millis(0),
            arrivals: Arrivals::default(),
            opinion: Opinion::default(),
            unreachable: None,
            suspicions: Recent::default(),
            load_permille: 0,
            rtt_us: 0,
            foreground: [0; 2],
            beats: false,
            lease_until,
            died: None,
            disks: Vec::new(),
            chunks: 0,
            bytes_in: 0,
            bytes_out: 0,
            use_rate: 0,
            hot: Vec::new(),
            replicas: Replicas::default(),
            watch: DigestWatch::default(),
            incoming: None,
            owed: BTreeSet::new(),
        }
    }

    /// Connected, with a lease.
    pub(super) fn is_alive(&self) -> bool {
        let with_lease = match self.state {
            State::Alive | State::Draining => true,
            State::Maintenance => self.beats,
            State::Joining | State::Suspected | State::Dead => false,
        };
        with_lease && self.link.is_some()
    }

    /// Whether it may be given chunks that it does not hold.
    pub(super) fn takes_new(&self) -> bool {
        self.state == State::Alive && self.link.is_some()
    }

    /// Whether its chunks are to be moved elsewhere.
    pub(super) fn is_leaving(&self) -> bool {
        self.record.duty == Duty::Draining
    }

    /// Whether it is not to be replaced where it is missing.
    pub(super) fn is_spared(&self) -> bool {
        self.state == State::Maintenance || (self.unreachable.is_some() && self.state == State::Suspected)
    }

    /// The connection on which it can be told something now and will hear it before its lease is renewed.
    pub(super) fn reachable(&self) -> Option<LinkId> {
        if self.state == State::Dead { None } else { self.link }
    }

    /// Whether it has been heard of since the master started, and is not dead.
    pub(super) fn may_serve(&self) -> bool {
        match self.state {
            State::Alive | State::Suspected | State::Draining => true,
            State::Joining | State::Maintenance => self.link.is_some(),
            State::Dead => false,
        }
    }

    /// Whether it certainly serves nothing.
    pub(super) fn is_gone(&self, now: Millis) -> bool {
        self.state == State::Dead || now >= self.lease_until
    }

    /// Alive, and what it holds is known.
    pub(super) fn is_settled(&self) -> bool {
        self.is_alive() && self.watch.is_settled()
    }

    pub(super) fn total_bytes(&self) -> u64 {
        self.disks.iter().filter(|d| !d.failed).map(|d| d.total_bytes).fold(0, u64::saturating_add)
    }

    pub(super) fn free_bytes(&self) -> u64 {
        self.disks.iter().filter(|d| !d.failed).map(|d| d.free_bytes).fold(0, u64::saturating_add)
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.total_bytes().saturating_sub(self.free_bytes())
    }

    /// The chunks that are used most there, and how much: bytes a second, reads and writes.
    pub(super) fn used_most(&self) -> impl Iterator<Item = (ChunkId, u64)> + '_ {
        self.hot.iter().map(|u| (ChunkId(u.chunk), u.read.saturating_add(u.written)))
    }

    /// How full it is, in thousandths.
    pub(super) fn used_permille(&self) -> u64 {
        permille(self.used_bytes(), self.total_bytes())
    }

    /// Bytes in use beyond this part of all (thousandths).
    pub(super) fn bytes_over(&self, part: u64) -> u64 {
        let most = u128::from(self.total_bytes()) * u128::from(part) / 1_000;
        self.used_bytes().saturating_sub(u64::try_from(most).unwrap_or(u64::MAX))
    }

    /// Whether a write to what it holds will find room, as far as that is known.
    pub(super) fn has_room(&self) -> bool {
        self.free_bytes() >= NO_ROOM
    }

    /// Whether it may be given a new replica.
    pub(super) fn has_space(&self, chunk_size: u64, full_permille: u64) -> bool {
        let (total, free) = (u128::from(self.total_bytes()), u128::from(self.free_bytes()));
        free >= 2 * u128::from(chunk_size)
            && (total - free.min(total)) * 1000 <= total * u128::from(full_permille)
    }

    pub(super) fn info(&self) -> rpc::ServerInfo {
        rpc::ServerInfo {
            id: self.record.id.0,
            addr: self.record.addr.clone(),
            unix_path: self.record.unix_path.clone(),
            boot_id: self.record.boot_id.clone(),
            state: self.state.message().into(),
        }
    }

    fn health(&self, pace: Pace) -> u32 {
        let late = self.arrivals.mean() + self.arrivals.deviation();
        health(Signs {
            state: self.state,
            late_permille: late * 1_000 / pace.heartbeat.max(1),
            suspicions: self.suspicions.count(self.last_heartbeat),
            disks: (self.disks.len(), self.disks.iter().filter(|d| d.failed).count()),
            used_permille: self.used_permille(),
            load_permille: self.load_permille.into(),
        })
    }

    pub(super) fn status(&self, pace: Pace) -> rpc::ChunkserverStatus {
        rpc::ChunkserverStatus {
            info: Some(self.info()),
            pid: self.pid,
            http: self.http.clone(),
            disks: self.disks.clone(),
            used_bytes: self.used_bytes(),
            chunks: self.chunks,
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
            rack: self.record.rack.clone(),
            health_permille: self.health(pace),
            rtt_us: self.rtt_us,
            load_permille: self.load_permille,
            timeout_ms: u32::try_from(self.arrivals.timeout(pace)).unwrap_or(u32::MAX),
            full: false,
            use_rate: self.use_rate,
        }
    }
}

/// When something happened, the last few times.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<Millis>);

impl Recent {
    const KEPT: usize = 16;
    const WINDOW_MS: u64 = 600_000;

    pub(super) fn push(&mut self, now: Millis) {
        if self.0.len() == Self::KEPT {
            self.0.pop_front();
        }
        self.0.push_back(now);
    }

    /// How often in the ten minutes before `now`.
    fn count(&self, now: Millis) -> u32 {
        self.0.iter().filter(|at| now.since(**at) < Self::WINDOW_MS).count() as u32
    }
}
