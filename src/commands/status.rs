//! `cairn status`: masters, chunkservers, mounts and copies.

use std::fmt::Write as _;

use cairn_proto::rpc::{ChunkserverStatus, Disk, Migration, NodeState, RepairStatus, StatusReply};
use serde_json::{Value, json};

use crate::commands::which::Which;
use crate::error::Failure;
use crate::{admin, process, values};

/// Flags of `cairn status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As JSON
    #[arg(long, env = "CAIRN_JSON", hide_env_values = true)]
    pub json: bool,
    /// Of which cluster
    #[command(flatten)]
    pub which: Which,
}

/// Shows the cluster. Errors: no cluster there, no master answers.
pub fn run(args: &Args) -> Result<(), Failure> {
    let masters = args.which.masters()?;
    let reply = process::small_runtime()?.block_on(admin::status(&masters))?;
    match args.json {
        true => println!("{:#}", as_json(&reply)),
        false => print!("{}", as_text(&reply)),
    }
    Ok(())
}

/// A server's state in one word.
pub fn state(server: &ChunkserverStatus) -> &'static str {
    server.info.as_ref().map_or(NodeState::Unspecified, |i| i.state()).word()
}

fn address(server: &ChunkserverStatus) -> (u32, &str) {
    server.info.as_ref().map_or((0, ""), |i| (i.id, i.addr.as_str()))
}

fn as_json(reply: &StatusReply) -> Value {
    let masters = reply.masters.iter().map(
        |m| json!({"id": m.id, "addr": m.addr, "pid": m.pid, "leader": m.leader, "http": told(&m.http)}),
    );
    let chunkservers = reply.chunkservers.iter().map(|s| {
        let (id, addr) = address(s);
        let disks = s.disks.iter().map(|d| {
            json!({"path": d.path, "total_bytes": d.total_bytes, "free_bytes": d.free_bytes, "failed": d.failed,
                   "scrub": scrub(d)})
        });
        json!({"id": id, "addr": addr, "pid": s.pid, "state": state(s), "disks": disks.collect::<Vec<_>>(),
               "used_bytes": s.used_bytes, "chunks": s.chunks,
               "bytes_in": s.bytes_in, "bytes_out": s.bytes_out, "use_rate": s.use_rate,
               "health": s.health_permille, "rtt_us": s.rtt_us, "load_permille": s.load_permille, "rack": s.rack,
               "timeout_ms": s.timeout_ms, "full": s.full, "http": told(&s.http)})
    });
    let mounts = reply.mounts.iter().map(|m| {
        json!({"dir": m.dir, "pid": m.pid, "host": m.host, "exclusive": m.exclusive, "session": m.session,
                        "operations": m.operations, "leases": m.leases, "http": told(&m.http)})
    });
    json!({
        "masters": masters.collect::<Vec<_>>(),
        "chunkservers": chunkservers.collect::<Vec<_>>(),
        "mounts": mounts.collect::<Vec<_>>(),
        "node_changes": reply.node_changes,
        "chunks": {"total": reply.chunks_total, "under_replicated": reply.chunks_under_replicated,
                   "missing": reply.chunks_missing},
        "balance": balance(&reply.migration.unwrap_or_default()),
        "repair": repair(&reply.repair.unwrap_or_default()),
    })
}

fn balance(m: &Migration) -> Value {
    json!({"copy_rate": m.copy_rate, "moving": {"draining": m.draining, "disk": m.disk, "load": m.load},
           "moved": {"disk": m.disk_moved, "load": m.load_moved}, "hot": m.hot})
}

/// Where it answers `/health` and `/metrics`; `null`: nowhere.
fn told(address: &str) -> Option<&str> {
    (!address.is_empty()).then_some(address)
}

fn repair(r: &RepairStatus) -> Value {
    json!({"waiting": r.waiting, "blocked": r.blocked, "running": r.running, "done": r.done, "failed": r.failed,
           "rate": r.rate, "rate_permille": r.rate_permille,
           "allowed_bytes": r.allowed_bytes, "copied_bytes": r.copied_bytes})
}

fn scrub(disk: &Disk) -> Value {
    let p = disk.scrub.unwrap_or_default();
    json!({"running": p.running, "chunks_done": p.chunks_done, "chunks_total": p.chunks_total, "passes": p.passes,
           "bytes": p.bytes, "bad_blocks": p.bad_blocks, "healed_blocks": p.healed_blocks,
           "lost_files": p.lost_files})
}

fn as_text(reply: &StatusReply) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{:<12} {:>4}  {:<22} {:>8}  state", "", "id", "address", "pid");
    for m in &reply.masters {
        let role = if m.leader { "leader" } else { "follower" };
        let _ = writeln!(out, "{:<12} {:>4}  {:<22} {:>8}  {role}", "master", m.id, m.addr, m.pid);
    }
    for s in &reply.chunkservers {
        let (id, addr) = address(s);
        let free = s.disks.iter().map(|d| d.free_bytes).sum();
        let _ = writeln!(
            out,
            "{:<12} {id:>4}  {addr:<22} {:>8}  {}, {} chunks, {} free on {} disk(s){}",
            "chunkserver",
            s.pid,
            state(s),
            s.chunks,
            values::human(free),
            s.disks.len(),
            damage(s)
        );
    }
    for m in &reply.mounts {
        let _ = writeln!(out, "{:<12} {:>4}  {:<22} {:>8}  {}", "mount", "", m.host, m.pid, m.dir);
    }
    let _ = writeln!(out, "{}", copies(reply));
    if let Some(moves) = moves(&reply.migration.unwrap_or_default()) {
        let _ = writeln!(out, "{moves}");
    }
    out
}

