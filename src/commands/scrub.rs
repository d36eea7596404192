//! `cairn scrub`: has chunkservers verify what they store, now.

use std::collections::BTreeMap;
use std::time::Duration;

use cairn_proto::rpc::{ChunkserverStatus, ScrubProgress, ScrubRequest, StatusReply};
use tokio::time::{Instant, sleep};

use crate::commands::which::Which;
use crate::error::Failure;
use crate::{admin, process, values};

/// How often the servers' progress is looked at.
const LOOK: Duration = Duration::from_millis(300);
/// A server that has not taken the command up by then will not.
const TAKE_UP: Duration = Duration::from_secs(15);
/// Healing goes on for a moment after the last block has been read.
const HEAL: Duration = Duration::from_secs(30);

/// Flags of `cairn scrub`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Chunkservers, by their ids in `cairn status` [default: all]
    #[arg(long, value_name = "ID,…", env = "CAIRN_SERVER", hide_env_values = true, value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(1..))]
    pub server: Vec<u32>,
    /// Read at most so many bytes a second on each disk; 0: as fast as it can
    #[arg(long, value_name = "SIZE", env = "CAIRN_RATE", hide_env_values = true, default_value = "0",
          value_parser = values::size)]
    pub rate: u64,
    /// Return when everything has been verified, and say what was found
    #[arg(long, env = "CAIRN_WAIT", hide_env_values = true)]
    pub wait: bool,
    /// Of which cluster
    #[command(flatten)]
    pub which: Which,
}

/// Verifies. Errors: no cluster there, no master answers, a named server is not there or does not finish, bad blocks
/// that could not be healed.
pub fn run(args: &Args) -> Result<(), Failure> {
    let masters = args.which.masters()?;
    process::small_runtime()?.block_on(scrub(args, &masters))
}

async fn scrub(args: &Args, masters: &[String]) -> Result<(), Failure> {
    let before = disks(&admin::status(masters).await?);
    let command = rand::random::<u64>().max(1);
    let request = ScrubRequest { servers: args.server.clone(), command, rate: args.rate };
    let told = admin::scrub(masters, &request).await?.servers;
    if let Some(missing) = args.server.iter().find(|s| !told.contains(s)) {
        return Err(Failure::System(format!("chunkserver {missing} is not there; see `cairn status`")));
    }
    if told.is_empty() {
        return Err(Failure::System("no chunkserver is there; see `cairn status`".to_owned()));
    }
    if !args.wait {
        println!(
            "{} chunkserver(s) verify what they store; `cairn status --json` shows how far they are",
            told.len()
        );
        return Ok(());
    }
    let after = wait(masters, &told, command).await?;
    report(&before, &after)
}

/// Each disk's progress, by server and path; of disks that work.
type Disks = BTreeMap<(u32, String), ScrubProgress>;

fn disks(status: &StatusReply) -> Disks {
    let id = |s: &ChunkserverStatus| s.info.as_ref().map_or(0, |i| i.id);
    let of = |s: &ChunkserverStatus| {
        let id = id(s);
        let working = s.disks.clone().into_iter().filter(|d| !d.failed);
        working.map(move |d| ((id, d.path), d.scrub.unwrap_or_default())).collect::<Vec<_>>()
    };
    status.chunkservers.iter().flat_map(of).collect()
}

/// Waits until every disk of these servers has completed the command's pass, and what was found is healed (or time is up).
async fn wait(masters: &[String], servers: &[u32], command: u64) -> Result<Disks, Failure> {
    let told = Instant::now();
    let (mut taken_up, mut complete) = (BTreeMap::new(), None);
    loop {
        sleep(LOOK).await;
        // A master that is starting again has nothing to say about it.
        let Ok(status) = admin::status(masters).await else {
            if told.elapsed() > TAKE_UP && taken_up.is_empty() {
                return Err(Failure::System("no master answers".to_owned()));
            }
            continue;
        };
        let mut all = disks(&status);
        all.retain(|(server, _), _| servers.contains(server));
        for ((server, _), p) in &all {
            let was = taken_up.entry(*server).or_insert(false);
            *was |= p.command == command;
            let lost = if *was { p.command != command } else { told.elapsed() > TAKE_UP };
            if lost {
                return Err(Failure::System(format!(
                    "chunkserver {server} has restarted, or has got another command"
                )));
            }
        }
        if !all.is_empty() && all.values().all(|p| p.command == command && p.command_done) {
            let since = *complete.get_or_insert_with(Instant::now);
            let healed = all.values().all(|p| p.healed_blocks >= p.bad_blocks);
            if healed || since.elapsed() > HEAL {
                return Ok(all);
            }
        }
    }
}

fn report(before: &Disks, after: &Disks) -> Result<(), Failure> {
    let mut unhealed = 0;
    for (key @ (server, path), now) in after {
        let was = before.get(key).copied().unwrap_or_default();
        let since = |now: u64, was: u64| now.saturating_sub(was);
        println!(
            "chunkserver {server}, {path}: {} chunks, {} verified, {} bad blocks found, {} healed, {} chunk files missing",
            now.chunks_total,
            values::human(since(now.bytes, was.bytes)),
            since(now.bad_blocks, was.bad_blocks),
            since(now.healed_blocks, was.healed_blocks),
            since(now.lost_files, was.lost_files),
        );
        unhealed += since(now.bad_blocks, now.healed_blocks);
    }
    match unhealed {
        0 => Ok(()),
        n => Err(Failure::System(format!("{n} bad blocks are not healed: no other replica has them whole"))),
    }
}
