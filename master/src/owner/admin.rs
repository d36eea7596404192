//! What administrators ask.

use bytes::Bytes;
use cairn_proto::{ChunkId, InodeId, ServerId, rpc};
use prost::Message as _;
use tokio::sync::mpsc::Sender;
use tonic::Status;

use super::clients::TERM;
use super::state::State;
use super::turn::{Outgoing, Turn};
use crate::core::cluster::{Event, Limits, Migration, Order, Weights};
use crate::core::keys;
use crate::core::namespace;
use crate::core::records::{Inode, decode};
use crate::core::view::{View, ViewError};

/// Those who may watch at once.
const WATCHERS: usize = 256;
/// How long a maintenance may last, in milliseconds.
const MAINTENANCE_MS: std::ops::RangeInclusive<u64> = 1_000..=30 * 24 * 3_600_000;
/// The most chunks of a file that are shown.
const FILE_CHUNKS: usize = 16_384;

/// As the cluster core has them.
pub(super) fn weights(of: rpc::Weights) -> Weights {
    Weights { free: of.free, load: of.load, rtt: of.rtt, rack: of.rack }
}

/// As the cluster core has them.
pub(super) fn limits(of: rpc::Limits) -> Limits {
    let first = Limits::default();
    Limits {
        full_permille: of.full_permille,
        low_permille: of.low_permille,
        hot_rate: of.hot_rate.unwrap_or(first.hot_rate),
        over_rate: of.over_rate.unwrap_or(first.over_rate),
        sustained_ms: of.sustained_ms.unwrap_or(first.sustained_ms),
    }
}

fn migration(of: Migration) -> rpc::Migration {
    let Migration { copy_rate, draining, disk, disk_moved, load, load_moved, hot } = of;
    rpc::Migration { copy_rate, draining, disk, disk_moved, load, load_moved, hot }
}

impl State {
    /// How everything is. Nothing is scanned for it.
    pub(super) fn status(&self, turn: &Turn<'_>) -> rpc::StatusReply {
        let counts = self.cluster.counts();
        let mounts = self.sessions.list().map(|(id, record)| rpc::MountStatus {
            dir: record.mount_dir.clone(),
            pid: record.pid,
            host: record.host.clone(),
            session: id.0,
            exclusive: record.exclusive,
            http: record.http.clone(),
            operations: self.operations.get(&id).copied().unwrap_or(0),
            leases: self.leases.count_of(id) as u64,
        });
        rpc::StatusReply {
            masters: vec![rpc::MasterStatus {
                id: 1,
                addr: self.config.listen.to_string(),
                pid: std::process::id(),
                leader: true,
                http: self.config.monitor.address().to_owned(),
            }],
            chunkservers: self.cluster.status(),
            mounts: mounts.collect(),
            chunks_total: counts.total,
            chunks_under_replicated: counts.under_replicated,
            chunks_missing: counts.missing,
            cluster_id: Bytes::copy_from_slice(&self.identity.cluster_id),
            inodes: turn.scratch.counters.inodes,
            copies: self.config.copies,
            node_changes: self.changes,
            migration: Some(migration(self.cluster.migration())),
            repair: Some(self.cluster.repair_status()),
        }
    }

    /// Sets what counts how much where a new copy's server is chosen, if given. The answer leaves when it is durable.
    pub(super) fn set_weights(&mut self, turn: &mut Turn<'_>, set: Option<rpc::Weights>) -> rpc::Weights {
        if let Some(set) = set {
            turn.scratch.put(keys::WEIGHTS.to_vec(), set.encode_to_vec());
            self.cluster.set_weights(weights(set));
            tracing::info!(?set, "an administrator sets the weights");
        }
        let Weights { free, load, rtt, rack } = self.cluster.weights();
        rpc::Weights { free, load, rtt, rack }
    }

    /// Sets what counts as too much on one chunkserver, if given. The answer leaves when it is durable.
    pub(super) fn set_limits(&mut self, turn: &mut Turn<'_>, set: Option<rpc::Limits>) -> rpc::Limits {
        if let Some(set) = set {
            turn.scratch.put(keys::LIMITS.to_vec(), set.encode_to_vec());
            self.cluster.set_limits(limits(set));
            tracing::info!(?set, "an administrator sets the limits");
        }
        let Limits { full_permille, low_permille, hot_rate, over_rate, sustained_ms } = self.cluster.limits();
        let (hot_rate, over_rate) = (Some(hot_rate), Some(over_rate));
        rpc::Limits { full_permille, low_permille, hot_rate, over_rate, sustained_ms: Some(sustained_ms) }
    }

