//! `cairn fsck`: checks a cluster.

use crate::commands::which::Which;
use crate::error::Failure;
use crate::fsck::{self, Options};
use crate::{process, values};

/// Flags of `cairn fsck`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// As JSON
    #[arg(long, env = "CAIRN_JSON", hide_env_values = true)]
    pub json: bool,
    /// Read nothing: only compare what master and chunkservers say
    #[arg(long, env = "CAIRN_QUICK", hide_env_values = true)]
    pub quick: bool,
    /// Bytes a second that are read from one chunkserver, at most
    #[arg(long, value_name = "SIZE", env = "CAIRN_RATE", hide_env_values = true,
          default_value = "100MiB", value_parser = values::size)]
    pub rate: u64,
    /// Of which cluster
    #[command(flatten)]
    pub which: Which,
}

/// Checks the cluster and says what it found. Errors: no cluster there, no master answers, something is damaged.
pub fn run(args: &Args) -> Result<(), Failure> {
    let masters = args.which.masters()?;
    if args.rate == 0 {
        return Err(Failure::Usage("--rate 0 would take for ever; --quick reads nothing".to_owned()));
    }
    let options = Options { masters, rate: args.rate, quick: args.quick };
    let report = process::small_runtime()?.block_on(fsck::check(&options))?;
    match args.json {
        true => println!("{:#}", report.as_json()),
        false => print!("{}", report.as_text()),
    }
    match report.damages() {
        0 => Ok(()),
        n => Err(Failure::Damaged(format!("the cluster is damaged: {n} finding(s)"))),
    }
}
