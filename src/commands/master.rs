//! `cairn master`: one master, in the foreground.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Failure;
use crate::{http, notify, process, values};

/// Flags of `cairn master`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory of the master's store; made if it is not there
    #[arg(long, value_name = "DIR", env = "CAIRN_DATA", hide_env_values = true)]
    pub data: PathBuf,
    /// Address to serve on
    #[arg(
        long,
        value_name = "ADDR",
        env = "CAIRN_LISTEN",
        hide_env_values = true,
        default_value = "127.0.0.1:7460"
    )]
    pub listen: SocketAddr,
    /// Copies of each new chunk
    #[arg(long, value_name = "N", env = "CAIRN_REPLICAS", hide_env_values = true, default_value_t = 3,
          value_parser = clap::value_parser!(u32).range(1..=15))]
    pub replicas: u32,
    /// Size of a chunk, a power of two from 1MiB to 1GiB; fixed when the cluster is made
    #[arg(long, value_name = "SIZE", env = "CAIRN_CHUNK_SIZE", hide_env_values = true,
          default_value = "64MiB", value_parser = chunk_size)]
    pub chunk_size: u64,
    /// A mount that is not heard of for so long is let go
    #[arg(long, value_name = "TIME", env = "CAIRN_SESSION_TTL", hide_env_values = true,
          default_value = "10s", value_parser = values::duration)]
    pub session_ttl: Duration,
    /// Time between a chunkserver's heartbeats
    #[arg(long, value_name = "TIME", env = "CAIRN_HEARTBEAT", hide_env_values = true,
          default_value = "1s", value_parser = values::duration)]
    pub heartbeat: Duration,
    /// A chunkserver serves for so long after a heartbeat that the master has answered
    #[arg(long, value_name = "TIME", env = "CAIRN_LEASE", hide_env_values = true,
          default_value = "3s", value_parser = values::duration)]
    pub lease: Duration,
    /// Bytes a second that making new copies may take, for each chunkserver that is alive; it takes less while clients' reads and
    /// writes are slowed down by it, and up to four times as much for a chunk that is down to one copy
    #[arg(long, value_name = "SIZE", env = "CAIRN_REPAIR_RATE", hide_env_values = true,
          default_value = "64MiB", value_parser = repair_rate)]
    pub repair_rate: u64,
    /// Command to run in a shell when a chunkserver's state changes, with CAIRN_NODE, CAIRN_ADDR, CAIRN_FROM, CAIRN_TO and
    /// CAIRN_WHY set; at most 4 at once, 30s each [default: none]
    #[arg(long, value_name = "CMD", env = "CAIRN_ON_NODE_CHANGE", hide_env_values = true)]
    pub on_node_change: Option<String>,
    /// Questions over HTTP
    #[command(flatten)]
    pub http: http::Args,
}

fn chunk_size(text: &str) -> Result<u64, String> {
    let size = values::size(text)?;
    if !size.is_power_of_two() || !(1 << 20..=1 << 30).contains(&size) {
        return Err("must be a power of two from 1MiB to 1GiB".to_owned());
    }
    Ok(size)
}

fn repair_rate(text: &str) -> Result<u64, String> {
    match values::size(text)? {
        rate @ 65_536.. => Ok(rate),
        _ => Err("must be at least 64KiB: copies are what keeps files safe".to_owned()),
    }
}

/// Serves until a signal ends it.
pub fn run(args: Args) -> Result<(), Failure> {
    let config = cairn_master::Config {
        data: args.data,
        listen: args.listen,
        copies: args.replicas,
        chunk_size: args.chunk_size,
        session_ttl: args.session_ttl,
        heartbeat: args.heartbeat,
        lease: args.lease,
        repair_rate: args.repair_rate,
        on_node_change: args.on_node_change,
        monitor: http::serve(&args.http, "master")?,
        owner: (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
    };
    process::runtime()?.block_on(async {
        let stop = process::terminated()?;
        cairn_master::run(config, |_| notify::ready(), stop).await.map_err(|e| Failure::system("master", &e))
    })
}
