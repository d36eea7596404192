//! What goes wrong: only what the cluster must survive, so that every failure is a bug.
//!
//! At any moment most in-sync replicas of each chunk are on servers that have not lost unsynced writes, nor a disk, and have good
//! blocks; except when the power fails everywhere, and then only synced writes count.

use crate::chunkserver::lost_disk;
use crate::executor::NodeId;
use crate::world::{CLIENTS, HARNESS, MASTER, Machine, World};
use cairn_master::core::cluster::{ChunkRecord, Order};
use std::rc::Rc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill,
    PowerOff,
    Pause,
    KillMaster,
    PauseMaster,
    Reset,
    /// Nothing gets from one node to another, one way or both.
    Partition,
    /// Nothing gets to or from a server.
    Isolate,
    KillAll,
    Blackout,
    DiskFull,
    LateFull,
    Rot,
    /// One of a server's two disks fails, or is not there at its next start.
    DiskLost,
    /// An administrator orders something for a server.
    Order,
}

const ALL: &[(Fault, u64)] = &[
    (Fault::Kill, 5),
    (Fault::PowerOff, 4),
    (Fault::Pause, 4),
    (Fault::KillMaster, 2),
    (Fault::PauseMaster, 1),
    (Fault::Reset, 6),
    (Fault::Partition, 5),
    (Fault::Isolate, 2),
    (Fault::KillAll, 1),
    (Fault::Blackout, 1),
    (Fault::DiskFull, 1),
    (Fault::LateFull, 1),
    (Fault::Rot, 2),
    (Fault::DiskLost, 2),
    (Fault::Order, 3),
];

/// Lets things go wrong for a time, then stops.
pub async fn inject(world: Rc<World>, until_ms: u64) {
    let life = world.exec.life(HARNESS);
    let (menu, gap) = {
        let mut rng = world.rng.borrow_mut();
        // Some runs have few kinds of faults, so that rare combinations get their turn.
        let keep = [300, 600, 1000][rng.below(3) as usize];
        let menu: Vec<_> = ALL.iter().filter(|_| rng.permille(keep)).copied().collect();
        (menu, [300, 1_000, 3_000][rng.below(3) as usize])
    };
    loop {
        let pause = world.rng.borrow_mut().below(2 * gap);
        world.exec.sleep(life, pause).await;
        if world.exec.now() / 1000 >= until_ms {
            return;
        }
        let total: u64 = menu.iter().map(|(_, weight)| weight).sum();
        let mut left = world.rng.borrow_mut().below(total);
        for (fault, weight) in &menu {
            if left < *weight {
                world.inject(*fault);
                break;
            }
            left -= weight;
        }
    }
}

impl World {
    fn draw(&self, from: u64, to: u64) -> u64 {
        self.rng.borrow_mut().between(from, to)
    }

    fn any_server(&self) -> NodeId {
        self.draw(1, u64::from(self.config.servers) + 1) as NodeId
    }

    fn later(self: &Rc<Self>, ms: u64, what: impl FnOnce(&Rc<World>) + 'static) {
        let world = self.clone();
        self.exec.after(ms * 1000, self.exec.life(HARNESS), move || what(&world));
    }

    fn start_later(self: &Rc<Self>, node: NodeId) {
        let ms = if self.rng.borrow_mut().permille(400) { self.draw(20, 400) } else { self.draw(400, 9_000) };
        self.later(ms, move |w| w.start(node));
    }

    fn inject(self: &Rc<Self>, fault: Fault) {
        trace!(self, "fault: {fault:?}");
        let server = self.any_server();
        match fault {
            Fault::Kill => {
                self.kill(server);
                self.start_later(server);
            }
            Fault::PowerOff if self.may_lose(server) => {
                self.power_off(server);
                self.start_later(server);
            }
            Fault::PowerOff => {}
            Fault::Pause => self.pause_for(server, 6_000),
            Fault::KillMaster => {
                self.kill(MASTER);
                let ms = self.draw(20, 3_000);
                self.later(ms, |w| w.start(MASTER));
            }
            Fault::PauseMaster => self.pause_for(MASTER, 2_500),
            Fault::Reset => (0..self.draw(1, 4)).for_each(|_| {
                if let Some(conn) = self.any_conn() {
                    self.reset(conn);
                }
            }),
            Fault::Partition => self.partition(),
            Fault::Isolate => {
                let others = self.servers().chain([MASTER]).chain(self.client_ids());
                for other in others.filter(|o| *o != server) {
                    self.block(server, other);
                    self.block(other, server);
                }
                self.heal_later();
            }
            Fault::KillAll => {
                for node in self.servers().chain([MASTER]) {
                    self.kill(node);
                    self.start_later(node);
                }
            }
            Fault::Blackout if self.rotten_now() == 0 => self.blackout(),
            Fault::Blackout => {}
            Fault::DiskFull => {
                self.disks[&server].borrow_mut().full = true;
                let ms = self.draw(500, 5_000);
                self.later(ms, move |w| w.disks[&server].borrow_mut().full = false);
            }
            Fault::LateFull => {
                self.late_full.set(30);
                let ms = self.draw(200, 3_000);
                self.later(ms, |w| w.late_full.set(0));
            }
            Fault::Rot => self.rot(server),
            Fault::DiskLost if self.may_lose(server) => self.lose_disk(server),
            Fault::DiskLost => {}
            Fault::Order => {
                let order = match self.draw(0, 4) {
                    0 => Order::Drain,
                    1 => Order::Maintain(self.draw(1_000, 15_000)),
                    _ => Order::Resume,
                };
                self.order(server, order);
            }
        }
    }

