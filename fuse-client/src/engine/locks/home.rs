//! Who is in charge of the locks: this mount while it is alone, else the master.

use std::sync::Weak;
use std::time::Duration;

use cairn_proto::rpc::reply::Result as ReplyResult;
use cairn_proto::rpc::{self, Reply, op::Op};

use super::{ALONE, wire};
use crate::engine::{Engine, FsError};

/// How often the master is told what is held here, for `cairn locks`.
const TELL_EVERY: Duration = Duration::from_secs(1);

fn hold(held: &[cairn_locks::Lock]) -> Op {
    Op::HoldLocks(rpc::HoldLocks { locks: held.iter().map(wire::to_wire).collect() })
}

impl Engine {
    /// Others arrive: the master is in charge, and knows what is held here. Must be done before they are let in.
    pub(in crate::engine) async fn hand_over_locks(&self) {
        let held = self.locks.state().begin_moving();
        // When it is late it is sent again, before all that is asked from now on.
        match self.session.call(hold(&held)).await {
            Ok(_) | Err(FsError::TimedOut(_)) => self.locks.state().moved_to_master(),
            Err(e) => {
                tracing::error!(error = %e, locks = held.len(), "the master has not taken over all locks: they are lost");
                let mut state = self.locks.state();
                state.lose_all();
                state.moved_to_master();
            }
        }
        self.locks.changed();
    }

    /// The others have left: this mount is in charge.
    pub(in crate::engine) async fn take_over_locks(&self) {
        self.locks.state().begin_moving();
        match self.session.call(Op::TakeLocks(rpc::TakeLocks {})).await {
            Ok(Reply { result: Some(ReplyResult::HeldLocks(held)), .. }) => {
                let held: Vec<_> =
                    held.locks.iter().filter_map(|lock| wire::from_wire(ALONE, lock)).collect();
                self.locks.state().moved_here(&held);
            }
            other => {
                tracing::warn!(?other, "the master did not tell what is locked, and stays in charge of it");
                self.locks.state().moved_to_master();
            }
        }
        self.locks.changed();
    }

    /// The session had ended: others may hold by now what was held here.
    pub(in crate::engine) fn lose_locks(&self) {
        let owners = self.locks.state().lose_all();
        if owners > 0 {
            tracing::error!(
                owners,
                "file locks were lost with the session: their owners' next request for a lock fails"
            );
        }
    }

    /// The connection to the master is there again; it may not know any more who waits.
    pub(in crate::engine) fn ask_for_locks_again(&self) {
        let mut state = self.locks.state();
        if state.home() == super::Home::Master {
            state.ask_again();
        }
        drop(state);
        self.locks.changed();
    }

    fn tell_locks(&self) {
        let mut state = self.locks.state();
        let Some(held) = state.untold() else { return };
        // Nobody waits for the answer; in order with all else, as it is sent under the state's lock.
        match self.session.try_start(hold(&held)) {
            Ok(Ok(answer)) => drop(answer),
            Ok(Err(_full)) => state.is_untold(),
            Err(e) => tracing::debug!(error = %e, "the master is not told of locks"),
        }
    }
}

/// Keeps what the master shows of a lone mount's locks up to date.
pub(in crate::engine) async fn tell_periodically(engine: Weak<Engine>) {
    let mut tick = tokio::time::interval(TELL_EVERY);
    loop {
        tick.tick().await;
        let Some(engine) = engine.upgrade() else { return };
        engine.tell_locks();
    }
}
