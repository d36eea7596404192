//! `cairn node`: takes chunkservers out of service and back.

use std::time::{Duration, Instant};

use cairn_proto::rpc::{NodeAction, NodeReply, NodeRequest, Weights};

use crate::commands::limits::{self, SetLimits};
use crate::commands::which::Which;
use crate::error::Failure;
use crate::{admin, process, values};

/// Between looks at how far it is.
const LOOK: Duration = Duration::from_millis(200);
/// A drain that nothing but other servers could bring on is given up on after so long.
const BLOCKED: Duration = Duration::from_secs(10);

/// Flags of `cairn node`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to do
    #[command(subcommand)]
    pub action: Action,
    /// Of which cluster
    #[command(flatten)]
    pub which: Which,
}

/// What is done with a chunkserver.
#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Move a chunkserver's chunks to others; once they are there it can be switched off
    Drain(Drain),
    /// Let a chunkserver be away for a time: its chunks are not copied elsewhere, and it gets no new ones
    Maintenance(Maintenance),
    /// Put a chunkserver back into service
    Resume(Resume),
    /// Show or set what counts how much where a new copy's server is chosen; only their relation matters
    Weights(SetWeights),
    /// Show or set what counts as too much on one chunkserver, so that chunks move to others
    Limits(SetLimits),
}

/// Flags of `cairn node weights`.
#[derive(Debug, clap::Args)]
pub struct SetWeights {
    /// Free space, 0 to 1000 [default: as it is; 40 at first]
    #[arg(long, value_name = "N", env = "CAIRN_FREE", hide_env_values = true)]
    pub free: Option<u32>,
    /// Little load, 0 to 1000 [default: as it is; 30 at first]
    #[arg(long, value_name = "N", env = "CAIRN_LOAD", hide_env_values = true)]
    pub load: Option<u32>,
    /// A short round trip, 0 to 1000 [default: as it is; 20 at first]
    #[arg(long, value_name = "N", env = "CAIRN_RTT", hide_env_values = true)]
    pub rtt: Option<u32>,
    /// The rack of the server that sends, 0 to 1000 [default: as it is; 10 at first]
    #[arg(long, value_name = "N", env = "CAIRN_RACK", hide_env_values = true)]
    pub rack: Option<u32>,
}

async fn weights(masters: &[String], args: &SetWeights) -> Result<(), Failure> {
    let now = admin::weights(masters, None).await?;
    let set = Weights {
        free: args.free.unwrap_or(now.free),
        load: args.load.unwrap_or(now.load),
        rtt: args.rtt.unwrap_or(now.rtt),
        rack: args.rack.unwrap_or(now.rack),
    };
    let is = if set == now { now } else { admin::weights(masters, Some(set)).await? };
    println!("free {}, load {}, rtt {}, rack {}", is.free, is.load, is.rtt, is.rack);
    Ok(())
}

/// Flags of `cairn node drain`.
#[derive(Debug, clap::Args)]
pub struct Drain {
    /// The chunkserver's id, as `cairn status` shows it
    pub id: u32,
    /// Return only when all its chunks are elsewhere, showing how many are left
    #[arg(long, env = "CAIRN_WAIT", hide_env_values = true)]
    pub wait: bool,
}

/// Flags of `cairn node maintenance`.
#[derive(Debug, clap::Args)]
pub struct Maintenance {
    /// The chunkserver's id, as `cairn status` shows it
    pub id: u32,
    /// It ends by itself after so long, from 1s to 720h
    #[arg(long = "for", value_name = "TIME", env = "CAIRN_FOR", hide_env_values = true, default_value = "1h",
          value_parser = values::duration)]
    pub length: Duration,
    /// Return only when the state is there
    #[arg(long, env = "CAIRN_WAIT", hide_env_values = true)]
    pub wait: bool,
}

/// Flags of `cairn node resume`.
#[derive(Debug, clap::Args)]
pub struct Resume {
    /// The chunkserver's id, as `cairn status` shows it
    pub id: u32,
    /// Return only when it is alive
    #[arg(long, env = "CAIRN_WAIT", hide_env_values = true)]
    pub wait: bool,
}

