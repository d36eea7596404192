//! `cairn fsck`: checks a cluster.

use std::path::PathBuf;

use crate::error::Failure;
use crate::fsck::{self, Options};
use crate::supervisor::layout::Layout;
use crate::{commands, process, values};

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
    /// Data directory of a cluster that `cairn up` runs
    #[arg(long, value_name = "DIR", env = "CAIRN_DATA", hide_env_values = true, conflicts_with = "master",
          default_value_os_t = commands::default_data())]
    pub data: PathBuf,
    /// The masters [default: those of the cluster in --data]
    #[arg(long, value_name = "ADDR,…", env = "CAIRN_MASTER", hide_env_values = true, value_delimiter = ',',
          value_parser = values::address)]
    pub master: Vec<String>,
}

/// Checks the cluster and says what it found. Errors: no cluster there, no master answers, something is damaged.
pub fn run(args: &Args) -> Result<(), Failure> {
    let masters = match args.master.is_empty() {
        false => args.master.clone(),
        true => vec![Layout::new(&commands::absolute(&args.data)?).load()?.master_address()],
    };
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
