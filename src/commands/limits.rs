//! `cairn node limits`: what counts as too much on one chunkserver.

use std::time::Duration;

use cairn_proto::rpc::Limits;

use crate::error::Failure;
use crate::{admin, values};

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
    /// A chunk of which so many bytes a second are read gets another copy, and a second one at twice as many; they go when it
    /// has cooled; such as 32M; 0: never [default: as it is; 32M at first]
    #[arg(long, value_name = "BYTES", env = "CAIRN_HOT", hide_env_values = true, value_parser = values::size)]
    pub hot: Option<u64>,
    /// A chunkserver that is used by so many bytes a second more than the others (or more, where they differ much) is relieved
    /// of chunks; such as 16M; 0: never [default: as it is; 16M at first]
    #[arg(long, value_name = "BYTES", env = "CAIRN_OVER", hide_env_values = true, value_parser = values::size)]
    pub over: Option<u64>,
    /// Either only after it has been so for this long, up to 1h [default: as it is; 30s at first]
    #[arg(long, value_name = "TIME", env = "CAIRN_SUSTAINED", hide_env_values = true, value_parser = values::duration)]
    pub sustained: Option<Duration>,
}

/// Shows the limits, and sets those that are given. Errors: no master answers, limits that make no sense.
pub async fn run(masters: &[String], args: &SetLimits) -> Result<(), Failure> {
    let now = admin::limits(masters, None).await?;
    let permille = |percent: Option<u32>, now| percent.map_or(now, |p| p.saturating_mul(10));
    let set = Limits {
        full_permille: permille(args.full, now.full_permille),
        low_permille: permille(args.low, now.low_permille),
        hot_rate: args.hot.or(now.hot_rate),
        over_rate: args.over.or(now.over_rate),
        sustained_ms: args.sustained.map(millis).or(now.sustained_ms),
    };
    let is = if set == now { now } else { admin::limits(masters, Some(set)).await? };
    println!("{}", line(&is));
    Ok(())
}

fn line(is: &Limits) -> String {
    let percent = |permille| f64::from(permille) / 10.0;
    let sustained = Duration::from_millis(is.sustained_ms().into());
    format!(
        "full {}, low {}, hot {}, over {}, sustained {sustained:?}",
        percent(is.full_permille),
        percent(is.low_permille),
        values::human(is.hot_rate()),
        values::human(is.over_rate())
    )
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}
