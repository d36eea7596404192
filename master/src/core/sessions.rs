//! Sessions: who is mounted, who may cache, and when a session is over.
//!
//! The coarse form of coherence: as long as there is one session it is *exclusive* and caches everything.
//! A second one is welcomed only when the first has acknowledged a recall, or has ended; from then
//! on they are *shared*, until one is left. Only what is recorded here counts: a session that is away learns
//! its mode from the welcome when it resumes.
//!
//! A session that ends without a goodbye is *fenced* first: until no chunkserver takes its writes any more, what it held stays
//! held, and who came to take its place waits.

mod effect;

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{SessionId, rpc};

use super::records::Session as Record;
use super::{ABSENCE_MS, Millis};
pub use effect::{Closed, Effect};

/// A connection of a mount. Never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

#[derive(Debug)]
struct Session {
    record: Record,
    connection: Option<ConnectionId>,
    heard: Millis,
}

#[derive(Debug)]
struct Waiting {
    connection: ConnectionId,
    record: Record,
    renewed: bool,
}

/// All sessions.
#[derive(Debug)]
pub struct Sessions {
    ttl_ms: u64,
    sessions: BTreeMap<SessionId, Session>,
    by_connection: BTreeMap<ConnectionId, SessionId>,
    /// Sessions that are over, but whose writes chunkservers may still take; and whether they were exclusive.
    fencing: BTreeMap<SessionId, bool>,
    /// Newcomers, in the order of their coming, who wait for the recall to be acknowledged.
    waiting: Vec<Waiting>,
    /// The recall that is out.
    recall: Option<u64>,
    next_event: u64,
    ticked: Millis,
}

impl Sessions {
    /// Sessions as they were stored; each has `ttl_ms` from now on to come back. `first_event` should differ
    /// from start to start, so that an acknowledgement from before is not taken for one of today.
    pub fn new(now: Millis, ttl_ms: u64, first_event: u64, stored: Vec<(SessionId, Record)>) -> Self {
        let (over, alive): (Vec<_>, Vec<_>) = stored.into_iter().partition(|(_, record)| record.over);
        let session = |record| Session { record, connection: None, heard: now };
        Self {
            ttl_ms,
            sessions: alive.into_iter().map(|(id, record)| (id, session(record))).collect(),
            by_connection: BTreeMap::new(),
            fencing: over.into_iter().map(|(id, record)| (id, record.exclusive)).collect(),
            waiting: Vec::new(),
            recall: None,
            next_event: first_event.max(1),
            ticked: now,
        }
    }

    /// A mount says hello on a new connection. `next` gives the id of a new session.
    pub fn hello(
        &mut self,
        now: Millis,
        connection: ConnectionId,
        hello: &rpc::Hello,
        next: &mut u64,
    ) -> Vec<Effect> {
        let wanted = SessionId(hello.session);
        if let Some(session) = self.sessions.get_mut(&wanted) {
            let mut effects = Vec::new();
            if let Some(old) = session.connection.replace(connection) {
                self.by_connection.remove(&old);
                effects.push(Effect::Close { connection: old, reason: Closed::Replaced });
            }
            self.by_connection.insert(connection, wanted);
            session.heard = now;
            let exclusive = session.record.exclusive;
            effects.push(Effect::Welcome { to: connection, session: wanted, exclusive, renewed: false });
            if let (true, Some(event)) = (exclusive, self.recall) {
                effects.push(Effect::Recall { to: connection, event });
            }
            return effects;
        }
        let record = Record {
            mount_dir: hello.mount_dir.clone(),
            host: hello.host.clone(),
            pid: hello.pid,
            boot_id: hello.boot_id.clone(),
            http: hello.http.clone(),
            ..Record::default()
        };
        let mut effects = self.end_predecessor(&record);
        let waiting = Waiting { connection, record, renewed: hello.session != 0 };
        let holder = self.sessions.values().find(|s| s.record.exclusive);
        let Some(holder) = holder else {
            match self.fencing.values().any(|exclusive| *exclusive) {
                true => self.waiting.push(waiting),
                false => effects.extend(self.admit(now, waiting, next)),
            }
            return effects;
        };
        if self.recall.is_none() {
            let event = self.next_event;
            self.next_event += 1;
            self.recall = Some(event);
            effects.extend(holder.connection.map(|to| Effect::Recall { to, event }));
        }
        self.waiting.push(waiting);
        effects
    }

    /// Ends the session whose place a newcomer takes: that of the same directory of the same machine, when it has lost
    /// its connection. Its process is gone, for a directory is mounted once; so nobody has to wait for it to expire.
    fn end_predecessor(&mut self, newcomer: &Record) -> Vec<Effect> {
        let place = |r: &Record| (r.boot_id.clone(), r.mount_dir.clone());
        let is_it = |s: &Session| s.connection.is_none() && place(&s.record) == place(newcomer);
        let known = !newcomer.boot_id.is_empty();
        match self.sessions.iter().find(|(_, s)| known && is_it(s)).map(|(id, _)| *id) {
            Some(id) => self.end(id, Closed::Replaced),
            None => Vec::new(),
        }
    }

    fn admit(&mut self, now: Millis, newcomer: Waiting, next: &mut u64) -> Vec<Effect> {
        let session = SessionId(*next);
        *next += 1;
        let Waiting { connection, mut record, renewed } = newcomer;
        record.exclusive = self.sessions.is_empty() && self.waiting.is_empty() && self.fencing.is_empty();
        let exclusive = record.exclusive;
        self.by_connection.insert(connection, session);
        self.sessions
            .insert(session, Session { record: record.clone(), connection: Some(connection), heard: now });
        vec![Effect::Put(session, record), Effect::Welcome { to: connection, session, exclusive, renewed }]
    }

