//! How a chunkserver is, for those who ask over HTTP.

use super::scrub;
use super::state::{DiskUnit, Node};
use cairn_proto::monitor::{Figure, Report};
use std::sync::Weak;
use std::sync::atomic::Ordering;

/// It serves while it has its lease and a disk that works.
pub fn report(node: &Weak<Node>) -> Report {
    let Some(node) = node.upgrade() else { return Report::unwell("it is stopping") };
    let working = node.disks.iter().filter(|u| !u.disk.has_failed()).count();
    let unwell = if working == 0 {
        Some("none of its disks works")
    } else if !node.may_serve() {
        Some("it has no lease: no master has answered its heartbeats")
    } else {
        None
    };
    let failed = node.disks.iter().filter(|u| u.disk.has_failed()).map(|u| &u.path).chain(&node.lost);
    Report {
        unwell: unwell.map(Into::into),
        remarks: failed.map(|p| format!("the disk {} has failed", p.display())).collect(),
        figures: figures(&node),
    }
}

fn figures(node: &Node) -> Vec<Figure> {
    let traffic = &node.traffic;
    let counted = |n: &std::sync::atomic::AtomicU64| n.load(Ordering::Relaxed);
    let took = |kind: &str, value| Figure {
        name: "cairn_request_seconds",
        help: "How long clients' requests took until they were answered",
        labels: vec![("kind", kind.to_owned())],
        value,
    };
    let mut figures = vec![
        Figure::gauge("cairn_lease", "Whether it has the master's lease", node.may_serve().into()),
        Figure::gauge("cairn_replicas", "Replicas held", node.digest().0),
        Figure::counter("cairn_written_bytes_total", "Bytes that clients wrote", counted(&traffic.bytes_in)),
        Figure::counter("cairn_read_bytes_total", "Bytes that clients read", counted(&traffic.bytes_out)),
        Figure::counter("cairn_garbage_total", "Connections that sent nonsense", counted(&traffic.garbage)),
        took("read", traffic.latency.reads.histogram()),
        took("write", traffic.latency.writes.histogram()),
    ];
    let lost = node.lost.iter().map(|p| disk_failed(p.display(), true));
    figures.extend(node.disks.iter().flat_map(|u| disk(u)).chain(lost));
    figures
}

fn disk_failed(path: impl std::fmt::Display, failed: bool) -> Figure {
    Figure::gauge("cairn_disk_failed", "Whether the disk has failed", failed.into()).of("disk", path)
}

fn disk(unit: &DiskUnit) -> Vec<Figure> {
    let (total, free) = unit.disk.space();
    let scrub = scrub::progress(unit);
    let path = unit.path.display();
    let gauges = [
        ("cairn_disk_total_bytes", "Space that can be used", total),
        ("cairn_disk_free_bytes", "Space left", free),
        ("cairn_scrub_running", "Whether the disk is being verified", scrub.running.into()),
        ("cairn_scrub_done", "Replicas verified in this pass, or the last", scrub.chunks_done),
        ("cairn_scrub_of", "Replicas to be verified in that pass", scrub.chunks_total),
    ];
    let counters = [
        ("cairn_scrub_passes_total", "Times that the whole disk was verified", scrub.passes),
        ("cairn_scrub_bytes_total", "Bytes read and verified", scrub.bytes),
        ("cairn_bad_blocks_total", "Blocks found that are not what their checksums say", scrub.bad_blocks),
        ("cairn_healed_blocks_total", "Of those, good again", scrub.healed_blocks),
        ("cairn_lost_files_total", "Chunk files that were missing", scrub.lost_files),
    ];
    let gauges = gauges.map(|(name, help, value)| Figure::gauge(name, help, value).of("disk", &path));
    let counters = counters.map(|(name, help, value)| Figure::counter(name, help, value).of("disk", &path));
    let failed = disk_failed(&path, unit.disk.has_failed());
    gauges.into_iter().chain(counters).chain([failed]).collect()
}
