//! Mounts: what they say beside operations, and what their sessions want done.

use bytes::Bytes;
use cairn_proto::rpc::{self, client_message::Msg};
use tonic::Status;

use super::Outbox;
use super::state::{State, put_session, whose_writes_count};
use super::turn::{Outgoing, Turn};
use crate::core::cluster::Event;
use crate::core::sessions::{ConnectionId, Effect};

/// Which master this is; there is one.
pub(super) const TERM: u64 = 1;

impl State {
    /// A mount says hello on a new connection.
    pub(super) fn hello(&mut self, turn: &mut Turn<'_>, from: ConnectionId, hello: &rpc::Hello, out: Outbox) {
        self.outboxes.insert(from, out);
        let ours = &self.identity.cluster_id;
        if hello.protocol != cairn_proto::PROTOCOL {
            let text = format!(
                "protocol version {}, this master speaks {}: mount and master must be of one version",
                hello.protocol,
                cairn_proto::PROTOCOL
            );
            turn.out.push(Outgoing::CloseMount(from, Status::failed_precondition(text)));
            return;
        }
        if !hello.cluster_id.is_empty() && hello.cluster_id != ours.as_slice() {
            let text = "this master serves another cluster than the one that was mounted";
            turn.out.push(Outgoing::CloseMount(from, Status::failed_precondition(text)));
            return;
        }
        let effects = self.sessions.hello(turn.now, from, hello, &mut turn.scratch.counters.next_session);
        let resumed = self.sessions.session_of(from).filter(|session| session.0 == hello.session);
        if let Some(session) = resumed {
            self.leases.forget(session);
            self.held_open(turn, from, session, hello.open.clone());
        }
        self.session_effects(turn, effects);
        self.go_on(turn);
    }

    /// What a mount says after its hello.
    pub(super) fn client(&mut self, turn: &mut Turn<'_>, from: ConnectionId, messages: Vec<Msg>) {
        for message in messages {
            // Without a session: not welcomed yet, or over; whoever is told so will say hello again.
            let Some(session) = self.sessions.session_of(from) else { return };
            self.sessions.heard(turn.now, session);
            let next = &mut turn.scratch.counters.next_session;
            let effects = match message {
                Msg::Op(op) => {
                    self.operation(turn, from, session, op);
                    continue;
                }
                Msg::EventAck(ack) => {
                    let effects = self.sessions.acknowledged(turn.now, session, ack.id, next);
                    self.lease_given_up(turn, from, session, ack);
                    effects
                }
                Msg::Goodbye(_) => self.sessions.goodbye(turn.now, session, next),
                Msg::KeepAlive(alive) => {
                    if alive.seq != 0 && self.leases.renews(turn.now, session) {
                        let kept = rpc::KeptAlive { seq: alive.seq };
                        turn.send(from, rpc::master_message::Msg::KeptAlive(kept));
                    }
                    continue;
                }
                Msg::Hello(_) => {
                    let status = Status::invalid_argument("hello comes once, at first");
                    turn.out.push(Outgoing::CloseMount(from, status));
                    return;
                }
            };
            self.session_effects(turn, effects);
            self.go_on(turn);
        }
    }

    /// A mount's connection has ended.
    pub(super) fn gone(&mut self, connection: ConnectionId) {
        self.outboxes.remove(&connection);
        self.sessions.disconnected(connection);
    }

    /// Does what the session core says.
    pub(super) fn session_effects(&mut self, turn: &mut Turn<'_>, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Put(session, record) => put_session(&mut turn.scratch, session, &record),
                Effect::Fence(session) => {
                    tracing::info!(session = session.0, "a session is over; its writes are to be refused");
                    // What is done under them is over with the session. Locks are not: what it wrote under one may still arrive.
                    self.leases.ended(session);
                    let sessions = whose_writes_count(&self.sessions, &turn.scratch.counters);
                    self.cluster_event(turn, Event::SessionOver { session, sessions });
                }
                Effect::End(session) => {
                    tracing::info!(session = session.0, "a session has ended");
                    self.end_session(turn, session);
                }
                Effect::Welcome { to, session, exclusive, renewed } => {
                    tracing::info!(session = session.0, exclusive, renewed, "a mount is welcomed");
                    let welcome = rpc::Welcome {
                        session: session.0,
                        cluster_id: Bytes::copy_from_slice(&self.identity.cluster_id),
                        chunk_size: self.identity.chunk_size,
                        copies: self.config.copies,
                        session_ttl_ms: u32::try_from(self.config.session_ttl.as_millis())
                            .unwrap_or(u32::MAX),
                        exclusive,
                        renewed,
                        servers: self.cluster.servers(),
                        term: TERM,
                    };
                    turn.send(to, rpc::master_message::Msg::Welcome(welcome));
                }
                Effect::Recall { to, event } => {
                    turn.event(to, event, rpc::event::Event::Recall(rpc::Recall {}));
                }
                Effect::Grant { to } => {
                    // What is cached from now on needs no leases.
                    if let Some(session) = self.sessions.session_of(to) {
                        self.leases.forget(session);
                    }
                    turn.event(to, 0, rpc::event::Event::Exclusive(rpc::Exclusive {}));
                }
                Effect::Close { connection, reason } => {
                    let status = Status::aborted(reason.to_string());
                    turn.out.push(Outgoing::CloseMount(connection, status));
                }
            }
        }
    }
}
