//! `cairn watch`: changes of chunkservers' states, or of files, as they happen.

use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use cairn_proto::rpc::NodeChange;
use serde_json::{Value, json};

use crate::commands::which::Which;
use crate::error::Failure;
use crate::{admin, process, watch};

/// Before the master is asked again after it has gone.
const AGAIN: Duration = Duration::from_secs(1);

/// Flags of `cairn watch`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Show what anybody changes below this directory on a mount, instead of chunkservers' states
    pub path: Option<PathBuf>,
    /// As JSON, one object a line
    #[arg(long, env = "CAIRN_JSON", hide_env_values = true)]
    pub json: bool,
    /// Of which cluster
    #[command(flatten)]
    pub which: Which,
}

/// Shows changes until it is ended, or nobody reads any more. Errors: no cluster there, no master answers at first.
pub fn run(args: &Args) -> Result<(), Failure> {
    if let Some(path) = &args.path {
        return watch::run(path, &args.which.master, args.json);
    }
    let masters = args.which.masters()?;
    process::small_runtime()?.block_on(async {
        let mut changes = admin::watch(&masters).await?;
        loop {
            while let Ok(Some(change)) = changes.message().await {
                let line = if args.json { as_json(&change).to_string() } else { as_text(&change) };
                let mut out = std::io::stdout().lock();
                if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
                    return Ok(());
                }
            }
            eprintln!("cairn: the master has gone; what changes before it is back is not shown");
            changes = loop {
                tokio::time::sleep(AGAIN).await;
                if let Ok(changes) = admin::watch(&masters).await {
                    break changes;
                }
            };
        }
    })
}

fn as_text(change: &NodeChange) -> String {
    let info = change.info.clone().unwrap_or_default();
    let at = change.at.as_ref().map_or(0, |t| t.secs);
    let (from, to) = (change.from().word(), info.state().word());
    format!("{at} chunkserver {} {} {from} -> {to}: {}", info.id, info.addr, change.why)
}

fn as_json(change: &NodeChange) -> Value {
    let info = change.info.clone().unwrap_or_default();
    let at = change.at.unwrap_or_default();
    json!({"number": change.number, "id": info.id, "addr": info.addr, "from": change.from().word(),
           "to": info.state().word(), "why": change.why, "at": at.secs})
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::rpc::{NodeState, ServerInfo, Time};

    #[test]
    fn a_change_is_one_line() {
        let info =
            ServerInfo { id: 3, addr: "h:1".into(), state: NodeState::Dead.into(), ..Default::default() };
        let change = NodeChange {
            number: 7,
            info: Some(info),
            from: NodeState::Suspected.into(),
            why: "its lease has run out".into(),
            at: Some(Time { secs: 99, nanos: 0 }),
        };
        assert_eq!(as_text(&change), "99 chunkserver 3 h:1 suspected -> dead: its lease has run out");
        let json = as_json(&change);
        assert_eq!((&json["id"], &json["to"], &json["number"]), (&json!(3), &json!("dead"), &json!(7)));
    }
}
