//! Everything that there is in one run.

use crate::chunkserver::{self, Node, disk::Disk, dispatch};
use crate::client::Client;
use crate::coverage::Coverage;
use crate::executor::{Executor, NodeId};
use crate::heat::Heat;
use crate::history::History;
use crate::invariants::{epochs::Epochs, majority, one_primary::OnePrimary};
use crate::master::{Master, Store};
use crate::message::Message;
use crate::net::{ConnId, Net};
use crate::rng::SplitMix64;
use crate::sessions::Sessions;
use crate::trace::Trace;
use cairn_master::core::cluster::ChunkRecord;
use cairn_proto::ChunkId;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

pub const MASTER: NodeId = 0;
/// Clients' numbers are above this, servers' below.
pub const CLIENTS: NodeId = 100;
/// What simulates is no node.
pub const HARNESS: NodeId = NodeId::MAX;

/// Whether a node's machine answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    Running,
    /// The process is gone; the machine refuses connections.
    Stopped,
    /// Without power.
    Off,
}

/// What is drawn before a run.
#[derive(Clone, Debug)]
pub struct Config {
    pub servers: u32,
    pub copies: u32,
    pub clients: u32,
    /// Operations that a client has under way at once.
    pub depth: u32,
    pub places: u64,
}

pub struct World {
    pub exec: Executor,
    pub rng: RefCell<SplitMix64>,
    pub trace: Trace,
    pub net: Net,
    pub coverage: Coverage,
    pub history: RefCell<History>,
    pub config: Config,
    /// The master's store as it is on its disk.
    pub store: RefCell<Store>,
    pub disks: BTreeMap<NodeId, Rc<RefCell<Disk>>>,
    pub nodes: RefCell<BTreeMap<NodeId, Rc<Node>>>,
    pub master: RefCell<Option<Rc<Master>>>,
    pub clients: RefCell<BTreeMap<NodeId, Rc<Client>>>,
    machines: RefCell<BTreeMap<NodeId, Machine>>,
    /// Of a thousand writes, so many find their disk full only when they are applied.
    pub late_full: Cell<u64>,
    /// What is used much at the moment.
    pub heat: Cell<Heat>,
    pub sessions: RefCell<Sessions>,
    /// Servers that have lost power or a disk, and may lack what others hold.
    pub power_lost: RefCell<BTreeSet<NodeId>>,
    /// Blocks that went bad on a disk: (server, chunk, block).
    pub rotten: RefCell<BTreeSet<(NodeId, u64, u32)>>,
    one_primary: RefCell<OnePrimary>,
    epochs: RefCell<Epochs>,
    failure: RefCell<Option<String>>,
}

impl World {
    pub fn new(config: Config, rng: SplitMix64, trace: Trace) -> Rc<Self> {
        let disks = (1..=config.servers).map(|id| (id, Rc::new(RefCell::new(Disk::new())))).collect();
        Rc::new(Self {
            exec: Executor::default(),
            rng: RefCell::new(rng),
            trace,
            net: Net::default(),
            coverage: Coverage::default(),
            history: RefCell::default(),
            config,
            store: RefCell::default(),
            disks,
            nodes: RefCell::default(),
            master: RefCell::default(),
            clients: RefCell::default(),
            machines: RefCell::default(),
            late_full: Cell::new(0),
            heat: Cell::default(),
            sessions: RefCell::default(),
            power_lost: RefCell::default(),
            rotten: RefCell::default(),
            one_primary: RefCell::default(),
            epochs: RefCell::default(),
            failure: RefCell::default(),
        })
    }

    pub fn servers(&self) -> impl Iterator<Item = NodeId> + use<> {
        1..=self.config.servers
    }

    pub fn is_server(&self, node: NodeId) -> bool {
        (1..=self.config.servers).contains(&node)
    }

    pub fn machine(&self, node: NodeId) -> Machine {
        self.machines.borrow().get(&node).copied().unwrap_or(Machine::Running)
    }

    pub fn node(&self, id: NodeId) -> Option<Rc<Node>> {
        self.nodes.borrow().get(&id).cloned()
    }

    /// A promise is broken. The first one counts.
    pub fn fail(&self, invariant: &str, what: String) {
        let now = self.exec.now() / 1000;
        trace!(self, "VIOLATION {invariant}: {what}");
        self.failure.borrow_mut().get_or_insert_with(|| format!("{invariant}, at {now} ms: {what}"));
    }

    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// A message has arrived at a node.
    pub fn received(self: &Rc<Self>, node: NodeId, conn: ConnId, message: Message) {
        if node == MASTER {
            let Some(master) = self.master.borrow().clone() else { return };
            return match message {
                Message::Request(id, request) => master.asked(conn, id, request),
                Message::Up(msg) => master.up(conn, msg),
                _ => {}
            };
        }
        if let Some(client) = self.clients.borrow().get(&node) {
            if let Message::Tell(info) = message {
                client.told(&info);
            }
            return;
        }
        let Some(server) = self.node(node) else { return };
        match message {
            Message::Request(request, ask) => {
                let from = self.dialler(conn).unwrap_or(HARNESS);
                dispatch(&server, from, ask, chunkserver::Ticket { conn, request });
            }
            Message::Down(down) => chunkserver::told(&server, conn, down),
            _ => {}
        }
    }

