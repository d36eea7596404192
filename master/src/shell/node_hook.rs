//! The command that an administrator wants run when a chunkserver's state changes.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use cairn_proto::rpc;
use tokio::process::Command;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

/// Commands that run at once.
const AT_ONCE: usize = 4;
/// Changes that wait for one of them; those beyond get none.
pub(crate) const WAITING: usize = 256;
/// A command that takes longer is ended.
const LIMIT: Duration = Duration::from_secs(30);

/// Runs `command` in a shell for each change, with CAIRN_NODE (the id), CAIRN_ADDR, CAIRN_FROM, CAIRN_TO and
/// CAIRN_WHY in its environment, until there are no more.
pub(crate) async fn run_on_changes(command: String, mut changes: mpsc::Receiver<rpc::NodeChange>) {
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(change) = changes.recv().await {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        let command = command.clone();
        tokio::spawn(async move {
            run(&command, &change, LIMIT).await;
            drop(slot);
        });
    }
}

async fn run(command: &str, change: &rpc::NodeChange, limit: Duration) {
    let info = change.info.clone().unwrap_or_default();
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", command])
        .env("CAIRN_NODE", info.id.to_string())
        .env("CAIRN_ADDR", &info.addr)
        .env("CAIRN_FROM", word(change.from()))
        .env("CAIRN_TO", word(info.state()))
        .env("CAIRN_WHY", &change.why)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true);
    match timeout(limit, shell.status()).await {
        Ok(Ok(status)) if status.success() => {}
        Ok(Ok(status)) => {
            tracing::warn!(node = info.id, command, %status, "the command on a node's change failed")
        }
        Ok(Err(e)) => {
            tracing::warn!(node = info.id, command, "the command on a node's change does not run: {e}")
        }
        Err(_) => {
            tracing::warn!(node = info.id, command, "the command on a node's change took too long: ended")
        }
    }
}

fn word(state: rpc::NodeState) -> String {
    state.as_str_name().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(id: u32) -> rpc::NodeChange {
        let info = rpc::ServerInfo { id, state: rpc::NodeState::Dead.into(), ..Default::default() };
        let from = rpc::NodeState::Suspected.into();
        rpc::NodeChange { info: Some(info), from, ..Default::default() }
    }

    #[tokio::test]
    async fn each_change_runs_it_and_a_failure_stops_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("said");
        let command =
            format!("echo $CAIRN_NODE $CAIRN_FROM $CAIRN_TO >> {}; test $CAIRN_NODE = 1", file.display());
        let (to, changes) = mpsc::channel(8);
        for id in 1..=3 {
            to.send(change(id)).await.unwrap();
        }
        drop(to);
        run_on_changes(command, changes).await;
        let mut lines = Vec::new();
        for _ in 0..200 {
            lines = std::fs::read_to_string(&file).unwrap_or_default().lines().map(str::to_owned).collect();
            if lines.len() == 3 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        lines.sort();
        assert_eq!(lines, ["1 suspected dead", "2 suspected dead", "3 suspected dead"]);
    }

    #[tokio::test]
    async fn one_that_hangs_is_ended() {
        let begun = std::time::Instant::now();
        run("sleep 60", &change(1), Duration::from_millis(100)).await;
        assert!(begun.elapsed() < Duration::from_secs(20));
    }
}
