//! The states of a chunkserver: every transition, as one table.
//!
//! The table in `docs/design.md`, section 3, "Node states", in code; a test compares the two.

use cairn_proto::rpc;

/// Whether a server can be counted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Known or connected, but it has not been given a lease yet.
    Joining,
    /// It has a lease, and its heartbeats come.
    Alive,
    /// Heartbeats are late, or its connection has ended; its lease may not have run out.
    Suspected,
    /// Its lease has run out, or its process is gone: it serves nothing.
    Dead,
    /// As alive, but its chunks are being moved elsewhere.
    Draining,
    /// An administrator works on it, for a bounded time: it may be there or not, and is not replaced.
    Maintenance,
}

/// What happens to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Happening {
    /// It registered on a new connection.
    Registered,
    /// Its heartbeat came, and nothing else is ordered.
    Heartbeat,
    /// Its heartbeat came, and it is to be drained.
    HeartbeatDraining,
    /// Its heartbeat came, and it is in maintenance.
    HeartbeatMaintenance,
    /// Its heartbeat is later than it ever should be.
    Late,
    /// Its connection ended.
    ConnectionEnded,
    /// Its lease has run out.
    LeaseOver,
    /// Its lease has run out, but most of its peers reach it: it is only the master that does not.
    UnreachableHere,
    /// Nothing listens at its address any more.
    ProcessGone,
    /// An administrator orders it to be drained.
    DrainOrdered,
    /// An administrator takes it into maintenance.
    MaintenanceOrdered,
    /// An administrator puts it back into service.
    ResumeOrdered,
    /// The time for its maintenance is over.
    MaintenanceOver,
}

/// What is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// Wait for its first heartbeat; mounts and chunkservers hear of it.
    Expect,
    /// Give it chunks and work.
    Use,
    /// Give it nothing new.
    Doubt,
    /// Drop it from the sets of its chunks, and make new copies of them.
    Replace,
    /// Give it nothing new, and move its chunks to others.
    Empty,
    /// Give it nothing new, leave it in the sets where nobody waits for it, and make no new copies of its chunks.
    Spare,
}

/// The columns of [`TABLE`].
pub const STATES: [State; 6] =
    [State::Joining, State::Alive, State::Suspected, State::Dead, State::Draining, State::Maintenance];

/// What a state becomes, and what is done; `None`: it stays, and nothing is done.
pub type Cell = Option<(State, Action)>;

const STAYS: Cell = None;
const JOINS: Cell = Some((State::Joining, Action::Expect));
const LIVES: Cell = Some((State::Alive, Action::Use));
const WAITS: Cell = Some((State::Suspected, Action::Doubt));
const DIES: Cell = Some((State::Dead, Action::Replace));
const DRAINS: Cell = Some((State::Draining, Action::Empty));
const RESTS: Cell = Some((State::Maintenance, Action::Spare));

/// For each happening what becomes of a server in each of [`STATES`].
///
/// An order is kept while a server is away: the heartbeat with which it comes back finds it.
pub const TABLE: [(Happening, [Cell; 6]); 13] = [
    // joining, alive, suspected, dead, draining, maintenance
    (Happening::Registered, [JOINS, JOINS, JOINS, JOINS, JOINS, STAYS]),
    (Happening::Heartbeat, [LIVES, STAYS, LIVES, LIVES, LIVES, LIVES]),
    (Happening::HeartbeatDraining, [DRAINS, DRAINS, DRAINS, DRAINS, STAYS, DRAINS]),
    (Happening::HeartbeatMaintenance, [RESTS, RESTS, RESTS, RESTS, RESTS, STAYS]),
    (Happening::Late, [STAYS, WAITS, STAYS, STAYS, WAITS, STAYS]),
    (Happening::ConnectionEnded, [WAITS, WAITS, STAYS, STAYS, WAITS, STAYS]),
    (Happening::LeaseOver, [DIES, DIES, DIES, STAYS, DIES, STAYS]),
    (Happening::UnreachableHere, [STAYS, WAITS, STAYS, STAYS, WAITS, STAYS]),
    (Happening::ProcessGone, [DIES, DIES, DIES, STAYS, DIES, STAYS]),
    (Happening::DrainOrdered, [STAYS, DRAINS, STAYS, STAYS, STAYS, DRAINS]),
    (Happening::MaintenanceOrdered, [RESTS, RESTS, RESTS, RESTS, RESTS, STAYS]),
    (Happening::ResumeOrdered, [STAYS, STAYS, STAYS, STAYS, LIVES, LIVES]),
    (Happening::MaintenanceOver, [STAYS, STAYS, STAYS, STAYS, STAYS, LIVES]),
];