    /// A connection has ended, as a node sees it.
    pub fn ended(self: &Rc<Self>, node: NodeId, conn: ConnId) {
        if node == MASTER {
            if let Some(master) = self.master.borrow().clone() {
                master.ended(conn);
            }
        } else if let Some(server) = self.node(node) {
            chunkserver::ended(&server, conn);
        }
    }

    pub fn start(self: &Rc<Self>, node: NodeId) {
        let was = self.machine(node);
        let runs = if node == MASTER { self.master.borrow().is_some() } else { self.node(node).is_some() };
        if runs {
            return;
        }
        trace!(self, "n{node} starts");
        if was == Machine::Off {
            // Whatever is sent to its former life is refused now.
            self.abandon(node, true);
        }
        self.machines.borrow_mut().insert(node, Machine::Running);
        if node == MASTER {
            *self.master.borrow_mut() = Some(Master::start(self));
        } else {
            let server = Node::start(self, node, &self.disks[&node]);
            self.nodes.borrow_mut().insert(node, server);
        }
    }

    /// As `kill -9` does: what the process has written stays written.
    pub fn kill(self: &Rc<Self>, node: NodeId) {
        if self.machine(node) == Machine::Running {
            trace!(self, "n{node} killed");
            self.stop(node, Machine::Stopped);
            self.abandon(node, true);
        }
    }

    /// The machine's power fails: of what was not synced some is lost or torn.
    pub fn power_off(self: &Rc<Self>, node: NodeId) {
        if self.machine(node) == Machine::Off {
            return;
        }
        trace!(self, "n{node} loses power");
        if self.machine(node) == Machine::Running {
            self.stop(node, Machine::Off);
            self.abandon(node, false);
        }
        self.machines.borrow_mut().insert(node, Machine::Off);
        if let Some(disk) = self.disks.get(&node) {
            disk.borrow_mut().lose_power(&mut self.rng.borrow_mut());
            self.has_lost(node);
        }
    }

    /// A server may lack what others hold.
    pub fn has_lost(&self, node: NodeId) {
        self.power_lost.borrow_mut().insert(node);
        self.epochs.borrow_mut().forget_server(node);
    }

    fn stop(self: &Rc<Self>, node: NodeId, machine: Machine) {
        self.exec.end_life(node);
        self.machines.borrow_mut().insert(node, machine);
        if node == MASTER {
            *self.master.borrow_mut() = None;
        } else {
            self.nodes.borrow_mut().remove(&node);
        }
    }

    /// A primary has acknowledged something to a client.
    pub fn acknowledged(&self, chunk: u64, epoch: u64, server: NodeId) {
        // What was begun before a chunk was dropped may still be acknowledged, by whomever.
        let is_there = self.store.borrow().chunks.contains_key(&ChunkId(chunk));
        if is_there && let Err(what) = self.one_primary.borrow_mut().acknowledged(chunk, epoch, server) {
            self.fail("one primary", what);
        }
    }

    /// A replica holds this epoch.
    pub fn epoch_seen(&self, server: NodeId, chunk: u64, epoch: u64) {
        if let Err(what) = self.epochs.borrow_mut().seen(server, chunk, epoch) {
            self.fail("epochs never go back", what);
        }
    }

    /// A replica was deleted.
    pub fn epoch_forgotten(&self, server: NodeId, chunk: u64) {
        self.epochs.borrow_mut().forget(server, chunk);
    }

    /// The master gives a chunk a new record.
    pub fn record_changed(&self, before: Option<&ChunkRecord>, after: &ChunkRecord) {
        if let Err(what) = majority::check(after) {
            self.fail("a majority", what);
        }
        let seen = self.epochs.borrow_mut().seen(MASTER, after.chunk.0, after.epoch.0);
        let one_up = before.is_none_or(|b| b.epoch.0 + 1 == after.epoch.0);
        if let Err(what) = seen {
            self.fail("epochs never go back", what);
        } else if !one_up {
            self.fail("epochs never go back", format!("{before:?} becomes {after:?}"));
        }
    }

    /// Breaks the circles of those who hold each other.
    pub fn clear(self: &Rc<Self>) {
        self.exec.clear();
        self.forget_connections();
        self.nodes.borrow_mut().clear();
        *self.master.borrow_mut() = None;
        self.clients.borrow_mut().clear();
    }
}
