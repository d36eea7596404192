//! Mirrors `node/state.rs` and `node/housekeeping.rs`: what all parts of a chunkserver share, ticks,
//! checkpoints, removal of files.

use super::chunk::{Chunk, Ticket};
use super::disk::{Disk, DiskError};
use super::peers::Peers;
use crate::executor::Life;
use crate::message::{Answer, Message, Reply};
use crate::net::ConnId;
use crate::world::World;
use cairn_chunkserver::core::deleted::Deleted;
use cairn_chunkserver::core::fence::Fence;
use cairn_chunkserver::core::layout::ChunkMeta;
use cairn_chunkserver::core::recent::Recent;
use cairn_chunkserver::core::replica::{Event, Made, Times};
use cairn_chunkserver::core::scrub::Scrub;
use cairn_proto::data::Status;
use cairn_proto::digest::replica_hash;
use futures::channel::oneshot;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

const MEMBER: u64 = 500;
const TICK: u64 = 50;
const CHECKPOINT: u64 = 10_000;
/// After so long the master has noticed which replicas a server has lost.
const SETTLED: u64 = 10_000;

/// Who waits for an answer of the master.
pub enum Question {
    Problem(Rc<Chunk>, u64),
    HandOver(Rc<Chunk>, u64),
    HandOverUnborn(Ticket),
    CaughtUp(oneshot::Sender<cairn_proto::rpc::ChunkReply>),
}

/// The stream to the master.
#[derive(Default)]
pub struct Link {
    pub conn: Option<ConnId>,
    pub next: u64,
    pub asked: BTreeMap<u64, Question>,
}

/// One life of a chunkserver.
pub struct Node {
    pub world: Rc<World>,
    pub id: u32,
    pub life: Life,
    pub times: Times,
    pub disk: Rc<RefCell<Disk>>,
    pub chunks: RefCell<BTreeMap<u64, Rc<Chunk>>>,
    /// Replicas that were deleted lately.
    pub deleted: RefCell<Deleted>,
    pub peers: RefCell<Peers>,
    pub link: RefCell<Link>,
    pub ticking: RefCell<Vec<Rc<Chunk>>>,
    pub session: RefCell<super::attach::Session>,
    /// The machine had started anew when this process did: what was not on stable storage may be lost.
    pub behind: bool,
    /// A disk of this server has failed, or was not there when it started.
    pub lost_disk: Cell<bool>,
    /// It has had a lease.
    pub returned: Cell<bool>,
    /// Chunks whose replicas are to be compared when they are quiet.
    pub unsettled: RefCell<Vec<Rc<Chunk>>>,
    pub scrub: RefCell<Scrub>,
    /// Whose writes are taken.
    pub fence: RefCell<Fence>,
    digest: Cell<u64>,
    lease_until: Cell<u64>,
}

impl Node {
    /// A process that starts over a disk.
    pub fn start(world: &Rc<World>, id: u32, disk: &Rc<RefCell<Disk>>) -> Rc<Self> {
        let times =
            Times { member: MEMBER, slow_write: MEMBER * 4, slow_sync: MEMBER * 20, report_again: 1000 };
        let behind = disk.borrow().is_behind();
        let lost = disk.borrow().is_lost();
        let scrub = super::scrub::planner(&disk.borrow());
        let node = Rc::new(Self {
            world: world.clone(),
            id,
            life: world.exec.life(id),
            times,
            disk: disk.clone(),
            chunks: RefCell::default(),
            deleted: RefCell::default(),
            peers: RefCell::default(),
            link: RefCell::default(),
            ticking: RefCell::default(),
            session: RefCell::default(),
            behind,
            lost_disk: Cell::new(lost),
            returned: Cell::new(false),
            unsettled: RefCell::default(),
            scrub: RefCell::new(scrub),
            fence: RefCell::default(),
            digest: Cell::new(0),
            lease_until: Cell::new(0),
        });
        let found = disk.borrow_mut().open();
        for (chunk, epoch) in &disk.borrow().deleted_before {
            node.deleted.borrow_mut().add(node.now(), *chunk, *epoch);
        }
        for (chunk, meta, recent) in found {
            trace!(world, "s{id} c{chunk} found: {meta:?} {:?}", disk.borrow().contents(chunk));
            node.enter(chunk, &meta, recent, node.behind);
        }
        for chunk in node.all_chunks() {
            chunk.handle(&node, Event::Start);
        }
        world.exec.spawn(node.life, super::attach::keep_attached(node.clone()));
        world.exec.spawn(node.life, node.clone().tick());
        world.exec.spawn(node.life, node.clone().look_after());
        world.exec.spawn(node.life, super::agreement::agree(node.clone()));
        world.exec.spawn(node.life, super::scrub::scrub(node.clone()));
        node
    }

    /// This server's clock.
    pub fn now(&self) -> u64 {
        self.world.exec.clock(self.id)
    }

    pub async fn sleep(&self, ms: u64) {
        self.world.exec.sleep(self.life, ms).await;
    }

    pub fn may_serve(&self) -> bool {
        self.now() < self.lease_until.get()
    }

    pub fn renew_lease(&self, until: u64) {
        self.lease_until.set(self.lease_until.get().max(until));
    }

    pub fn chunk(&self, id: u64) -> Option<Rc<Chunk>> {
        self.chunks.borrow().get(&id).cloned()
    }