/// What becomes of a server, and what is done about it.
pub fn transition(state: State, happening: Happening) -> (State, Action) {
    let row = TABLE.iter().find(|(h, _)| *h == happening);
    let column = STATES.iter().position(|s| *s == state);
    let cell = row.zip(column).and_then(|((_, cells), column)| cells[column]);
    cell.unwrap_or((state, Action::Nothing))
}

impl State {
    /// As messages carry it.
    pub fn message(self) -> rpc::NodeState {
        match self {
            Self::Joining => rpc::NodeState::Joining,
            Self::Alive => rpc::NodeState::Alive,
            Self::Suspected => rpc::NodeState::Suspected,
            Self::Dead => rpc::NodeState::Dead,
            Self::Draining => rpc::NodeState::Draining,
            Self::Maintenance => rpc::NodeState::Maintenance,
        }
    }

    /// In one word.
    pub fn name(self) -> &'static str {
        self.message().word()
    }
}

impl Happening {
    /// In a few words.
    pub fn text(self) -> &'static str {
        match self {
            Self::Registered => "it registered",
            Self::Heartbeat => "its heartbeat came",
            Self::HeartbeatDraining => "its heartbeat came; it is to be drained",
            Self::HeartbeatMaintenance => "its heartbeat came; it is in maintenance",
            Self::Late => "its heartbeat is late",
            Self::ConnectionEnded => "its connection ended",
            Self::LeaseOver => "its lease has run out",
            Self::UnreachableHere => "its lease has run out, but most of its peers reach it",
            Self::ProcessGone => "its process is gone",
            Self::DrainOrdered => "drain was ordered",
            Self::MaintenanceOrdered => "maintenance was ordered",
            Self::ResumeOrdered => "resume was ordered",
            Self::MaintenanceOver => "the time for its maintenance is over",
        }
    }
}

impl Action {
    /// In one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "–",
            Self::Expect => "expect",
            Self::Use => "use",
            Self::Doubt => "doubt",
            Self::Replace => "replace",
            Self::Empty => "empty",
            Self::Spare => "spare",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lease_that_ran_out_or_a_process_that_is_gone_makes_a_server_dead() {
        for (happening, cells) in TABLE {
            for (state, cell) in STATES.iter().zip(cells) {
                let dies = cell.is_some_and(|(to, _)| to == State::Dead);
                let evidence = matches!(happening, Happening::LeaseOver | Happening::ProcessGone);
                assert!(!dies || evidence, "{state:?} {happening:?}");
                assert!(!dies || *state != State::Maintenance, "{happening:?}");
            }
        }
    }

    #[test]
    fn every_change_has_an_action_and_says_so_only_where_something_changes() {
        for (happening, cells) in TABLE {
            for (state, cell) in STATES.iter().zip(cells) {
                let Some((to, action)) = cell else { continue };
                assert_ne!(action, Action::Nothing, "{state:?} {happening:?}");
                assert!(to != *state || to == State::Joining, "{state:?} {happening:?}");
            }
        }
    }

    #[test]
    fn a_server_that_is_away_comes_back_into_the_state_that_was_ordered() {
        let (away, _) = transition(State::Draining, Happening::Late);
        assert_eq!(transition(away, Happening::HeartbeatDraining), (State::Draining, Action::Empty));
        let (away, _) = transition(State::Maintenance, Happening::LeaseOver);
        assert_eq!(away, State::Maintenance);
        assert_eq!(transition(State::Dead, Happening::Heartbeat), (State::Alive, Action::Use));
    }
}
