//! `cairn down`: stops what `cairn up` started.

use std::path::PathBuf;
use std::time::Duration;

use crate::commands;
use crate::error::Failure;
use crate::supervisor::layout::Layout;
use crate::supervisor::stop;

/// How long the supervisor may take: it writes back what the mount still holds.
const LIMIT: Duration = Duration::from_secs(90);

/// Flags of `cairn down`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Data directory of the cluster
    #[arg(long, value_name = "DIR", env = "CAIRN_DATA", hide_env_values = true,
          default_value_os_t = commands::default_data())]
    pub data: PathBuf,
}

/// Stops the cluster; its data stays. Errors: none is running there, it does not stop.
pub fn run(args: &Args) -> Result<(), Failure> {
    let layout = Layout::new(&commands::absolute(&args.data)?);
    let cluster = layout.load()?;
    if stop::supervisor(&layout, LIMIT)? || stop::leftovers(&layout, &cluster)? {
        return Ok(());
    }
    Err(Failure::System(format!("no cluster is running in {}", layout.root().display())))
}
