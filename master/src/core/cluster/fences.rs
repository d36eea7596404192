//! Sessions that are over: chunkservers are told, and until each that may serve has said that it refuses what such a session
//! wrote, the session is not done with.
//!
//! A chunkserver hears which sessions count whenever it registers, before it gets a lease. So one whose lease has run out need not
//! be waited for.

use std::collections::{BTreeMap, BTreeSet};

use cairn_proto::{ServerId, SessionId, rpc};
use rpc::master_command::Cmd;

use super::work::Work;
use super::{Cluster, Effect, LinkId};

/// Whose writes count: those of sessions from `below` on, which have not ended yet, and of those in `alive`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sessions {
    /// The id of the next new session.
    pub below: u64,
    /// Sessions before it that are not over.
    pub alive: BTreeSet<SessionId>,
}

#[derive(Debug, Default)]
pub(super) struct Fences {
    sessions: Sessions,
    /// For each session that is over, who may still take its writes.
    open: BTreeMap<SessionId, BTreeSet<ServerId>>,
    /// The last command to each server, and the sessions that it shuts out.
    told: BTreeMap<ServerId, (u64, Vec<SessionId>)>,
}

impl Fences {
    /// A server has done a command. True: it was one of these.
    pub(super) fn done(&mut self, server: ServerId, command: u64) -> bool {
        let Some((_, shut_out)) = self.told.get(&server).filter(|(told, _)| *told == command) else {
            return false;
        };
        for session in shut_out {
            if let Some(servers) = self.open.get_mut(session) {
                servers.remove(&server);
            }
        }
        self.told.remove(&server);
        true
    }
}

impl Cluster {
    /// Before the first event: which sessions count, and which are over without having been fenced by a former master.
    pub fn set_sessions(&mut self, sessions: Sessions, over: impl IntoIterator<Item = SessionId>) {
        let servers: BTreeSet<_> = self.servers.keys().copied().collect();
        self.fences.open = over.into_iter().map(|session| (session, servers.clone())).collect();
        self.fences.sessions = sessions;
    }

    pub(super) fn fence_session(&mut self, work: &mut Work<'_>, session: SessionId, sessions: Sessions) {
        self.fences.sessions = sessions;
        let now = work.now;
        let may_serve = self.servers_that(|s| !s.is_gone(now));
        let reachable: Vec<_> =
            may_serve.iter().filter_map(|id| Some((*id, self.servers.get(id)?.link?))).collect();
        self.fences.open.insert(session, may_serve.into_iter().collect());
        for (id, link) in reachable {
            self.tell_sessions(work, id, link);
        }
        self.end_fences(work);
    }

    /// Nothing is said as long as nothing is known.
    pub(super) fn tell_sessions(&mut self, work: &mut Work<'_>, id: ServerId, link: LinkId) {
        if self.fences.sessions == Sessions::default() {
            return;
        }
        let command = self.next_command();
        let shut_out =
            self.fences.open.iter().filter(|(_, servers)| servers.contains(&id)).map(|(s, _)| *s).collect();
        self.fences.told.insert(id, (command, shut_out));
        let Sessions { below, ref alive } = self.fences.sessions;
        let alive = alive.iter().map(|session| session.0).collect();
        work.send_numbered(link, command, Cmd::Sessions(rpc::Sessions { below, alive }));
    }

    /// Tells of the sessions whose writes nobody takes any more.
    pub(super) fn end_fences(&mut self, work: &mut Work<'_>) {
        let (servers, now) = (&self.servers, work.now);
        let done = |shut_out_by: &mut BTreeSet<ServerId>| {
            shut_out_by.retain(|id| servers.get(id).is_some_and(|s| !s.is_gone(now)));
            shut_out_by.is_empty()
        };
        let over: Vec<_> = self.fences.open.iter_mut().filter_map(|(s, by)| done(by).then_some(*s)).collect();
        for session in over {
            self.fences.open.remove(&session);
            work.push(Effect::Fenced(session));
        }
    }
}