    /// The session that talks over this connection.
    pub fn session_of(&self, connection: ConnectionId) -> Option<SessionId> {
        self.by_connection.get(&connection).copied()
    }

    /// The connection that a session has now.
    pub fn connection_of(&self, session: SessionId) -> Option<ConnectionId> {
        self.sessions.get(&session)?.connection
    }

    /// Who a session is.
    pub fn record(&self, session: SessionId) -> Option<&Record> {
        self.sessions.get(&session).map(|s| &s.record)
    }

    /// Something came from the session.
    pub fn heard(&mut self, now: Millis, session: SessionId) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.heard = now;
        }
    }

    /// The session has done what an event asked for.
    pub fn acknowledged(
        &mut self,
        now: Millis,
        session: SessionId,
        event: u64,
        next: &mut u64,
    ) -> Vec<Effect> {
        let Some(holder) = self.sessions.get_mut(&session) else { return Vec::new() };
        if !holder.record.exclusive || self.recall != Some(event) {
            return Vec::new();
        }
        holder.record.exclusive = false;
        let mut effects = vec![Effect::Put(session, holder.record.clone())];
        effects.extend(self.settle(now, next));
        effects
    }

    /// The mount says goodbye: its session is over at once.
    pub fn goodbye(&mut self, now: Millis, session: SessionId, next: &mut u64) -> Vec<Effect> {
        let mut effects = self.end(session, Closed::Goodbye);
        effects.extend(self.settle(now, next));
        effects
    }

    /// A session has not done what it was asked for in time: it is over.
    pub fn expire(&mut self, now: Millis, session: SessionId, next: &mut u64) -> Vec<Effect> {
        let mut effects = self.end(session, Closed::Expired);
        effects.extend(self.settle(now, next));
        effects
    }

    /// A connection has broken. Its session may come back over another.
    pub fn disconnected(&mut self, connection: ConnectionId) {
        self.waiting.retain(|w| w.connection != connection);
        let session = self.by_connection.remove(&connection);
        if let Some(session) = session.and_then(|id| self.sessions.get_mut(&id)) {
            session.connection = None;
        }
    }

    /// Time has passed: ends the sessions that were not heard of for too long.
    pub fn tick(&mut self, now: Millis, next: &mut u64) -> Vec<Effect> {
        let gap = now.since(self.ticked);
        self.ticked = now;
        if gap > ABSENCE_MS {
            for session in self.sessions.values_mut() {
                session.heard = session.heard.plus(gap);
            }
        }
        let silent: Vec<_> = self
            .sessions
            .iter()
            .filter(|(_, s)| now.since(s.heard) > self.ttl_ms)
            .map(|(id, _)| *id)
            .collect();
        let mut effects = Vec::new();
        for session in silent {
            effects.extend(self.end(session, Closed::Expired));
        }
        effects.extend(self.settle(now, next));
        effects
    }

    /// No chunkserver takes the ended session's writes any more.
    pub fn fenced(&mut self, now: Millis, session: SessionId, next: &mut u64) -> Vec<Effect> {
        if self.fencing.remove(&session).is_none() {
            return Vec::new();
        }
        let mut effects = vec![Effect::End(session)];
        effects.extend(self.settle(now, next));
        effects
    }

    /// Sessions that are over and not fenced yet.
    pub fn fencing(&self) -> impl Iterator<Item = SessionId> {
        self.fencing.keys().copied()
    }

    /// The sessions whose writes count.
    pub fn alive(&self) -> BTreeSet<SessionId> {
        self.sessions.keys().copied().collect()
    }

    fn end(&mut self, session: SessionId, reason: Closed) -> Vec<Effect> {
        let Some(ended) = self.sessions.remove(&session) else { return Vec::new() };
        let mut effects = match reason {
            // It has written back everything, and writes no more.
            Closed::Goodbye => vec![Effect::End(session)],
            Closed::Expired | Closed::Replaced => {
                self.fencing.insert(session, ended.record.exclusive);
                vec![Effect::Put(session, Record { over: true, ..ended.record }), Effect::Fence(session)]
            }
        };
        if let Some(connection) = ended.connection {
            self.by_connection.remove(&connection);
            effects.push(Effect::Close { connection, reason });
        }
        effects
    }

    /// When nobody is exclusive and nobody's writes are to be feared: lets in those who wait, and if one is left makes it exclusive.
    fn settle(&mut self, now: Millis, next: &mut u64) -> Vec<Effect> {
        if self.sessions.values().any(|s| s.record.exclusive) || !self.fencing.is_empty() {
            return Vec::new();
        }
        self.recall = None;
        let mut effects = Vec::new();
        while !self.waiting.is_empty() {
            let newcomer = self.waiting.remove(0);
            effects.extend(self.admit(now, newcomer, next));
        }
        if self.sessions.len() == 1
            && let Some((id, session)) = self.sessions.iter_mut().next()
            && !session.record.exclusive
        {
            session.record.exclusive = true;
            effects.push(Effect::Put(*id, session.record.clone()));
            effects.extend(session.connection.map(|to| Effect::Grant { to }));
        }
        effects
    }

    /// For people: all sessions.
    pub fn list(&self) -> impl Iterator<Item = (SessionId, &Record)> {
        self.sessions.iter().map(|(id, s)| (*id, &s.record))
    }

    /// The connections of all sessions that have one.
    pub fn connections(&self) -> impl Iterator<Item = ConnectionId> {
        self.sessions.values().filter_map(|s| s.connection)
    }
}

#[cfg(test)]
mod tests;
