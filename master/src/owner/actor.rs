//! A turn of the owner: execute a group, commit, answer.

use std::cell::LazyCell;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cairn_proto::rpc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tonic::Status;

use super::Message;
use super::state::{Identity, State};
use super::turn::{Outgoing, Turn};
use crate::core::Millis;
use crate::core::cluster::Event;
use crate::core::scratch::Scratch;
use crate::store::{Store, StoreError};
use crate::{Config, Error};

/// How the owner ended: as asked, or because the store failed.
pub(crate) type Stopped = Result<(), StoreError>;

/// The master's state, and the store under it.
pub(crate) struct Owner {
    store: Box<dyn Store>,
    state: State,
    started: Instant,
    ended: oneshot::Sender<Stopped>,
}

impl Owner {
    /// Restores the state from the store. `ended` is told how it ends; it is dropped when a turn panics.
    ///
    /// # Errors
    /// When the store cannot be read, or a new cluster not be written.
    pub(crate) fn restore(
        mut store: Box<dyn Store>,
        config: Config,
        ended: oneshot::Sender<Stopped>,
    ) -> Result<Self, Error> {
        let state = State::restore(store.as_mut(), config, Millis(0), wall())?;
        Ok(Self { store, state, started: Instant::now(), ended })
    }

    /// What the cluster is.
    pub(crate) fn identity(&self) -> Identity {
        self.state.identity
    }

    /// Executes a group, commits what it changed, and answers. `None`: it has ended.
    pub(super) fn turn(mut self: Box<Self>, mut group: Vec<Message>) -> Option<Box<Self>> {
        let stop = group.iter().position(|m| matches!(m, Message::Stop));
        group.truncate(stop.unwrap_or(group.len()));
        let outcome = self.execute(group);
        if stop.is_none() && outcome.is_ok() {
            return Some(self);
        }
        self.state.dismiss();
        // After a failed commit, what is in memory is ahead of the store; only a restart makes them one again.
        let Self { store, ended, .. } = *self;
        drop(store);
        let _ = ended.send(outcome);
        None
    }

    fn execute(&mut self, group: Vec<Message>) -> Stopped {
        if group.iter().any(|m| matches!(m, Message::Tick)) {
            self.store.tend()?;
        }
        let Self { store, state, .. } = self;
        let (batch, counters, out) = {
            let before: &dyn Store = store.as_ref();
            let mut turn = Turn {
                room: LazyCell::new(Box::new(|| before.room())),
                scratch: Scratch::new(before, state.counters),
                out: Vec::new(),
                now: Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)),
                wall: wall(),
            };
            for message in group {
                state.message(&mut turn, message);
            }
            let Turn { scratch, out, .. } = turn;
            let (batch, counters) = scratch.into_batch();
            (batch, counters, out)
        };
        if !batch.is_empty() {
            store.commit(batch)?;
            state.counters = counters;
        }
        for message in out {
            state.send(message);
        }
        Ok(())
    }
}

fn wall() -> rpc::Time {
    let now = SystemTime::now();
    match now.duration_since(UNIX_EPOCH) {
        Ok(t) => rpc::Time { secs: i64::try_from(t.as_secs()).unwrap_or(i64::MAX), nanos: t.subsec_nanos() },
        // A clock before 1970 is wrong; any time will do.
        Err(_) => rpc::Time::default(),
    }
}

impl State {
    fn message(&mut self, turn: &mut Turn<'_>, message: Message) {
        match message {
            Message::Client(from, messages) => self.client(turn, from, messages),
            Message::Cluster(event) => self.cluster_event(turn, event),
            Message::Linked(link, commands) => {
                self.links.insert(link, commands);
            }
            Message::Hello(from, hello, out) => self.hello(turn, from, &hello, out),
            Message::Gone(connection) => self.gone(connection),
            Message::Status(to) => {
                let status = self.status(turn);
                turn.out.push(Outgoing::Status(to, Box::new(status)));
            }
            Message::File(inode, to) => {
                let file = self.file(turn, inode);
                turn.out.push(Outgoing::File(to, file));
            }
            Message::Node(request, to) => {
                let node = self.node(turn, request);
                turn.out.push(Outgoing::Node(to, node));
            }
            Message::Scrub(request, to) => {
                let told = self.scrub(turn, &request);
                // Nothing of it has to be durable; whoever asked may have gone.
                let _ = to.send(told);
            }
            Message::Locks(to) => {
                // Whoever asked may have gone.
                let _ = to.send(self.list_locks());
            }
            Message::Watch(to) => self.watch(to),
            Message::WatchFiles(to) => self.file_watchers.add(to),
            Message::Fsck(question) => self.fsck(turn, question),
            Message::Weights(set, to) => {
                let weights = self.set_weights(turn, set);
                turn.out.push(Outgoing::Weights(to, weights));
            }
            Message::Limits(set, to) => {
                let limits = self.set_limits(turn, set);
                turn.out.push(Outgoing::Limits(to, limits));
            }
            Message::Tick => self.tick(turn),
            // Taken out of the group before.
            Message::Stop => {}
        }
    }

    fn tick(&mut self, turn: &mut Turn<'_>) {
        let effects = self.sessions.tick(turn.now, &mut turn.scratch.counters.next_session);
        self.session_effects(turn, effects);
        self.lease_tick(turn);
        self.end_lingering(turn);
        self.cluster_event(turn, Event::Tick);
        self.file_watchers.tick();
        // A receiver that is gone needs no sender; its end is told by an event of its own.
        self.links.retain(|_, commands| !commands.is_closed());
    }

    /// Ends all connections of mounts; those of chunkservers end with their senders.
    fn dismiss(&mut self) {
        for outbox in std::mem::take(&mut self.outboxes).into_values() {
            let _ = outbox.sender.try_send(Err(Status::unavailable("the master is stopping")));
        }
    }

    fn send(&mut self, message: Outgoing) {
        match message {
            Outgoing::Mount(to, message) => {
                let Some(outbox) = self.outboxes.get(&to) else { return };
                // A mount has at most 256 operations unanswered: one whose outbox is full does not read.
                if let Err(TrySendError::Full(_)) = outbox.sender.try_send(Ok(message)) {
                    tracing::warn!(connection = to.0, "a mount does not read its answers: disconnected");
                    self.gone(to);
                }
            }
            Outgoing::CloseMount(connection, status) => {
                if let Some(outbox) = self.outboxes.remove(&connection) {
                    let _ = outbox.sender.try_send(Err(status));
                }
            }
            Outgoing::Link(link, down) => {
                let ends = down.is_err();
                let Some(commands) = self.links.get(&link) else { return };
                if commands.try_send(down).is_err() || ends {
                    self.links.remove(&link);
                }
            }
            // Whoever asked may be gone.
            Outgoing::Status(to, status) => drop(to.send(*status)),
            Outgoing::File(to, file) => drop(to.send(file)),
            Outgoing::Node(to, node) => drop(to.send(node)),
            Outgoing::Weights(to, weights) => drop(to.send(weights)),
            Outgoing::Limits(to, limits) => drop(to.send(limits)),
            Outgoing::FileChange(change) => self.file_watchers.tell(&change),
            Outgoing::Change(change) => self.watchers.retain(|to| to.try_send(change.clone()).is_ok()),
        }
    }
}