/// Orders it, and waits if asked to. Errors: no such chunkserver, no master answers, a drain that is blocked.
pub fn run(args: &Args) -> Result<(), Failure> {
    let masters = args.which.masters()?;
    let (request, wait) = match &args.action {
        Action::Drain(a) => (request(a.id, NodeAction::Drain, 0), a.wait),
        Action::Maintenance(a) => {
            let ms = u64::try_from(a.length.as_millis()).unwrap_or(u64::MAX);
            (request(a.id, NodeAction::Maintenance, ms), a.wait)
        }
        Action::Weights(a) => return process::small_runtime()?.block_on(weights(&masters, a)),
        Action::Limits(a) => return process::small_runtime()?.block_on(limits::run(&masters, a)),
        Action::Resume(a) => (request(a.id, NodeAction::Resume, 0), a.wait),
    };
    process::small_runtime()?.block_on(async {
        let reply = admin::node(&masters, request).await?;
        match wait {
            true => follow(&masters, request, reply).await,
            false => {
                println!("{}", line(&reply));
                Ok(())
            }
        }
    })
}

fn request(id: u32, action: NodeAction, maintenance_ms: u64) -> NodeRequest {
    NodeRequest { id, action: action.into(), maintenance_ms }
}

/// Shows each step until it is done.
async fn follow(masters: &[String], request: NodeRequest, mut reply: NodeReply) -> Result<(), Failure> {
    let mut shown = String::new();
    let mut moved = (reply.chunks_left, Instant::now());
    loop {
        let text = line(&reply);
        if text != shown {
            println!("{text}");
            shown = text;
        }
        if is_done(request.action(), &reply) {
            return Ok(());
        }
        if reply.chunks_left != moved.0 || reply.chunks_blocked < reply.chunks_left || reply.counting {
            moved = (reply.chunks_left, Instant::now());
        }
        if request.action() == NodeAction::Drain && moved.1.elapsed() > BLOCKED {
            return Err(Failure::System(format!(
                "{} chunks have no other chunkserver to go to: start one more, or free space on the others; \
                 they move as soon as they can (`cairn node resume {}` calls it off)",
                reply.chunks_left, request.id
            )));
        }
        tokio::time::sleep(LOOK).await;
        let show = NodeRequest { id: request.id, ..NodeRequest::default() };
        reply = admin::node(masters, show).await?;
        let called_off = request.action() == NodeAction::Drain && !reply.draining;
        if called_off {
            return Err(Failure::System(format!("chunkserver {} is not being drained any more", request.id)));
        }
    }
}

fn is_done(action: NodeAction, reply: &NodeReply) -> bool {
    match action {
        NodeAction::Drain => !reply.counting && reply.chunks_left == 0,
        NodeAction::Maintenance => state(reply) == "maintenance",
        NodeAction::Resume => state(reply) == "alive",
        NodeAction::Show => true,
    }
}

fn state(reply: &NodeReply) -> &'static str {
    reply.info.as_ref().map_or("unknown", |i| i.state().word())
}

/// How it is, in one line.
fn line(reply: &NodeReply) -> String {
    let id = reply.info.as_ref().map_or(0, |i| i.id);
    let mut text = format!("chunkserver {id}: {}", state(reply));
    if reply.draining {
        text += &match (reply.counting, reply.chunks_left, reply.chunks_blocked) {
            (true, left, _) => format!(", {left} chunks or more to move"),
            (false, 0, _) => ", no chunk depends on it: it can be switched off".to_owned(),
            (false, left, 0) => format!(", {left} chunks to move"),
            (false, left, blocked) => {
                format!(", {left} chunks to move, {blocked} of them have no server to go to")
            }
        };
    }
    if reply.maintenance_left_ms > 0 {
        text += &format!(", for {} more seconds at most", reply.maintenance_left_ms.div_ceil(1_000));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_proto::rpc::{NodeState, ServerInfo};

    fn reply(state: NodeState) -> NodeReply {
        let info = Some(ServerInfo { id: 4, state: state.into(), ..Default::default() });
        NodeReply { info, ..Default::default() }
    }

    #[test]
    fn a_drain_is_done_when_all_is_counted_and_nothing_is_left() {
        let mut r = NodeReply { draining: true, counting: true, ..reply(NodeState::Draining) };
        assert!(!is_done(NodeAction::Drain, &r));
        (r.counting, r.chunks_left, r.chunks_blocked) = (false, 3, 2);
        assert!(!is_done(NodeAction::Drain, &r));
        assert_eq!(line(&r), "chunkserver 4: draining, 3 chunks to move, 2 of them have no server to go to");
        r.chunks_left = 0;
        assert!(is_done(NodeAction::Drain, &r));
        assert!(line(&r).ends_with("it can be switched off"));
    }

    #[test]
    fn the_rest_of_a_maintenance_is_shown() {
        let r = NodeReply { maintenance_left_ms: 59_001, ..reply(NodeState::Maintenance) };
        assert_eq!(line(&r), "chunkserver 4: maintenance, for 60 more seconds at most");
    }
}
