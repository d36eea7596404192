//! `cairn node limits`: what counts as too much on one chunkserver.

use cairn_proto::rpc::Limits;

use crate::admin;
use crate::error::Failure;

/// Flags of `cairn node limits`.
#[derive(Debug, clap::Args)]
pub struct SetLimits {
    /// A chunkserver whose disks are fuller than this gets nothing new where others can take it, and its chunks move to
    /// others; percent, 1 to 100; 100: none move [default: as it is; 85 at first]
    #[arg(long, value_name = "PERCENT", env = "CAIRN_FULL", hide_env_values = true)]
    pub full: Option<u32>,
    /// They move until its disks are no fuller than this, and only to chunkservers that stay below it; percent, 1 to 100
    /// [default: as it is; 80 at first]
    #[arg(long, value_name = "PERCENT", env = "CAIRN_LOW", hide_env_values = true)]
    pub low: Option<u32>,
}

/// Shows the limits, and sets those that are given. Errors: no master answers, limits that make no sense.
pub async fn run(masters: &[String], args: &SetLimits) -> Result<(), Failure> {
    let now = admin::limits(masters, None).await?;
    let permille = |percent: Option<u32>, now| percent.map_or(now, |p| p.saturating_mul(10));
    let set = Limits {
        full_permille: permille(args.full, now.full_permille),
        low_permille: permille(args.low, now.low_permille),
    };
    let is = if set == now { now } else { admin::limits(masters, Some(set)).await? };
    println!("{}", line(&is));
    Ok(())
}

fn line(is: &Limits) -> String {
    format!("full {}, low {}", f64::from(is.full_permille) / 10.0, f64::from(is.low_permille) / 10.0)
}
