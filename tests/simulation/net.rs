//! Connections: in order each, not among each other; with delays, resets and partitions.

use crate::executor::{Life, Micros, NodeId};
use crate::message::{Message, Reply, Request};
use crate::world::{Machine, World};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

pub type ConnId = u64;
type Then = Box<dyn FnOnce(Option<Reply>)>;

struct Side {
    life: Life,
    open: bool,
    waiting: BTreeMap<u32, Then>,
    /// When the last message on its way to this side arrives.
    busy_until: Micros,
    /// Arrived, but for a partition.
    held: VecDeque<Message>,
    /// What is still on its way to this side is lost.
    lossy: bool,
}

struct Conn {
    /// The one that has connected, and the one that was connected to.
    sides: [Side; 2],
    next_request: u32,
}

#[derive(Default)]
pub struct Net {
    conns: RefCell<BTreeMap<ConnId, Conn>>,
    blocked: RefCell<BTreeSet<(NodeId, NodeId)>>,
    next: RefCell<ConnId>,
}

impl World {
    fn latency(&self) -> Micros {
        let mut rng = self.rng.borrow_mut();
        match rng.below(1000) {
            0..=4 => rng.between(20_000, 250_000),
            5..=60 => rng.between(1_000, 20_000),
            _ => rng.between(40, 400),
        }
    }

    /// Whether both directions are open.
    pub fn reaches(&self, from: NodeId, to: NodeId) -> bool {
        !self.is_blocked(from, to) && !self.is_blocked(to, from)
    }

    fn is_blocked(&self, from: NodeId, to: NodeId) -> bool {
        self.net.blocked.borrow().contains(&(from, to))
    }

    /// Nothing gets from one node to another any more, until [`World::unblock_all`].
    pub fn block(&self, from: NodeId, to: NodeId) {
        self.net.blocked.borrow_mut().insert((from, to));
    }

    pub fn unblock_all(self: &Rc<Self>) {
        self.net.blocked.borrow_mut().clear();
        let held: Vec<_> = {
            let conns = self.net.conns.borrow();
            let sides = conns.iter().flat_map(|(id, c)| (0..2).map(move |s| (*id, s, &c.sides[s])));
            sides.filter(|(_, _, s)| !s.held.is_empty()).map(|(id, s, side)| (id, s, side.life)).collect()
        };
        for (conn, side, life) in held {
            let world = self.clone();
            self.exec.after(self.latency(), life, move || world.flush(conn, side));
        }
    }

    fn flush(self: &Rc<Self>, conn: ConnId, side: usize) {
        loop {
            let message = {
                let mut conns = self.net.conns.borrow_mut();
                conns.get_mut(&conn).and_then(|c| c.sides[side].held.pop_front())
            };
            let Some(message) = message else { return };
            self.deliver(conn, side, message);
        }
    }

    /// Connects to a node within a time limit.
    pub async fn connect(self: &Rc<Self>, from: Life, to: NodeId, limit_ms: u64) -> Option<ConnId> {
        self.exec.timeout(from, limit_ms, self.connect_unbounded(from, to)).await.flatten()
    }

    async fn connect_unbounded(self: &Rc<Self>, from: Life, to: NodeId) -> Option<ConnId> {
        let ms = 1 + self.latency() / 1000;
        loop {
            self.exec.sleep(from, ms).await;
            if !self.reaches(from.node, to) {
                continue;
            }
            match self.machine(to) {
                Machine::Stopped => return None,
                Machine::Off => {}
                Machine::Running if self.exec.is_paused(to) => {}
                Machine::Running => break,
            }
        }
        let side = |life| Side {
            life,
            open: true,
            waiting: BTreeMap::new(),
            busy_until: 0,
            held: VecDeque::new(),
            lossy: false,
        };
        *self.net.next.borrow_mut() += 1;
        let id = *self.net.next.borrow();
        let sides = [side(from), side(self.exec.life(to))];
        self.net.conns.borrow_mut().insert(id, Conn { sides, next_request: 1 });
        Some(id)
    }

    pub fn is_open(&self, conn: ConnId) -> bool {
        self.net.conns.borrow().get(&conn).is_some_and(|c| c.sides[0].open)
    }

    /// The node that has connected.
    pub fn dialler(&self, conn: ConnId) -> Option<NodeId> {
        self.net.conns.borrow().get(&conn).map(|c| c.sides[0].life.node)
    }

    /// Sends a request; `then` gets the answer, or `None` when the connection is lost. False: it is lost
    /// already, and `then` is not called.
    pub fn ask(
        self: &Rc<Self>,
        conn: ConnId,
        request: Request,
        then: impl FnOnce(Option<Reply>) + 'static,
    ) -> bool {
        let id = {
            let mut conns = self.net.conns.borrow_mut();
            let Some(c) = conns.get_mut(&conn).filter(|c| c.sides[0].open) else { return false };
            c.next_request += 1;
            c.sides[0].waiting.insert(c.next_request, Box::new(then));
            c.next_request
        };
        self.send(conn, 1, Message::Request(id, request));
        true
    }