    /// Tells `to` of changes from now on. With too many others it is dropped, and so its stream ends.
    pub(super) fn watch(&mut self, to: Sender<rpc::NodeChange>) {
        self.watchers.retain(|w| !w.is_closed());
        if self.watchers.len() < WATCHERS {
            self.watchers.push(to);
        }
    }

    /// Steers a chunkserver, if asked to, and says how far it is. The answer leaves when the order is durable.
    pub(super) fn node(
        &mut self,
        turn: &mut Turn<'_>,
        ask: rpc::NodeRequest,
    ) -> Result<rpc::NodeReply, Status> {
        let server = ServerId(ask.id);
        let unknown = || Status::not_found(format!("there is no chunkserver {server}; see `cairn status`"));
        self.cluster.node(turn.now, server).ok_or_else(unknown)?;
        let action = rpc::NodeAction::try_from(ask.action);
        let order = match action.map_err(|_| Status::invalid_argument("unknown action"))? {
            rpc::NodeAction::Show => None,
            rpc::NodeAction::Drain => Some(Order::Drain),
            rpc::NodeAction::Maintenance if !MAINTENANCE_MS.contains(&ask.maintenance_ms) => {
                return Err(Status::invalid_argument("maintenance lasts from 1 second to 30 days"));
            }
            rpc::NodeAction::Maintenance => Some(Order::Maintain(ask.maintenance_ms)),
            rpc::NodeAction::Resume => Some(Order::Resume),
        };
        if let Some(order) = order {
            tracing::info!(%server, ?order, "an administrator orders");
            self.cluster_event(turn, Event::Ordered { server, order });
        }
        self.cluster.node(turn.now, server).ok_or_else(unknown)
    }

    /// Passes a scrub command on to the servers that can be reached.
    pub(super) fn scrub(&self, turn: &mut Turn<'_>, request: &rpc::ScrubRequest) -> rpc::ScrubReply {
        let all = request.servers.is_empty();
        let wanted = |s: &ServerId| all || request.servers.contains(&s.0);
        let told: Vec<_> = self.cluster.links().into_iter().filter(|(s, _)| wanted(s)).collect();
        for (_, link) in &told {
            let scrub = rpc::Scrub { command: request.command, rate: request.rate };
            let cmd = Some(rpc::master_command::Cmd::Scrub(scrub));
            turn.out.push(Outgoing::Link(*link, Ok(rpc::MasterCommand { id: 0, term: TERM, cmd })));
        }
        rpc::ScrubReply { servers: told.into_iter().map(|(s, _)| s.0).collect() }
    }

    /// Where a file's chunks are.
    pub(super) fn file(&self, turn: &Turn<'_>, inode: u64) -> Result<rpc::FileReply, Status> {
        let inode = InodeId(inode);
        let unreadable = |e: ViewError| Status::internal(e.to_string());
        let value = turn.scratch.get(&keys::inode(inode)).map_err(unreadable)?;
        let value = value.ok_or_else(|| Status::not_found(format!("no inode {inode}")))?;
        let record: Inode = decode("an inode", &value).map_err(unreadable)?;
        let prefix = keys::file_chunks(inode);
        let mut ids = Vec::new();
        turn.scratch
            .scan(&prefix, &prefix, &mut |_, value| {
                ids.extend(value.try_into().ok().map(|id| ChunkId(u64::from_be_bytes(id))));
                ids.len() < FILE_CHUNKS
            })
            .map_err(unreadable)?;
        let mut chunks = Vec::with_capacity(ids.len());
        for id in ids {
            let record = namespace::chunk_record(&turn.scratch, id).map_err(unreadable)?;
            chunks.extend(record.map(|r| r.info()));
        }
        Ok(rpc::FileReply {
            attr: Some(record.attr(inode)),
            chunks,
            servers: self.cluster.servers(),
            chunk_size: self.identity.chunk_size,
        })
    }
}