    pub fn all_chunks(&self) -> Vec<Rc<Chunk>> {
        self.chunks.borrow().values().cloned().collect()
    }

    pub fn digest(&self) -> u64 {
        self.digest.get()
    }

    fn enter(&self, id: u64, meta: &ChunkMeta, recent: Recent, suspect: bool) -> Rc<Chunk> {
        let chunk = Rc::new(Chunk::new(self, id, meta, recent));
        if suspect {
            chunk.replica.borrow_mut().distrust();
        }
        self.chunks.borrow_mut().insert(id, chunk.clone());
        self.digest_change(id, 0, meta.epoch);
        self.world.epoch_seen(self.id, id, meta.epoch);
        chunk
    }

    /// Makes a replica without content, unless there is one.
    pub fn create(&self, id: u64, meta: &ChunkMeta, made: Made) -> Result<Rc<Chunk>, DiskError> {
        if let Some(chunk) = self.chunk(id) {
            return Ok(chunk);
        }
        if !self.deleted.borrow().may_make(self.now(), self.id, id, meta) {
            self.world.coverage.hit("nothing made a deleted replica anew");
            return Err(DiskError::Stale);
        }
        trace!(self.world, "s{} c{id} created: {meta:?} {made:?}", self.id);
        self.disk.borrow_mut().create(id, meta.clone())?;
        if made == Made::InDoubt {
            self.disk.borrow_mut().doubt(id)?;
        }
        let meta = self.disk.borrow().meta(id);
        let chunk = self.enter(id, &meta, Recent::default(), made == Made::InDoubt);
        if made == Made::ByClient {
            chunk.replica.borrow_mut().is_born();
        }
        Ok(chunk)
    }

    pub fn delete(self: &Rc<Self>, id: u64) {
        if let Some(epoch) = self.forget(id) {
            self.deleted.borrow_mut().add(self.now(), id, epoch);
            trace!(self.world, "s{} c{id} deleted", self.id);
            self.disk.borrow_mut().delete(id);
        }
    }

    /// A replica is gone: its epoch. None: there was none.
    pub fn forget(self: &Rc<Self>, id: u64) -> Option<u64> {
        let chunk = self.chunks.borrow_mut().remove(&id)?;
        let epoch = chunk.retire(self);
        self.digest_change(id, epoch, 0);
        self.world.epoch_forgotten(self.id, id);
        Some(epoch)
    }

    pub fn digest_change(&self, chunk: u64, from: u64, to: u64) {
        let hash = |epoch| if epoch == 0 { 0 } else { replica_hash(chunk, epoch) };
        self.digest.set(self.digest.get().wrapping_add(hash(to).wrapping_sub(hash(from))));
    }

    pub fn answer(&self, to: Ticket, reply: Reply) {
        self.world.send(to.conn, 0, Message::Reply(to.request, reply));
    }

    pub fn refuse(&self, to: Ticket, status: Status, epoch: u64) {
        self.answer(to, Reply { status, epoch, body: Answer::Nothing });
    }

    /// Makes a chunk stable, then goes on.
    pub fn sync(self: &Rc<Self>, chunk: u64, then: impl FnOnce(&Rc<Node>) + 'static) {
        let ms = self.disk_delay();
        let node = self.clone();
        self.world.exec.after(ms, self.life, move || {
            node.disk.borrow_mut().sync(chunk);
            then(&node);
        });
    }

    fn disk_delay(&self) -> u64 {
        let mut rng = self.world.rng.borrow_mut();
        if rng.permille(20) { rng.between(5_000, 300_000) } else { rng.between(80, 3_000) }
    }

    async fn tick(self: Rc<Self>) {
        loop {
            self.sleep(TICK).await;
            let waiting = std::mem::take(&mut *self.ticking.borrow_mut());
            let still: Vec<_> = waiting.into_iter().filter(|c| c.tick(&self)).collect();
            self.ticking.borrow_mut().extend(still);
        }
    }

    async fn look_after(self: Rc<Self>) {
        let started = self.now();
        let mut checkpointed = started;
        loop {
            self.sleep(100).await;
            if self.behind && self.now() - started > SETTLED && self.is_whole() {
                self.disk.borrow_mut().record_boot();
            }
            self.disk.borrow_mut().unlink();
            let due = self.now() - checkpointed >= CHECKPOINT && self.disk.borrow().is_dirty();
            if due || self.disk.borrow().wants_checkpoint() {
                self.checkpoint().await;
                checkpointed = self.now();
            }
        }
    }

    /// Whether nothing is missing from any replica that counts, as far as is known.
    fn is_whole(&self) -> bool {
        self.may_serve()
            && self.chunks.borrow().values().all(|c| {
                let machine = c.replica.borrow();
                machine.is_trusted() || !machine.is_member()
            })
    }

    /// With time between the steps, so that a crash can come there.
    async fn checkpoint(&self) {
        let pause = || self.world.exec.sleep(self.life, self.disk_delay() / 1000 + 1);
        let collected = self.disk.borrow_mut().checkpoint_collect();
        pause().await;
        self.disk.borrow_mut().sync_journal();
        self.disk.borrow_mut().checkpoint_write(&collected);
        pause().await;
        self.disk.borrow_mut().checkpoint_sync(&collected);
        pause().await;
        self.disk.borrow_mut().checkpoint_release(&collected);
    }
}
