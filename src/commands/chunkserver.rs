//! `cairn chunkserver`: one chunkserver, in the foreground.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::error::Failure;
use crate::{http, notify, process, values};

/// Flags of `cairn chunkserver`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directories to store in, one a disk; made if they are not there
    #[arg(
        long,
        value_name = "DIR,…",
        env = "CAIRN_DATA",
        hide_env_values = true,
        value_delimiter = ',',
        required = true
    )]
    pub data: Vec<PathBuf>,
    /// Address to serve on; the others must reach this server under it
    #[arg(
        long,
        value_name = "ADDR",
        env = "CAIRN_LISTEN",
        hide_env_values = true,
        default_value = "127.0.0.1:7461"
    )]
    pub listen: SocketAddr,
    /// Unix socket to serve clients of the same machine on [default: none]
    #[arg(long, value_name = "PATH", env = "CAIRN_UNIX_SOCKET", hide_env_values = true)]
    pub unix_socket: Option<PathBuf>,
    /// The masters
    #[arg(long, value_name = "ADDR,…", env = "CAIRN_MASTER", hide_env_values = true, value_delimiter = ',',
          value_parser = values::address, default_value = "127.0.0.1:7460")]
    pub master: Vec<String>,
    /// The rack that it stands in; copies of a chunk go to different racks where there are two or more
    #[arg(long, value_name = "NAME", env = "CAIRN_RACK", hide_env_values = true, default_value = "default")]
    pub rack: String,
    /// Another replica that does not answer for so long is taken out of the in-sync set
    #[arg(long, value_name = "TIME", env = "CAIRN_MEMBER_TIMEOUT", hide_env_values = true,
          default_value = "500ms", value_parser = values::duration)]
    pub member_timeout: Duration,
    /// Read what is stored on each disk once a day to verify it, at most at so many bytes a second; 0: never
    #[arg(long, value_name = "SIZE", env = "CAIRN_SCRUB_RATE", hide_env_values = true,
          default_value = "10MiB", value_parser = values::size)]
    pub scrub_rate: u64,
    /// Questions over HTTP
    #[command(flatten)]
    pub http: http::Args,
}

/// Serves until a signal ends it.
pub fn run(args: Args) -> Result<(), Failure> {
    let config = cairn_chunkserver::Config {
        data: args.data,
        listen: args.listen,
        unix_socket: args.unix_socket,
        masters: args.master,
        rack: args.rack,
        member_timeout: args.member_timeout,
        scrub_rate: args.scrub_rate,
        monitor: http::serve(&args.http, "chunkserver")?,
        ..Default::default()
    };
    process::runtime()?.block_on(async {
        let stop = process::terminated()?;
        cairn_chunkserver::run(config, |_| notify::ready(), stop)
            .await
            .map_err(|e| Failure::system("chunkserver", &e))
    })
}
