//! Chunkservers that do what they are told.

use std::collections::{BTreeMap, VecDeque};

use cairn_proto::digest::replica_hash;
use cairn_proto::{ChunkId, ServerId, rpc};
use rpc::master_command::Cmd;

use super::super::*;
use super::world::{LEASE_MS, World};

/// A replica at a fake chunkserver.
#[derive(Clone, Debug)]
pub struct Replica {
    pub epoch: u64,
    pub in_sync: Vec<u32>,
}

#[derive(Default)]
pub struct FakeServer {
    pub running: bool,
    pub hung: bool,
    pub rack: &'static str,
    /// In thousandths of a core.
    pub load: u32,
    /// Its disk, and what is on it that is none of its replicas, in bytes; (0, 0): one that never fills.
    pub disk: (u64, u64),
    /// Nothing gets from it to the master, or the other way.
    pub cut: bool,
    pub link: Option<LinkId>,
    pub incarnation: u64,
    pub id: u32,
    pub replicas: BTreeMap<u64, Replica>,
    pub inbox: VecDeque<rpc::MasterCommand>,
    /// When each heartbeat that has not been acknowledged was sent.
    pub beats: BTreeMap<u64, Millis>,
    pub next_beat: u64,
    /// When the next one is due.
    pub due: Millis,
    pub lease_until: Millis,
    pub reports: usize,
    pub registered: bool,
    /// It has been given a lease on this connection.
    pub acked: bool,
    /// Whose writes it takes: from a session on, and some before.
    pub sessions: (u64, Vec<u64>),
}

impl FakeServer {
    /// What its heartbeat says of its disk when each replica has so many bytes.
    pub fn disk(&self, bytes: u64) -> rpc::Disk {
        let (total_bytes, others) = self.disk;
        if total_bytes == 0 {
            return rpc::Disk { total_bytes: 1 << 40, free_bytes: 1 << 39, ..Default::default() };
        }
        let used = others + self.replicas.len() as u64 * bytes;
        rpc::Disk { total_bytes, free_bytes: total_bytes.saturating_sub(used), ..Default::default() }
    }

    pub fn digest(&self) -> u64 {
        self.replicas.iter().fold(0, |sum, (c, r)| sum.wrapping_add(replica_hash(*c, r.epoch)))
    }
}

impl World {
    /// Every fake server does what it was told, until all is quiet.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            let mut quiet = true;
            for n in 0..self.fakes.len() {
                let fake = &mut self.fakes[n];
                if !fake.running || fake.hung || fake.cut {
                    continue;
                }
                if let Some(command) = fake.inbox.pop_front() {
                    quiet = false;
                    self.obey(n, command);
                }
            }
            if quiet {
                return self.check_beliefs();
            }
        }
        panic!("commands without end");
    }

    fn obey(&mut self, n: usize, command: rpc::MasterCommand) {
        let Some(link) = self.fakes[n].link else { return };
        match command.cmd.unwrap() {
            Cmd::Registered(registered) => {
                self.fakes[n].id = registered.id;
                self.fakes[n].registered = true;
                self.beat(n);
            }
            Cmd::Ack(ack) => {
                let fake = &mut self.fakes[n];
                let sent = fake.beats.remove(&ack.seq).unwrap();
                fake.lease_until = fake.lease_until.max(sent.plus(LEASE_MS));
                fake.acked = true;
                if ack.seq == fake.next_beat && ack.next_ms > 0 {
                    fake.due = sent.plus(ack.next_ms.into());
                }
            }
            Cmd::ReportWanted(_) => self.send_report(n),
            Cmd::Chunk(reply) => {
                self.take_epoch(n, reply.chunk.as_ref().unwrap());
                self.replies.push(reply);
            }
            Cmd::SetEpoch(info) => self.take_epoch(n, &info),
            Cmd::Delete(delete) => {
                for chunk in delete.chunks {
                    self.fakes[n].replicas.remove(&chunk);
                }
                self.confirm(link, command.id);
            }
            Cmd::AddReplica(add) => self.add_replica(n, command.id, &add),
            Cmd::Servers(_) | Cmd::Scrub(_) => {}
            Cmd::Sessions(s) => {
                self.fakes[n].sessions = (s.below, s.alive);
                self.confirm(link, command.id);
            }
            Cmd::Probe(probe) => {
                let reached = self.fakes.iter().any(|f| f.id == probe.server && f.running && !f.hung);
                let probed = rpc::Probed { server: probe.server, reached };
                self.deliver(Event::Probed { link, probed });
            }
        }
    }

    fn confirm(&mut self, link: LinkId, command: u64) {
        let done = rpc::CommandDone { command, ok: true, detail: String::new() };
        self.deliver(Event::Done { link, done });
    }

    pub fn send_report(&mut self, n: usize) {
        let fake = &mut self.fakes[n];
        fake.reports += 1;
        let link = fake.link.unwrap();
        let all: Vec<_> = fake
            .replicas
            .iter()
            .map(|(chunk, r)| rpc::Replica { chunk: *chunk, epoch: r.epoch, ..Default::default() })
            .collect();
        let pieces = all.len().div_ceil(7).max(1);
        for piece in 0..pieces {
            let replicas = all.iter().skip(piece * 7).take(7).cloned().collect();
            let report = rpc::ChunkReport { replicas, first: piece == 0, last: piece + 1 == pieces };
            self.deliver(Event::Report { link, report });
        }
    }

    fn take_epoch(&mut self, n: usize, info: &rpc::ChunkInfo) {
        if let Some(replica) = self.fakes[n].replicas.get_mut(&info.chunk)
            && replica.epoch < info.epoch
        {
            *replica = Replica { epoch: info.epoch, in_sync: info.in_sync.clone() };
        }
    }

    /// Copies the chunk at once, if the target can be reached and does not know better.
    fn add_replica(&mut self, n: usize, command: u64, add: &rpc::AddReplica) {
        let link = self.fakes[n].link.unwrap();
        let info = add.chunk.clone().unwrap();
        let source = Replica { epoch: info.epoch, in_sync: info.in_sync.clone() };
        let source = self.fakes[n].replicas.entry(info.chunk).or_insert(source).clone();
        let may_serve = self.now < self.fakes[n].lease_until;
        let target = self.by_id(add.target);
        let there = &mut self.fakes[target];
        let knows_better = there.replicas.get(&info.chunk).is_some_and(|r| r.epoch > source.epoch);
        if !may_serve || !there.running || there.hung || knows_better {
            let done = rpc::CommandDone { command, ok: false, detail: "cannot".to_owned() };
            return self.deliver(Event::Done { link, done });
        }
        there.replicas.insert(info.chunk, source.clone());
        let caught_up = rpc::CaughtUp { req: 7, chunk: info.chunk, epoch: source.epoch, server: add.target };
        self.deliver(Event::CaughtUp { link, caught_up });
    }

    /// Who has a lease and has heard everything does not take itself for a member that it is not.
    fn check_beliefs(&self) {
        for fake in self.fakes.iter().filter(|f| f.running && !f.hung && !f.cut && self.now < f.lease_until) {
            if fake.link.is_none() || !fake.acked {
                continue;
            }
            for (chunk, replica) in &fake.replicas {
                let Some(record) = self.store.chunks.get(&ChunkId(*chunk)) else { continue };
                let believes = replica.in_sync.contains(&fake.id);
                assert!(
                    !believes || record.has(ServerId(fake.id)),
                    "server {} takes itself for a member: {replica:?}, {record:?}",
                    fake.id
                );
            }
        }
    }
}