    fn order(self: &Rc<Self>, server: NodeId, order: Order) {
        trace!(self, "ordered for s{server}: {order:?}");
        let master = self.master.borrow().clone();
        if let Some(master) = master.filter(|_| self.machine(MASTER) == Machine::Running) {
            master.ordered(server, order);
        }
    }

    fn client_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        CLIENTS + 1..=CLIENTS + self.config.clients
    }

    fn pause_for(self: &Rc<Self>, node: NodeId, most: u64) {
        if self.machine(node) != Machine::Running {
            return;
        }
        self.exec.pause(node);
        let ms = self.draw(50, most);
        let life = self.exec.life(node);
        self.later(ms, move |w| {
            if w.exec.is_current(life) {
                w.exec.resume(node);
            }
        });
    }

    fn partition(self: &Rc<Self>) {
        let nodes: Vec<_> = self.servers().chain([MASTER]).chain(self.client_ids()).collect();
        let a = self.any_server();
        let b = nodes[self.draw(0, nodes.len() as u64) as usize];
        let ways = self.draw(0, 3);
        if ways != 1 {
            self.block(a, b);
        }
        if ways != 2 {
            self.block(b, a);
        }
        self.heal_later();
    }

    fn heal_later(self: &Rc<Self>) {
        let ms = self.draw(100, 7_000);
        self.later(ms, |w| w.unblock_all());
    }

    fn blackout(self: &Rc<Self>) {
        self.history.borrow_mut().blackouts.push(self.exec.now());
        for node in self.servers().chain([MASTER]) {
            self.power_off(node);
            self.start_later(node);
        }
    }

    /// Whether of each chunk only a minority of the in-sync replicas would lack something.
    fn may_lose(&self, server: NodeId) -> bool {
        let records: Vec<_> = self.store.borrow().chunks.values().cloned().collect();
        let mut of_it = records.iter().filter(|r| r.in_sync.iter().any(|s| s.0 == server));
        of_it.all(|r| {
            let whole = r.in_sync.iter().filter(|s| s.0 != server && self.is_whole(s.0, r)).count();
            whole * 2 > r.in_sync.len()
        })
    }

    /// Whether a server's replica lacks nothing that was acknowledged.
    fn is_whole(&self, server: NodeId, record: &ChunkRecord) -> bool {
        let chunk = record.chunk.0;
        let rotten = self
            .rotten
            .borrow()
            .iter()
            .any(|(s, c, b)| (*s, *c) == (server, chunk) && !self.disks[s].borrow().is_good(*c, *b));
        let lost = self.power_lost.borrow().contains(&server) && self.lacks(server);
        !rotten && !lost
    }

    /// Whether a server that has lost power may still lack something. It does not when it, or whoever took its place, has
    /// been compared with the others.
    fn lacks(&self, server: NodeId) -> bool {
        let Some(node) = self.node(server) else { return true };
        let store = self.store.borrow();
        let of_it = store.chunks.values().filter(|r| r.in_sync.iter().any(|s| s.0 == server));
        let lacks = of_it.into_iter().any(|r| {
            let whole = node
                .chunk(r.chunk.0)
                .is_some_and(|c| c.replica.borrow().is_trusted() && !node.disk.borrow().in_doubt(r.chunk.0));
            !whole
        });
        if !lacks {
            self.power_lost.borrow_mut().remove(&server);
        }
        lacks
    }

    fn lose_disk(self: &Rc<Self>, server: NodeId) {
        let disk = self.draw(0, 2);
        trace!(self, "s{server} loses disk {disk}");
        self.has_lost(server);
        let runs = self.machine(server) == Machine::Running && !self.exec.is_paused(server);
        match self.node(server).filter(|_| runs && self.draw(0, 2) == 0) {
            Some(node) => lost_disk::give_up(&node, disk),
            None => {
                self.kill(server);
                self.disks[&server].borrow_mut().lose(disk);
                self.start_later(server);
            }
        }
    }

    fn rotten_now(&self) -> usize {
        let good = |(s, c, b): &(NodeId, u64, u32)| self.disks[s].borrow().is_good(*c, *b);
        self.rotten.borrow_mut().retain(|r| !good(r));
        self.rotten.borrow().len()
    }

    /// A block goes bad, if the same is elsewhere, too.
    fn rot(&self, server: NodeId) {
        let records: Vec<_> = self.store.borrow().chunks.values().cloned().collect();
        if records.is_empty() || self.rotten_now() > 0 {
            return;
        }
        let record = &records[self.draw(0, records.len() as u64) as usize];
        let here = record.in_sync.iter().any(|s| s.0 == server);
        let table = |s: NodeId| self.disks[&s].borrow().table(record.chunk.0);
        let elsewhere = |s: NodeId| self.is_whole(s, record) && table(s) == table(server);
        if here && record.in_sync.len() > 1 && record.in_sync.iter().all(|s| elsewhere(s.0)) {
            let block = self.draw(0, 8) as u32;
            if self.disks[&server].borrow_mut().rot(record.chunk.0, block) {
                trace!(self, "s{server} {} block {block} rots", record.chunk);
                self.rotten.borrow_mut().insert((server, record.chunk.0, block));
            }
        }
    }

    /// Everything works again.
    pub fn mend(self: &Rc<Self>) {
        trace!(self, "everything is mended");
        self.late_full.set(0);
        for node in self.servers().chain([MASTER]) {
            if self.exec.is_paused(node) {
                self.exec.resume(node);
            }
            if let Some(disk) = self.disks.get(&node) {
                disk.borrow_mut().full = false;
                // Another one is put in its place; that takes a restart.
                let lost = disk.borrow_mut().take_lost();
                if lost || self.node(node).is_some_and(|n| n.lost_disk.get()) {
                    self.kill(node);
                }
            }
            self.start(node);
        }
        self.unblock_all();
        self.servers().for_each(|s| self.order(s, Order::Resume));
    }
}
