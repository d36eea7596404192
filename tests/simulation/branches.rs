//! Which branches of recovery the master's core takes, as its effects tell.

use crate::coverage::Coverage;
use crate::master::Store;
use cairn_master::core::cluster::node_states::State;
use cairn_master::core::cluster::{ChunkRecord, Cluster, NodeChange};
use cairn_proto::rpc::master_command::Cmd;
use cairn_proto::{ChunkId, ServerId};
use std::cell::RefCell;
use std::collections::BTreeMap;

/// The servers' states, as the core has told them.
#[derive(Default)]
pub struct States(RefCell<BTreeMap<u32, State>>);

impl States {
    pub fn changed(&self, change: &NodeChange) {
        self.0.borrow_mut().insert(change.server.id, change.to);
    }

    fn is(&self, server: ServerId, states: &[State]) -> bool {
        self.0.borrow().get(&server.0).is_some_and(|s| states.contains(s))
    }

    /// A chunk's record has changed because of an event.
    pub fn set_changed(&self, event: &str, before: &ChunkRecord, after: &ChunkRecord) -> &'static str {
        let joined = after.in_sync.iter().any(|s| !before.has(*s));
        let dropped: Vec<_> = before.in_sync.iter().copied().filter(|s| !after.has(*s)).collect();
        let primary = before.primary() != after.primary();
        let wanted = before.wanted as usize;
        match event {
            _ if joined && dropped.is_empty() && before.in_sync.len() >= wanted => {
                "a hot chunk got one more copy"
            }
            _ if joined && dropped.is_empty() => "a server was taken into a set",
            _ if joined && dropped.iter().all(|s| self.is(*s, &[State::Alive])) => {
                "a server took the place of one that had too much to do"
            }
            _ if joined => "a server took the place of one that is drained",
            "cluster event Tick"
                if before.in_sync.len() > wanted && !dropped.iter().any(|s| self.is(*s, &[State::Dead])) =>
            {
                "a copy more than wanted went"
            }
            "cluster event Problem" if primary => "a primary was dropped: it reported itself",
            "cluster event Problem" => "a member was dropped: it was reported",
            "cluster event ClientReport" => "a replica was dropped for a client",
            _ if !dropped.iter().all(|s| self.is(*s, &[State::Dead])) => {
                "a member was dropped: it had lost its replica"
            }
            _ if primary => "a primary was dropped: it was dead",
            _ => "a member was dropped: it was dead",
        }
    }

    /// A server is told something.
    pub fn sent(&self, store: &Store, cmd: &Cmd, coverage: &Coverage) {
        match cmd {
            Cmd::AddReplica(add) => {
                let of = ChunkId(add.chunk.as_ref().map_or(0, |c| c.chunk));
                let Some(record) = store.chunks.get(&of) else { return };
                let there = |s: &&ServerId| self.is(**s, &[State::Alive, State::Draining]);
                if record.wanted > 1 && record.in_sync.iter().filter(there).count() == 1 {
                    coverage.hit("a repair began from the last copy that was there");
                }
            }
            Cmd::Delete(list) => list.chunks.iter().for_each(|c| coverage.hit(deleted(store, ChunkId(*c)))),
            Cmd::Chunk(reply) if reply.detail.contains("would remain") => {
                coverage.hit("a set was not changed: a majority would not have been left");
            }
            Cmd::Chunk(reply) if reply.detail.contains("was asked, it is") => {
                coverage.hit("a set was not changed: it was asked for under another epoch");
            }
            Cmd::Probe(_) => coverage.hit("peers were asked for a second opinion"),
            _ => {}
        }
    }
}

fn deleted(store: &Store, chunk: ChunkId) -> &'static str {
    if store.chunks.contains_key(&chunk) {
        "a stale replica was deleted"
    } else if store.garbage.contains_key(&chunk) {
        "a replica of a deleted chunk was deleted"
    } else {
        "a replica of an unknown chunk was deleted"
    }
}

/// What the core as a whole is at.
pub fn standing(cluster: &Cluster, coverage: &Coverage) {
    if cluster.holds_back() {
        coverage.hit("the master held back, as most servers were gone");
    }
    if !cluster.out_of_reach().is_empty() {
        coverage.hit("a second opinion: peers reached a server that the master did not");
    }
}
