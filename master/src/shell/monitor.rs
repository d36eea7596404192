//! How a master is, for those who ask over HTTP.

use cairn_proto::monitor::{Figure, Report};
use cairn_proto::rpc::{ChunkserverStatus, NodeState, StatusReply};
use tokio::sync::oneshot;

use crate::owner::{Message, OwnerHandle};

const STATES: [NodeState; 6] = [
    NodeState::Joining,
    NodeState::Alive,
    NodeState::Suspected,
    NodeState::Dead,
    NodeState::Draining,
    NodeState::Maintenance,
];

/// It serves if its owner answers.
pub(crate) async fn report(owner: OwnerHandle) -> Report {
    let (to, answer) = oneshot::channel();
    owner.tell(Message::Status(to));
    match answer.await {
        Ok(status) => Report { unwell: None, remarks: remarks(&status), figures: figures(&status) },
        Err(_) => Report::unwell("it is stopping"),
    }
}

fn state(server: &ChunkserverStatus) -> NodeState {
    server.info.as_ref().map_or(NodeState::Unspecified, |i| i.state())
}

fn remarks(status: &StatusReply) -> Vec<String> {
    let servers = &status.chunkservers;
    let is = |s: &&ChunkserverStatus| {
        matches!(state(s), NodeState::Joining | NodeState::Suspected | NodeState::Dead)
    };
    let away = servers.iter().filter(is).count();
    let failed = servers.iter().flat_map(|s| &s.disks).filter(|d| d.failed).count();
    let (short, missing) = (status.chunks_under_replicated, status.chunks_missing);
    let mut remarks = Vec::new();
    if away > 0 {
        remarks.push(format!("{away} of {} chunkservers are not alive", servers.len()));
    }
    if failed > 0 {
        remarks.push(format!("{failed} disks have failed"));
    }
    if short > 0 {
        remarks.push(format!("{short} chunks have fewer than {} copies", status.copies));
    }
    if missing > 0 {
        remarks.push(format!("{missing} chunks have no copy on a chunkserver that is alive"));
    }
    remarks
}

fn figures(status: &StatusReply) -> Vec<Figure> {
    let states = STATES.map(|wanted| {
        let count = status.chunkservers.iter().filter(|s| state(s) == wanted).count();
        Figure::gauge("cairn_chunkservers", "Chunkservers in each state", count as u64)
            .of("state", wanted.word())
    });
    let repair = status.repair.unwrap_or_default();
    let gauges = [
        ("cairn_mounts", "Sessions", status.mounts.len() as u64),
        ("cairn_inodes", "Files, directories and other inodes", status.inodes),
        ("cairn_chunks", "Chunks", status.chunks_total),
        ("cairn_chunks_under_replicated", "Chunks with too few copies", status.chunks_under_replicated),
        ("cairn_chunks_missing", "Chunks without a live copy", status.chunks_missing),
        ("cairn_repairs_waiting", "Chunks for which a copy is still to be begun", repair.waiting),
        ("cairn_repairs_blocked", "Of those, which no server could take", repair.blocked),
        ("cairn_repairs_running", "Copies being made", repair.running),
        ("cairn_repair_rate_bytes", "Bytes a second that copies may take now", repair.rate),
    ];
    let counters = [
        ("cairn_node_changes_total", "Changes of chunkservers' states", status.node_changes),
        ("cairn_repairs_done_total", "Copies made", repair.done),
        ("cairn_repairs_failed_total", "Copies that came to nothing", repair.failed),
        ("cairn_repair_allowed_bytes_total", "Bytes that might have been copied", repair.allowed_bytes),
        ("cairn_repair_copied_bytes_total", "Bytes of the copies made", repair.copied_bytes),
    ];
    let gauges = gauges.map(|(name, help, value)| Figure::gauge(name, help, value));
    let counters = counters.map(|(name, help, value)| Figure::counter(name, help, value));
    let servers = status.chunkservers.iter().flat_map(server);
    states.into_iter().chain(gauges).chain(counters).chain(servers).collect()
}

fn server(server: &ChunkserverStatus) -> [Figure; 7] {
    let id = server.info.as_ref().map_or(0, |i| i.id);
    let total: u64 = server.disks.iter().map(|d| d.total_bytes).sum();
    let figures = [
        ("cairn_node_health_permille", "1000: nothing is the matter", server.health_permille.into()),
        ("cairn_node_round_trip_microseconds", "Of its last heartbeat", server.rtt_us.into()),
        ("cairn_node_load_permille", "Thousandths of a processor that it uses", server.load_permille.into()),
        ("cairn_node_use_bytes", "Bytes a second that are read and written there of late", server.use_rate),
        ("cairn_node_replicas", "Replicas that it holds", server.chunks),
        ("cairn_node_used_bytes", "Space used on its disks", server.used_bytes),
        ("cairn_node_total_bytes", "Space on its disks", total),
    ];
    figures.map(|(name, help, value)| Figure::gauge(name, help, value).of("node", id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::monitor::Value;
    use cairn_proto::rpc::{RepairStatus, ServerInfo};

    #[test]
    fn what_is_not_well_is_told_and_counted() {
        let server = |state: NodeState| ChunkserverStatus {
            info: Some(ServerInfo { id: 7, state: state.into(), ..Default::default() }),
            ..Default::default()
        };
        let status = StatusReply {
            chunkservers: vec![server(NodeState::Alive), server(NodeState::Dead)],
            chunks_under_replicated: 5,
            copies: 3,
            repair: Some(RepairStatus { running: 4, done: 9, ..Default::default() }),
            ..Default::default()
        };
        assert_eq!(
            remarks(&status),
            ["1 of 2 chunkservers are not alive", "5 chunks have fewer than 3 copies"]
        );
        let figures = figures(&status);
        let value = |name: &str, label: Option<&str>| {
            let is =
                |f: &&Figure| f.name == name && label.is_none_or(|l| f.labels.iter().any(|(_, v)| v == l));
            figures.iter().find(is).map(|f| f.value.clone())
        };
        assert_eq!(value("cairn_chunkservers", Some("dead")), Some(Value::Gauge(1.0)));
        assert_eq!(value("cairn_chunkservers", Some("draining")), Some(Value::Gauge(0.0)));
        assert_eq!(value("cairn_repairs_running", None), Some(Value::Gauge(4.0)));
        assert_eq!(value("cairn_repairs_done_total", None), Some(Value::Counter(9)));
        assert!(remarks(&StatusReply::default()).is_empty());
    }
}