/// What is not well with a server's disks.
fn damage(server: &ChunkserverStatus) -> String {
    let failed = server.disks.iter().filter(|d| d.failed).count();
    let bad = |d: &Disk| d.scrub.map_or(0, |p| p.bad_blocks.saturating_sub(p.healed_blocks));
    let bad: u64 = server.disks.iter().map(bad).sum();
    let failed = if failed > 0 { format!(", {failed} failed") } else { String::new() };
    let bad = if bad > 0 { format!(", {bad} bad blocks") } else { String::new() };
    let full = if server.full { ", full: chunks move off it" } else { "" };
    failed + &bad + full
}

/// One line on what moves, and why; `None`: nothing does.
fn moves(m: &Migration) -> Option<String> {
    let kinds = [
        (m.draining, "off chunkservers that are drained"),
        (m.disk, "off full ones"),
        (m.load, "off those with too much to do"),
    ];
    let all = kinds.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{n} {why}"));
    let all = all.collect::<Vec<_>>().join(", ");
    let rate = values::human(m.copy_rate);
    (!all.is_empty()).then(|| format!("chunks to move: {all}; copies may take {rate} a second"))
}

/// One line on the copies.
pub fn copies(reply: &StatusReply) -> String {
    let wanted = reply.copies;
    let (total, under, missing) = (reply.chunks_total, reply.chunks_under_replicated, reply.chunks_missing);
    match (under, missing) {
        (0, 0) => format!("{total} chunks, all with {wanted} copies"),
        (_, 0) => format!("{total} chunks, {under} with fewer than {wanted} copies"),
        _ => format!("{total} chunks, {under} with fewer than {wanted} copies, {missing} without any"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::rpc::{MasterStatus, MountStatus, ServerInfo};

    fn reply() -> StatusReply {
        StatusReply {
            masters: vec![MasterStatus {
                id: 1,
                addr: "127.0.0.1:1".into(),
                pid: 10,
                leader: true,
                http: "127.0.0.1:9".into(),
            }],
            chunkservers: vec![ChunkserverStatus {
                info: Some(ServerInfo {
                    id: 2,
                    addr: "127.0.0.1:2".into(),
                    state: NodeState::Alive as i32,
                    ..Default::default()
                }),
                pid: 11,
                disks: vec![Disk { path: "/d".into(), total_bytes: 9, free_bytes: 4, ..Default::default() }],
                used_bytes: 5,
                chunks: 6,
                ..Default::default()
            }],
            mounts: vec![MountStatus { dir: "/mnt".into(), pid: 12, ..Default::default() }],
            chunks_total: 7,
            chunks_under_replicated: 1,
            copies: 3,
            ..Default::default()
        }
    }

    #[test]
    fn json_has_the_promised_shape() {
        let v = as_json(&reply());
        assert_eq!(
            v["masters"],
            json!([{"id": 1, "addr": "127.0.0.1:1", "pid": 10, "leader": true, "http": "127.0.0.1:9"}])
        );
        assert_eq!(v["chunkservers"][0]["state"], "alive");
        assert_eq!(v["chunkservers"][0]["used_bytes"], 5);
        assert_eq!(v["chunkservers"][0]["disks"][0]["free_bytes"], 4);
        assert_eq!(v["mounts"][0]["dir"], "/mnt");
        assert_eq!(v["mounts"][0]["pid"], 12);
        assert_eq!(v["mounts"][0]["http"], Value::Null);
        assert_eq!(v["chunks"], json!({"total": 7, "under_replicated": 1, "missing": 0}));
    }

    #[test]
    fn text_says_what_moves_and_why() {
        let mut r = reply();
        assert!(!as_text(&r).contains("to move"));
        r.migration = Some(Migration { copy_rate: 64 << 20, disk: 5, disk_moved: 2, ..Default::default() });
        r.chunkservers[0].full = true;
        let text = as_text(&r);
        let line = "chunks to move: 5 off full ones; copies may take 64.0 MiB a second";
        assert!(text.contains(line) && text.contains("full: chunks move off it"), "{text}");
        let balance = json!({"copy_rate": 64 << 20, "moving": {"draining": 0, "disk": 5, "load": 0},
            "moved": {"disk": 2, "load": 0}, "hot": 0});
        assert_eq!(as_json(&r)["balance"], balance);
    }

    #[test]
    fn text_says_what_is_not_well() {
        assert!(as_text(&reply()).contains("7 chunks, 1 with fewer than 3 copies"));
    }
}
