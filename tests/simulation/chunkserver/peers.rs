//! Mirrors `node/peers.rs`: one connection to each other chunkserver, made when it is needed.

use super::node::Node;
use crate::message::{Reply, Request};
use crate::net::ConnId;
use futures::channel::oneshot;
use std::collections::BTreeMap;
use std::rc::Rc;

type Then = Box<dyn FnOnce(Option<Reply>)>;

enum State {
    Down(u64),
    Dialling(Vec<(Request, Then)>),
    Up(ConnId),
}

#[derive(Default)]
pub struct Peers {
    states: BTreeMap<u32, State>,
    /// Attempts to reach a server that have failed, one after the other.
    failures: BTreeMap<u32, u32>,
}

const FIRST_DOWN: u64 = 50;
const MOST_DOWN: u64 = 1_000;
const DIAL_LIMIT: u64 = 500;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallError {
    Lost,
    TimedOut,
}

impl Node {
    /// Sends behind everything sent before to this server. False: it cannot be sent, `then` is not called.
    pub fn send(
        self: &Rc<Self>,
        server: u32,
        request: Request,
        then: impl FnOnce(Option<Reply>) + 'static,
    ) -> bool {
        let mut peers = self.peers.borrow_mut();
        let state = peers.states.entry(server).or_insert(State::Down(0));
        match state {
            State::Up(conn) if self.world.is_open(*conn) => return self.world.ask(*conn, request, then),
            State::Down(until) if self.now() < *until => return false,
            State::Dialling(_) => {}
            _ => {
                *state = State::Dialling(Vec::new());
                self.world.exec.spawn(self.life, self.clone().dial(server));
            }
        }
        if let State::Dialling(waiting) = state {
            waiting.push((request, Box::new(then)));
        }
        true
    }

    async fn dial(self: Rc<Self>, server: u32) {
        let dialled = self.world.connect(self.life, server, DIAL_LIMIT).await;
        let failures = match dialled {
            Some(_) => 0,
            None => self.peers.borrow().failures.get(&server).map_or(1, |n| n + 1),
        };
        let longest = (FIRST_DOWN << failures.clamp(1, 10) >> 1).min(MOST_DOWN);
        let down = State::Down(self.now() + self.world.rng.borrow_mut().below(longest));
        self.peers.borrow_mut().failures.insert(server, failures);
        let before = self.peers.borrow_mut().states.insert(server, down);
        let Some(State::Dialling(waiting)) = before else { return };
        match dialled {
            Some(conn) => {
                self.peers.borrow_mut().states.insert(server, State::Up(conn));
                for (request, then) in waiting {
                    self.world.ask(conn, request, then);
                }
            }
            None => waiting.into_iter().for_each(|(_, then)| then(None)),
        }
    }

    /// The master's list has changed: those that could not be reached may be back.
    pub fn try_again(&self) {
        for state in self.peers.borrow_mut().states.values_mut() {
            if let State::Down(until) = state {
                *until = 0;
            }
        }
    }

    /// The connection to a server, if there is one.
    pub fn connection(&self, server: u32) -> Option<ConnId> {
        match self.peers.borrow().states.get(&server) {
            Some(State::Up(conn)) if self.world.is_open(*conn) => Some(*conn),
            _ => None,
        }
    }

    /// Asks and waits.
    pub async fn call(
        self: &Rc<Self>,
        server: u32,
        request: Request,
        limit: u64,
    ) -> Result<Reply, CallError> {
        let (tx, rx) = oneshot::channel();
        // The asker may have given up.
        if !self.send(server, request, move |reply| drop(tx.send(reply))) {
            return Err(CallError::Lost);
        }
        match self.world.exec.timeout(self.life, limit, rx).await {
            None => Err(CallError::TimedOut),
            Some(Ok(Some(reply))) => Ok(reply),
            Some(_) => Err(CallError::Lost),
        }
    }
}
