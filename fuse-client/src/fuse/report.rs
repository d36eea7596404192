//! How a mount is, for those who ask over HTTP.

use std::sync::Weak;

use cairn_proto::monitor::{Figure, Report};

use super::adapter::Adapter;

/// It serves while its session stands.
pub(crate) fn report(adapter: &Weak<Adapter>) -> Report {
    let Some(adapter) = adapter.upgrade() else { return Report::unwell("it is stopping") };
    let engine = &adapter.engine;
    let standing = engine.standing();
    let unwell = if !standing.connected {
        Some("no master can be reached")
    } else if standing.silent {
        Some("the master does not answer")
    } else {
        None
    };
    let in_vain = "reads have waited for the chunkservers in vain, and none has succeeded since";
    let remarks = engine.reads_in_vain().then(|| in_vain.to_owned());
    let (traffic, (attributes, entries)) = (engine.traffic(), engine.cached());
    let memory = engine.memory_used();
    let mut figures = vec![
        Figure::gauge("cairn_session", "Whether its session with the master stands", unwell.is_none().into()),
        Figure::gauge(
            "cairn_exclusive",
            "Whether it is the only mount, and so caches",
            engine.exclusive().into(),
        ),
        Figure::gauge(
            "cairn_unanswered",
            "Operations that the master has not answered",
            standing.unanswered as u64,
        ),
        Figure::counter("cairn_read_bytes_total", "Bytes received from chunkservers", traffic.read),
        Figure::counter(
            "cairn_written_bytes_total",
            "Bytes that chunkservers have acknowledged",
            traffic.written,
        ),
        Figure::counter("cairn_retries_total", "Requests for file data sent again", traffic.retries),
        Figure::gauge("cairn_cached_attributes", "Inodes whose attributes are known", attributes as u64),
        Figure::gauge("cairn_cached_entries", "Names that are known", entries as u64),
        Figure::gauge("cairn_dirty_bytes", "Memory held by data not acknowledged", memory.0 as u64),
        Figure::gauge("cairn_read_ahead_bytes", "Memory held by data read in advance", memory.1 as u64),
    ];
    let kept = "Memory held by data that was read while other mounts are there";
    figures.push(Figure::gauge("cairn_kept_bytes", kept, engine.memory_kept() as u64));
    figures.extend(adapter.requests.figures());
    Report { unwell: unwell.map(Into::into), remarks: remarks.into_iter().collect(), figures }
}
