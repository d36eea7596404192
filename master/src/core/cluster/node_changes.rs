//! What is done when a chunkserver's state changes, and what administrators may order.

use cairn_proto::{ServerId, rpc};
use tracing::info;

use super::node_states::{Action, Happening, State, transition};
use super::work::Work;
use super::{Cluster, Duty, Effect};

/// A chunkserver's state has changed.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeChange {
    /// The chunkserver, as it is now.
    pub server: rpc::ServerInfo,
    /// What it was.
    pub from: State,
    /// What it is.
    pub to: State,
    /// What happened.
    pub why: &'static str,
}

/// What an administrator orders for a chunkserver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Move its chunks to others.
    Drain,
    /// It may be away for so many milliseconds without being replaced.
    Maintain(u64),
    /// Back into service.
    Resume,
}

impl Cluster {
    pub(super) fn happened(&mut self, work: &mut Work<'_>, id: ServerId, happening: Happening) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        match happening {
            Happening::Registered
            | Happening::Late
            | Happening::ConnectionEnded
            | Happening::LeaseOver
            | Happening::UnreachableHere
            | Happening::ProcessGone => server.beats = false,
            _ => {}
        }
        let (to, action) = transition(server.state, happening);
        let from = std::mem::replace(&mut server.state, to);
        if from != to {
            info!(server = %id, addr = server.record.addr, from = from.name(), to = to.name(),
                why = happening.text(), "chunkserver");
            if to == State::Suspected {
                server.arrivals.suspected();
                server.suspicions.push(work.now);
            }
            work.push(Effect::NodeChanged(NodeChange {
                server: server.info(),
                from,
                to,
                why: happening.text(),
            }));
        }
        match action {
            Action::Nothing | Action::Doubt => return,
            Action::Use => self.repairs.unpark(),
            Action::Replace => {
                server.died = Some(work.now);
                self.cut_off(id);
            }
            Action::Expect | Action::Empty | Action::Spare => {}
        }
        self.audit.request();
        self.servers_changed = true;
    }

    /// An administrator's order. For a server that is not known nothing happens.
    pub(super) fn ordered(&mut self, work: &mut Work<'_>, id: ServerId, order: Order) {
        let Some(server) = self.servers.get_mut(&id) else { return };
        let (duty, happening) = match order {
            Order::Drain => (Duty::Draining, Happening::DrainOrdered),
            Order::Maintain(ms) => {
                (Duty::Maintenance { until: work.now.plus(ms) }, Happening::MaintenanceOrdered)
            }
            Order::Resume => (Duty::InService, Happening::ResumeOrdered),
        };
        if server.record.duty == duty {
            return;
        }
        server.record.duty = duty;
        work.put_server(server.record.clone());
        self.happened(work, id, happening);
        // What its chunks want may have changed even where its state has not.
        self.audit.request();
        self.repairs.unpark();
        self.check_leases(work);
    }

    /// Ends maintenance whose time is over.
    pub(super) fn check_maintenance(&mut self, work: &mut Work<'_>) {
        let now = work.now;
        let over = |duty| matches!(duty, Duty::Maintenance { until } if now >= until);
        for id in self.servers_that(|s| over(s.record.duty)) {
            let Some(server) = self.servers.get_mut(&id) else { continue };
            server.record.duty = Duty::InService;
            work.put_server(server.record.clone());
            self.happened(work, id, Happening::MaintenanceOver);
            self.repairs.unpark();
        }
    }

    /// How far what was ordered for a server is; `None`: there is no such server.
    pub fn node(&self, now: crate::core::Millis, id: ServerId) -> Option<rpc::NodeReply> {
        let server = self.servers.get(&id)?;
        let (chunks_left, chunks_blocked) = self.repairs.leaving(id);
        let maintenance_left_ms = match server.record.duty {
            Duty::Maintenance { until } => until.since(now),
            Duty::InService | Duty::Draining => 0,
        };
        Some(rpc::NodeReply {
            info: Some(server.info()),
            chunks_left,
            chunks_blocked,
            counting: server.is_leaving() && self.audit.is_wanted(),
            maintenance_left_ms,
            draining: server.is_leaving(),
        })
    }

    pub(super) fn is_leaving(&self, id: ServerId) -> bool {
        self.servers.get(&id).is_some_and(super::server::Server::is_leaving)
    }

    pub(super) fn is_dead(&self, id: ServerId) -> bool {
        self.servers.get(&id).is_some_and(|s| s.state == State::Dead)
    }
}