    /// Sends a message to a side of a connection.
    pub fn send(self: &Rc<Self>, conn: ConnId, to: usize, message: Message) {
        let latency = self.latency();
        let mut conns = self.net.conns.borrow_mut();
        let Some(c) = conns.get_mut(&conn).filter(|c| c.sides[1 - to].open) else { return };
        self.post(conn, c, to, latency, message);
    }

    fn post(self: &Rc<Self>, id: ConnId, c: &mut Conn, to: usize, latency: Micros, message: Message) {
        let from = c.sides[1 - to].life.node;
        let side = &mut c.sides[to];
        let now = self.exec.now();
        side.busy_until = side.busy_until.max(now + latency);
        let (world, life) = (self.clone(), side.life);
        self.exec.after(side.busy_until - now, life, move || {
            let hold = world.is_blocked(from, life.node);
            let mut conns = world.net.conns.borrow_mut();
            let Some(c) = conns.get_mut(&id) else { return };
            let side = &mut c.sides[to];
            if hold || !side.held.is_empty() {
                return side.held.push_back(message);
            }
            drop(conns);
            world.deliver(id, to, message);
        });
    }

    fn deliver(self: &Rc<Self>, id: ConnId, to: usize, message: Message) {
        let mut conns = self.net.conns.borrow_mut();
        let Some(c) = conns.get_mut(&id) else { return };
        let side = &mut c.sides[to];
        if !side.open || (side.lossy && !matches!(message, Message::End)) {
            return;
        }
        let node = side.life.node;
        match message {
            Message::Reply(request, reply) => {
                let then = side.waiting.remove(&request);
                drop(conns);
                if let Some(then) = then {
                    then(Some(reply));
                }
            }
            Message::End => {
                side.open = false;
                let waiting = std::mem::take(&mut side.waiting);
                // It stays silent from here on.
                let closed = !c.sides[1 - to].open;
                if closed {
                    conns.remove(&id);
                }
                drop(conns);
                waiting.into_values().for_each(|then| then(None));
                self.ended(node, id);
            }
            other => {
                drop(conns);
                self.received(node, id, other);
            }
        }
    }

    /// A side closes a connection.
    pub fn close(self: &Rc<Self>, conn: ConnId, side: usize) {
        let (latency, lossy) = (self.latency(), self.rng.borrow_mut().permille(500));
        let waiting = {
            let mut conns = self.net.conns.borrow_mut();
            let Some(c) = conns.get_mut(&conn).filter(|c| c.sides[side].open) else { return };
            c.sides[side].open = false;
            c.sides[1 - side].lossy |= lossy;
            self.post(conn, c, 1 - side, latency, Message::End);
            std::mem::take(&mut c.sides[side].waiting)
        };
        waiting.into_values().for_each(|then| then(None));
    }

    /// Something in between breaks a connection: both sides see its end.
    pub fn reset(self: &Rc<Self>, conn: ConnId) {
        for side in 0..2 {
            let (latency, lossy) = (self.latency(), self.rng.borrow_mut().permille(500));
            let mut conns = self.net.conns.borrow_mut();
            let Some(c) = conns.get_mut(&conn) else { return };
            c.sides[side].lossy |= lossy;
            self.post(conn, c, side, latency, Message::End);
        }
    }

    /// One of the open connections.
    pub fn any_conn(&self) -> Option<ConnId> {
        let conns = self.net.conns.borrow();
        let open: Vec<_> = conns.iter().filter(|(_, c)| c.sides.iter().all(|s| s.open)).collect();
        let n = self.rng.borrow_mut().below(open.len() as u64) as usize;
        open.get(n).map(|(id, _)| **id)
    }

    /// A node's life has ended. `told`: its kernel closes the connections; else the others hear nothing.
    pub fn abandon(self: &Rc<Self>, node: NodeId, told: bool) {
        let of_it: Vec<(ConnId, usize)> = {
            let conns = self.net.conns.borrow();
            let side = |c: &Conn| c.sides.iter().position(|s| s.life.node == node);
            conns.iter().filter_map(|(id, c)| Some((*id, side(c)?))).collect()
        };
        for (conn, side) in of_it {
            let waiting = {
                let mut conns = self.net.conns.borrow_mut();
                conns.get_mut(&conn).map(|c| std::mem::take(&mut c.sides[side].waiting))
            };
            // Whoever would have heard of it is gone.
            drop(waiting);
            if told {
                let mut conns = self.net.conns.borrow_mut();
                if let Some(c) = conns.get_mut(&conn) {
                    c.sides[side].open = true;
                }
                drop(conns);
                self.close(conn, side);
            }
        }
    }

    pub fn forget_connections(&self) {
        let conns = std::mem::take(&mut *self.net.conns.borrow_mut());
        drop(conns);
    }
}
