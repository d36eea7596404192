//! Mirrors `node/chunk.rs`: one replica and who waits for it.

use super::disk::{Disk, DiskError};
use super::node::Node;
use crate::coverage;
use crate::message::{Answer, Change, Reply};
use crate::net::ConnId;
use cairn_chunkserver::core::layout::ChunkMeta;
use cairn_chunkserver::core::recent::Recent;
use cairn_chunkserver::core::replica::{Effect, Event, Replica};
use cairn_proto::data::Status;
use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::rc::Rc;

pub type Write = Rc<Change>;
pub type Machine = Replica<Write, Ticket>;
pub type ChunkEvent = Event<Write, Ticket>;

/// The right to answer one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub conn: ConnId,
    pub request: u32,
}

pub struct Chunk {
    pub id: u64,
    pub replica: RefCell<Machine>,
    counted: Cell<u64>,
    retired: Cell<bool>,
    ticking: Cell<bool>,
    pub asking: Cell<bool>,
    pub failures: Cell<u32>,
    pub doubted_at: Cell<u64>,
    doubt_waits: Cell<bool>,
    pub written_at: Cell<u64>,
    pub unsettled: Cell<bool>,
}

impl Chunk {
    pub fn new(node: &Node, id: u64, meta: &ChunkMeta, recent: Recent) -> Self {
        Self {
            id,
            replica: RefCell::new(Replica::new(node.id, meta, recent, node.times)),
            counted: Cell::new(meta.epoch),
            retired: Cell::new(false),
            ticking: Cell::new(false),
            asking: Cell::new(false),
            failures: Cell::new(0),
            doubted_at: Cell::new(0),
            doubt_waits: Cell::new(false),
            written_at: Cell::new(0),
            unsettled: Cell::new(false),
        }
    }

    /// Handles an event and performs its effects.
    pub fn handle(self: &Rc<Self>, node: &Rc<Node>, event: ChunkEvent) {
        let mut machine = self.replica.borrow_mut();
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            node.world.coverage.hit(coverage::event(&event));
            trace!(node.world, "s{} c{} {}", node.id, self.id, coverage::short(&event));
            for effect in machine.handle(node.now(), event) {
                node.world.coverage.hit(coverage::effect(&effect));
                if let Some(branch) = coverage::refusal(&effect) {
                    node.world.coverage.hit(branch);
                }
                self.perform(node, &machine, effect, &mut events);
            }
        }
        if machine.wants_ticks() && !self.ticking.replace(true) {
            node.ticking.borrow_mut().push(self.clone());
        }
    }

    /// Tells the time. False: nothing waits any more.
    pub fn tick(self: &Rc<Self>, node: &Rc<Node>) -> bool {
        self.handle(node, Event::Tick);
        let more = self.replica.borrow().wants_ticks() && !self.is_retired();
        self.ticking.set(more);
        more
    }

    pub fn count_epoch(&self, epoch: u64) -> u64 {
        self.counted.replace(epoch)
    }

    pub fn retire(&self, node: &Rc<Node>) -> u64 {
        let (effects, epoch) = {
            let mut machine = self.replica.borrow_mut();
            (machine.abandon(), machine.epoch())
        };
        for effect in effects {
            if let Effect::Answer { to, status, .. } = effect {
                self.answer(node, to, status, epoch);
            }
        }
        self.retired.set(true);
        self.counted.get()
    }

    pub fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// The disk, unless the replica has been deleted (another one of the same chunk may have been made since).
    pub fn disk<'a>(&self, node: &'a Node) -> Result<RefMut<'a, Disk>, DiskError> {
        if self.is_retired() { Err(DiskError::Deleted) } else { Ok(node.disk.borrow_mut()) }
    }

    /// A bad block was found: have the replicas compared, but not again and again.
    pub fn doubt(self: &Rc<Self>, node: &Rc<Node>) {
        const AGAIN: u64 = 5_000;
        let last = self.doubted_at.get();
        let since = node.now().saturating_sub(last);
        if last == 0 || since >= AGAIN {
            self.doubted_at.set(node.now());
            self.handle(node, Event::Doubt);
        } else if !self.doubt_waits.replace(true) {
            let (chunk, n) = (self.clone(), node.clone());
            node.world.exec.spawn(node.life, async move {
                n.sleep(AGAIN - since).await;
                chunk.doubt_waits.set(false);
                let in_doubt = n.disk.borrow().in_doubt(chunk.id);
                if in_doubt && !chunk.is_retired() {
                    n.world.coverage.hit("a doubt that came too soon after another was not forgotten");
                    chunk.doubt(&n);
                }
            });
        }
    }

    /// Whether a comparison is under way, or asked for, that may make bad blocks good.
    pub fn is_healing(&self) -> bool {
        let machine = self.replica.borrow();
        (machine.is_primary() && !machine.is_level()) || self.asking.get()
    }

    /// Answers a client; what it may not hear without a lease it does not.
    pub fn answer(&self, node: &Rc<Node>, to: Ticket, status: Status, epoch: u64) {
        let status = if status == Status::Ok && !node.may_serve() {
            node.world.coverage.hit("a primary whose lease had run out did not acknowledge");
            Status::NotServing
        } else {
            status
        };
        if status == Status::Ok {
            node.world.acknowledged(self.id, epoch, node.id);
        }
        node.answer(to, Reply { status, epoch, body: Answer::Nothing });
    }
}
