//! One replica: its state machine, its file, and who waits for it.

use super::answer::Answer;
use super::clock::now;
use super::state::{DiskUnit, Node};
use crate::core::recent::Recent;
use crate::core::replica::{Effect, Event, Replica};
use crate::disk::{Change, ChunkFile};
use cairn_proto::data::Status;
use cairn_proto::rpc::StateReply;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// A write's content, shared by all who need it.
pub type Write = Arc<Change>;
/// The state machine with its driver's types.
pub type Machine = Replica<Write, Answer>;
/// An event with the driver's types.
pub type ChunkEvent = Event<Write, Answer>;

/// A server that answered within this time, milliseconds, is heard of now.
const HEARD: u64 = 100;

/// A replica.
pub struct Chunk {
    /// The chunk.
    pub id: u64,
    /// The disk that it lies on.
    pub unit: Arc<DiskUnit>,
    /// Its file.
    pub file: Arc<ChunkFile>,
    /// Held while an event is handled, including what it writes: so everything happens in order.
    pub replica: Mutex<Machine>,
    /// The epoch that the node's digest counts.
    counted: AtomicU64,
    retired: AtomicBool,
    ticking: AtomicBool,
    /// A task is asking the primary for a comparison.
    pub asking: AtomicBool,
    /// Comparisons that have failed, one after the other.
    pub failures: AtomicU32,
    /// When the last comparison for a bad block was asked for.
    pub doubted_at: AtomicU64,
    /// Another one will be asked for when it is time.
    doubt_waits: AtomicBool,
    /// When it was last written to, as the primary; and whether it waits to be quiet.
    pub written_at: AtomicU64,
    pub unsettled: AtomicBool,
}

impl Chunk {
    /// A replica whose file is there.
    pub fn new(node: &Node, unit: Arc<DiskUnit>, file: Arc<ChunkFile>, recent: Recent) -> Self {
        let meta = file.meta();
        let epoch = meta.epoch;
        Self {
            id: file.id,
            unit,
            file,
            replica: Mutex::new(Replica::new(node.config.id, &meta, recent, node.config.times)),
            counted: AtomicU64::new(epoch),
            retired: AtomicBool::new(false),
            ticking: AtomicBool::new(false),
            asking: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            doubted_at: AtomicU64::new(0),
            doubt_waits: AtomicBool::new(false),
            written_at: AtomicU64::new(0),
            unsettled: AtomicBool::new(false),
        }
    }

    /// Handles an event and performs its effects.
    pub fn handle(self: &Arc<Self>, node: &Arc<Node>, event: ChunkEvent) {
        self.handle_locked(node, &mut self.replica.lock(), event);
    }

    /// The same with the lock held.
    pub fn handle_locked(self: &Arc<Self>, node: &Arc<Node>, machine: &mut Machine, event: ChunkEvent) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            for effect in machine.handle(now(), event) {
                self.perform(node, machine, effect, &mut events);
            }
        }
        if machine.wants_ticks() && !self.ticking.swap(true, Ordering::AcqRel) {
            node.ticking.lock().push(self.clone());
        }
    }

    /// Tells the time. False: nothing waits any more.
    pub fn tick(self: &Arc<Self>, node: &Arc<Node>) -> bool {
        let mut machine = self.replica.lock();
        for server in machine.meta().in_sync {
            // Whatever it was about: it lives.
            if now().saturating_sub(node.peers.heard(server)) < HEARD {
                self.handle_locked(node, &mut machine, Event::Heard { server });
            }
        }
        self.handle_locked(node, &mut machine, Event::Tick);
        let more = machine.wants_ticks() && !self.is_retired();
        if !more {
            self.ticking.store(false, Ordering::Release);
        }
        more
    }

    /// The node's digest counts this epoch from here on; returns the one before.
    pub fn count_epoch(&self, epoch: u64) -> u64 {
        self.counted.swap(epoch, Ordering::AcqRel)
    }

    /// The replica has been deleted; returns the epoch that the digest counted.
    pub fn retire(&self, node: &Node) -> u64 {
        let mut machine = self.replica.lock();
        for effect in machine.abandon() {
            if let Effect::Answer { to, status, seq } = effect {
                Self::answer(node, to, status, machine.epoch(), seq);
            }
        }
        self.retired.store(true, Ordering::Release);
        self.counted.load(Ordering::Acquire)
    }

    /// Whether the replica has been deleted.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Acquire)
    }

    /// A bad block was found: have the replicas compared, but not again and again for one that cannot be healed. A doubt that comes
    /// too soon after another waits: nobody may read the block again, and so nobody else would have it healed.
    pub fn doubt(self: &Arc<Self>, node: &Arc<Node>) {
        const AGAIN: u64 = 5_000;
        let last = self.doubted_at.load(Ordering::Acquire);
        let since = now().saturating_sub(last);
        if last == 0 || since >= AGAIN {
            self.doubted_at.store(now().max(1), Ordering::Release);
            self.handle(node, Event::Doubt);
        } else if !self.doubt_waits.swap(true, Ordering::AcqRel) {
            let (chunk, n) = (self.clone(), node.clone());
            node.handle.spawn(async move {
                tokio::time::sleep(Duration::from_millis(AGAIN - since)).await;
                chunk.doubt_waits.store(false, Ordering::Release);
                if chunk.file.in_doubt() && !chunk.is_retired() {
                    chunk.doubt(&n);
                }
            });
        }
    }

    /// What another replica is told of this one.
    pub fn state(&self, digest: bool) -> StateReply {
        if digest {
            // The table may have to be read: not under the lock.
            let _ = self.unit.disk.digest(&self.file);
        }
        let machine = self.replica.lock();
        let unclean = !machine.is_trusted() || self.file.in_doubt();
        // Without one nothing is compared; the disk's error shows elsewhere.
        let digest = if digest { self.unit.disk.digest(&self.file).ok() } else { None };
        StateReply { epoch: machine.epoch(), seq: machine.seq(), unclean, exists: true, digest }
    }

    /// Whether a comparison is under way, or asked for, that may make bad blocks good.
    pub fn is_healing(&self) -> bool {
        let machine = self.replica.lock();
        let comparing = machine.is_primary() && !machine.is_level();
        comparing || self.asking.load(Ordering::Acquire)
    }

    /// Answers a client; what it may not hear without a lease it does not.
    pub fn answer(node: &Node, to: Answer, status: Status, epoch: u64, seq: u64) {
        let status = if status == Status::Ok && !node.may_serve() { Status::NotServing } else { status };
        to.written(status, epoch, seq);
    }
}
